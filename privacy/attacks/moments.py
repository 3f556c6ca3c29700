"""Mean and covariance of a mechanism's noise, for who has its file; exact, nothing is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from ...noise_kernels.collection import NoiseCollection
from ...noise_kernels.element_noise import ElementNoise
from ...noise_kernels.mechanism import Noise

Doubles = npt.NDArray[np.float64]
VARIANCES = {"laplace": 2.0, "normal": 1.0}
UNLIKELY = 1e-15
"""Numbers of negative samples that are less likely are left out."""


@dataclass(frozen=True)
class OrderedLaplace:
    """n sorted standard Laplace samples: the k-th one's mean and variance, and their covariance in two parts.

    Given M, the number of negative ones, the covariance of the j-th and k-th is below[max] + above[min]. `given` are
    the means given M, for each likely M, and `weights` the M's probabilities.
    """

    mean: Doubles
    below: Doubles
    above: Doubles
    given: Doubles
    weights: Doubles

    @property
    def variances(self) -> Doubles:
        """Of each sample."""
        centred = self.given - self.mean
        made: Doubles = self.below + self.above + self.weights @ centred**2
        return made

    def covariance(self) -> Doubles:
        """Float64 [n, n]."""
        place = np.arange(len(self.mean))
        centred = self.given - self.mean
        within = self.below[np.maximum.outer(place, place)] + self.above[np.minimum.outer(place, place)]
        made: Doubles = within + (centred.T * self.weights) @ centred
        return made


@lru_cache(maxsize=2)
def ordered_laplace(n: int) -> OrderedLaplace:
    """By Renyi's representation: sums of independent exponential variates on either side of 0, given M of n below."""
    k = np.arange(1, n + 1)
    law = stats.binom(n, 0.5)
    at_least, under = law.sf(k - 1), law.cdf(k - 1)
    negatives = np.arange(n + 1)
    negatives = negatives[law.pmf(negatives) > UNLIKELY][:, None]
    weights = law.pmf(negatives[:, 0])
    harmonic = np.concatenate([[0.0], np.cumsum(1 / k)])
    # -(1/k + ... + 1/M) up to M, and 1/(n - M) + ... + 1/(n + 1 - k) beyond it.
    below = -(harmonic[negatives] - harmonic[k - 1])
    above = harmonic[n - negatives] - harmonic[n - k]
    given = np.where(k <= negatives, below, above)
    return OrderedLaplace(
        mean=(weights / weights.sum()) @ given,
        below=np.cumsum((at_least / k**2)[::-1])[::-1],
        above=np.cumsum(under / (n + 1 - k) ** 2),
        given=given,
        weights=weights / weights.sum(),
    )


@dataclass(frozen=True)
class Moments:
    """Of one distribution of a mechanism's noise: its `mean`, and its covariance from the law's own."""

    mean: Doubles
    noise: Noise
    d: int = 0

    def variances(self) -> Doubles:
        """Of each value, float64 [values]."""
        if isinstance(self.noise, NoiseCollection):
            own: Doubles = ordered_laplace(self.noise.n).variances[self.noise.ranks[self.d]]
            return float(self.noise.scale[self.d]) ** 2 * own
        each = VARIANCES[self.noise.law] * self.noise.scale.astype(np.float64) ** 2
        if self.noise.mixing is None:
            return each
        made: Doubles = np.asarray(self.noise.mixing, np.float64) ** 2 @ each
        return made

    def covariance(self) -> Doubles:
        """Float64 [values, values]."""
        if isinstance(self.noise, NoiseCollection):
            ranks = self.noise.ranks[self.d]
            own: Doubles = ordered_laplace(self.noise.n).covariance()[np.ix_(ranks, ranks)]
            return float(self.noise.scale[self.d]) ** 2 * own
        each = VARIANCES[self.noise.law] * self.noise.scale.astype(np.float64) ** 2
        if self.noise.mixing is None:
            return np.diag(each)
        mixing = np.asarray(self.noise.mixing, np.float64)
        made: Doubles = (mixing * each) @ mixing.T
        return made


def moments_of(noise: Noise) -> list[Moments]:
    """One for each distribution; a mechanism other than a collection has one."""
    if isinstance(noise, ElementNoise):
        return [Moments(noise.loc.astype(np.float64), noise)]
    law = ordered_laplace(noise.n)
    means = noise.loc[:, None].astype(np.float64) + noise.scale[:, None].astype(np.float64) * law.mean[noise.ranks]
    return [Moments(mean, noise, d) for d, mean in enumerate(means)]
