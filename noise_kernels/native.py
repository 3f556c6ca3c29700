"""The compiled sampler, noise.c, through ctypes: where it comes from, whether it can be trusted, and calling it.

It is the extension built with the package, or else what a C compiler on this machine makes of the source on first use
(see `building`; some seconds, once). Before it is used, one request of each kind is compared with the reference. Where
there is none, `why_not` says why, and `sampler` does the same in NumPy. EDGECUT_NATIVE=0 switches it off.
"""

import ctypes
import glob
import os
import pkgutil
import threading
from typing import Any, List, Optional, Tuple

import numpy as np

from .building import BuildError, build
from .collection import NoiseCollection
from .reference import reference_int8, reference_noise

__all__ = ["PATHS", "Native", "load", "why_not"]

VERSION = 1
PATHS = ("portable", "AVX2", "AVX-512")
"""The ways through noise.c by their numbers there; all give the same bits, and even the first is faster than NumPy."""

_NOISE_TOLERANCE = 4e-6  # times the scale
_TILE, _BLOCK = 256, 16
# The quickest way from an array to an argument that points at it; the array must be writable.
_BYTES: Any = ctypes.c_char * 1


class _Table(ctypes.Structure):
    """struct edgecut_noise_table"""

    _fields_ = [
        ("n", ctypes.c_uint64),
        ("distributions", ctypes.c_uint32),
        ("wide", ctypes.c_uint32),
        ("path", ctypes.c_uint32),
        ("loc", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
    ]


class _Prepared:
    """A collection in the form that the library takes; kept with the collection, and gone with it."""

    __slots__ = ("_arrays", "address", "n", "scratch_bytes", "table")

    def __init__(self, collection: NoiseCollection, path: int, scratch_bytes: int) -> None:
        loc, scale = np.ascontiguousarray(collection.loc), np.ascontiguousarray(collection.scale)
        ranks = np.arange(collection.n, dtype=np.uint32)
        # Where noise.c keeps the sample of a rank: its tiles stay the way that vectors of blocks make them.
        of_rank = ranks // _TILE * _TILE + ranks % _BLOCK * _BLOCK + ranks // _BLOCK % _BLOCK
        places = np.empty(collection.orders.shape, dtype=collection.orders.dtype)
        for row, order in zip(places, collection.orders):
            row[order] = of_rank
        wide = int(places.dtype.itemsize == 4)
        pointers = [array.ctypes.data for array in (loc, scale, places)]
        self._arrays = loc, scale, places
        self.table = _Table(collection.n, collection.distributions, wide, path, *pointers)
        self.address = ctypes.addressof(self.table)
        self.n = collection.n
        self.scratch_bytes = scratch_bytes


class _Scratch(threading.local):
    """A thread's working memory; the library leaves it zeroed."""

    def __init__(self) -> None:
        self.bytes = 0
        self.memory: Any = None
        self.address = 0


class Native:
    """The library at `path`. Raises OSError or ValueError if it cannot be loaded, or is of another version."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        try:
            version = int(self.library.edgecut_noise_version())
            self._fill, self._fill_traced = self.library.edgecut_noise_fill, self.library.edgecut_noise_fill_traced
            self._scratch_bytes = self.library.edgecut_noise_scratch_bytes
        except AttributeError as error:
            raise ValueError("{} is not the noise sampler".format(path)) from error
        if version != VERSION:
            raise ValueError("{} is version {} of the noise sampler, not {}".format(path, version, VERSION))
        pointer, size = ctypes.c_void_p, ctypes.c_uint64
        self._scratch_bytes.argtypes, self._scratch_bytes.restype = [size], size
        arguments: List[Any] = [
            pointer,
            ctypes.c_char_p,
            ctypes.c_char_p,
            size,
            pointer,
            pointer,
            ctypes.c_float,
            pointer,
        ]
        self._fill.argtypes, self._fill.restype = arguments, None
        self._fill_traced.argtypes, self._fill_traced.restype = [*arguments, ctypes.c_uint32, pointer], None
        self._scratch = _Scratch()
        self.path = path
        self.widest = int(self.library.edgecut_noise_widest_path())
        """The number, among PATHS, of the fastest way that this processor can run, and the one that is used."""

    def fill(
        self,
        collection: NoiseCollection,
        key: bytes,
        nonces: bytes,
        activation: Optional[np.ndarray],
        out: np.ndarray,
        inverse_step: float = 0.0,
        trace: Optional[np.ndarray] = None,
        way: Optional[int] = None,
    ) -> None:
        """Write a row of `out` for every nonce: noise, activation + noise, or (inverse_step) `reference_int8` of it.

        nonces -- one after the other, 12 bytes each. activation -- float32, out -- float32 or int8: C-contiguous,
        aligned and writable, n elements for every nonce; `out` may be the activation, but not overlap it otherwise.
        trace -- uint64 [batch, 2] for each request's distribution and M; way -- a number among PATHS: for tests.
        """
        batch = len(nonces) // 12
        if len(key) != 32 or 12 * batch != len(nonces):
            raise ValueError(
                "ChaCha20 got a key of {} and nonces of {} bytes; give it 32 and 12".format(len(key), len(nonces))
            )
        prepared = collection._prepared
        if prepared is None:
            prepared = _Prepared(collection, self.widest, int(self._scratch_bytes(collection.n)))
            object.__setattr__(collection, "_prepared", prepared)
        if (out.itemsize == 1) != (inverse_step > 0 and activation is not None):
            raise ValueError("int8 goes with an activation and a positive inverse_step, float32 with 0")
        if out.size != batch * prepared.n or (activation is not None and activation.size != out.size):
            raise ValueError("{} requests of {} elements do not fill {}".format(batch, prepared.n, out.size))
        scratch = self._scratch
        if scratch.bytes < prepared.scratch_bytes:
            scratch.memory = np.empty(prepared.scratch_bytes, dtype=np.uint8)
            scratch.bytes, scratch.address = prepared.scratch_bytes, scratch.memory.ctypes.data
        source = None if activation is None else _BYTES.from_buffer(activation)
        target, memory = _BYTES.from_buffer(out), scratch.address
        if way is None and trace is None:
            self._fill(prepared.address, key, nonces, batch, source, target, inverse_step, memory)
            return
        number = self.widest if way is None else min(way, self.widest)
        follow = None if trace is None else trace.ctypes.data
        self._fill_traced(prepared.address, key, nonces, batch, source, target, inverse_step, memory, number, follow)


# The outcome of the first `load`. Threads that come first together each try; the first to be done decides. No lock:
# a fork in the middle would leave it locked in the child.
_outcomes: List[Tuple[Optional[Native], str]] = []


def load() -> Optional[Native]:
    """The compiled sampler, or None. The first call may compile it; call this ahead where a pause would matter."""
    if not _outcomes:
        _outcomes.append(_find())
    return _outcomes[0][0]


def why_not() -> Optional[str]:
    """Why `load` gives None, in one sentence, or None where it gives the compiled sampler."""
    load()
    return _outcomes[0][1] or None


def _find() -> Tuple[Optional[Native], str]:
    if os.environ.get("EDGECUT_NATIVE") == "0":
        return None, "EDGECUT_NATIVE=0 switches the compiled noise sampler off."
    problem = ""
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(os.path.abspath(__file__))), "_noise*.so"))):
        try:
            return _checked(path), ""
        except (OSError, ValueError) as error:
            problem = str(error)
    try:
        return _checked(build(_source())), ""
    except (OSError, ValueError, BuildError) as error:
        return None, "The noise is made by NumPy, because {}.".format(problem or error)


def _source() -> bytes:
    """noise.c, also where the package is in an archive."""
    package = __name__.rpartition(".")[0]
    source = pkgutil.get_data(package, "noise.c")
    if source is None:
        raise OSError("noise.c is not in the package")
    return source


def _checked(path: str) -> Native:
    """The library at `path`, if its results are the reference's. Raises ValueError or OSError otherwise."""
    native = Native(path)
    n, batch = 300, 2
    rng = np.random.RandomState(0)
    orders = [rng.permutation(n) for _ in range(2)]
    collection = NoiseCollection([0.5, -1.0], [1.0, 2.0], orders, [("x", (n,))], "sha256:" + "0" * 64, "x")
    key, nonces = bytes(range(32)), [bytes([i]) * 12 for i in range(batch)]
    activation = rng.standard_normal((batch, n)).astype(np.float32)
    noise, sums, levels = np.empty_like(activation), activation.copy(), np.empty(activation.shape, dtype=np.int8)
    native.fill(collection, key, b"".join(nonces), None, noise)
    native.fill(collection, key, b"".join(nonces), sums, sums)
    native.fill(collection, key, b"".join(nonces), activation, levels, 20.0)
    expected = np.array([reference_noise(collection, key, nonce) for nonce in nonces])
    right = np.abs(noise - expected).max() <= _NOISE_TOLERANCE  # false for NaN as well
    if not (right and (sums == activation + noise).all() and (levels == reference_int8(sums, np.float32(20))).all()):
        raise ValueError("{} does not give the noise it should".format(path))
    return native
