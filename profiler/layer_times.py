"""Layer times from ONNX Runtime's own profiler, mapped back from its fused graph to the model's layers.

The profiler slows small layers a great deal, and their sum can be far from the whole (the report shows the gap):
these times explain a profile, they never decide a cut. A number is the median over runs, in seconds.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx

from ..models.graph import ModelGraph
from ..models.session import open_session, random_feed

RUNS = 60


def layer_times(graph: ModelGraph, model: bytes, threads: int) -> dict[str, float]:
    """Median seconds per run and layer name; layers the runtime does not show are missing."""
    with tempfile.TemporaryDirectory(prefix="edgecut-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        session = open_session(
            model, threads, profile_prefix=str(Path(folder) / "profile"), optimised_path=str(optimised)
        )
        feed = random_feed(session, 1)
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        owners = _owners(graph, onnx.load(str(optimised), load_external_data=False))
    return _per_layer(events, owners)


def _owners(graph: ModelGraph, optimised: onnx.ModelProto) -> dict[str, str]:
    """Layer name per node of the optimised graph.

    By what it makes, else by its name (blocked nodes are called after the tensor they replace, fused ones after the
    node), else the layer of the node before it.
    """
    layers = [layer.name for layer in graph.layers()]
    makers = {
        value: layers[graph.layer_of_node(index)]
        for index, node in enumerate(graph.nodes)
        for value in (node.name, *node.output)
        if value
    }
    owners: dict[str, str] = {}
    current = layers[0]
    for node in optimised.graph.node:
        names = [*node.output, node.name.removesuffix("_nchwc"), node.name.removeprefix("fused ")]
        current = next((makers[name] for name in names if name in makers), current)
        owners[node.name] = current
    return owners


def _per_layer(events: list[dict[str, Any]], owners: dict[str, str]) -> dict[str, float]:
    node_runs: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node_runs[name.removesuffix("_kernel_time")].append(event["dur"] * 1e-6)
    totals: dict[str, float] = defaultdict(float)
    for node, seconds in node_runs.items():
        # The first runs load caches and are far from what follows.
        if node in owners:
            totals[owners[node]] += statistics.median(seconds[len(seconds) // 4 :])
    return dict(totals)
