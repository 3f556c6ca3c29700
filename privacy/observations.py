"""What is seen of a protected cut, and by whom: the one place where audits draw noise.

An attacker sees what is sent, under fresh noise each time; he may have as many items of the training part as the user
has, with their noise drawn afresh in every pass, and is judged on the unseen part. The noise comes from keys that
follow from the seed, so that an audit can be repeated; such keys never serve anything that is sent.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from ..noise_kernels.mechanism import Noise
from ..noise_kernels.randomness import NoiseStream
from ..noise_kernels.sampler import sample_batch
from .gates import gate_key

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
PartName = Literal["train", "test"]
CHUNK = 500
"""Items that a map takes at once."""


@dataclass(frozen=True)
class Part:
    """Some items: `images` as the data set has them, `values` float32 [items, n] that the noise is fitted to.

    The values are the cut's activations without noise, flat, or for noise at the input the model's input, flat.
    `labels` are the public task's, `private` those to be hidden, where there are any.
    """

    images: Array
    values: Floats
    labels: Integers
    private: Integers | None

    @property
    def count(self) -> int:
        """Items."""
        return len(self.values)


@dataclass(frozen=True)
class Observations:
    """A mechanism at a cut, with data: everything that bounds and attacks need.

    `edge` gives the cut's activations, float32 [items, width], for flat model inputs; only noise at the input needs it.
    `shapes` are those of the cut's tensors without the batch, `names` their names. Of a bundle whose cloud half begins
    with a map, `restore` is that map and `restored_shapes` those of the tensors it gives.
    """

    noise: Noise
    train: Part
    test: Part
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    seed: int
    edge: Callable[[Floats], Floats] | None = None
    restore: Callable[[Floats], Floats] | None = None
    restored_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the tensors that `restored` gives, without the batch."""
        return self.restored_shapes or self.shapes

    @property
    def width(self) -> int:
        """Elements of the cut's tensors together."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def restored_width(self) -> int:
        """Elements of what `restored` gives."""
        return sum(int(np.prod(shape)) for shape in self.feature_shapes)

    def part(self, name: PartName) -> Part:
        """The training or the unseen part."""
        return self.train if name == "train" else self.test

    def carried(self, name: PartName, rows: Integers) -> Floats:
        """What the noise is added to, without it: float32 [rows, noise.values]."""
        if self.noise.map is None or self.noise.place == "input":
            return self.part(name).values[rows]
        return self._mapped(name)[rows]

    def _mapped(self, name: PartName) -> Floats:
        """What the map sends of a whole part, worked out once: attackers see it again in every pass and every copy."""
        if name not in self._kept:
            assert self.noise.map is not None
            values = self.part(name).values
            pieces = [self.noise.map.sent(values[start : start + CHUNK]) for start in range(0, len(values), CHUNK)]
            self._kept[name] = np.concatenate(pieces)
        return self._kept[name]

    @functools.cached_property
    def _kept(self) -> dict[PartName, Floats]:
        return {}

    def drawn(self, name: PartName, rows: Integers, purpose: str, draw: int) -> Floats:
        """Fresh noise for these items, float32 [rows, noise.values]; the same for the same purpose and draw."""
        key = gate_key(self.seed, f"audit, {purpose}, {name}")
        return cast(Floats, sample_batch(self.noise, cast(NoiseStream, RowSeeds(key, draw, rows)), len(rows)))

    def sent(self, name: PartName, rows: Integers, purpose: str, draw: int = 0) -> Floats:
        """What is seen of these items in transit, float32 [rows, ...]: the noisy values, or the cut's activations.

        For noise at the cut it has noise.values columns, for noise at the input the cut's `width`.
        """
        noisy = self.carried(name, rows) + self.drawn(name, rows, purpose, draw)
        if self.noise.place == "cut":
            return noisy
        assert self.edge is not None
        if self.noise.map is not None:
            noisy = self.noise.map.restored(self.noise.map.sent(noisy))
        return self.edge(noisy)

    def restored(self, sent: Floats) -> Floats:
        """What the cloud partition makes of it first, float32 [rows, restored_width]. It is public."""
        if self.restore is not None:
            return self.restore(sent)
        if self.noise.map is None or self.noise.place == "input":
            return sent
        return cast(Floats, self.noise.map.restored(sent))


class RowSeeds:
    """In a NoiseStream's place: a nonce that follows from the draw and the item's number."""

    def __init__(self, key: bytes, draw: int, rows: Integers) -> None:
        self._key, self._draw, self._rows = key, draw, rows

    def next_runs(self, count: int) -> list[tuple[bytes, bytes]]:
        assert count == len(self._rows)
        return [(self._key, b"".join(struct.pack("<Iq", self._draw, row) for row in self._rows.tolist()))]
