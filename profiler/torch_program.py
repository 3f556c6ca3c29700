"""Partitions of a torch program as runners: what the CPU and the CUDA backend of torch have in common.

A part is a small JSON file that names the program and the values that go in and out. Partitions share the program's
weights. What runs is torch's eager interpreter of the exported operators: what a deployment in plain torch pays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..agent.backends import BackendError
from ..errors import EdgecutError

if TYPE_CHECKING:
    from torch import fx

LAYER_RUNS = 20


@lru_cache(maxsize=1)
def _program(path: str, device: str) -> Any:
    from torch.export.passes import move_to_device_pass

    from ..models.twin import load_twin

    program = load_twin(Path(path))
    return program if device == "cpu" else move_to_device_pass(program, device)


def partition_at(path: str, device: str) -> fx.GraphModule:
    """The partition that the JSON file at `path` describes, on `device`. Raises BackendError."""
    from ..models.twin import partition

    try:
        asked = json.loads(Path(path).read_text())
        program = _program(str(Path(path).parent / asked["program"]), device)
        made = partition(program, asked["given"], asked["wanted"], "the kit")
        made.meta["outputs"] = [str(name) for name in asked["outputs"]]
        return made
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(f"{path} is no partition of a torch program ({error}); write the kit again") from None
    except EdgecutError as error:
        raise BackendError(str(error)) from None


def usable() -> str:
    """Empty, or why torch cannot be used here."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"torch cannot be loaded ({error}); install edgecut[torch]"
    return ""


def versions() -> dict[str, str]:
    """Torch's version, and the CUDA it was built for."""
    import torch

    return {"torch": torch.__version__, **({"cuda": torch.version.cuda} if torch.version.cuda else {})}


def tensors(module: fx.GraphModule, feed: Mapping[str, Any], device: str) -> list[Any]:
    """The feed as tensors in the order of the partition's inputs. Inputs of the whole program go by their order."""
    import torch

    names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    by_name = set(names) <= set(feed)
    values = [feed[name] for name in names] if by_name else list(feed.values())
    return [torch.from_numpy(value).to(device) for value in values]


def named(module: fx.GraphModule, results: Any) -> dict[str, Any]:
    """The partition's results by the names that the ONNX file has for them, as float32 arrays."""
    import numpy as np

    values = results if isinstance(results, tuple) else (results,)
    pairs = zip(module.meta["outputs"], values, strict=True)
    return {name: np.asarray(value.detach().cpu().numpy(), np.float32) for name, value in pairs}


def _names(module: fx.GraphModule) -> dict[str, str]:
    """What the ONNX file calls the nodes that make the outputs."""
    made = next(node for node in module.graph.nodes if node.op == "output").args[0]
    nodes = made if isinstance(made, tuple) else (made,)
    return {node.name: name for node, name in zip(nodes, module.meta["outputs"], strict=True)}


def node_times(module: fx.GraphModule, inputs: list[Any], device: str, pause_s: float) -> list[tuple[str, float]]:
    """(node, median seconds) from torch's own profiler, a range around each node, over some runs.

    On CUDA the seconds are those of the device, summed over the kernels a node starts.
    """
    import statistics

    import torch
    from torch import fx as torch_fx
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function

    class Recording(torch_fx.Interpreter):
        def run_node(self, n: torch_fx.Node) -> Any:
            if n.op != "call_function":
                return super().run_node(n)
            with record_function(f"edgecut::{n.name}"):
                return super().run_node(n)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    times: dict[str, list[float]] = {}
    with torch.inference_mode():
        Recording(module).run(*inputs)
        for _ in range(LAYER_RUNS):
            time.sleep(pause_s)
            with profile(activities=activities, acc_events=True) as profiled:
                Recording(module).run(*inputs)
            for event in profiled.events():
                if event.name.startswith("edgecut::") and event.device_type == DeviceType.CPU:
                    spent_us = event.device_time_total if device == "cuda" else event.cpu_time_total
                    times.setdefault(event.name.removeprefix("edgecut::"), []).append(spent_us * 1e-6)
    names = _names(module)
    return [(names.get(node, node), statistics.median(seconds)) for node, seconds in times.items()]
