"""The adversary who has the mechanism's file: tells which distribution a message has, takes its noise off, filters.

Of noise n with mean mu and covariance N on values a with mean m and covariance C, the best linear estimate of a is
m + C (C + N)^-1 (y - mu - m). A collection has a mu and an N for each distribution, and which one a message has is
told from the message itself, by linear discrimination: the order gives it away.
"""

from __future__ import annotations

import numpy as np

from ...noise_kernels.element_noise import ElementNoise
from ..observations import Floats, Integers, Observations
from .moments import moments_of

SAMPLE = 20_000
"""Items that the values' mean and covariance are taken from."""
DENSE_ENTRIES = 1 << 25
"""Of all filters together; where there would be more, each value is filtered on its own."""
SHRINKAGE = 1e-4


class Cleaner:
    """Takes noise off messages; of `copies` of an item that will be averaged, the filters take that into account."""

    def __init__(self, seen: Observations, copies: int = 1) -> None:
        carried = seen.carried("train", np.arange(min(seen.train.count, SAMPLE))).astype(np.float64)
        moments, n = moments_of(seen.noise), seen.noise.values
        means = np.stack([one.mean for one in moments])
        mean = carried.mean(0)
        if len(moments) * n * n <= DENSE_ENTRIES:
            own = np.cov(carried, rowvar=False).reshape(n, n)
            # Dead units make it singular.
            own[np.diag_indices(n)] += SHRINKAGE * max(float(own.trace()) / n, 1e-12)
            noises = [one.covariance() for one in moments]
            gains = [np.linalg.solve(own + noise / copies, own) for noise in noises]
            axes = np.linalg.solve(own + np.mean(noises, axis=0), (means + mean).T)
        else:
            variances = carried.var(0) + 1e-12
            noises = [one.variances() for one in moments]
            gains = [variances / (variances + noise / copies) for noise in noises]
            axes = ((means + mean) / (variances + np.mean(noises, axis=0))).T
        self._gains = [gain.astype(np.float32) for gain in gains]
        self._axes = axes.astype(np.float32)
        self._offsets = (0.5 * ((means + mean).T * axes).sum(0)).astype(np.float32)
        self._noise_means, self._mean = means.astype(np.float32), mean.astype(np.float32)

    @staticmethod
    def useful(seen: Observations) -> bool:
        """False where knowing the noise helps nobody: there is none, or a network has been between."""
        silent = isinstance(seen.noise, ElementNoise) and not seen.noise.scale.any()
        return seen.noise.place == "cut" and not silent

    def told(self, messages: Floats) -> Integers:
        """The distribution that each message's noise is of, by the largest discriminant."""
        if len(self._noise_means) == 1:
            return np.zeros(len(messages), np.int64)
        found: Integers = (messages @ self._axes - self._offsets).argmax(1)
        return found

    def cleaned(self, messages: Floats) -> Floats:
        """The values' best linear estimate, float32 like the messages."""
        which = self.told(messages)
        rest = messages - self._noise_means[which] - self._mean
        for d in np.unique(which):
            rows, gain = which == d, self._gains[d]
            rest[rows] = rest[rows] * gain if gain.ndim == 1 else rest[rows] @ gain
        made: Floats = rest + self._mean
        return made
