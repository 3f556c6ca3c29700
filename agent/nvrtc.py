"""CUDA source to code for one GPU, by NVIDIA's runtime compiler, and kept in a folder.

NVRTC is part of the CUDA toolkit, a Jetson's too, and of the package nvidia-cuda-nvrtc-cu12; a version compiles for the
GPUs of its time: one of a TX2 or a Titan Xp needs CUDA 12 or older. From 11.1 on it makes finished code (a cubin).
Before, and where the GPU is newer than the compiler, it makes PTX, which the driver finishes as it loads it.

Compiling was tried with NVRTC 11.8, 12.9 and 13.5; a TX2's 10.2 was not at hand. The code has not yet run on a GPU.
"""

import contextlib
import ctypes
import glob
import hashlib
import os
import re
import sys
import tempfile
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from typing import Iterator, List, Optional, Sequence, Tuple

from ..noise_kernels.building import BuildError, private_folder
from .backends import BackendError

# Before 12 NVRTC takes the source for C++03 unless told otherwise.
OPTIONS = ("--std=c++14", "--fmad=false")

_NAMES = tuple("libnvrtc.so" + version for version in (".13", ".12", ".11.2", ".11.1", ".11.0", ".10.2", ""))
_MAGIC = b"edgecut kernel 1\n"


class Nvrtc:
    """One NVRTC library. Raises OSError where it cannot be loaded, AttributeError where it is something else."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        create = self._library.nvrtcCreateProgram
        create.argtypes = (c_void_p, c_char_p, c_char_p, c_int, c_void_p, c_void_p)
        self._library.nvrtcGetErrorString.restype = c_char_p
        major, minor = c_int(), c_int()
        self._library.nvrtcVersion(byref(major), byref(minor))
        self.version = (major.value, minor.value)
        self._has_cubin = hasattr(self._library, "nvrtcGetCUBIN")

    def target(self, capability: Tuple[int, int]) -> Optional[str]:
        """What to compile for: the GPU itself, else, as PTX, the newest before it; None where it knows neither."""
        wanted = 10 * capability[0] + capability[1]
        if not hasattr(self._library, "nvrtcGetSupportedArchs"):  # before 11.2; a GPU it does not know fails
            return "{}_{}".format("sm" if self._has_cubin else "compute", wanted)
        count = c_int()
        self._library.nvrtcGetNumSupportedArchs(byref(count))
        known = (c_int * count.value)()
        self._library.nvrtcGetSupportedArchs(known)
        older = [each for each in known if each <= wanted]
        if not older:
            return None
        return "sm_{}".format(wanted) if wanted in older else "compute_{}".format(max(older))

    def compile(self, source: bytes, target: str, options: Sequence[str] = OPTIONS) -> Tuple[bytes, str]:
        """(cubin or PTX, the compiler's log). Raises BackendError with the log's first line."""
        program = c_void_p()
        self._check(self._library.nvrtcCreateProgram(byref(program), source, b"noise.cu", 0, None, None), "")
        try:
            texts = ["--gpu-architecture=" + target, *options]
            given = (c_char_p * len(texts))(*[text.encode() for text in texts])
            code = self._library.nvrtcCompileProgram(program, len(texts), given)
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            self._check(code, log)
            return self._read(program, "CUBIN" if target.startswith("sm_") else "PTX"), log
        finally:
            self._library.nvrtcDestroyProgram(byref(program))

    def _read(self, program: c_void_p, what: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._library, "nvrtcGet{}Size".format(what))(program, byref(size)), "")
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, "nvrtcGet" + what)(program, text), "")
        return text.raw

    def _check(self, code: int, log: str) -> None:
        if code:
            reason = next((line for line in log.splitlines() if "error" in line), "")
            reason = reason or self._library.nvrtcGetErrorString(code).decode()
            raise BackendError("NVRTC {}.{} cannot compile the kernel: {}".format(*self.version, reason[:300]))


def kernel_code(source: bytes, capability: Tuple[int, int], cache: Optional[str] = None) -> bytes:
    """Code for a GPU of this compute capability, compiled or from the folder `cache`. Raises BackendError."""
    refusals = []  # type: List[str]
    for library in find():
        target = library.target(capability)
        if target is None:
            refusals.append("NVRTC {}.{} is too new for it".format(*library.version))
            continue
        try:
            return _kept(library, source, target, cache)
        except BackendError as error:
            refusals.append(str(error))
    raise BackendError(
        "the noise kernel cannot be compiled for this GPU (compute capability {}.{}): {}; install CUDA's toolkit, or "
        "the package nvidia-cuda-nvrtc-cu12".format(*capability, "; ".join(refusals) or "no NVRTC is installed here")
    )


def find() -> Iterator[Nvrtc]:
    """The NVRTC libraries of this machine: packages of this Python first, then the toolkit's, then the system's."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)] + ["/usr/local/cuda"]
    patterns = [os.path.join(folder, "nvidia", "*", "lib", "libnvrtc.so.*") for folder in sys.path if folder]
    patterns += [os.path.join(root, *place, "libnvrtc.so*") for root in roots for place in (["lib64"], ["lib"])]
    patterns += [os.path.join(root, "targets", "*", "lib", "libnvrtc.so*") for root in roots]
    paths = [path for pattern in patterns for path in sorted(glob.glob(pattern), key=_number, reverse=True)]
    for path in paths + list(_NAMES):
        try:
            yield Nvrtc(path)
        except (OSError, AttributeError):
            continue


def _number(path: str) -> List[int]:
    return [int(part) for part in re.findall(r"\d+", os.path.basename(path))]


def _kept(library: Nvrtc, source: bytes, target: str, cache: Optional[str]) -> bytes:
    """From the cache where it is there and whole."""
    about = repr((library.version, target, OPTIONS)).encode()
    name = "noise-{}-{}.bin".format(target, hashlib.sha256(about + source).hexdigest()[:32])
    folder = None if cache is None else _private(cache)
    file = None if folder is None else os.path.join(folder, name)
    code = None if file is None else _read(file)
    if code is None:
        code = library.compile(source, target)[0]
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk, say: compiled again next time
                _write(file, code)
    return code


def _private(folder: str) -> Optional[str]:
    """The real path of a folder in which nobody else can put code, made if there is none; None where others can."""
    try:
        return private_folder(folder)
    except BuildError:
        return None


def _read(file: str) -> Optional[bytes]:
    if not os.path.isfile(file):
        return None
    with open(file, "rb") as opened:
        head, code = opened.read(len(_MAGIC) + 32), opened.read()
    return code if head == _MAGIC + hashlib.sha256(code).digest() else None


def _write(file: str, code: bytes) -> None:
    """Under another name first, so that nobody ever reads half of it."""
    handle, part = tempfile.mkstemp(dir=os.path.dirname(file), suffix=".part")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(_MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(part, file)
    except BaseException:
        os.remove(part)
        raise
