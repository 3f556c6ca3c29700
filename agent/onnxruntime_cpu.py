"""The backend of ONNX Runtime on the device's processor; also how edgecut opens every ONNX Runtime session.

A run is one call with the inputs in the caller's memory and the outputs in fresh memory, timed by the host's clock:
what a deployment pays. Layer times come from the runtime's own profiler, which slows what it watches.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from .backends import BackendError, Model, Runner, Settings, file_name

PROVIDER = "CPUExecutionProvider"
LAYER_RUNS, LEAST_RUNS, LAYER_SECONDS = 60, 8, 3.0
"""Runs under the profiler: at least so many, and no more once they took so long."""


def load_runtime() -> Any:
    """The onnxruntime module, its reports to its maker switched off. Raises BackendError where it is missing."""
    # Some wheels send what they run to events.data.microsoft.com and leave a file .ses in the temporary folder; this
    # is read when the library is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        what = "is not installed" if getattr(error, "name", None) == "onnxruntime" else "cannot be loaded ({})"
        remedy = "install onnxruntime, as edgecut[cpu] or edgecut[gpu] does"
        raise BackendError("ONNX Runtime {}; {}".format(what.format(error), remedy)) from None
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()  # where something else loaded the library first
    return onnxruntime


def session_options(onnxruntime: Any, threads: int, profile_prefix: Optional[str] = None) -> Any:
    """What every session of edgecut is opened with, so that what is profiled is what is deployed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle pools of many live sessions would spin against each other and double every time measured.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return options


def usable() -> str:
    """Empty, or why ONNX Runtime cannot be used here."""
    try:
        load_runtime()
    except BackendError as error:
        return str(error)
    return ""


def versions() -> Dict[str, str]:
    """ONNX Runtime's version."""
    return {"onnxruntime": str(load_runtime().__version__)}


def open_runner(path: Model, feed: Mapping[str, Any], settings: Settings) -> Runner:
    """A session on the processor. Raises BackendError where the model cannot be loaded or runs elsewhere."""
    if settings.precision != "float32":
        raise BackendError("ONNX Runtime on the CPU runs models as they are, in float32; leave the precision out")
    return SessionRunner(_session(path, settings.threads, None), feed)


def layer_times(path: str, feed: Mapping[str, Any], settings: Settings) -> List[Tuple[str, float]]:
    """(node name, seconds) in order of execution; the runtime fuses nodes and renames some."""
    try:
        return _layer_times(path, feed, settings)
    except (OSError, ValueError) as error:  # a full disk cuts the profile short
        raise BackendError(
            "ONNX Runtime's own profile cannot be kept in {} ({}); free some space there".format(
                tempfile.gettempdir(), error
            )
        ) from None


def _layer_times(path: str, feed: Mapping[str, Any], settings: Settings) -> List[Tuple[str, float]]:
    folder = tempfile.mkdtemp(prefix="edgecut-")
    try:
        runner = SessionRunner(_session(path, settings.threads, os.path.join(folder, "profile")), feed)
        start = time.perf_counter()
        for number in range(LAYER_RUNS):
            time.sleep(settings.pause_s)
            runner.run()
            if number >= LEAST_RUNS and time.perf_counter() - start > LAYER_SECONDS:
                break
        with open(runner.session.end_profiling()) as file:
            return node_times(json.load(file))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def node_times(events: List[Dict[str, Any]]) -> List[Tuple[str, float]]:
    """From a profile's events: each node's time over runs, in order of first execution, in seconds.

    The mean of the middle half: the profiler tells whole microseconds, of which a median of short nodes is too coarse.
    """
    runs = {}  # type: Dict[str, List[float]]
    for event in sorted(events, key=lambda event: event.get("ts", 0)):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            runs.setdefault(name[: -len("_kernel_time")], []).append(event["dur"] * 1e-6)
    # The first runs load caches and are far from what follows.
    return [(name, _middle(seconds[len(seconds) // 4 :])) for name, seconds in runs.items()]


def _middle(values: List[float]) -> float:
    """The mean of the middle half."""
    ordered, quarter = sorted(values), len(values) // 4
    return statistics.mean(ordered[quarter : len(ordered) - quarter])


class SessionRunner(Runner):
    """An ONNX Runtime session and the arrays it runs on."""

    def __init__(self, session: Any, feed: Mapping[str, Any]) -> None:
        wanted = {value.name for value in session.get_inputs()}
        self.session = session
        self.names = [value.name for value in session.get_outputs()]
        self.feed = {name: value for name, value in feed.items() if name in wanted}
        self._run = session.run

    def run(self) -> None:
        """One call of the session; the host's clock tells the time."""
        self._run(self.names, self.feed)

    def outputs(self) -> Dict[str, Any]:
        """The outputs of one call, by name."""
        values = self._run(self.names, self.feed)
        return {name: np.asarray(value, np.float32) for name, value in zip(self.names, values)}

    def call(self, feed: Mapping[str, Any]) -> Dict[str, Any]:
        """The outputs for new inputs, of any shape that the model takes."""
        try:
            values = self._run(self.names, feed)
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise BackendError("ONNX Runtime cannot run the model: {}".format(first_line(error))) from None
        return dict(zip(self.names, values))

    def close(self) -> None:
        """Give back the session's memory."""
        self.session = self._run = None


def first_line(error: Exception) -> str:
    """What of an exception's text fits into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _session(path: Model, threads: int, profile_prefix: Optional[str]) -> Any:
    onnxruntime = load_runtime()
    options = session_options(onnxruntime, threads, profile_prefix)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[PROVIDER])
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise BackendError(
            "ONNX Runtime {} cannot load {}: {}".format(onnxruntime.__version__, file_name(path), first_line(error))
        ) from None
    if session.get_providers()[0] != PROVIDER:
        raise BackendError(
            "ONNX Runtime fell back to {} where the CPU was asked for".format(session.get_providers()[0])
        )
    return session
