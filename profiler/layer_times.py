"""From the nodes a runtime's own profiler names to the model's layers.

The profiler slows small layers a great deal, and their sum can be far from the whole (the report shows the gap): these
times explain a profile, they never decide a cut. A number is the median over runs, in seconds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from ..models.graph import ModelGraph


def layer_times(graph: ModelGraph, nodes: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Seconds per layer name, from (node, seconds) in order of execution; layers the runtime does not show are missing.

    Runtimes fuse nodes and rename them after one of those they replace, or after the tensor it makes; what cannot be
    told so belongs to the layer of the node before it.
    """
    makers = _makers(graph)
    known = sorted(makers, key=len, reverse=True)
    totals: dict[str, float] = defaultdict(float)
    current = next(iter(makers.values()), "")
    for node, seconds in nodes:
        current = _owner(node, makers, known) or current
        totals[current] += seconds
    return dict(totals)


def _makers(graph: ModelGraph) -> dict[str, str]:
    """Layer name by the names of its nodes and of what they make."""
    layers = [layer.name for layer in graph.layers()]
    return {
        value: layers[graph.layer_of_node(index)]
        for index, node in enumerate(graph.nodes)
        for value in (node.name, *node.output)
        if value
    }


def _owner(node: str, makers: dict[str, str], known: list[str]) -> str | None:
    """By the name itself, else by the longest known name within it that stands alone."""
    if node in makers:
        return makers[node]
    node = node.replace("...", " ")  # how TensorRT writes the first and the last of what it replaced
    found = (name for name in known if name in node and re.search(rf"(?<![\w.]){re.escape(name)}(?![a-z0-9.])", node))
    name = next(found, None)
    return makers[name] if name is not None else None
