"""The backend of torch on a CUDA device, timed by the device's events around copy in, operators and copy out.

Inputs wait in page-locked memory, as a server's would. TF32 and cuDNN's benchmark mode stay as torch has them by
default. Not run on a GPU by its authors unless benchmarks/results/ has a profile with the device's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..agent.backends import BackendError, Runner, Settings
from . import torch_program
from .torch_program import named, node_times, partition_at, tensors


def usable() -> str:
    """Empty, or why torch has no CUDA device here."""
    reason = torch_program.usable()
    if reason:
        return reason
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device; check the driver with nvidia-smi"
    return ""


def versions() -> dict[str, str]:
    """Torch's and CUDA's version, and the device's name."""
    import torch

    return {**torch_program.versions(), "gpu": torch.cuda.get_device_name()}


def open_runner(path: str, feed: Mapping[str, Any], settings: Settings) -> Runner:
    """A partition on the device. Raises BackendError where the device lacks the memory."""
    import torch

    try:
        return TorchCudaRunner(path, feed, settings.precision)
    except torch.cuda.OutOfMemoryError:
        free, total = torch.cuda.mem_get_info()
        raise BackendError(
            f"the GPU ran out of memory ({free / 1e9:.1f} of {total / 1e9:.1f} GB free); close other programs on it"
        ) from None


def layer_times(path: str, feed: Mapping[str, Any], settings: Settings) -> list[tuple[str, float]]:
    """(node, median seconds on the device) by torch's profiler."""
    module = _module(path, settings.precision)
    inputs = _halved(tensors(module, feed, "cuda"), settings.precision)
    return node_times(module, inputs, "cuda", settings.pause_s)


def _module(path: str, precision: str) -> Any:
    module = partition_at(path, "cuda")
    return module.half() if precision == "float16" else module


def _halved(values: list[Any], precision: str) -> list[Any]:
    return [value.half() if precision == "float16" and value.is_floating_point() else value for value in values]


class TorchCudaRunner(Runner):
    """A partition on the device, its inputs on the host."""

    def __init__(self, path: str, feed: Mapping[str, Any], precision: str) -> None:
        import torch

        self._torch = torch
        self._module: Any = _module(path, precision)
        self._inputs = [value.pin_memory() for value in _halved(tensors(self._module, feed, "cpu"), precision)]
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(self) -> float:
        """Copy in, run, copy out; seconds between the device's two events."""
        with self._torch.inference_mode():
            self._begin.record()
            self._forward()
            self._end.record()
            self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) * 1e-3

    def _forward(self) -> Any:
        results = self._module(*[value.to("cuda", non_blocking=True) for value in self._inputs])
        values = results if isinstance(results, tuple) else (results,)
        return tuple(value.to("cpu", non_blocking=True) for value in values)

    def outputs(self) -> dict[str, Any]:
        """The outputs of one run, by name, as float32."""
        with self._torch.inference_mode():
            results = self._forward()
            self._torch.cuda.synchronize()
        return named(self._module, results if len(results) > 1 else results[0])

    def close(self) -> None:
        """Give back the partition; the allocator keeps its blocks for the next."""
        self._module, self._inputs = None, []
