"""Accuracy on unseen labelled data, through the very halves that are deployed, with a margin of error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artefacts import Record
from ..models.spec import ModelSpec

CHUNK = 250
CHUNK_BYTES = 64 << 20
"""Of a network's largest activation over all the items that go through it at once; a few such are alive together."""


class Accuracy(Record):
    """Right answers out of `total`; [low, high] is the 95 % Wilson interval of the share."""

    correct: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share of right answers."""
        return self.correct / self.total

    @classmethod
    def of(cls, correct: int, total: int) -> Accuracy:
        """With Wilson's score interval (1927) at 95 %. Raises ValueError without any answer."""
        if not 0 <= correct <= total or total == 0:
            raise ValueError(f"{correct} of {total} answers is no share")
        z = 1.959963984540054
        share, scale = correct / total, 1 + z * z / total
        centre = (share + z * z / (2 * total)) / scale
        half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
        # The ends are exact, and rounding must not put the share outside of its own interval.
        low = 0.0 if correct == 0 else min(share, max(0.0, centre - half))
        high = 1.0 if correct == total else max(share, min(1.0, centre + half))
        return cls(correct=correct, total=total, low=low, high=high)


class NoiseAccuracy(Record):
    """Accuracy without and with noise on the same unseen items.

    Each item is tried under fresh noise `draws` times. `with_noise` counts all tries in its share, but its interval
    is that of as many answers as there are items: tries of one item are not independent.
    """

    data: str
    without: Accuracy
    with_noise: Accuracy
    draws: int

    @classmethod
    def of(cls, data: str, clean: int, noisy: int, items: int, draws: int) -> NoiseAccuracy:
        """From the right answers without noise out of `items`, and with noise out of `items * draws`."""
        bounds = Accuracy.of(round(noisy / draws), items)
        with_noise = Accuracy(correct=noisy, total=items * draws, low=bounds.low, high=bounds.high)
        return cls(data=data, without=Accuracy.of(clean, items), with_noise=with_noise, draws=draws)

    @property
    def loss_points(self) -> float:
        """Accuracy lost to the noise, in percentage points."""
        return 100 * (self.without.value - self.with_noise.value)

    @property
    def loss_interval_points(self) -> tuple[float, float]:
        """95 % interval of the loss from the two intervals' half-widths (Newcombe 1998, method 10), in points."""
        a, b = self.without, self.with_noise
        low = (a.value - b.value) - math.hypot(a.value - a.low, b.high - b.value)
        high = (a.value - b.value) + math.hypot(a.high - a.value, b.value - b.low)
        return 100 * low, 100 * high


def chunk_of(spec: ModelSpec) -> int:
    """Items to run through a model at once: its own batch where it has one, else as many as fit into CHUNK_BYTES."""
    return spec.batch or items_at_once(spec)


def items_at_once(spec: ModelSpec) -> int:
    """Items whose activations fit into CHUNK_BYTES together."""
    largest = max([spec.input.size_bytes, *(layer.output.size_bytes for layer in spec.layers)])
    return max(1, min(CHUNK, CHUNK_BYTES // largest))


def count_correct(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> int:
    """How many of the largest logits [items, classes] are the labels."""
    return int((np.argmax(logits, axis=1) == labels).sum())
