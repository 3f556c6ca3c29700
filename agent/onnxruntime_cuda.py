"""The backend of ONNX Runtime on an NVIDIA GPU, with CUDA's provider alone.

A time is what gpu_runner.py says: copies in, the run, copies out, by events in one stream. From 1.18 on the runtime
works in that stream; before, in one of its own that it waits for itself, so the events bracket it all the same and
`compute_s` has the host's waits in it. Products are in true float32: TensorFloat-32, which newer GPUs would take
instead, is switched off. No layer times: the runtime's own profiler times the host's launches, not the GPU's work.

Nodes that make shapes may run on the processor, as the runtime has it; where any node that makes numbers does, the
model is refused. Run against a stand-in for the driver with the runtime's processor in the GPU's place, and once with
the real GPU wheel where CUDA's libraries are missing, which it refused; not yet run on a GPU.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from . import cuda
from .backends import BackendError, Model, Runner, Settings, file_name
from .gpu_runner import GpuRunner
from .onnxruntime_cpu import first_line, load_runtime, session_options

PROVIDER = "CUDAExecutionProvider"
CPU_REFUSED = "session.disable_cpu_ep_fallback"  # known from 1.15 on; earlier ones ignore it
SHAPE_TYPES = ("int64", "int32", "bool")


def usable() -> str:
    """Empty, or why ONNX Runtime cannot use a GPU here."""
    try:
        onnxruntime = load_runtime()
    except BackendError as error:
        return str(error)
    if PROVIDER not in onnxruntime.get_available_providers():
        return (
            "the installed ONNX Runtime {} was built without CUDA; install edgecut[gpu] in place of edgecut[cpu], or "
            "on a Jetson the wheel of its JetPack".format(onnxruntime.__version__)
        )
    return cuda.usable()


def versions() -> Dict[str, str]:
    """Of ONNX Runtime, CUDA and the driver."""
    return dict(cuda.versions(), onnxruntime=str(load_runtime().__version__))


def open_runner(path: Model, feed: Mapping[str, Any], settings: Settings) -> Runner:
    """A session on the GPU. Raises BackendError where the model cannot be loaded or any of it runs elsewhere."""
    if settings.precision != "float32":
        raise BackendError(
            "ONNX Runtime computes in the types that the model has and cannot be asked for {}; leave the precision out "
            "or take the backend tensorrt".format(settings.precision)
        )
    onnxruntime = load_runtime()
    if PROVIDER not in onnxruntime.get_available_providers():
        raise BackendError(usable())
    _preload(onnxruntime)
    return CudaSessionRunner(onnxruntime, path, feed, settings)


def serving_session(path: Model, feed: Mapping[str, Any], settings: Settings) -> Any:
    """A session for any thread and any batch, no number of which is computed on the processor; `feed` is a sample.

    Raises BackendError.
    """
    onnxruntime = load_runtime()
    if PROVIDER not in onnxruntime.get_available_providers():
        raise BackendError(usable())
    _preload(onnxruntime)
    options = provider_options(_version(onnxruntime), 0)
    options.pop("user_compute_stream", None)  # its own, since several threads run it
    return _checked_session(onnxruntime, path, feed, settings, (PROVIDER, options))


class CudaSessionRunner(GpuRunner):
    """A session whose inputs and outputs are bound to memory on the GPU."""

    def __init__(
        self, onnxruntime: Any, path: Model, feed: Mapping[str, Any], settings: Settings, library: str = cuda.LIBRARY
    ) -> None:
        super().__init__(library)
        self._session = self._binding = None  # type: Any
        try:
            provider = (PROVIDER, provider_options(_version(onnxruntime), self.stream.address))
            self._session = _checked_session(onnxruntime, path, feed, settings, provider)
            in_use = self._session.get_provider_options().get(PROVIDER, {})
            self._in_stream = str(in_use.get("user_compute_stream")) == str(self.stream.address)
            self._binding = self._session.io_binding()
            for value in self._session.get_inputs():
                if value.name not in feed:
                    raise BackendError("the model's input '{}' was not given".format(value.name))
                self.place_input(value.name, feed[value.name], np.asarray(feed[value.name]).dtype)
                tensor = self.inputs[value.name]
                self._binding.bind_input(
                    value.name, "cuda", 0, tensor.host.dtype.type, tensor.host.shape, tensor.address
                )
            self._bind_outputs()
        except BackendError:
            self.close()
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            self.close()
            raise BackendError("ONNX Runtime cannot run {}: {}".format(file_name(path), first_line(error))) from error

    def _bind_outputs(self) -> None:
        """One run tells the outputs' sizes, where the model leaves them open."""
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            self._binding.bind_output(name)
        for tensor in self.inputs.values():
            tensor.to_device(self.stream)
        self.stream.synchronise()
        self._session.run_with_iobinding(self._binding)
        found = [np.asarray(value) for value in self._binding.copy_outputs_to_cpu()]
        self._binding.clear_binding_outputs()
        for name, value in zip(names, found):
            self.place_output(name, value.shape, value.dtype)
            self._binding.bind_output(name, "cuda", 0, value.dtype.type, value.shape, self.results[name].address)

    def _enqueue(self) -> None:
        if not self._in_stream:
            self.stream.synchronise()  # the runtime's own stream does not wait for ours
        self._session.run_with_iobinding(self._binding)

    def close(self) -> None:
        """The session first, since it may still use the stream."""
        self._session = self._binding = None
        super().close()


def provider_options(version: Tuple[int, int], stream: int) -> Dict[str, str]:
    """What CUDA's provider is asked for; a version refuses options it does not know."""
    options = {"device_id": "0"}
    if version >= (1, 18):
        options.update(user_compute_stream=str(stream), use_tf32="0")
    return options


def _version(onnxruntime: Any) -> Tuple[int, int]:
    major, minor = str(onnxruntime.__version__).split(".")[:2]
    return int(major), int(minor)


def _preload(onnxruntime: Any) -> None:
    """Have the runtime find CUDA in the wheels that came with it, and keep float32 what it says."""
    if _version(onnxruntime) < (1, 18):
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # CUDA's own switch; there is no option yet
    onnxruntime.set_default_logger_severity(3)  # errors, such as a library of CUDA that is missing, but no warnings
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find, which may not be needed
            onnxruntime.preload_dlls()


def _checked_session(
    onnxruntime: Any, path: Model, feed: Mapping[str, Any], settings: Settings, provider: Tuple[str, Dict[str, str]]
) -> Any:
    """A session no number of which is computed on the processor."""
    refusal = None  # type: Optional[BackendError]
    if _version(onnxruntime) >= (1, 15):
        try:
            return _session(onnxruntime, path, settings, provider, cpu_refused=True)
        except BackendError as error:
            refusal = error
    # Either the version cannot refuse, or the model has nodes on the processor: a profiled run tells which.
    folder = tempfile.mkdtemp(prefix="edgecut-")
    try:
        session = _session(onnxruntime, path, settings, provider, prefix=os.path.join(folder, "profile"))
        session.run(None, {value.name: feed[value.name] for value in session.get_inputs() if value.name in feed})
        with open(session.end_profiling()) as file:
            elsewhere = nodes_off_gpu(json.load(file))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if elsewhere:
        raise BackendError(
            "ONNX Runtime runs {} of the nodes of {} on the processor and not on the GPU, among them {}; cut the model "
            "elsewhere or take another backend".format(len(elsewhere), file_name(path), elsewhere[0])
        ) from refusal
    return _session(onnxruntime, path, settings, provider)


def nodes_off_gpu(events: List[Dict[str, Any]]) -> List[str]:
    """From a profile's events: `name (operator)` of the nodes that made numbers, and not shapes, off the GPU."""
    found = []  # type: List[str]
    for event in events:
        about = event.get("args", {})
        if event.get("cat") != "Node" or about.get("provider", PROVIDER) == PROVIDER:
            continue
        made = [kind for output in about.get("output_type_shape", [{"unknown": []}]) for kind in output]
        label = "'{}' ({})".format(event.get("name", "").replace("_kernel_time", ""), about.get("op_name", "?"))
        if any(kind not in SHAPE_TYPES for kind in made) and label not in found:
            found.append(label)
    return found


def _session(
    onnxruntime: Any,
    path: Model,
    settings: Settings,
    provider: Tuple[str, Dict[str, str]],
    prefix: Optional[str] = None,
    cpu_refused: bool = False,
) -> Any:
    options = session_options(onnxruntime, settings.threads, prefix)
    if cpu_refused:
        options.add_session_config_entry(CPU_REFUSED, "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider], enable_fallback=0)
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise BackendError(
            "ONNX Runtime {} cannot load {} on the GPU: {}".format(
                onnxruntime.__version__, file_name(path), first_line(error)
            )
        ) from error
    in_use = session.get_providers()
    if in_use[0] != PROVIDER:
        raise BackendError(
            "ONNX Runtime fell back to {} where the GPU was asked for; its libraries of CUDA or cuDNN are missing or "
            "of another version than {} needs".format(in_use[0], onnxruntime.__version__)
        )
    return session
