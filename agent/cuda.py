"""A GPU through CUDA's driver library alone: what the GPU backends need for their copies and their times.

Nothing to install: libcuda.so.1 is part of every NVIDIA driver, a Jetson's too. Seconds are differences of events that
the GPU stamps itself as it reaches them in a stream, to about half a microsecond. Runtimes built on CUDA's other
interface (ONNX Runtime, TensorRT) use the device's primary context; so does this, so memory, streams and events are
shared with them.

Run against a stand-in for the library; not yet run on a GPU.
"""

import ctypes
import os
import re
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from .backends import BackendError

LIBRARY = "libcuda.so.1"

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_STREAM_NON_BLOCKING = 1
_OUT_OF_MEMORY = 2
# Without these, ctypes would cut pointers to 32 bits. The names with _v2 are what CUDA's header maps the plain ones to.
_SIGNATURES = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxGetCurrent": (POINTER(c_void_p),),
    "cuCtxGetDevice": (POINTER(c_int),),
    "cuCtxSynchronize": (),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemsetD8_v2": (c_uint64, c_ubyte, c_size_t),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p,) + 7 * (c_uint,) + (c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
}


class Driver:
    """The driver library, started. Every call is checked; raises BackendError."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise BackendError("no NVIDIA driver is installed here ({})".format(error)) from None
        for name, arguments in _SIGNATURES.items():
            try:
                getattr(self._library, name).argtypes = arguments
            except AttributeError:
                raise BackendError("the NVIDIA driver is too old: {} has no {}".format(library, name)) from None
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library. Raises BackendError with the driver's own word for what went wrong."""
        code = getattr(self._library, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise BackendError(
                "the GPU's memory, or the host's that it can reach, is used up ({}); end other programs on the GPU, "
                "or take a smaller model".format(name)
            )
        if code != 0:
            raise BackendError("CUDA's {} failed: {} (error {})".format(name, self._describe(code), code))

    def _describe(self, code: int) -> str:
        text = c_char_p()
        found = self._library.cuGetErrorString(c_int(code), byref(text)) == 0
        return text.value.decode(errors="replace") if found and text.value else "unknown error"

    def integer(self, name: str, *arguments: int) -> int:
        """What a function writes to its first argument, a C int."""
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value


class Device:
    """One GPU with its primary context, made current in this thread. Close what it made before closing it."""

    def __init__(self, ordinal: int = 0, library: str = LIBRARY) -> None:
        self.driver = Driver(library)
        count = self.driver.integer("cuDeviceGetCount")
        if not 0 <= ordinal < count:
            raise BackendError("there is no GPU number {}; the driver sees {}".format(ordinal, count))
        self.ordinal = ordinal
        self._handle = self.driver.integer("cuDeviceGet", ordinal)
        self._context = c_void_p()
        self.driver.call("cuDevicePrimaryCtxRetain", byref(self._context), self._handle)
        self.activate()

    @property
    def name(self) -> str:
        """What its maker calls it."""
        text = ctypes.create_string_buffer(256)
        self.driver.call("cuDeviceGetName", text, len(text), self._handle)
        return text.value.decode(errors="replace")

    @property
    def compute_capability(self) -> Tuple[int, int]:
        """(6, 2) for a TX2, (6, 1) for a Titan Xp."""
        major = self.driver.integer("cuDeviceGetAttribute", _COMPUTE_CAPABILITY_MAJOR, self._handle)
        return major, self.driver.integer("cuDeviceGetAttribute", _COMPUTE_CAPABILITY_MINOR, self._handle)

    def activate(self) -> None:
        """Make the context current in the calling thread; each thread has its own."""
        self.driver.call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Let go of the primary context. Others in this process may go on using it."""
        if self._context:
            self._context = c_void_p()
            self.driver.call("cuDevicePrimaryCtxRelease", self._handle)


class BorrowedDevice(Device):
    """The GPU whose context another library of this process, such as pycuda or torch, made current in this thread."""

    def __init__(self, library: str = LIBRARY) -> None:
        self.driver = Driver(library)
        self._context = c_void_p()
        self.driver.call("cuCtxGetCurrent", byref(self._context))
        if not self._context:
            raise BackendError("no CUDA context is current in this thread; make one, or use cuda.Device")
        self.ordinal = self._handle = self.driver.integer("cuCtxGetDevice")

    def close(self) -> None:
        """Nothing: the context is its maker's."""


class Stream:
    """A queue of work on the GPU, in order, and apart from the default stream."""

    def __init__(self, device: Device) -> None:
        self._driver = device.driver
        self.handle = c_void_p()
        self._driver.call("cuStreamCreate", byref(self.handle), _STREAM_NON_BLOCKING)

    @property
    def address(self) -> int:
        """The handle as runtimes take it."""
        return self.handle.value or 0

    def wait(self, event: "Event") -> None:
        """Have what is queued from now on wait, on the GPU, until it has passed the event's last mark."""
        self._driver.call("cuStreamWaitEvent", self.handle, event._handle, 0)

    def synchronise(self) -> None:
        """Wait until all of it is done."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        """Destroy it."""
        self._driver.call("cuStreamDestroy_v2", self.handle)


class Event:
    """A mark in a stream that the GPU stamps with its time."""

    def __init__(self, device: Device) -> None:
        self._driver = device.driver
        self._handle = c_void_p()
        self._driver.call("cuEventCreate", byref(self._handle), 0)

    def record(self, stream: Stream) -> None:
        """Put the mark at the stream's end."""
        self._driver.call("cuEventRecord", self._handle, stream.handle)

    def synchronise(self) -> None:
        """Wait until the GPU has passed it."""
        self._driver.call("cuEventSynchronize", self._handle)

    def seconds_since(self, earlier: "Event") -> float:
        """Seconds from another mark to this one; the GPU must have passed both."""
        milliseconds = c_float()
        self._driver.call("cuEventElapsedTime", byref(milliseconds), earlier._handle, self._handle)
        return milliseconds.value / 1000

    def close(self) -> None:
        """Destroy it."""
        self._driver.call("cuEventDestroy_v2", self._handle)


class Tensor:
    """An array twice: on the host in page-locked memory, which alone is copied at full speed, and on the GPU."""

    def __init__(self, device: Device, shape: Tuple[int, ...], dtype: Any) -> None:
        self._driver = device.driver
        self._pinned = c_void_p()
        self._memory = c_uint64()
        self.size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        room = max(1, self.size_bytes)  # nothing at all is refused
        self._driver.call("cuMemHostAlloc", byref(self._pinned), room, 0)
        try:
            self._driver.call("cuMemAlloc_v2", byref(self._memory), room)
        except BackendError:
            self._driver.call("cuMemFreeHost", self._pinned)
            raise
        bytes_there = (ctypes.c_ubyte * self.size_bytes).from_address(self._pinned.value or 0)
        self.host = np.frombuffer(bytes_there, dtype=dtype).reshape(shape)  # type: np.ndarray[Any, Any]

    @property
    def address(self) -> int:
        """Where it lies on the GPU."""
        return self._memory.value

    def to_device(self, stream: Stream) -> None:
        """Queue the copy from the host to the GPU."""
        self._driver.call("cuMemcpyHtoDAsync_v2", self._memory, self._pinned, self.size_bytes, stream.handle)

    def to_host(self, stream: Stream) -> None:
        """Queue the copy from the GPU to the host; `host` holds it once the stream is synchronised."""
        self._driver.call("cuMemcpyDtoHAsync_v2", self._pinned, self._memory, self.size_bytes, stream.handle)

    def close(self) -> None:
        """Free both; `host` must not be touched any more."""
        del self.host
        try:
            self._driver.call("cuMemFree_v2", self._memory)
        finally:
            self._driver.call("cuMemFreeHost", self._pinned)


class Memory:
    """Bytes on the GPU alone."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self._driver = device.driver
        self._memory = c_uint64()
        self.size_bytes = size_bytes
        self._driver.call("cuMemAlloc_v2", byref(self._memory), max(1, size_bytes))

    @property
    def address(self) -> int:
        """Where it lies on the GPU."""
        return self._memory.value

    def fill(self, array: Any) -> None:
        """Copy an array of this size there, and wait."""
        values = np.ascontiguousarray(array)
        if values.nbytes != self.size_bytes:
            raise ValueError("{} bytes for {} on the GPU".format(values.nbytes, self.size_bytes))
        self._driver.call("cuMemcpyHtoD_v2", self._memory, values.ctypes.data, self.size_bytes)

    def clear(self) -> None:
        """Overwrite it with zeros once nothing runs any more."""
        self._driver.call("cuCtxSynchronize")
        self._driver.call("cuMemsetD8_v2", self._memory, 0, max(1, self.size_bytes))

    def close(self) -> None:
        """Free it."""
        self._driver.call("cuMemFree_v2", self._memory)


class Module:
    """Compiled kernels: a cubin for this GPU, or PTX that the driver finishes."""

    def __init__(self, device: Device, image: bytes) -> None:
        self._driver = device.driver
        self._handle = c_void_p()
        self._functions = {}  # type: Dict[str, c_void_p]
        self._driver.call("cuModuleLoadData", byref(self._handle), image)

    def launch(
        self,
        name: str,
        grid: Tuple[int, int],
        threads: int,
        shared_bytes: int,
        stream: int,
        arguments: Sequence["ctypes._CData"],
    ) -> None:
        """Queue a kernel in a stream, given by its handle. The arguments are copied before this returns."""
        if name not in self._functions:
            function = c_void_p()
            self._driver.call("cuModuleGetFunction", byref(function), self._handle, name.encode())
            self._functions[name] = function
        places = (c_void_p * len(arguments))(*[ctypes.addressof(argument) for argument in arguments])
        size = (grid[0], grid[1], 1, threads, 1, 1, shared_bytes)
        self._driver.call("cuLaunchKernel", self._functions[name], *size, c_void_p(stream), places, None)

    def close(self) -> None:
        """Unload it."""
        self._driver.call("cuModuleUnload", self._handle)


def usable(library: str = LIBRARY) -> str:
    """Empty where there is a GPU and its driver answers, else one sentence."""
    try:
        Device(library=library).close()
    except BackendError as error:
        return str(error)
    return ""


def versions(library: str = LIBRARY) -> Dict[str, str]:
    """The driver's own version where the kernel tells it, and the CUDA version that it speaks."""
    number = Driver(library).integer("cuDriverGetVersion")
    found = {"cuda": "{}.{}".format(number // 1000, number % 1000 // 10)}
    kernel = _kernel_module()
    if kernel is not None:
        found["nvidia-driver"] = kernel
    return found


def _kernel_module(path: str = "/proc/driver/nvidia/version") -> Optional[str]:
    """The kernel module's version; a Jetson of JetPack 4 has none."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        match = re.search(r"\s(\d+(?:\.\d+)+)\s", file.read())
    return match.group(1) if match else None
