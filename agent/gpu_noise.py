"""The noise of any mechanism on a GPU: noise.cu compiled, its tables in place, its launches in the caller's streams.

Two ways. `fused` draws and adds in one go. `draw` and then `add` for each tensor of the cut: the draw, which needs no
activation, can run in a stream beside the edge partition, and `add`, all that is left on the critical path, reads and
writes each element in its place. Both give the same bits. Every request of a batch has a nonce and so noise of its own;
a draw is added once and never again.

Streams are handles (an int: `cuda.Stream.address`, torch's `cuda_stream`, pycuda's `handle`), activations addresses on
the GPU, and calls apply to the context that is current in the calling thread: with `cuda.Device` that is the primary
one, which ONNX Runtime, TensorRT and torch use; with `cuda.BorrowedDevice` whatever another library, such as pycuda,
made current. Launches of one GpuNoise must follow each other, in one stream or ordered by events.

Keys and nonces reach the GPU as kernel arguments, the key in no other way. Drawn noise lies in memory that holds
nothing else and is overwritten by the next draw and with zeros at the end, not after each request: the activations
that it would lay bare lie in the same GPU's memory, in the clear.

Tested with the kernels run on the processor behind a stand-in for the driver; not yet run on a GPU.
"""

import contextlib
import ctypes
import math
import pkgutil
from ctypes import Structure, c_float, c_uint32, c_uint64
from typing import Any, Iterator, List, Optional, Tuple, Union

import numpy as np

from ..noise_kernels import randomness
from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.element_noise import ElementNoise
from ..noise_kernels.mechanism import Noise
from ..noise_kernels.randomness import NoiseStream
from . import nvrtc
from .backends import BackendError
from .cuda import Device, Memory, Module

# As in noise.cu.
RANKS, MOST_ROWS, BLOCK_THREADS, TILE_THREADS, SHARED_BYTES = 16, 64, 640, 256, 640
ELEMENT_THREADS, MIXED_ROWS = 64, 64
TILE = TILE_THREADS * RANKS
BLOCK_ELEMENTS = (BLOCK_THREADS - 1) * RANKS
# Ranks are counted in float32; a launch numbers its elements in 32 bits and its requests in 16.
MOST_ELEMENTS, MOST_OF_ALL, MOST_BATCH = (1 << 24) - 2, (1 << 32) - 1, (1 << 16) - 1
# All values of a request that a matrix mixes lie in one block's shared memory; the matrix of so many takes 256 MiB.
MOST_MIXED = 8192
# Requests of the tiled kernels go together as long as they have no more ranks than this: bounds the scratch memory.
_RANKS_AT_ONCE = 1 << 22


class _Seeds(Structure):
    _fields_ = [("key", c_uint32 * 8), ("nonces", c_uint32 * 3 * MOST_ROWS)]


class _Tables(Structure):
    _fields_ = [
        ("ranks", c_uint64),
        ("loc", c_uint64),
        ("scale", c_uint64),
        ("n", c_uint32),
        ("distributions", c_uint32),
    ]


class _Elements(Structure):
    _fields_ = [
        ("loc", c_uint64),
        ("scale", c_uint64),
        ("mixing", c_uint64),
        ("values", c_uint32),
        ("normal", c_uint32),
    ]


class _Scratch(Structure):
    _fields_ = [
        ("steps", c_uint64),
        ("samples", c_uint64),
        ("below", c_uint64),
        ("above", c_uint64),
        ("negatives", c_uint64),
        ("chosen", c_uint64),
        ("tiles", c_uint32),
    ]


def source() -> bytes:
    """The text of noise.cu."""
    text = pkgutil.get_data(randomness.__package__ or "", "noise.cu")
    if text is None:
        raise BackendError("noise.cu is missing beside the collection's code; install edgecut again")
    return text


def shared_floats_bytes(values: int) -> int:
    """Shared memory for so many values, made up to whole 16s, with a place skipped after every 32."""
    made = -(-values // RANKS) * RANKS
    return 4 * (made + made // 32)


class _Memories:
    """What a GpuNoise holds on the GPU, given back in one go; what is secret is overwritten with zeros before."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held = contextlib.ExitStack()

    def own(self, made: Any) -> Any:
        """Have something closed when this is."""
        self._held.callback(made.close)
        return made

    def place(self, array: Any) -> int:
        """The address of a copy of an array."""
        memory = self.own(Memory(self._device, array.nbytes))
        memory.fill(array)
        return int(memory.address)

    def secret(self, size_bytes: int) -> int:
        """The address of memory for noise."""
        memory = self.own(Memory(self._device, size_bytes))
        self._held.callback(memory.clear)
        return int(memory.address)

    def close(self) -> None:
        """Give all back, the latest first."""
        self._held.close()


class _SortedLaunches:
    """The launches for a collection: one for few values, three with scratch memory for many."""

    def __init__(
        self, module: Module, held: _Memories, noise: NoiseCollection, batch: int, tiled: Optional[bool]
    ) -> None:
        n = noise.n
        self._module, self._n = module, n
        self._tiles = -(-n // TILE) if (n > BLOCK_ELEMENTS if tiled is None else tiled) else 0
        self.rows = min(batch, MOST_ROWS, max(1, _RANKS_AT_ONCE // (self._tiles * TILE)) if self._tiles else batch)
        places = [held.place(array) for array in (noise.ranks, noise.loc, noise.scale)]
        self._tables = _Tables(*places, n=n, distributions=noise.distributions)
        self._scratch = self._make_scratch(held) if self._tiles else _Scratch()

    def _make_scratch(self, held: _Memories) -> _Scratch:
        """One piece of memory for the tiled kernels, what takes 8 bytes first."""
        tiles = self.rows * self._tiles
        sizes = [("below", 8 * tiles), ("above", 8 * tiles), ("steps", 4 * tiles * TILE), ("samples", 4 * tiles * TILE)]
        sizes += [("negatives", 4 * tiles), ("chosen", 4 * self.rows)]
        address = held.secret(sum(size for _, size in sizes))
        scratch = _Scratch(tiles=self._tiles)
        for name, size in sizes:
            setattr(scratch, name, address)
            address += size
        return scratch

    def queue(self, stream: int, count: int, seeds: _Seeds, ends: List[Any]) -> None:
        """Draw for `count` requests."""
        if self._tiles:
            self._queue_tiles(stream, count, seeds, ends)
            return
        blocks = -(-self._n // RANKS)
        threads = 32 * (-(-(1 + blocks) // 32))
        shared_bytes = SHARED_BYTES + 4 * (RANKS + 1) * blocks
        arguments = [seeds, self._tables, *ends]
        self._module.launch("edgecut_noise_block", (count, 1), threads, shared_bytes, stream, arguments)

    def _queue_tiles(self, stream: int, count: int, seeds: _Seeds, ends: List[Any]) -> None:
        launch, known = self._module.launch, [self._tables, self._scratch]
        launch("edgecut_noise_tiles", (self._tiles + 1, count), TILE_THREADS, SHARED_BYTES, stream, [seeds, *known])
        launch("edgecut_noise_values", (self._tiles, count), TILE_THREADS, SHARED_BYTES, stream, known)
        name = "edgecut_noise_gather16" if self._n <= 1 << 16 else "edgecut_noise_gather32"
        launch(name, (-(-self._n // TILE_THREADS), count), TILE_THREADS, 0, stream, known + ends)


class _ElementLaunches:
    """The one launch for independent values, mixed by a matrix or not."""

    def __init__(self, module: Module, held: _Memories, noise: ElementNoise, batch: int) -> None:
        values, mixed = noise.values, noise.mixing is not None
        if mixed and values > MOST_MIXED:
            raise BackendError(
                "a matrix on a GPU mixes at most {} values, and this one is for {}".format(MOST_MIXED, values)
            )
        self._module, self.rows = module, min(batch, MOST_ROWS)
        places = [held.place(noise.loc), held.place(noise.scale), held.place(noise.mixing) if mixed else 0]
        self._elements = _Elements(*places, values=values, normal=noise.law == "normal")
        if mixed:
            self._name, self._threads, each = "edgecut_noise_mixed", TILE_THREADS, MIXED_ROWS
            self._shared_bytes = shared_floats_bytes(values)
        else:
            self._name, self._threads, each = "edgecut_noise_elements", ELEMENT_THREADS, ELEMENT_THREADS * RANKS
            self._shared_bytes = shared_floats_bytes(each)
        self._blocks = -(-values // each)

    def queue(self, stream: int, count: int, seeds: _Seeds, ends: List[Any]) -> None:
        """Draw for `count` requests."""
        grid, arguments = (self._blocks, count), [seeds, self._elements, *ends]
        self._module.launch(self._name, grid, self._threads, self._shared_bytes, stream, arguments)


def _launches(
    module: Module, held: _Memories, noise: Noise, batch: int, tiled: Optional[bool]
) -> Union[_SortedLaunches, _ElementLaunches]:
    """The launches that draw this noise, its tables in place."""
    if isinstance(noise, NoiseCollection):
        return _SortedLaunches(module, held, noise, batch, tiled)
    return _ElementLaunches(module, held, noise, batch)


class GpuNoise:
    """Noise for `batch` requests at a time, on `device`. Close it before the device.

    `cache` is a folder for the compiled kernels, `seeds` where keys and nonces come from; `tiled` is for tests, and for
    collections alone. An `inverse_step` other than 0 asks for int8 in place of float32:
    clamp(rint(sum * inverse_step), -128, 127). Everything raises BackendError.
    """

    def __init__(
        self,
        device: Device,
        noise: Noise,
        batch: int = 1,
        cache: Optional[str] = None,
        seeds: Optional[NoiseStream] = None,
        tiled: Optional[bool] = None,
    ) -> None:
        values = noise.values
        if not 1 <= batch <= MOST_BATCH or values > MOST_ELEMENTS or batch * values > MOST_OF_ALL:
            raise BackendError(
                "noise on a GPU is for 1 to {} requests of at most {} values and {} in all; {} of {} were asked "
                "for".format(MOST_BATCH, MOST_ELEMENTS, MOST_OF_ALL, batch, values)
            )
        self.values, self.batch = values, batch
        sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in noise.carriers]
        self._tensors = [(sum(sizes[:index]), size) for index, size in enumerate(sizes)]  # (offset, size)
        self._waiting = [False] * len(sizes)
        self._seeds = NoiseStream() if seeds is None else seeds
        self._held = _Memories(device)
        self._drawn = None  # type: Optional[int]
        try:
            code = nvrtc.kernel_code(source(), device.compute_capability, cache)
            self._module = self._held.own(Module(device, code))
            self._launches = _launches(self._module, self._held, noise, batch, tiled)
        except BaseException:
            self.close()
            raise

    def draw(self, stream: int) -> None:
        """Queue the drawing of noise for a batch. What was drawn before and not added is lost."""
        if self._drawn is None:
            self._drawn = self._held.secret(4 * self.batch * self.values)
        self._launch(stream, 0, self._drawn, 0.0)
        self._waiting = [True] * len(self._tensors)

    def add(
        self,
        stream: int,
        activation: int,
        out: Optional[int] = None,
        inverse_step: float = 0.0,
        tensor: int = 0,
        broken: int = 0,
    ) -> None:
        """Queue the adding of what was drawn to one tensor of the cut, float32 [batch, its size], by default in place.

        `tensor` is its place among the noise's carriers. Each may be added once a draw. `broken` is the address of 4
        bytes that become 1 where the activation is not finite, which int8 cannot show.
        """
        if self._drawn is None or not self._waiting[tensor]:
            raise BackendError("noise is added once: draw again before tensor {} is added to again".format(tensor))
        out = self._checked(activation, out, inverse_step)
        self._waiting[tensor] = False
        offset, size = self._tensors[tensor]
        numbers = [c_uint32(self.values), c_uint32(offset), c_uint32(size)]
        ends = [c_uint64(activation), c_uint64(out), c_float(inverse_step), c_uint64(broken)]
        arguments = [c_uint64(self._drawn), *numbers, *ends]  # type: List[Any]
        grid = (-(-size // TILE_THREADS), self.batch)
        self._module.launch("edgecut_noise_add", grid, TILE_THREADS, 0, stream, arguments)

    def fused(self, stream: int, activation: int, out: Optional[int] = None, inverse_step: float = 0.0) -> None:
        """Queue drawing and adding to an activation, float32 [batch, values], by default in place."""
        self._launch(stream, activation, self._checked(activation, out, inverse_step), inverse_step)

    def _checked(self, activation: int, out: Optional[int], inverse_step: float) -> int:
        if not 0 <= inverse_step < math.inf:
            raise BackendError("the inverse step is {}; give a positive number, or 0 for float32".format(inverse_step))
        if inverse_step and out in (None, activation):
            raise BackendError("int8 does not go in place of float32; give an output of its own")
        return activation if out is None else out

    def _launch(self, stream: int, activation: int, out: int, inverse_step: float) -> None:
        """Draw for every request, and add where there is an activation (its address not 0)."""
        item = 1 if inverse_step else 4
        for first, count, seeds in self._seeded():
            ends = [
                c_uint64(activation and activation + 4 * first * self.values),
                c_uint64(out + item * first * self.values),
                c_float(inverse_step),
            ]
            self._launches.queue(stream, count, seeds, ends)

    def _seeded(self) -> Iterator[Tuple[int, int, _Seeds]]:
        """(first request, how many, their key and nonces) for each launch: as many as fit and have one key."""
        pairs = [self._seeds.next() for _ in range(self.batch)]
        first = 0
        while first < self.batch:
            key, count = pairs[first][0], 0
            seeds = _Seeds(key=(c_uint32 * 8).from_buffer_copy(key))
            for other, nonce in pairs[first : first + self._launches.rows]:
                if other != key:
                    break
                seeds.nonces[count] = (c_uint32 * 3).from_buffer_copy(nonce)
                count += 1
            yield first, count, seeds
            ctypes.memset(ctypes.byref(seeds), 0, ctypes.sizeof(seeds))  # the launch has copied it
            first += count

    def close(self) -> None:
        """Overwrite the noise with zeros, once nothing runs any more, and give all memory back."""
        self._held.close()
