"""Running engines of TensorRT and TensorRT-RTX: from 8.2, which numbers its tensors, to those that name them (8.5 on).

A time is what gpu_runner.py says; `add_noise` there puts the noise right behind the engine, in place. Layer times are
the library's own, by its profiler, of a run apart from the timed ones; the library fuses layers and names the fused
ones itself. Not yet run on a GPU; which calls it makes for which version is tested against a stand-in for the library.
"""

import contextlib
import os
import shutil
import statistics
import tempfile
from typing import Any, Iterator, List, Mapping, Tuple

import numpy as np

from . import cuda
from .backends import BackendError, Model, Settings
from .gpu_runner import GpuRunner
from .tensorrt_build import build_engine, build_key, fingerprint, kept_engine, make_log, said, shapes_of, start, title

LAYER_WARM_UP, LAYER_RUNS = 10, 30

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


class TensorRTRunner(GpuRunner):
    """An engine with an execution context, its tensors bound for good. `source` says where the engine came from."""

    def __init__(
        self,
        trt: Any,
        path: Model,
        feed: Mapping[str, Any],
        settings: Settings,
        library: str = cuda.LIBRARY,
        configure: Any = None,
    ) -> None:
        super().__init__(library)
        self._log = make_log(trt)
        self.source = "kept"
        self._bound = self.context = self._engine = None  # type: Any
        try:
            self._runtime = start(trt, trt.Runtime, self._log)  # type: Any
            self._engine = self._given(trt, settings.engine)
            if self._engine is None:
                with as_file(path) as file:
                    self._engine = self._load(trt, file, feed, settings, library, configure)
            self.context = self._engine.create_execution_context()
            if self.context is None:
                raise BackendError("{} cannot prepare the engine to run: {}".format(title(trt), said(self._log)))
            self._bound = _named(trt, self._engine, self.context)
            self._bind(feed)
        except BaseException:
            self.close()
            raise

    def _given(self, trt: Any, engine: Any) -> Any:
        """The engine that was given ready; None where there is none, or the library here does not take it."""
        if engine is None:
            return None
        self.source = "ready"
        loaded = self._runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            self.source = "kept"
            self._log.errors.clear()  # what is said of later faults is about them
        return loaded

    def _load(
        self, trt: Any, path: str, feed: Mapping[str, Any], settings: Settings, library: str, configure: Any
    ) -> Any:
        """The engine from the cache; one more is built where the library refuses what was kept."""

        def build() -> bytes:
            self.source = "built"
            return build_engine(trt, path, settings.precision, shapes_of(feed), configure=configure)

        about = (self.device.name, self.device.compute_capability, sorted(cuda.versions(library).items()))
        key = fingerprint(path, *build_key(trt, feed, settings.precision, about)) if settings.cache else ""
        for anew in (False, True):
            engine = self._runtime.deserialize_cuda_engine(kept_engine(settings.cache, path, key, build, anew))
            if engine is not None:
                return engine
            if settings.cache is None:
                break
        raise BackendError("{} cannot load the engine that it built: {}".format(title(trt), said(self._log)))

    def _bind(self, feed: Mapping[str, Any]) -> None:
        bound = self._bound
        for name in bound.inputs:
            if name not in feed:
                raise BackendError("the model's input '{}' was not given".format(name))
            self.place_input(name, feed[name], _dtype(name, bound.dtype(name)))
            # Asked only of what was left open: TensorRT 8 is not known to take it for the others.
            if -1 in tuple(bound.declared(name)) and not bound.set_shape(name, self.inputs[name].host.shape):
                raise BackendError("the engine does not take input '{}': {}".format(name, said(self._log)))
        for name in bound.outputs:
            shape = tuple(bound.shape(name))
            if any(size < 0 for size in shape):
                raise BackendError("the size of output '{}' depends on the values; cut the model before".format(name))
            self.place_output(name, shape, _dtype(name, bound.dtype(name)))
        for name, tensor in list(self.inputs.items()) + list(self.results.items()):
            bound.set_address(name, tensor.address)

    def _enqueue(self) -> None:
        if not self._bound.enqueue(self.stream.address):
            raise BackendError("the engine failed to run: {}".format(said(self._log)))

    def close(self) -> None:
        """Engine and context first, since they still hold memory and use the stream."""
        self._bound = self.context = self._engine = self._runtime = None
        super().close()


@contextlib.contextmanager
def as_file(model: Model) -> Iterator[str]:
    """A model as a file: the library's parser takes paths. Bytes go into a folder that only this user can open."""
    if isinstance(model, str):
        yield model
        return
    folder = tempfile.mkdtemp(prefix="edgecut-")
    try:
        yield _write_private(os.path.join(folder, "edge.onnx"), model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_private(path: str, data: bytes) -> str:
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise BackendError(
            "the model cannot be handed to TensorRT through {} ({}); free some space there".format(
                tempfile.gettempdir(), error.strerror or error
            )
        ) from None
    return path


def layer_times(trt: Any, runner: TensorRTRunner) -> List[Tuple[str, float]]:
    """(layer name, median seconds on the GPU) in order of execution, by the library's profiler."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.reports = []  # type: List[Tuple[str, float]]

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.reports.append((layer_name, ms / 1000))

    for _ in range(LAYER_WARM_UP):
        runner.run()
    profiler = Profiler()
    runner.context.profiler = profiler  # from then on each run waits for itself and reports
    for _ in range(LAYER_RUNS):
        runner.run()
    layers, rest = divmod(len(profiler.reports), LAYER_RUNS)
    if rest or not layers:
        raise BackendError(
            "the profiler of {} reported {} times in {} runs".format(title(trt), len(profiler.reports), LAYER_RUNS)
        )
    # By place and not by name, which a library may give twice.
    found = [profiler.reports[place::layers] for place in range(layers)]
    return [(reports[0][0], statistics.median(seconds for _, seconds in reports)) for reports in found]


def _dtype(name: str, kind: Any) -> Any:
    if kind.name not in _DTYPES:
        raise BackendError("tensor '{}' is of the type {}, which has no counterpart here".format(name, kind.name))
    return _DTYPES[kind.name]


def _named(trt: Any, engine: Any, context: Any) -> Any:
    """How this version calls its tensors."""
    return _ByName(trt, engine, context) if hasattr(engine, "num_io_tensors") else _ByNumber(engine, context)


class _ByName:
    """From 8.5 on."""

    def __init__(self, trt: Any, engine: Any, context: Any) -> None:
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self.dtype = engine.get_tensor_dtype
        self.declared = engine.get_tensor_shape
        self.set_shape = context.set_input_shape
        self.shape = context.get_tensor_shape

    def set_address(self, name: str, address: int) -> None:
        self._context.set_tensor_address(name, address)

    def enqueue(self, stream: int) -> bool:
        return bool(self._context.execute_async_v3(stream))


class _ByNumber:
    """Before 8.5, and gone from 10 on."""

    def __init__(self, engine: Any, context: Any) -> None:
        self._engine, self._context = engine, context
        self._number = {engine.get_binding_name(index): index for index in range(engine.num_bindings)}
        self.inputs = [name for name, index in self._number.items() if engine.binding_is_input(index)]
        self.outputs = [name for name in self._number if name not in self.inputs]
        self._addresses = [0] * engine.num_bindings

    def dtype(self, name: str) -> Any:
        return self._engine.get_binding_dtype(self._number[name])

    def declared(self, name: str) -> Tuple[int, ...]:
        return tuple(self._engine.get_binding_shape(self._number[name]))

    def set_shape(self, name: str, shape: Tuple[int, ...]) -> bool:
        return bool(self._context.set_binding_shape(self._number[name], shape))

    def shape(self, name: str) -> Tuple[int, ...]:
        return tuple(self._context.get_binding_shape(self._number[name]))

    def set_address(self, name: str, address: int) -> None:
        self._addresses[self._number[name]] = address

    def enqueue(self, stream: int) -> bool:
        return bool(self._context.execute_async_v2(self._addresses, stream))
