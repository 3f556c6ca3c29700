"""The backend of torch on this machine's processor: the exported program's operators, timed by the host's clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..agent.backends import BackendError, Runner, Settings
from .torch_program import named, node_times, partition_at, tensors
from .torch_program import usable as usable
from .torch_program import versions as versions


def open_runner(path: str, feed: Mapping[str, Any], settings: Settings) -> Runner:
    """A partition with its inputs in place. Raises BackendError for another precision than float32."""
    if settings.precision != "float32":
        raise BackendError("torch on the CPU runs programs as they are, in float32; leave the precision out")
    import torch

    torch.set_num_threads(settings.threads)
    return TorchRunner(path, feed)


def layer_times(path: str, feed: Mapping[str, Any], settings: Settings) -> list[tuple[str, float]]:
    """(node, median seconds) by torch's profiler."""
    import torch

    torch.set_num_threads(settings.threads)
    module = partition_at(path, "cpu")
    return node_times(module, tensors(module, feed, "cpu"), "cpu", settings.pause_s)


class TorchRunner(Runner):
    """A partition of a torch program and its inputs."""

    def __init__(self, path: str, feed: Mapping[str, Any]) -> None:
        import torch

        self._module: Any = partition_at(path, "cpu")
        self._inputs = tensors(self._module, feed, "cpu")
        self._inference_mode = torch.inference_mode

    def run(self) -> None:
        """One call of the partition; the host's clock tells the time."""
        with self._inference_mode():
            self._module(*self._inputs)

    def outputs(self) -> dict[str, Any]:
        """The outputs of one call, by name."""
        with self._inference_mode():
            return named(self._module, self._module(*self._inputs))

    def close(self) -> None:
        """Give back the partition; the program's weights stay with the others."""
        self._module, self._inputs = None, []
