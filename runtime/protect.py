"""Noise on an activation, as bundles, sessions and accuracy ask for it: draw for a batch, add, nothing more.

Noise does not depend on the activation, so it can be drawn ahead, and is used once: what was drawn before a fork is
never used in the child. Where nothing was drawn ahead, drawing and adding are one call.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BundleError
from ..noise_kernels.collection import CollectionError, NoiseCollection
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.sampler import add_noise, sample_batch

Activations = list[npt.NDArray[np.float32]]


class Protector:
    """A noise collection with a stream of randomness of its own; one thread at a time."""

    def __init__(self, collection: NoiseCollection) -> None:
        self.collection = collection
        self._stream = NoiseStream()
        self._ahead: npt.NDArray[np.float32] | None = None
        self._ahead_pid = 0

    @classmethod
    def load(cls, data: bytes, where: str) -> Protector:
        """From a collection's bytes. Raises BundleError naming `where`."""
        try:
            return cls(NoiseCollection.from_bytes(data, where))
        except CollectionError as error:
            raise BundleError(str(error)) from None

    def draw_ahead(self, batch: int) -> None:
        """Draw the noise for the next `add` of this batch size, unless it is there already."""
        if not self.drawn(batch):
            self._ahead, self._ahead_pid = sample_batch(self.collection, self._stream, batch), os.getpid()

    def drawn(self, batch: int) -> bool:
        """Whether noise for the next `add` of this batch size is there already."""
        return self._ahead is not None and len(self._ahead) == batch and self._ahead_pid == os.getpid()

    def add(self, activations: Activations) -> Activations:
        """Activations [batch, ...] of the cut's tensors, each with its share of fresh noise added, as new arrays."""
        batch = len(activations[0])
        if len(activations) == 1 and not self.drawn(batch):
            flat = activations[0].reshape(batch, -1)
            return [add_noise(self.collection, self._stream, flat).reshape(activations[0].shape)]
        self.draw_ahead(batch)
        noise, self._ahead = self._ahead, None
        assert noise is not None
        noisy, start = [], 0
        for activation in activations:
            size = activation[0].size
            noisy.append(activation + noise[:, start : start + size].reshape(activation.shape))
            start += size
        return noisy


def noisy_answer(edge: Any, cloud: Any, protector: Protector | None, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Logits [batch, classes] through two ONNX Runtime sessions, with noise in between where given."""
    names = [value.name for value in edge.get_outputs()]
    activations = edge.run(names, {edge.get_inputs()[0].name: inputs})
    if protector is not None:
        activations = protector.add(activations)
    answer: npt.NDArray[Any] = cloud.run(None, dict(zip(names, activations, strict=True)))[0]
    return answer
