"""A mechanism as a noisy channel, in coordinates where its noise is simple: entropies, moments, and messages.

For element noise these are the coordinates of its standard variates, independent and of one variance; mutual
information does not change with them. For a collection they are the cut's own, and everything is given which of its
distributions the noise came from: who knows that knows no less, so a bound on I(x; (y, d)) is one on I(x; y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.element_noise import ElementNoise
from .bound_densities import Spread
from .likelihood import Coordinates, distributions_of, log_densities, standard_log_densities
from .observations import Observations, PartName

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DENSE = 2048
"""Up to so many values covariances are matrices, and messages are kept in float64."""
ORDER_RANK = 128
ORDER_POINTS = 64


class Messages(NamedTuple):
    """Noisy values [rows, n], the distribution of each one's noise, and its surprise: -ln p(noise) - entropy."""

    values: Array
    distributions: Integers
    surprise: Floats


@dataclass(frozen=True)
class Channel:
    """What is observed of an input, with all that is known of the noise."""

    seen: Observations
    purpose: str

    @property
    def n(self) -> int:
        """Values of one message."""
        return self.seen.noise.values

    @property
    def distributions(self) -> int:
        """Laws that the noise may have, 1 for all but a collection."""
        noise = self.seen.noise
        return noise.distributions if isinstance(noise, NoiseCollection) else 1

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Of what is held of many items."""
        return np.float64 if self.n <= DENSE else np.float32

    @cached_property
    def coordinates(self) -> Coordinates | None:
        """Those of element noise, None for a collection."""
        noise = self.seen.noise
        return Coordinates.of(noise) if isinstance(noise, ElementNoise) else None

    @cached_property
    def entropies_nats(self) -> Floats:
        """The noise's entropy in these coordinates, for each distribution."""
        noise = self.seen.noise
        if isinstance(noise, NoiseCollection):
            return noise.n * (1 + np.log(2 * noise.scale.astype(np.float64))) - math.lgamma(noise.n + 1)
        assert self.coordinates is not None
        return np.array([noise.entropy_nats - self.coordinates.log_volume])

    def clean(self, name: PartName, rows: Integers) -> Array:
        """What the noise is added to, [rows, n]."""
        made = np.empty((len(rows), self.n), self.dtype)
        for part in _parts(len(rows), self.n):
            carried = self.seen.carried(name, rows[part])
            made[part] = carried if self.coordinates is None else self.coordinates.carried(carried)
        return made

    def messages(self, name: PartName, rows: Integers, draw: int) -> Messages:
        """These items' messages under fresh noise."""
        values, which, surprise = self.clean(name, rows), np.zeros(len(rows), np.int64), np.empty(len(rows))
        for part in _parts(len(rows), self.n):
            drawn = self.seen.drawn(name, rows[part], self.purpose, draw)
            if isinstance(self.seen.noise, NoiseCollection):
                d = which[part] = distributions_of(self.seen.noise, drawn)
                loc, scale = (each[d, None].astype(np.float64) for each in (self.seen.noise.loc, self.seen.noise.scale))
                surprise[part] = (np.abs(drawn - loc) / scale).sum(1) - self.n
                values[part] += drawn
            else:
                assert self.coordinates is not None
                standard = self.coordinates.messages(drawn)
                surprise[part] = -_standard_logs(self.seen.noise.law, standard) - self.entropies_nats[0]
                values[part] += standard
        return Messages(values, which, surprise)

    def moments(self, distribution: int) -> tuple[Floats, Spread]:
        """The noise's mean and covariance."""
        noise = self.seen.noise
        if isinstance(noise, ElementNoise):
            variance = 2.0 if noise.law == "laplace" else 1.0
            return np.zeros(self.n), Spread(np.zeros((self.n, 0)), np.full(self.n, variance))
        loc, scale = float(noise.loc[distribution]), float(noise.scale[distribution])
        ranks = noise.ranks[distribution].astype(np.int64)
        mean, spread = ordered_moments(self.n)
        dense = None if spread.dense is None else scale**2 * spread.dense[np.ix_(ranks, ranks)]
        return loc + scale * mean[ranks], Spread(scale * spread.factor[ranks], scale**2 * spread.diagonal[ranks], dense)

    def log_densities(self, values: Array, centres: Array, distribution: int) -> Floats:
        """ln p of each message for each clean candidate, [messages, candidates]."""
        noise = self.seen.noise
        if isinstance(noise, ElementNoise):
            return standard_log_densities(noise.law, values.astype(np.float64), centres.astype(np.float64))
        return log_densities(noise, values, centres, distribution)


def _parts(rows: int, n: int) -> list[slice]:
    """Of so many rows that a float64 copy of them takes 32 MB."""
    step = max(1, (1 << 22) // n)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _standard_logs(law: str, standard: Floats) -> Floats:
    """ln p of each row of standard variates."""
    n = standard.shape[1]
    made: Floats = (
        -np.abs(standard).sum(1) - n * math.log(2)
        if law == "laplace"
        else -(standard**2).sum(1) / 2 - n / 2 * math.log(2 * math.pi)
    )
    return made


@lru_cache(maxsize=2)
def ordered_moments(n: int) -> tuple[Floats, Spread]:
    """Mean and covariance of n sorted standard Laplace samples, by Renyi's sums (see `noise_kernels.reference`).

    Given the number M of negative ones, neighbours on either side differ by independent exponentials over their rank:
    within a side the covariance of ranks k <= l is a sum over ranks, and the mean over M is one of tails of M. What
    varies with M itself is added. Exact up to DENSE; beyond it the main directions and a diagonal.
    """
    ranks = np.arange(1, n + 1)
    below = binom.sf(ranks - 1, n, 0.5)  # P(M >= k)
    left, right = 1.0 / ranks, 1.0 / ranks[::-1]
    mean = -_from(below * left) + np.cumsum((1 - below) * right)
    outer, inner = _from(below * left**2), np.cumsum((1 - below) * right**2)
    numbers = np.arange(n + 1)
    if n > DENSE:
        reach = 6 * math.sqrt(n) / 2
        numbers = np.unique(np.linspace(n / 2 - reach, n / 2 + reach, ORDER_POINTS).round().astype(np.int64))
    weights = binom.pmf(numbers, n, 0.5)
    means = _means_given(n, numbers)
    varied = (means - mean).T * np.sqrt(weights / weights.sum())
    if n <= DENSE:
        row, column = np.indices((n, n))
        return mean, Spread.of_dense(
            outer[np.maximum(row, column)] + inner[np.minimum(row, column)] + varied @ varied.T
        )
    directions = _main_directions(outer, inner)
    rest = outer + inner - (directions**2).sum(1)
    return mean, Spread(np.hstack([directions, varied]), np.maximum(rest, 1e-3 * (outer + inner) / n))


def _from(values: Floats) -> Floats:
    """Sums of the values from each one to the last."""
    made: Floats = np.cumsum(values[::-1])[::-1]
    return made


def _means_given(n: int, numbers: Integers) -> Floats:
    """The mean of each of n sorted samples where `numbers` of them are negative, [numbers, n]."""
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])
    ranks, negative = np.arange(1, n + 1), numbers[:, None]
    made: Floats = np.where(
        ranks <= negative,
        harmonic[ranks - 1] - harmonic[negative],
        harmonic[n - negative] - harmonic[n - ranks],
    )
    return made


def _main_directions(outer: Floats, inner: Floats) -> Floats:
    """The first eigenvectors, each times the root of its value, of the matrix outer[max(k, l)] + inner[min(k, l)]."""

    def product(columns: Floats) -> Floats:
        upto = np.cumsum(columns, axis=0)
        after = upto[-1] - upto
        weighted, later = np.cumsum(inner[:, None] * columns, axis=0), outer[:, None] * columns
        made: Floats = outer[:, None] * upto + weighted + inner[:, None] * after
        made += later.sum(0) - np.cumsum(later, axis=0)
        return made

    basis = np.random.default_rng(0).standard_normal((len(outer), ORDER_RANK + 16))
    for _ in range(4):
        basis = np.linalg.qr(product(basis))[0]
    values, turns = np.linalg.eigh(basis.T @ product(basis))
    made: Floats = (basis @ turns[:, -ORDER_RANK:]) * np.sqrt(np.maximum(values[-ORDER_RANK:], 0.0))
    return made
