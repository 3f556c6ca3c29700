"""How likely a message is, given what its noise was added to: exact log densities in nats, for every kind of noise.

These are densities of the noise as its file says, for who has the file: the strongest judge of which input a message
came from, and what every bound in bits rests on. Messages and candidates are in the coordinates that are sent, before
`restored`. Noise of scale 0 is no density: where a value carries none, a candidate must have that very value.

Ordered Laplace noise whose distribution d is known has the density n! * prod p_d(z_i) where its order holds, and none
elsewhere; unknown, it is the mean over the D distributions. Values are float32, which rounds neighbours in the order
past each other now and then, so an order counts as kept up to that rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy.linalg import lu_factor, lu_solve
from scipy.spatial.distance import cdist

from ..errors import DataError
from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.element_noise import ElementNoise
from ..noise_kernels.mechanism import Noise

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ROUNDING = 2.0**-23
"""Twice float32's relative rounding: how far two neighbours in an order may be off."""
FIRST_PAIRS = 4
PAIRS_AT_ONCE = 1 << 20
VALUES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class Coordinates:
    """The coordinates in which an element noise is its standard variates u: (noise - loc) unmixed and unscaled.

    `log_volume` is ln of how much the noise's own coordinates stretch these: entropies and log densities differ by it.
    """

    noise: ElementNoise
    factors: tuple[Any, Any] | None
    log_volume: float

    @classmethod
    def of(cls, noise: ElementNoise) -> Coordinates:
        """Raises DataError where a scale is 0 or the mixing is singular: there is no density then."""
        if not math.isfinite(noise.entropy_nats):
            raise DataError(f"the {noise.mechanism} noise has values without noise, and so no density")
        volume = float(np.log(noise.scale.astype(np.float64)).sum())
        if noise.mixing is None:
            return cls(noise, None, volume)
        mixing = noise.mixing.astype(np.float64)
        return cls(noise, lu_factor(mixing), volume + float(np.linalg.slogdet(mixing)[1]))

    def carried(self, values: Array) -> Floats:
        """What the noise is added to, in these coordinates."""
        turned = np.asarray(values, np.float64)
        if self.factors is not None:
            turned = np.ascontiguousarray(lu_solve(self.factors, turned.T).T)
        scaled: Floats = turned / self.noise.scale.astype(np.float64)
        return scaled

    def messages(self, values: Array) -> Floats:
        """Noise or messages in these coordinates."""
        return self.carried(np.asarray(values, np.float64) - self.noise.loc.astype(np.float64))


def standard_log_densities(law: str, messages: Floats, carried: Floats) -> Floats:
    """ln p of each message for each candidate, both in `Coordinates`."""
    n = messages.shape[1]
    if law == "laplace":
        return cast(Floats, -cdist(messages, carried, "cityblock") - n * math.log(2))
    return cast(Floats, -cdist(messages, carried, "sqeuclidean") / 2 - n / 2 * math.log(2 * math.pi))


def log_densities(noise: Noise, messages: Array, carried: Array, distribution: int | None = None) -> Floats:
    """ln p(message | carried) in nats, float64 [messages, candidates]; -inf where a candidate is impossible.

    `distribution` is that of a collection where it is known; otherwise all are equally likely.
    """
    if isinstance(noise, ElementNoise):
        return _element_log_densities(noise, messages, carried)
    if distribution is not None:
        return _ordered_log_densities(noise, messages, carried, distribution)
    total = np.full((len(messages), len(carried)), -np.inf)
    for number in range(noise.distributions):
        total = np.logaddexp(total, _ordered_log_densities(noise, messages, carried, number))
    return total - math.log(noise.distributions)


def distributions_of(collection: NoiseCollection, drawn: Array) -> Integers:
    """Which distribution each drawn noise [rows, n] comes from: the likeliest, which its order tells."""
    nothing = np.zeros((1, collection.n))
    each = [_ordered_log_densities(collection, drawn, nothing, d)[:, 0] for d in range(collection.distributions)]
    if np.isneginf(np.max(each, axis=0)).any():
        raise DataError("noise that was drawn is in none of its collection's orders; the collection is damaged")
    made: Integers = np.argmax(each, axis=0)
    return made


def _element_log_densities(noise: ElementNoise, messages: Array, carried: Array) -> Floats:
    kept = noise.scale > 0
    if noise.mixing is not None or kept.all():
        where = Coordinates.of(noise)
        found = standard_log_densities(noise.law, where.messages(messages), where.carried(carried))
        return found - where.log_volume
    found = np.zeros((len(messages), len(carried)))
    sent, plain = np.asarray(messages, np.float64) - noise.loc.astype(np.float64), np.asarray(carried, np.float64)
    if kept.any():
        scale = noise.scale[kept].astype(np.float64)
        found = standard_log_densities(noise.law, sent[:, kept] / scale, plain[:, kept] / scale) - np.log(scale).sum()
    # The values without noise are float32 sums of what is carried and loc, and are compared up to their rounding.
    rest = ~kept
    reach = np.abs(messages[:, rest]).max(1) + np.abs(noise.loc[rest]).max()
    apart = cdist(sent[:, rest], plain[:, rest], "chebyshev") > ROUNDING * reach[:, None]
    return cast(Floats, np.where(apart, -np.inf, found))


def _ordered_log_densities(collection: NoiseCollection, messages: Array, carried: Array, d: int) -> Floats:
    """Given the distribution d. Most candidates break the order at once and are dropped before the rest is looked at.

    It starts in the middle of the order, where neighbours lie closest and a wrong candidate breaks it soonest.
    """
    n, loc, scale = collection.n, float(collection.loc[d]), float(collection.scale[d])
    order = np.roll(collection.orders[d].astype(np.int64), -(n // 2))
    found = np.full((len(messages), len(carried)), -np.inf)
    constant = math.lgamma(n + 1) - n * math.log(2 * scale)
    rows_at_once = max(1, PAIRS_AT_ONCE // len(carried))
    for start in range(0, len(messages), rows_at_once):
        block = messages[start : start + rows_at_once]
        rows, candidates = _in_order(block, carried, order)
        at_once = max(1, VALUES_AT_ONCE // n)
        for first in range(0, len(rows), at_once):
            i, j = rows[first : first + at_once], candidates[first : first + at_once]
            noise = block[i].astype(np.float64) - carried[j] - loc
            found[start + i, j] = constant - np.abs(noise).sum(1) / scale
    return found


def _in_order(messages: Array, carried: Array, order: Integers) -> tuple[Integers, Integers]:
    """The pairs (message, candidate) whose difference ascends along `order`, which is rolled by half its length."""
    n, last = len(order), len(order) - 1 - len(order) // 2
    steps = np.delete(np.arange(n), last)  # from the greatest on to the smallest is no step
    head, rest = steps[:FIRST_PAIRS], steps[FIRST_PAIRS:]
    allowed, needed = _steps(messages, order, head, slack=True), _steps(carried, order, head)
    kept = np.ones((len(messages), len(carried)), bool)
    for step in range(len(head)):
        kept &= allowed[:, step, None] >= needed[:, step]
    rows, candidates = np.nonzero(kept)
    width = 4 * FIRST_PAIRS
    while len(rest) and len(rows):
        some, rest = rest[:width], rest[width:]
        allowed, needed = _steps(messages, order, some, slack=True), _steps(carried, order, some)
        at_once = max(1, VALUES_AT_ONCE // len(some))
        parts = range(0, len(rows), at_once)
        good = [(allowed[rows[p : p + at_once]] >= needed[candidates[p : p + at_once]]).all(1) for p in parts]
        hold = np.concatenate(good)
        rows, candidates = rows[hold], candidates[hold]
        width *= 4
    return rows, candidates


def _steps(values: Array, order: Integers, steps: Integers, slack: bool = False) -> Floats:
    """Each value's distance to the next one in the order, and what rounding may take from it, [rows, steps]."""
    here = values[:, order[steps]].astype(np.float64)
    there = values[:, order[(steps + 1) % len(order)]].astype(np.float64)
    apart: Floats = there - here
    if slack:
        apart += ROUNDING * (np.abs(here) + np.abs(there))
    return apart
