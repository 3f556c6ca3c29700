"""Coordinates in which an activation's values hang together little: principal components and cosines, axis by axis.

A tensor [channels, height, width] is turned by the principal components of its channels and by the discrete cosine
transform along both other axes, [steps, features] by components of the features and cosines along the steps. A flat
tensor, and several together, stay as they are: a matrix over all their values would be too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from ...models.spec import CutSpec
from ...noise_kernels.linear_map import LinearMap

Floats = npt.NDArray[np.float32]
Axes = tuple[Floats | None, ...]
WIDEST = 1024
"""An axis longer than that is left as it is: its matrix would be part of both halves."""


@dataclass(frozen=True)
class Coordinates:
    """The cut's values as a tensor, one orthonormal matrix for an axis or none, and what is taken off first [n]."""

    shape: tuple[int, ...]
    axes: Axes
    centre: Floats

    def of(self, values: Floats) -> Floats:
        """Coordinates [items, n] of flat activations [items, n]."""
        return self._everything(self.centre).sent(values)

    def of_directions(self, rows: Floats) -> Floats:
        """Coordinates of differences and gradients, from which nothing is taken off."""
        return self._everything(np.zeros_like(self.centre)).sent(rows)

    def map(self, index: Any, forward: Any, backward: Any) -> LinearMap:
        """The map that sends some of the coordinates."""
        return LinearMap(self.shape, self.centre, self.axes, index, forward, backward)

    def _everything(self, centre: Floats) -> LinearMap:
        n = len(self.centre)
        return LinearMap(self.shape, centre, self.axes, np.arange(n), np.ones(n), np.ones(n))


def coordinates_of(cut: CutSpec, pieces: Sequence[Floats]) -> Coordinates:
    """For flat activations of the cut, given in pieces [items, n]."""
    count = sum(len(piece) for piece in pieces)
    total = np.zeros(cut.elements)
    for piece in pieces:
        total += piece.sum(0, dtype=np.float64)
    centre = (total / count).astype(np.float32)
    shape = cut.tensors[0].shape if len(cut.tensors) == 1 else (cut.elements,)
    if len(shape) < 2:
        return Coordinates((cut.elements,), (None,), centre)
    features = 0 if len(shape) > 2 else len(shape) - 1
    axes = [_cosines(size) if size <= WIDEST else None for size in shape]
    axes[features] = _components(shape, features, centre, pieces) if shape[features] <= WIDEST else None
    return Coordinates(tuple(shape), tuple(axes), centre)


def _cosines(size: int) -> Floats:
    made: Floats = fft.dct(np.eye(size), axis=0, norm="ortho").astype(np.float32)
    return made


def _components(shape: Sequence[int], axis: int, centre: Floats, pieces: Sequence[Floats]) -> Floats:
    """The principal components along one axis, over all items and places; the largest first."""
    spread = np.zeros((shape[axis], shape[axis]))
    for piece in pieces:
        turned = np.moveaxis((piece - centre).reshape(-1, *shape), axis + 1, 0).reshape(shape[axis], -1)
        spread += turned @ turned.T
    made: Floats = np.linalg.eigh(spread)[1].T[::-1].astype(np.float32)
    return made
