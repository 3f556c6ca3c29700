"""noise.cu built for the processor (see shim.cpp), and run without a driver: for tests of the kernels themselves."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_float, c_uint, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.agent import gpu_noise
from edgecut.agent.gpu_noise import RANKS, SHARED_BYTES, TILE, TILE_THREADS
from edgecut.noise_kernels.collection import NoiseCollection

HERE = Path(__file__).parent
FLAGS = (
    "-std=c++17",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fPIC",
    "-pthread",
)
_SHIMS = tempfile.TemporaryDirectory(prefix="shim-")


@functools.lru_cache
def _shim(*flags: str) -> str:
    """The object of shim.cpp, compiled once a process."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    path = tempfile.mktemp(suffix=".o", dir=_SHIMS.name)
    subprocess.run(["g++", *FLAGS, *flags, "-c", str(HERE / "shim.cpp"), "-o", path], check=True)
    return path


def build(folder: Path, source: str, *flags: str) -> Path:
    """The library of a text of noise.cu; skips where there is no g++."""
    shim, library = _shim(*flags), folder / "noise.so"
    (folder / "noise.cu").write_text(source)
    defines = ["-DEDGECUT_NOISE_DEBUG", f'-DSOURCE="{folder / "noise.cu"}"']
    command = ["g++", *FLAGS, *flags, "-shared", *defines, str(HERE / "kernels.cpp"), shim, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def padded(array: np.ndarray) -> np.ndarray:
    """A copy of its own, contiguous, so that a sanitizer sees what is read or written beside it."""
    return np.array(array, order="C", copy=True)


class Kernels:
    """The kernels of one library, launched as `agent/gpu_noise.py` launches them, but on NumPy's memory."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.noise_prepare.restype = c_void_p
        self.library.noise_perform.argtypes = (c_void_p, c_uint)
        self.seed = seed

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, shared_bytes: int, arguments: Sequence[Any]
    ) -> None:
        """Run a kernel to its end."""
        places = (c_void_p * len(arguments))(*[ctypes.addressof(argument) for argument in arguments])
        prepared = self.library.noise_prepare(name.encode(), *grid, threads, shared_bytes, places)
        assert prepared, f"{name} was refused"
        self.library.noise_perform(prepared, self.seed)

    def noise(
        self,
        collection: NoiseCollection,
        pairs: Sequence[tuple[bytes, bytes]],
        activation: np.ndarray | None = None,
        inverse_step: float = 0.0,
        tiled: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """(result [rows, n], and from the tiled kernels the distribution and M of each row)."""
        n, rows = collection.n, len(pairs)
        seeds = gpu_noise._Seeds(key=(c_uint32 * 8).from_buffer_copy(pairs[0][0]))
        for row, (_, nonce) in enumerate(pairs):
            seeds.nonces[row] = (c_uint32 * 3).from_buffer_copy(nonce)
        arrays = [padded(each) for each in (collection.ranks, collection.loc, collection.scale)]
        tables = gpu_noise._Tables(*[a.ctypes.data for a in arrays], n=n, distributions=collection.distributions)
        out = np.full((rows, n), 99, np.int8 if inverse_step else np.float32)
        given = None if activation is None else padded(activation)
        ends = [
            c_void_p(0 if given is None else given.ctypes.data),
            c_void_p(out.ctypes.data),
            c_float(inverse_step),
        ]
        if not tiled:
            blocks = -(-n // RANKS)
            threads, shared = 32 * (-(-(1 + blocks) // 32)), SHARED_BYTES + 4 * (RANKS + 1) * blocks
            self.launch("edgecut_noise_block", (rows, 1), threads, shared, [seeds, tables, *ends])
            return out, None, None
        tiles = -(-n // TILE)
        steps, samples = (np.full((rows, tiles * TILE), np.nan, np.float32) for _ in range(2))
        below, above = (np.full((rows, tiles), -1, np.int64) for _ in range(2))
        negatives, chosen = np.full((rows, tiles), -1, np.int32), np.full(rows, -1, np.int32)
        places = [each.ctypes.data for each in (steps, samples, below, above, negatives, chosen)]
        scratch = gpu_noise._Scratch(*places, tiles=tiles)
        self.launch("edgecut_noise_tiles", (tiles + 1, rows), TILE_THREADS, SHARED_BYTES, [seeds, tables, scratch])
        self.launch("edgecut_noise_values", (tiles, rows), TILE_THREADS, SHARED_BYTES, [tables, scratch])
        gather = "edgecut_noise_gather16" if arrays[0].itemsize == 2 else "edgecut_noise_gather32"
        self.launch(gather, (-(-n // TILE_THREADS), rows), TILE_THREADS, 0, [tables, scratch, *ends])
        return out, chosen, negatives.sum(axis=1)

    def debug(
        self, key: bytes, nonce: bytes, distributions: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blocks 0 to threads - 1 of a request: their words, the distribution each would choose, its variates."""
        seeds = gpu_noise._Seeds(key=(c_uint32 * 8).from_buffer_copy(key))
        seeds.nonces[0] = (c_uint32 * 3).from_buffer_copy(nonce)
        words, chosen = np.empty((threads, RANKS), np.uint32), np.empty(threads, np.uint32)
        steps = np.empty((threads, RANKS), np.float32)
        ends = [c_void_p(each.ctypes.data) for each in (words, chosen, steps)]
        self.launch("edgecut_noise_debug", (1, 1), threads, 0, [seeds, c_uint32(distributions), *ends])
        return words, chosen, steps
