"""Noise on an activation, as sessions and bundles ask for it: draw for a batch, add, nothing more.

Noise does not depend on the activation, so it can be drawn ahead, and is used once: what was drawn before a fork is
never used in the child, and of two threads that want the noise that lies ready one gets it. Where nothing was drawn
ahead, drawing and adding are one call.
"""

from typing import Any, List, Optional, Tuple

import numpy as np

from ..noise_kernels import randomness
from ..noise_kernels.collection import CollectionError, NoiseCollection
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.sampler import add_noise, sample_batch
from .backends import BackendError

MECHANISM = "shredder"
Drawn = Tuple[Any, Any]
"""The process that drew some noise, and the noise [batch, n]."""


class NoiseError(BackendError):
    """The noise of a bundle is damaged, or for another cut; the message is one sentence for a person."""


class Protector:
    """A noise collection with a stream of randomness of its own; any number of threads."""

    def __init__(self, collection: NoiseCollection) -> None:
        self.collection = collection
        self._stream = NoiseStream()
        # At most one draw. A list, since its `pop` hands it to one thread alone and needs no lock,
        # which a fork could leave locked.
        self._ahead = []  # type: List[Drawn]

    @classmethod
    def load(cls, data: bytes, where: str) -> "Protector":
        """From a collection's bytes. Raises NoiseError naming `where`."""
        try:
            return cls(NoiseCollection.from_bytes(data, where))
        except CollectionError as error:
            raise NoiseError(str(error)) from None

    def draw_ahead(self, batch: int) -> None:
        """Draw the noise for the next `add` of this batch size, unless it is there already."""
        if not self.drawn(batch):
            noise = sample_batch(self.collection, self._stream, batch)
            self._ahead = [(randomness._process(), noise)]

    def drawn(self, batch: int) -> bool:
        """Whether noise for the next `add` of this batch size is there already."""
        return any(len(noise) == batch and made == randomness._process() for made, noise in self._ahead)

    def _taken(self, batch: int) -> "Optional[np.ndarray[Any, Any]]":
        """The noise that lies ready, from then on nobody else's; None where there is none for this batch."""
        if not self.drawn(batch):
            return None
        try:
            made, noise = self._ahead.pop()
        except IndexError:  # another thread was quicker
            return None
        return noise if len(noise) == batch and made == randomness._process() else None

    def add(self, activations: "List[np.ndarray[Any, Any]]") -> "List[np.ndarray[Any, Any]]":
        """Activations [batch, ...] of the cut's tensors, each with its share of fresh noise added, as new arrays."""
        batch = len(activations[0])
        noise = self._taken(batch)
        if noise is None:
            if len(activations) == 1:
                flat = activations[0].reshape(batch, -1)
                return [add_noise(self.collection, self._stream, flat).reshape(activations[0].shape)]
            noise = sample_batch(self.collection, self._stream, batch)
        noisy, start = [], 0
        for activation in activations:
            size = activation[0].size
            noisy.append(activation + noise[:, start : start + size].reshape(activation.shape))
            start += size
        return noisy
