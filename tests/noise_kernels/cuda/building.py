"""noise.cu built for the processor (see shim.cpp), and run without a driver: for tests of the kernels themselves."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from ctypes import c_float, c_uint, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from edgecut.agent import gpu_noise
from edgecut.agent.gpu_noise import ELEMENT_THREADS, MIXED_ROWS, RANKS, SHARED_BYTES, TILE, TILE_THREADS
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise

HERE = Path(__file__).parent
KEY = bytes(range(32))
FLAGS = (
    "-std=c++17",
    "-O1",
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


def nonce(i: int) -> bytes:
    return i.to_bytes(12, "little")


def pairs(count: int) -> list[tuple[bytes, bytes]]:
    return [(KEY, nonce(i)) for i in range(count)]


def openssl_words(key: bytes, nonce: bytes, blocks: int) -> np.ndarray:
    keystream = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()
    return np.frombuffer(keystream.update(bytes(64 * blocks)), dtype="<u4").reshape(blocks, 16)


def sanitized(path: Path, runtime: str, options: dict[str, str], check: str) -> subprocess.CompletedProcess[str]:
    """`check`, an expression over a library's `kernels`, in a process with a sanitizer's runtime loaded first.

    The tests' modules beside this one are there under their names.
    """
    found = subprocess.run(["g++", f"-print-file-name={runtime}"], capture_output=True, text=True, check=True).stdout
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_cuda_source, test_cuda_elements; "
    program += f"kernels = test_cuda_source.building.Kernels(sys.argv[2]); {check}"
    environment = {**os.environ, **options, "LD_PRELOAD": found.strip(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(HERE), str(path)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def padded(array: np.ndarray) -> np.ndarray:
    """A copy of its own, contiguous, so that a sanitizer sees what is read or written beside it."""
    return np.array(array, order="C", copy=True)


def _seeds(pairs: Sequence[tuple[bytes, bytes]]) -> Any:
    seeds = gpu_noise._Seeds(key=(c_uint32 * 8).from_buffer_copy(pairs[0][0]))
    for row, (_, nonce) in enumerate(pairs):
        seeds.nonces[row] = (c_uint32 * 3).from_buffer_copy(nonce)
    return seeds


def _ends(given: np.ndarray | None, out: np.ndarray, inverse_step: float) -> list[Any]:
    """Activation, result and step, as every kernel that adds takes them."""
    return [c_void_p(0 if given is None else given.ctypes.data), c_void_p(out.ctypes.data), c_float(inverse_step)]


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
        n, rows, seeds = collection.n, len(pairs), _seeds(pairs)
        arrays = [padded(each) for each in (collection.ranks, collection.loc, collection.scale)]
        tables = gpu_noise._Tables(*[a.ctypes.data for a in arrays], n=n, distributions=collection.distributions)
        out = np.full((rows, n), 99, np.int8 if inverse_step else np.float32)
        given = None if activation is None else padded(activation)
        ends = _ends(given, out, inverse_step)
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

    def elements(
        self,
        noise: ElementNoise,
        pairs: Sequence[tuple[bytes, bytes]],
        activation: np.ndarray | None = None,
        inverse_step: float = 0.0,
    ) -> np.ndarray:
        """[rows, values] of independent values."""
        n, mixed = noise.values, noise.mixing is not None
        arrays = [padded(each) for each in (noise.loc, noise.scale, *([noise.mixing] if mixed else []))]
        places = [*[each.ctypes.data for each in arrays], 0][:3]
        elements = gpu_noise._Elements(*places, values=n, normal=noise.law == "normal")
        out = np.full((len(pairs), n), 99, np.int8 if inverse_step else np.float32)
        given = None if activation is None else padded(activation)
        arguments = [_seeds(pairs), elements, *_ends(given, out, inverse_step)]
        each = MIXED_ROWS if mixed else ELEMENT_THREADS * RANKS
        name, threads = ("mixed", TILE_THREADS) if mixed else ("elements", ELEMENT_THREADS)
        shared_bytes = gpu_noise.shared_floats_bytes(n if mixed else each)
        self.launch(f"edgecut_noise_{name}", (-(-n // each), len(pairs)), threads, shared_bytes, arguments)
        return out

    def debug(
        self, key: bytes, nonce: bytes, distributions: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blocks 0 to threads - 1 of a request: their words, the distribution each would choose, its variates."""
        words, chosen = np.empty((threads, RANKS), np.uint32), np.empty(threads, np.uint32)
        steps = np.empty((threads, RANKS), np.float32)
        arguments = [_seeds([(key, nonce)]), c_uint32(distributions)]
        arguments += [c_void_p(each.ctypes.data) for each in (words, chosen, steps)]
        self.launch("edgecut_noise_debug", (1, 1), threads, 0, arguments)
        return words, chosen, steps
