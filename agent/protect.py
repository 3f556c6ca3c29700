"""Noise on what leaves a device, as sessions and bundles ask for it: draw for a batch, add, nothing more.

Noise does not depend on what it is added to, so it can be drawn ahead, and is used once: what was drawn before a fork
is never used in the child, and of two threads that want the noise that lies ready one gets it. Where nothing was drawn
ahead, drawing and adding are one call. Sticky noise does depend on it, the same input always getting the same, so that
repeated requests tell no more than one; none of it is drawn ahead.

A mechanism's place says what it is added to: the tensors at the cut, or the model's input before the edge partition.
With `steps` what is sent comes out as int8, clamp(rint(value / step), -128, 127): noise first, then rounding, so that
nothing is sent that the noisy values alone do not decide.
"""

from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from ..noise_kernels import randomness
from ..noise_kernels.collection import CollectionError
from ..noise_kernels.mechanism import Noise, read_noise
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.reference import inverse_step
from ..noise_kernels.sampler import add_noise, add_noise_int8, quantise, sample_batch
from ..noise_kernels.sticky import StickyStream
from .backends import BackendError

Arrays = List[Any]
Drawn = Tuple[Any, Any]
"""The process that drew some noise, and the noise [batch, values]."""


class NoiseError(BackendError):
    """The noise of a bundle is damaged, or for another cut; the message is one sentence for a person."""


class Protector:
    """A mechanism's noise with a stream of randomness of its own; any number of threads.

    `steps` has one for each tensor that is sent, and asks for int8 in place of float32. `sticky` is a secret of 32
    bytes from which, with what it is added to, all noise follows.
    """

    def __init__(self, noise: Noise, steps: Optional[Sequence[float]] = None, sticky: Optional[bytes] = None) -> None:
        self.noise, self.steps, self.sticky = noise, steps, sticky is not None
        self._inverse_steps = None if steps is None else [inverse_step(step) for step in steps]
        self._stream = NoiseStream() if sticky is None else StickyStream(sticky, noise.digest.encode())  # type: Any
        # At most one draw. A list, since its `pop` hands it to one thread alone and needs no lock,
        # which a fork could leave locked.
        self._ahead = []  # type: List[Drawn]

    @classmethod
    def load(
        cls, data: bytes, where: str, steps: Optional[Sequence[float]] = None, sticky: Optional[bytes] = None
    ) -> "Protector":
        """From a noise file's bytes. Raises NoiseError naming `where`."""
        try:
            return cls(read_noise(data, where), steps, sticky)
        except CollectionError as error:
            raise NoiseError(str(error)) from None

    def draw_ahead(self, batch: int) -> None:
        """Draw the noise for the next `add` of this batch size, unless it is there already, or sticky."""
        if not self.sticky and not self.drawn(batch):
            noise = sample_batch(self.noise, self._stream, batch)
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

    def sent(self, inputs: Any, edge: Callable[[Arrays], Arrays]) -> Arrays:
        """What leaves the device for a model's inputs [batch, ...]; `edge` runs the edge partition."""
        if self.noise.place == "input":
            return self.rounded(edge(self.add([inputs])))
        return self.add(edge([inputs]))

    def add(self, carriers: Arrays) -> Arrays:
        """Tensors [batch, ...] that the noise is for, each with its share of noise added, as new arrays.

        float32, or at the cut int8 with `steps`.
        """
        batch, at_cut = len(carriers[0]), self.noise.place == "cut"
        noise = self._taken(batch)
        if noise is None and len(carriers) == 1:
            return [self._add_drawing(carriers[0], at_cut)]
        if noise is None and self.sticky:
            flat = [carrier.reshape(batch, -1) for carrier in carriers]
            return self._shared_out(carriers, add_noise(self.noise, self._stream, np.concatenate(flat, axis=1)))
        if noise is None:
            noise = sample_batch(self.noise, self._stream, batch)
        noisy = [carrier + share for carrier, share in zip(carriers, _split(noise, carriers))]
        return self.rounded(noisy) if at_cut else noisy

    def rounded(self, values: Arrays) -> Arrays:
        """What is sent as it travels: float32 as it is, or, with `steps`, int8 made in the place of the values."""
        if self._inverse_steps is None:
            return values
        return [quantise(sums, inverse) for sums, inverse in zip(values, self._inverse_steps)]

    def _shared_out(self, carriers: Arrays, sums: "np.ndarray[Any, Any]") -> Arrays:
        return self.rounded([np.ascontiguousarray(part) for part in _split(sums, carriers)])

    def _add_drawing(self, carrier: "np.ndarray[Any, Any]", at_cut: bool) -> "np.ndarray[Any, Any]":
        """Draw and add in one call, for one tensor."""
        flat = carrier.reshape(len(carrier), -1)
        if self.steps is None or not at_cut:
            return add_noise(self.noise, self._stream, flat).reshape(carrier.shape)
        return add_noise_int8(self.noise, self._stream, flat, self.steps[0]).reshape(carrier.shape)


def _split(rows: "np.ndarray[Any, Any]", like: Arrays) -> Arrays:
    """[batch, values] as tensors of the shapes that `like` has."""
    parts, start = [], 0
    for array in like:
        end = start + array[0].size
        parts.append(rows[:, start:end].reshape(array.shape))
        start = end
    return parts
