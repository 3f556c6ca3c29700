"""What runs a sub-model on a device: one file for each backend, imported on first use, behind one small protocol.

A backend is a module with

    usable() -> str                            empty, or one sentence: why not here, and what to do
    versions() -> dict                         of its runtime and drivers, by name
    open_runner(path, feed, settings)          an opened sub-model, see `Runner`; raises BackendError
    layer_times(path, feed, settings) -> list  optional: (node name, seconds) in order of execution, by its own profiler

`path` is an ONNX file, or the bytes of one that has its weights in it; `feed` a dict of input name to array with the
batch first. A backend that finds its model running somewhere else than asked raises BackendError: nothing falls back
silently.
"""

import importlib
import os
from typing import Any, Dict, Mapping, NamedTuple, Optional, Union

Model = Union[str, bytes]
"""The path of an ONNX file, or what is in one."""

BACKENDS = {
    "onnxruntime-cpu": ".onnxruntime_cpu",
    "onnxruntime-cuda": ".onnxruntime_cuda",
    "tensorrt": ".tensorrt_engine",
    "tensorrt-rtx": ".tensorrt_rtx",
}
"""Names of the agent's own backends and the modules of this package they live in."""


class BackendError(Exception):
    """A device, its runtime or a model on it cannot be used; the message is one sentence for a person."""


class Settings(NamedTuple):
    """How sub-models are opened: `precision` is float32 or float16, `cache` a folder for engines that take long.

    `pause_s` lies between two runs where a backend repeats them itself, for layer times. `engine` is one built before,
    for backends that build engines: it is run in place of the model.
    """

    threads: int = 1
    precision: str = "float32"
    cache: Optional[str] = None
    pause_s: float = 0.0
    engine: Optional[bytes] = None


class Runner:
    """One opened sub-model with its inputs in place. A context of use: open, run many times, close."""

    def run(self) -> Optional[float]:
        """Run once. None where the host's clock tells the time, else the seconds that the device's events measured."""
        raise NotImplementedError

    def outputs(self) -> Dict[str, Any]:
        """Run once and return the outputs by name, as float32 arrays on the host."""
        raise NotImplementedError

    def call(self, feed: Mapping[str, Any]) -> Dict[str, Any]:
        """Run once on new inputs of the same names; the outputs by name, as new arrays in their own types.

        Raises BackendError for another shape where the runner was opened for one alone, and where the run fails.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the runner holds."""


def file_name(model: Model) -> str:
    """What a model is called in messages."""
    return os.path.basename(model) if isinstance(model, str) else "the model"


def load_backend(name: str, known: Mapping[str, str] = BACKENDS) -> Any:
    """The module of a backend. Raises BackendError naming the known ones."""
    if name not in known:
        raise BackendError("unknown backend '{}'; known: {}".format(name, ", ".join(sorted(known))))
    return importlib.import_module(known[name], __package__)
