"""The backend of TensorRT, 8.2 (JetPack 4.6, the last one of a TX2) and later, on the GPU that is there.

The engine is built on the device on first use, which takes from seconds to minutes, and kept in the cache. float16 is
TensorRT's own choice layer by layer up to version 10, with inputs and outputs in float32; from 11 on it computes in the
model's types, so float16 asks for a model in float16. Times: tensorrt_runner.py. Not yet run on a GPU.
"""

from contextlib import closing
from importlib import import_module
from typing import Any, Dict, List, Mapping, Tuple

from . import cuda
from .backends import BackendError, Model, Settings
from .tensorrt_runner import TensorRTRunner
from .tensorrt_runner import layer_times as times_of

OLDEST = (8, 2)


def _load() -> Any:
    """The library's module. Raises BackendError where it is missing or too old."""
    try:
        trt = import_module("tensorrt")
    except ImportError as error:
        raise BackendError(
            "TensorRT is not installed for this Python ({}); JetPack brings it for the system's own python3, elsewhere "
            "install edgecut[trt]".format(error)
        ) from None
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < OLDEST:
        raise BackendError("TensorRT {} is too old; 8.2 (JetPack 4.6) or later is needed".format(trt.__version__))
    return trt


def usable() -> str:
    """Empty, or why TensorRT cannot be used here."""
    try:
        _load()
    except BackendError as error:
        return str(error)
    return cuda.usable()


def versions() -> Dict[str, str]:
    """Of TensorRT, CUDA and the driver."""
    return dict(cuda.versions(), tensorrt=str(_load().__version__))


def open_runner(path: Model, feed: Mapping[str, Any], settings: Settings) -> TensorRTRunner:
    """The engine, built or from the cache, ready to run. Raises BackendError."""
    return TensorRTRunner(_load(), path, feed, settings)


def layer_times(path: str, feed: Mapping[str, Any], settings: Settings) -> List[Tuple[str, float]]:
    """(layer name, median seconds on the GPU) in order of execution; the library fuses layers and names them."""
    with closing(open_runner(path, feed, settings)) as runner:
        return times_of(_load(), runner)
