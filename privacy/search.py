"""The largest scale whose sampled noise costs no more than is allowed, with the orders fixed: forward passes alone.

All distributions share one scale. One of their own for each was tried: at the same loss their mean was 0 to 3 %
larger, no more than what choosing each on the same few items gains by chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ..errors import EdgecutError
from ..noise_kernels.mechanism import Noise as AnyNoise
from .activations import Rows
from .cloud import Cloud
from .gates import Noise, noise_from

STEP = 1.25
PRECISION = 1.005
SMALLEST, LARGEST = 1e-4, 1e4
CACHE_BYTES = 512 << 20
"""Of the noise's heads; where they would take more they are computed again for each scale."""


def largest_scale(loss_points: Callable[[float], float], start: float, allowed: float) -> tuple[float, int]:
    """A scale that loses at most `allowed` where 0.5 % more loses too much, and how many were tried.

    Brackets from `start` outward, then bisects; exact where the loss grows with the scale, which it does but for
    single items. Raises EdgecutError where the smallest scale loses too much.
    """
    tried = 0

    def good(scale: float) -> bool:
        nonlocal tried
        tried += 1
        return loss_points(scale) <= allowed

    low = high = min(max(start, SMALLEST), LARGEST)
    if good(low):
        while low < LARGEST and good(high := low * STEP):
            low = high
    else:
        while not good(low := high / STEP):
            if low < SMALLEST:
                raise EdgecutError(
                    f"even noise of {low:.1g} deviations costs more than the {allowed:g} points allowed on the "
                    "hold-out; allow more (--max-accuracy-loss), give more data, or choose a deeper cut"
                )
            high = low
    while high / low > PRECISION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if good(middle) else (low, middle)
    return low, tried


class Trial:
    """The hold-out under noise of any scale: what the noise adds to the head's results is linear in the scale."""

    def __init__(
        self,
        cloud: Cloud,
        held: Rows,
        labels: npt.NDArray[np.int64],
        unit: AnyNoise,
        key: bytes,
        draws: int,
        chunk: int,
    ) -> None:
        """`held` are the head's results of the hold-out, `unit` the collection with scale 1 and loc 0."""
        self._cloud, self._held, self._draws, self._chunk = cloud, held, draws, chunk
        self._labels = torch.from_numpy(labels)
        self._noise: Noise = noise_from(unit, key, held.count)
        self._kept: dict[tuple[int, int], torch.Tensor] = {}
        self._keep = 4 * draws * held.count * held.width <= CACHE_BYTES

    def accuracy(self, scale: float) -> float:
        """The share of right answers over all draws; `scale` is absolute, 0 for none."""
        right, draws = 0, self._draws if scale else 1
        with torch.no_grad():
            for first, head in self._held.chunks(self._chunk):
                wanted = self._labels[first : first + len(head)]
                for draw in range(draws):
                    noisy = head + scale * self._unit(draw, first, len(head)) if scale else head
                    right += int((self._cloud.rest(noisy).argmax(1) == wanted).sum())
        return right / (draws * self._held.count)

    def _unit(self, draw: int, first: int, count: int) -> torch.Tensor:
        made = self._kept.get((draw, first))
        if made is None:
            made = self._cloud.of_noise(torch.from_numpy(self._noise(draw, first, count)))
            if self._keep:
                self._kept[draw, first] = made
        return made
