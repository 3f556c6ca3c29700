"""The edge partition's activations, computed once: the network is frozen, so they never change while noise is learned.

They are kept in memory while they are few, otherwise in a file, and where there is no room for one either they are
computed again for every batch. All three give the same numbers.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ..errors import DataError, DeviceError
from ..models.data import to_input
from ..models.load import Model
from ..models.session import open_session
from ..models.spec import CutSpec
from ..runtime.accuracy import chunk_of

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Place = Literal["memory", "disk", "nowhere"]
Told = Callable[[int, int], None]
MEMORY_BYTES = 1 << 30
SPARE_DISK_BYTES = 2 << 30
"""Left free on a disk that activations are written to."""
MAX_DEVIATION = 1e15


class EdgePart:
    """The edge partition in the runtime that deploys it; `chunk` items at a time keep its memory bounded."""

    def __init__(self, model: Model, edge: bytes, cut: CutSpec, threads: int = 2) -> None:
        self._session, self._spec = open_session(edge, threads=threads), model.spec
        self._names = [tensor.name for tensor in cut.tensors]
        self.chunk = chunk_of(model.spec)

    def __call__(self, items: Array) -> Floats:
        """Flat activations [items, n] of at most `chunk` items as a data set has them."""
        parts = self._session.run(self._names, {self._spec.input.name: to_input(items, self._spec)})
        return np.concatenate([part.reshape(len(items), -1) for part in parts], axis=1)


class CloudPart:
    """The cloud partition in the runtime that deploys it."""

    def __init__(self, cloud: bytes, cut: CutSpec, threads: int = 2) -> None:
        self._session, self._cut = open_session(cloud, threads=threads), cut

    def __call__(self, flat: Floats) -> Array:
        """Logits [batch, classes] of flat activations [batch, n]."""
        bounds = np.cumsum([tensor.elements for tensor in self._cut.tensors])[:-1]
        parts = zip(self._cut.tensors, np.split(flat, bounds, axis=1), strict=True)
        logits: Array = self._session.run(None, {t.name: part.reshape(-1, *t.shape) for t, part in parts})[0]
        return logits


class Rows:
    """One row of float32 values for each of some items, wherever they are kept; `take` gives some of them."""

    def __init__(self, count: int, width: int, place: Place, take: Callable[[npt.NDArray[np.int64]], Floats]) -> None:
        self.count, self.width, self.place, self._take = count, width, place, take

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows [count, width] with these numbers, int64."""
        return torch.from_numpy(self._take(rows.numpy()))

    def chunks(self, most: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order: the first one's number and a piece of at most `most`."""
        for start in range(0, self.count, most):
            yield start, self.take(torch.arange(start, min(start + most, self.count)))


def place_for(size_bytes: int, memory_bytes: int, folder: Path) -> Place:
    """Where so many bytes are kept: in memory up to a bound, else on a disk with room to spare, else nowhere."""
    if size_bytes <= memory_bytes:
        return "memory"
    return "disk" if shutil.disk_usage(folder).free >= size_bytes + SPARE_DISK_BYTES else "nowhere"


def keep_rows(
    make: Callable[[npt.NDArray[np.int64]], Floats],
    count: int,
    width: int,
    file: Path,
    chunk: int,
    told: Told,
    memory_bytes: int | None = None,
) -> Rows:
    """Rows that `make` computes from their numbers, at most `chunk` at a time, once where there is room for them.

    `file` is where they go when they are too large for the memory; a complete one is used as it is. Its folder must
    exist, and whoever made the folder removes it.
    """
    place = place_for(4 * count * width, MEMORY_BYTES if memory_bytes is None else memory_bytes, file.parent)
    if place == "nowhere":
        return Rows(count, width, place, lambda rows: _in_chunks(make, rows, chunk))
    if place == "memory":
        kept = np.empty((count, width), np.float32)
        for start, piece in _pieces(make, count, chunk, told):
            kept[start : start + len(piece)] = piece
        return Rows(count, width, place, lambda rows: kept[rows])
    if not (file.is_file() and file.stat().st_size == 4 * count * width):
        _write(make, count, chunk, file, told)
    return Rows(count, width, place, _reader(file, width))


def _in_chunks(make: Callable[[Any], Floats], rows: npt.NDArray[np.int64], chunk: int) -> Floats:
    return np.concatenate([make(rows[start : start + chunk]) for start in range(0, len(rows), chunk)])


def _pieces(make: Callable[[Any], Floats], count: int, chunk: int, told: Told) -> Iterator[tuple[int, Floats]]:
    for start in range(0, count, chunk):
        told(start, count)
        yield start, make(np.arange(start, min(start + chunk, count)))


def _write(make: Callable[[Any], Floats], count: int, chunk: int, file: Path, told: Told) -> None:
    # Only a complete file has the name that a later run looks for.
    beside = file.with_suffix(".unfinished")
    try:
        with open(beside, "wb") as out:
            for _, piece in _pieces(make, count, chunk, told):
                out.write(np.ascontiguousarray(piece, np.float32).data)
        os.replace(beside, file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DeviceError(
            f"the activations cannot be kept in {file.parent} ({error.strerror}); free some space"
        ) from None


def _reader(file: Path, width: int) -> Callable[[npt.NDArray[np.int64]], Floats]:
    """Reads rows one by one: a memory map's pages would count as this process's memory."""
    handle, size = open(file, "rb", buffering=0), 4 * width  # noqa: SIM115 - closed with the last reference

    def take(rows: npt.NDArray[np.int64]) -> Floats:
        result = np.empty((len(rows), width), np.float32)
        for row, into in zip(rows.tolist(), result, strict=True):
            if os.preadv(handle.fileno(), [into.data], row * size) != size:
                raise DeviceError(f"{file} became shorter while it was read; learn again")
        return result

    return take


def deviation_of(rows: Rows, cut: CutSpec, chunk: int) -> float:
    """The values' standard deviation. Raises DataError where there is none that noise could be measured by."""
    count, mean, squares = 0, 0.0, 0.0
    for _, tensor in rows.chunks(chunk):
        piece = tensor.numpy().astype(np.float64)
        own = float(piece.mean())
        if not math.isfinite(own):
            squares = math.nan
            break
        total = count + piece.size
        # Chan, Golub and LeVeque's pairwise update: nothing cancels, and nothing needs a second pass.
        squares += float(((piece - own) ** 2).sum()) + (own - mean) ** 2 * count * piece.size / total
        mean += (own - mean) * piece.size / total
        count = total
    found = math.sqrt(squares / max(1, count))
    if not 1e-6 * abs(mean) < found < MAX_DEVIATION:
        raise DataError(
            f"the activation after {cut.name} is the same for every input, or too large to add noise to (standard "
            f"deviation {found:g}); check the data and the model"
        )
    return found
