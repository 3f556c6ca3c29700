"""Noise on an activation, as sessions and bundles ask for it: draw for a batch, add, nothing more.

Noise does not depend on the activation, so it can be drawn ahead, and is used once: what was drawn before a fork is
never used in the child, and of two threads that want the noise that lies ready one gets it. Where nothing was drawn
ahead, drawing and adding are one call.

With `steps` the sums come out as int8, clamp(rint(sum / step), -128, 127): noise first, then rounding, so that nothing
is sent that the noisy sums alone do not decide.
"""

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from ..noise_kernels import randomness
from ..noise_kernels.collection import CollectionError, NoiseCollection
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.reference import inverse_step
from ..noise_kernels.sampler import add_noise, add_noise_int8, quantise, sample_batch
from .backends import BackendError

MECHANISM = "shredder"
Drawn = Tuple[Any, Any]
"""The process that drew some noise, and the noise [batch, n]."""


class NoiseError(BackendError):
    """The noise of a bundle is damaged, or for another cut; the message is one sentence for a person."""


class Protector:
    """A noise collection with a stream of randomness of its own; any number of threads.

    `steps` has one for each tensor of the cut, and asks for int8 in place of float32.
    """

    def __init__(self, collection: NoiseCollection, steps: Optional[Sequence[float]] = None) -> None:
        self.collection, self.steps = collection, steps
        self._inverse_steps = None if steps is None else [inverse_step(step) for step in steps]
        self._stream = NoiseStream()
        # At most one draw. A list, since its `pop` hands it to one thread alone and needs no lock,
        # which a fork could leave locked.
        self._ahead = []  # type: List[Drawn]

    @classmethod
    def load(cls, data: bytes, where: str, steps: Optional[Sequence[float]] = None) -> "Protector":
        """From a collection's bytes. Raises NoiseError naming `where`."""
        try:
            return cls(NoiseCollection.from_bytes(data, where), steps)
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
        """Activations [batch, ...] of the cut's tensors, each with its share of fresh noise added, as new arrays.

        float32, or int8 with `steps`.
        """
        batch = len(activations[0])
        noise = self._taken(batch)
        if noise is None:
            if len(activations) == 1:
                return [self._add_drawing(activations[0])]
            noise = sample_batch(self.collection, self._stream, batch)
        noisy, start = [], 0
        for activation in activations:
            size = activation[0].size
            noisy.append(activation + noise[:, start : start + size].reshape(activation.shape))
            start += size
        if self._inverse_steps is None:
            return noisy
        return [quantise(sums, inverse) for sums, inverse in zip(noisy, self._inverse_steps)]

    def _add_drawing(self, activation: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Draw and add in one call, for a cut of one tensor."""
        flat = activation.reshape(len(activation), -1)
        if self.steps is None:
            return add_noise(self.collection, self._stream, flat).reshape(activation.shape)
        return add_noise_int8(self.collection, self._stream, flat, self.steps[0]).reshape(activation.shape)
