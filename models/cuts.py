"""From layers to cuts: what crosses when some layers run on the edge, and how much memory they take there.

A set of layers can be an edge partition when it is closed under what they need, holds every layer that takes the raw
input, and none that makes an output. The first layers of the execution order are one such set for every depth; in a
network with branches there are many more. Their names say the layers after which nothing more runs on the edge, in
braces: `{branch1.conv+branch2.0.conv}`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ..errors import ModelError
from .spec import CutSpec, LayerGraph, ModelSpec, TensorSpec

WEIGHT_BYTES = 4


def legal(graph: LayerGraph, layers: Iterable[int]) -> bool:
    """Whether these layers can be the edge partition of a cut."""
    return _fault(graph, frozenset(layers)) is None


def cut_of(spec: ModelSpec, layers: Iterable[int]) -> CutSpec:
    """The cut with just these layers on the edge, under the name it has in `spec` where it is listed there.

    Raises ModelError where they cannot be an edge partition, and where the model's graph is not known.
    """
    if spec.graph is None:
        raise ModelError(f"how the layers of {spec.name} depend on each other is not known; profile it again")
    edge = frozenset(layers)
    fault = _fault(spec.graph, edge)
    if fault is not None:
        named = ", ".join(spec.layers[place].name for place in sorted(edge)[-3:])
        raise ModelError(f"model {spec.name} cannot be cut with layers up to {named} on the edge: {fault}")
    tensors = crossing(spec.graph, edge)
    for cut in spec.cuts:
        if cut.tensors == tensors and cut.on_edge == tuple(sorted(edge)):
            return cut
    needed = {value.layer for value in spec.graph.values if not edge.isdisjoint(value.consumers)}
    ends = sorted(edge - needed)
    return CutSpec(
        name="{" + "+".join(spec.layers[place].name for place in ends) + "}",
        depth=len(edge),
        tensors=tensors,
        aligned=True,
        layers=tuple(sorted(edge)),
    )


def crossing(graph: LayerGraph, edge: frozenset[int]) -> tuple[TensorSpec, ...]:
    """The tensors that are sent where the layers in `edge` run on the edge, in the order they are made."""
    return tuple(graph.values[place].tensor for place in sent_values(graph, edge))


def sent_values(graph: LayerGraph, edge: frozenset[int]) -> list[int]:
    """Places in `graph.values` of what the cloud needs of the edge, less what it can make of the rest of it."""
    needed = {
        value.tensor.name for value in graph.values if value.layer in edge and not edge.issuperset(value.consumers)
    }
    there, sent = set(needed), []
    for place, value in enumerate(graph.values):
        if value.made_of and there.issuperset(value.made_of):
            there.add(value.tensor.name)
        elif value.tensor.name in needed:
            sent.append(place)
    return sent


def edge_memory_bytes(spec: ModelSpec, cut: CutSpec) -> int:
    """Bytes that the edge partition takes in float32, computed: its weights, and its values when most are alive.

    Layers run one after the other in execution order; a value lives until the last layer on the edge that needs it has
    run, to the end where it crosses. What a runtime takes beside that is not in it.
    """
    edge = cut.on_edge
    weights = WEIGHT_BYTES * sum(spec.layers[place].parameters for place in edge)
    if spec.graph is None:
        return weights + max(spec.layers[place].inner_bytes for place in edge)
    sent, on_edge = {tensor.name for tensor in cut.tensors}, set(edge)
    more = [0] * (edge[-1] + 2)  # by how many bytes more are alive at a layer than at the one before
    for value in spec.graph.values:
        born = -1 if value.layer is None else value.layer
        if value.layer is not None and value.layer not in on_edge:
            continue
        here = [place for place in value.consumers if place in on_edge]
        last = edge[-1] if value.tensor.name in sent else max(here, default=born)
        more[born + 1] += value.tensor.size_bytes
        more[last + 1] -= value.tensor.size_bytes
    alive = list(itertools.accumulate(more))
    peak = max(spec.layers[place].inner_bytes + alive[place] for place in edge)
    return weights + max(peak, cut.size_bytes)


def _fault(graph: LayerGraph, edge: frozenset[int]) -> str | None:
    if not edge.issuperset(graph.first):
        return "the raw input would cross"
    if not edge.isdisjoint(graph.last):
        return "an output would be made on the edge"
    for value in graph.values:
        if value.layer is None:
            if not edge.issuperset(value.consumers):
                return "the raw input would cross"
        elif value.layer not in edge and not edge.isdisjoint(value.consumers):
            return f"data would flow back ({value.tensor.name})"
    sent = [graph.values[place] for place in sent_values(graph, edge)]
    alone = next((value.tensor.name for value in sent if not value.sendable), None)
    if alone is not None:
        return f"{alone} cannot be sent"
    if not sent:
        return "nothing would cross"
    return None
