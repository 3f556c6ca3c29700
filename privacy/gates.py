"""Counting right answers under sampled noise, which is what is deployed: the only accuracy that decides anything here.

The noise of a gate is ChaCha20's, like a deployed one, but from a key that follows from the seed: the same run gives
the same answers. Such a key is known to whoever knows the seed, so nothing that is sent is ever drawn from it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..noise_kernels import mechanism
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.sampler import sample_batch

Floats = npt.NDArray[np.float32]
Answer = Callable[[Floats], npt.NDArray[Any]]
Noise = Callable[[int, int, int], Floats]
"""Noise [count, n] for a draw of items `first` to `first + count`: called with the draw, `first` and `count`."""


def gate_key(seed: int, purpose: str) -> bytes:
    """The key of a gate's noise. Never for anything that is sent."""
    return hashlib.sha256(f"edgecut learn, {purpose}, seed {seed}".encode()).digest()


class Repeatable:
    """In a NoiseStream's place: a known key, and one nonce after the other from a known number on."""

    def __init__(self, key: bytes, first: int) -> None:
        self._key, self._next = key, first

    def next_runs(self, count: int) -> list[tuple[bytes, bytes]]:
        """The key and the next nonces, joined."""
        numbers = range(self._next, self._next + count)
        self._next += count
        return [(self._key, b"".join(struct.pack("<Iq", 0, number) for number in numbers))]


def noise_from(source: mechanism.Noise, key: bytes, items: int) -> Noise:
    """A mechanism's noise where item i of `items` has nonce draw * items + i, whatever the pieces it is asked for."""

    def noise(draw: int, first: int, count: int) -> Floats:
        stream = cast(NoiseStream, Repeatable(key, draw * items + first))
        return cast(Floats, sample_batch(source, stream, count))

    return noise


def carried(source: mechanism.Noise, values: Floats) -> Floats:
    """What the noise is added to, float32 [batch, noise.values], for the values [batch, n] that it was fitted to."""
    if source.map is None or source.place == "input":
        return values
    return cast(Floats, source.map.sent(values))


def after_noise(source: mechanism.Noise, edge: Callable[[Floats], Floats] | None, answer: Answer) -> Answer:
    """What the deployed halves answer once the noise is added: `answer` is the cloud half's on the cut's values.

    `edge` gives the cut's values for flat model inputs; only noise at the input needs it.
    """
    map = source.map
    if source.place == "input":
        assert edge is not None
        cut_of = edge
        if map is None:
            return lambda noisy: answer(cut_of(noisy))
        return lambda noisy: answer(cut_of(cast(Floats, map.restored(map.sent(noisy)))))
    if map is None:
        return answer
    return lambda sent: answer(cast(Floats, map.restored(sent)))


def replayed(tensors: Floats, key: bytes) -> Noise:
    """The learned tensors themselves, one at random for each item, in a collection's place."""
    chosen = np.random.default_rng(np.frombuffer(key, np.uint32))
    return lambda _draw, _first, count: tensors[chosen.integers(0, len(tensors), count)]


def count_right(
    batches: Iterable[tuple[Floats, tuple[npt.NDArray[Any], ...]]],
    answers: tuple[Answer, ...],
    noise: Noise | None = None,
    draws: int = 1,
) -> list[int]:
    """Right answers of each classifier over all draws; batches are activations [B, n] and each task's labels [B]."""
    right, first = [0] * len(answers), 0
    for activations, labels in batches:
        for draw in range(draws):
            sent = activations if noise is None else activations + noise(draw, first, len(activations))
            for task, (answer, wanted) in enumerate(zip(answers, labels, strict=True)):
                right[task] += int((answer(sent).argmax(1) == wanted).sum())
        first += len(activations)
    return right
