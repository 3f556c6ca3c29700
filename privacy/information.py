"""Mutual information by the Shredder paper's metric: a k-nearest-neighbour estimate of a Kullback-Leibler divergence.

The paper (ASPLOS 2020, section 6.1) takes "Shannon Mutual Information with KL Divergence" of the ITE toolbox (Szabo,
JMLR 2014). It asks how far the pairs (x, y), an input and what was sent for it, lie from pairs put together at random:

    I = D(p(x, y) || p(x) p(y)),   estimated as   d/n * sum_i log(nu_i / rho_i) + log(m / (n - 1))

(Wang, Kulkarni, Verdu 2009): rho_i is the distance from pair i to the k-th nearest of the other n - 1 pairs, nu_i that
to the k-th nearest of m shuffled pairs (x_j, y_p(j)), and d counts the columns of x and y. k = 3 is the toolbox's own
choice; the paper states neither k nor any preprocessing. The toolbox takes the pairs from one half of the sample and
shuffles the other half. Here all samples serve for both, and shuffled pairs that hold x_i or y_i themselves are left
out (m = n - 2): they would lie too near and push the estimate of independent data below 0.

What the number means: in very few dimensions it is the mutual information (3 % low for one column each, 12 % for three,
at 1.2 bits a column and 2,000 samples). In many it is a dissimilarity with bits as its unit: it reads 15 bits for 100
columns each that share 120. It then depends on the sample's size, on the unit of each column, and on columns that say
nothing: it is multiplied by d, so a constant column (a black margin) raises it. One of 20 fixed tensors as noise, which
hides at most log2(20) = 4.3 bits, nearly halves it. So it is given for comparison with the paper alone: with k, the
scaling, the number of samples and the null beside it (the same estimate after x and y were paired at random, when
nothing is left to know), and never as the only measure of what leaks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DataError, unknown

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Progress = Callable[[str, float], None]

SCALINGS = ("as given", "standardised")
MAX_SAMPLES = 5000
"""Two tables of squared distances are held, 8 * samples^2 bytes each: 400 MB at most."""
COLUMNS = 4096
ROWS = 256
NEAR = 1e-9
"""Below this share of the squared norms a squared distance from a matrix product has lost its digits."""
TRUSTED_DIMENSIONS = 3


@dataclass(frozen=True)
class MutualInformation:
    """The paper's metric in bits, and all that it depends on.

    `null_bits` and `null_sd` are the mean and standard deviation of the estimate over random pairings of the same x and
    y. `dimensions` are the columns of x and of y. `tied` samples had k equals and were counted, not measured.
    """

    bits: float
    null_bits: float
    null_sd: float
    k: int
    samples: int
    dimensions: tuple[int, int]
    scaling: str
    shuffles: int
    tied: int
    seconds: float = field(compare=False)

    @property
    def note(self) -> str:
        """What to say beside the number."""
        total = sum(self.dimensions)
        if total <= TRUSTED_DIMENSIONS:
            return f"k-nearest-neighbour estimate in {total} dimensions"
        return f"the paper's metric; in {total} dimensions no amount of information, for comparison only"


def relative_loss(before: MutualInformation, after: MutualInformation) -> float | None:
    """The share of `before` that noise took, as in the paper's Table 3; None where `before` is lost in its null.

    That is where it is no more than two of the null's standard deviations above it: there was nothing to take. Raises
    DataError where the two were not estimated alike, since the number depends on how it is estimated.
    """
    for name in ("k", "samples", "dimensions", "scaling"):
        a, b = getattr(before, name), getattr(after, name)
        if a != b:
            raise DataError(f"two estimates of different {name} ({a} and {b}) cannot be compared; estimate both alike")
    stands_out = before.bits > max(0.0, before.null_bits + 2 * before.null_sd)
    return 1 - after.bits / before.bits if stands_out else None


def paper_metric(
    x: Array,
    y: Array,
    k: int = 3,
    *,
    scale: str = "as given",
    shuffles: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> MutualInformation:
    """Estimate the mutual information of x and y, any shape [samples, ...], row by row.

    `scale` "standardised" gives every column mean 0 and standard deviation 1 (a constant one stays 0); "as given"
    leaves them. The divergence is averaged over `shuffles` shufflings, and the null over as many random pairings.
    Where the k-th nearest pair is equal (distance 0), that sample's logarithm is that of the counts, as for discrete
    data: the share of equal pairs over the product of the shares of equal x and equal y. Raises DataError.
    """
    start = time.perf_counter()
    tell = progress or (lambda *_: None)
    if scale not in SCALINGS:
        raise DataError(unknown("scaling", scale, SCALINGS))
    one, other = _columns(x, "x"), _columns(y, "y")
    _check(one, other, k, shuffles)
    tell("distances", 0.0)
    sides = _Side.of(one, scale), _Side.of(other, scale)
    samples, dimensions = len(one), (one.shape[1], other.shape[1])
    generator = np.random.default_rng(seed)
    drawn = shufflings(samples, shuffles, generator)
    pairings = [np.arange(samples), *(generator.permutation(samples) for _ in range(shuffles))]
    found: list[float] = []
    tied = 0
    for number, pairing in enumerate(pairings):
        tell("null" if number else "mutual information", (number + 1) / (len(pairings) + 1))
        bits, ties = _divergence(*sides, pairing, drawn if number == 0 else [drawn[number - 1]], k, sum(dimensions))
        found.append(bits)
        tied = ties if number == 0 else tied
    return MutualInformation(
        bits=found[0],
        null_bits=float(np.mean(found[1:])),
        null_sd=float(np.std(found[1:], ddof=1)),
        k=k,
        samples=samples,
        dimensions=dimensions,
        scaling=scale,
        shuffles=shuffles,
        tied=tied,
        seconds=time.perf_counter() - start,
    )


def shufflings(samples: int, count: int, generator: np.random.Generator) -> list[Integers]:
    """`count` random permutations that leave nothing in its place: each a single random cycle."""
    cycles = [generator.permutation(samples) for _ in range(count)]
    drawn = [np.empty(samples, np.int64) for _ in cycles]
    for shuffled, cycle in zip(drawn, cycles, strict=True):
        shuffled[cycle] = np.roll(cycle, 1)
    return drawn


def _columns(values: Array, name: str) -> Array:
    array = np.asarray(values)
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be numbers, a row a sample, not {array.dtype} {list(array.shape)}")
    return array.reshape(len(array), -1)


def _check(x: Array, y: Array, k: int, shuffles: int) -> None:
    if k < 1 or shuffles < 2:
        raise DataError(f"k must be 1 or more and shuffles 2 or more, not {k} and {shuffles}")
    if len(x) != len(y):
        raise DataError(f"x has {len(x)} samples and y {len(y)}; they must be pairs")
    if not k + 3 <= len(x) <= MAX_SAMPLES:
        raise DataError(
            f"{len(x)} samples cannot be used; k = {k} needs {k + 3}, and more than {MAX_SAMPLES} take too long: give "
            "a random part"
        )


class _Side(NamedTuple):
    """Squared distances [n, n] between the rows of x or y, and the number of the group of equal rows each is in."""

    squared: Floats
    group: Integers

    @classmethod
    def of(cls, values: Array, scale: str) -> _Side:
        """Over columns in pieces, so that no float64 copy of a large array is made."""
        samples = len(values)
        numbers: dict[bytes, int] = {}
        group = np.array([numbers.setdefault((row + 0.0).tobytes(), len(numbers)) for row in values], np.int64)
        squared, norms = np.zeros((samples, samples)), np.zeros(samples)
        spread = _spread(values, scale)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, values.shape[1], COLUMNS):
                piece = _scaled(values[:, start : start + COLUMNS], spread[start : start + COLUMNS])
                piece -= piece.mean(axis=0)  # so that the products are small and few distances need mending
                norms += np.einsum("ij,ij->i", piece, piece)
                squared -= 2 * (piece @ piece.T)
            squared += norms
            squared += norms[:, None]
        if not np.isfinite(squared).all():
            raise DataError("mutual information needs finite numbers of less than 1e150; check the data and the noise")
        _mend(squared, norms, values, spread)
        return cls(squared, group)


def _spread(values: Array, scale: str) -> Floats:
    if scale == "as given":
        return np.ones(values.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        spread = values.std(axis=0, dtype=np.float64)
    # A column's rounded mean leaves a constant one a deviation that is not quite 0.
    return np.where((values == values[0]).all(axis=0), 1.0, spread)


def _scaled(values: Array, spread: Floats) -> Floats:
    scaled: Floats = values / spread
    return scaled


def _mend(squared: Floats, norms: Floats, values: Array, spread: Floats) -> None:
    """Replace the squared distances that cancellation has spoilt by sums of squared differences: 0 for equal rows."""
    for i in range(len(squared)):
        near = np.flatnonzero(squared[i, i + 1 :] < NEAR * (norms[i] + norms[i + 1 :])) + i + 1
        if len(near):
            difference = _scaled(values[near], spread) - _scaled(values[i], spread)
            squared[i, near] = squared[near, i] = np.einsum("ij,ij->i", difference, difference)


def _divergence(
    x: _Side, y: _Side, pairing: Integers, drawn: list[Integers], k: int, dimensions: int
) -> tuple[float, int]:
    """Bits from the pairs (x_i, y_pairing(i)) to their shufflings, and how many samples had equals."""
    samples = len(pairing)
    counted = _counted(x.group, y.group[pairing])
    total, tied = 0.0, np.zeros(samples, bool)
    for start in range(0, samples, ROWS):
        rows = np.arange(start, min(start + ROWS, samples))
        here = np.arange(len(rows))
        of_x, of_y = x.squared[rows], y.squared[pairing[rows]]
        joint = of_x + np.take(of_y, pairing, axis=1)
        joint[here, rows] = np.inf
        rho = np.partition(joint, k - 1, axis=1)[:, k - 1]
        for shuffled in drawn:
            apart = of_x + np.take(of_y, pairing[shuffled], axis=1)
            apart[here, rows] = np.inf
            apart[here, np.argsort(shuffled)[rows]] = np.inf
            nu = np.partition(apart, k - 1, axis=1)[:, k - 1]
            equal = (rho == 0) | (nu == 0)
            tied[rows] |= equal
            with np.errstate(divide="ignore", invalid="ignore"):
                measured = dimensions / 2 * np.log(nu / rho) + math.log((samples - 2) / (samples - 1))
            total += float(np.where(equal, counted[rows], measured).sum())
    return total / (samples * len(drawn) * math.log(2)), int(tied.sum())


def _counted(x: Integers, y: Integers) -> Floats:
    """log of the share of equal pairs over the product of the shares of equal x and equal y, for each sample."""
    shares = []
    for number in (x * (int(y.max()) + 1) + y, x, y):
        _, which, counts = np.unique(number, return_inverse=True, return_counts=True)
        shares.append(np.log(counts[which] / len(number)))
    return np.asarray(shares[0] - shares[1] - shares[2], np.float64)
