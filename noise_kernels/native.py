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
from typing import Any, Callable, List, Optional, Tuple, Union

import numpy as np

from .building import BuildError, build
from .collection import NoiseCollection
from .element_noise import LAWS, ElementNoise
from .elements import reference_elements
from .mechanism import Noise
from .reference import reference_int8, reference_noise

__all__ = ["PATHS", "Native", "load", "why_not"]

VERSION = 2
PATHS = ("portable", "AVX2", "AVX-512")
"""The ways through noise.c by their numbers there; all give the same bits, and even the first is faster than NumPy."""

_NOISE_TOLERANCE = 4e-6  # times the scale
_TILE, _BLOCK, _PANEL = 256, 16, 16
_CACHE_LINE = 64
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


class _ElementsTable(ctypes.Structure):
    """struct edgecut_noise_elements"""

    _fields_ = [
        ("n", ctypes.c_uint64),
        ("normal", ctypes.c_uint32),
        ("silent", ctypes.c_uint32),
        ("loc", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("mixing", ctypes.c_void_p),
    ]


class _Prepared:
    """A collection in the form that the library takes; kept with the collection, and gone with it."""

    __slots__ = ("_arrays", "address", "n", "scratch_bytes", "table")
    elements = False

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


class _PreparedElements:
    """The same for independent noise."""

    __slots__ = ("_arrays", "address", "n", "scratch_bytes", "table")
    elements = True

    def __init__(self, noise: ElementNoise, scratch_bytes: int) -> None:
        loc, scale = np.ascontiguousarray(noise.loc), np.ascontiguousarray(noise.scale)
        silent, self.n = not scale.any(), noise.values
        panels = None if noise.mixing is None or silent else _panels(noise.mixing)
        self._arrays = loc, scale, panels
        mixing = None if panels is None else panels.ctypes.data
        normal = int(noise.law == LAWS[1])
        self.table = _ElementsTable(self.n, normal, int(silent), loc.ctypes.data, scale.ctypes.data, mixing)
        self.address = ctypes.addressof(self.table)
        self.scratch_bytes = scratch_bytes


def _panels(mixing: np.ndarray) -> np.ndarray:
    """The matrix as noise.c reads it, float32 [panels, n, _PANEL]: _PANEL rows at a time, 0 beyond the last."""
    n = len(mixing)
    count = (n + _PANEL - 1) // _PANEL
    rows = np.zeros((count * _PANEL, n), dtype=np.float32)
    rows[:n] = mixing
    # Any place would do, but vectors across two cache lines take twice the time.
    memory = np.empty(rows.nbytes + _CACHE_LINE, dtype=np.uint8)
    memory = memory[-memory.ctypes.data % _CACHE_LINE :][: rows.nbytes]
    panels = memory.view(np.float32).reshape(count, n, _PANEL)
    panels[:] = rows.reshape(count, _PANEL, n).transpose(0, 2, 1)
    return panels


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
            self._fill_elements = self.library.edgecut_noise_fill_elements
            self._scratch_bytes = self.library.edgecut_noise_scratch_bytes
            self._elements_scratch_bytes = self.library.edgecut_noise_elements_scratch_bytes
        except AttributeError as error:
            raise ValueError("{} is not the noise sampler".format(path)) from error
        if version != VERSION:
            raise ValueError("{} is version {} of the noise sampler, not {}".format(path, version, VERSION))
        pointer, size = ctypes.c_void_p, ctypes.c_uint64
        self._scratch_bytes.argtypes, self._scratch_bytes.restype = [size], size
        self._elements_scratch_bytes.argtypes, self._elements_scratch_bytes.restype = [size, ctypes.c_int], size
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
        self._fill_elements.argtypes, self._fill_elements.restype = [*arguments, ctypes.c_uint32], None
        self._scratch = _Scratch()
        self.path = path
        self.widest = int(self.library.edgecut_noise_widest_path())
        """The number, among PATHS, of the fastest way that this processor can run, and the one that is used."""

    def fill(
        self,
        noise: Noise,
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
        aligned and writable, `values` elements for every nonce; `out` may be the activation, but not overlap it
        otherwise.
        trace -- uint64 [batch, 2] for each request's distribution and M, of a collection; way -- a number among PATHS:
        for tests.
        """
        batch = len(nonces) // 12
        if len(key) != 32 or 12 * batch != len(nonces):
            raise ValueError(
                "ChaCha20 got a key of {} and nonces of {} bytes; give it 32 and 12".format(len(key), len(nonces))
            )
        prepared = noise._prepared
        if prepared is None:
            prepared = self._prepare(noise)
            object.__setattr__(noise, "_prepared", prepared)
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
        if prepared.elements:
            number = self.widest if way is None else min(way, self.widest)
            self._fill_elements(prepared.address, key, nonces, batch, source, target, inverse_step, memory, number)
            return
        if way is None and trace is None:
            self._fill(prepared.address, key, nonces, batch, source, target, inverse_step, memory)
            return
        number = self.widest if way is None else min(way, self.widest)
        follow = None if trace is None else trace.ctypes.data
        self._fill_traced(prepared.address, key, nonces, batch, source, target, inverse_step, memory, number, follow)

    def _prepare(self, noise: Noise) -> Union[_Prepared, _PreparedElements]:
        if isinstance(noise, NoiseCollection):
            return _Prepared(noise, self.widest, int(self._scratch_bytes(noise.n)))
        mixed = int(noise.mixing is not None)
        return _PreparedElements(noise, int(self._elements_scratch_bytes(noise.values, mixed)))


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
    rng = np.random.RandomState(0)
    digest, many, few = "sha256:" + "0" * 64, [("x", (300,))], [("x", (45,))]
    orders = [rng.permutation(300) for _ in range(2)]
    right = _right(native, NoiseCollection([0.5, -1.0], [1.0, 2.0], orders, many, digest, "x"), reference_noise, 2)
    loc, scale = rng.standard_normal(300), rng.uniform(0.5, 1, 300)
    each = ElementNoise("cloak", "laplace", loc, scale, many, digest, "x")
    right = right and _right(native, each, reference_elements, 2)
    # 5 requests: a group of those that the matrix is read for once, and a single one.
    mixing = rng.uniform(-0.1, 0.1, (45, 45))
    mixed = ElementNoise("gaussian", "normal", loc[:45], scale[:45], few, digest, "x", mixing)
    if not (right and _right(native, mixed, reference_elements, 5)):
        raise ValueError("{} does not give the noise it should".format(path))
    return native


def _right(native: Native, noise: Noise, reference: Callable[[Any, bytes, bytes], np.ndarray], batch: int) -> bool:
    """Whether the library gives the reference's noise, alone, added and in steps."""
    key, nonces = bytes(range(32)), [bytes([i]) * 12 for i in range(batch)]
    activation = np.random.RandomState(1).standard_normal((batch, noise.values)).astype(np.float32)
    drawn, sums, levels = np.empty_like(activation), activation.copy(), np.empty(activation.shape, dtype=np.int8)
    native.fill(noise, key, b"".join(nonces), None, drawn)
    native.fill(noise, key, b"".join(nonces), sums, sums)
    native.fill(noise, key, b"".join(nonces), activation, levels, 20.0)
    expected = np.array([reference(noise, key, nonce) for nonce in nonces])
    close = np.abs(drawn - expected).max() <= _NOISE_TOLERANCE  # false for NaN as well
    return bool(close and (sums == activation + drawn).all() and (levels == reference_int8(sums, np.float32(20))).all())
