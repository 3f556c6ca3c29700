"""The backend of TensorRT-RTX (package tensorrt-rtx-cu12): GPUs of Turing (compute capability 7.5) and newer.

Its engines are built on any x86-64 machine, without a GPU (`build_ahead`), and finished on the GPU when they are
loaded. It computes in the types that the model has: float16 asks for a model in float16. Turing has no float32 linear
layers in it, which the library says when it builds. Times: tensorrt_runner.py. Building was tried; loading and running
were not, for want of a GPU.
"""

from contextlib import closing
from importlib import import_module
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from . import cuda
from .backends import BackendError, Model, Settings
from .tensorrt_build import build_engine
from .tensorrt_runner import TensorRTRunner
from .tensorrt_runner import layer_times as times_of

OLDEST_CAPABILITY = (7, 5)


def _load() -> Any:
    """The library's module. Raises BackendError where it is missing."""
    try:
        return import_module("tensorrt_rtx")
    except ImportError as error:
        raise BackendError("TensorRT-RTX is not installed ({}); install edgecut[rtx]".format(error)) from None


def usable() -> str:
    """Empty, or why TensorRT-RTX cannot be used here."""
    try:
        _load()
        device = cuda.Device()
        try:
            _check(device.compute_capability, device.name)
        finally:
            device.close()
    except BackendError as error:
        return str(error)
    return ""


def versions() -> Dict[str, str]:
    """Of TensorRT-RTX, CUDA and the driver."""
    return dict(cuda.versions(), **{"tensorrt-rtx": str(_load().__version__)})


def open_runner(path: Model, feed: Mapping[str, Any], settings: Settings) -> TensorRTRunner:
    """The engine, built or from the cache, finished for this GPU. Raises BackendError."""
    return _open(_load(), path, feed, settings)


def layer_times(path: str, feed: Mapping[str, Any], settings: Settings) -> List[Tuple[str, float]]:
    """(layer name, median seconds on the GPU) in order of execution; the library fuses layers and names them."""
    with closing(open_runner(path, feed, settings)) as runner:
        return times_of(_load(), runner)


def build_ahead(path: str, precision: str, compute_capabilities: Sequence[Tuple[int, int]]) -> bytes:
    """An engine for GPUs of these compute capabilities, for a batch of one, built without GPU. Raises BackendError."""
    trt = _load()
    return build_engine(trt, path, precision, configure=_target(trt, compute_capabilities))


def _open(trt: Any, path: Model, feed: Mapping[str, Any], settings: Settings) -> TensorRTRunner:
    device = cuda.Device()
    try:
        capability = device.compute_capability
        _check(capability, device.name)
    finally:
        device.close()
    # Without a target an engine is for Ampere and newer, whichever they are.
    exact = [capability] if capability in _known(trt) else []
    return TensorRTRunner(trt, path, feed, settings, configure=_target(trt, exact) if exact else None)


def _check(capability: Tuple[int, int], whose: str) -> None:
    if capability < OLDEST_CAPABILITY:
        raise BackendError(
            "TensorRT-RTX needs compute capability 7.5 (Turing) or newer and {} has {}.{}; take the backend tensorrt "
            "or onnxruntime-cuda".format(whose, *capability)
        )


def _known(trt: Any) -> List[Tuple[int, int]]:
    """The compute capabilities that this version builds for: its SM75 is (7, 5), its SM120 (12, 0)."""
    names = [name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return sorted((int(name[:-1]), int(name[-1])) for name in names)


def _target(trt: Any, capabilities: Sequence[Tuple[int, int]]) -> Callable[[Any], None]:
    """What sets the builder's configuration to these. Raises BackendError for those it does not know."""
    known = _known(trt)
    for capability in capabilities:
        _check(capability, "the target")
        if capability not in known:
            raise BackendError(
                "TensorRT-RTX {} does not build for compute capability {}.{}; known: {}".format(
                    trt.__version__, *capability, ", ".join("{}.{}".format(*each) for each in known)
                )
            )
    if not capabilities:
        raise BackendError("say for which compute capabilities to build, such as 8.6")

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(capabilities)
        for index, (major, minor) in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM{}{}".format(major, minor)), index)

    return configure
