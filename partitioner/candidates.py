"""The cuts worth timing: those that cost least when a cut's cost is the sum of its layers' and values' own.

A layer costs its time as the runtime's profiler saw it, scaled so that all layers together take as long as the whole
did; a value that crosses costs its transfer and what noise takes to be added to it. What does not depend on the cut is
left out (the round trip, the request, the answer), and so is making the noise, which the wait hides. All is modelled:
layers run together otherwise than alone, so the candidates are timed before one is chosen (DESIGN section 5).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from ..errors import EdgecutError, ModelError
from ..models.cuts import cut_of
from ..models.spec import CutSpec, LayerGraph
from ..profiler.profile import Profile
from .link import Link
from .mincut import cost_of, k_best
from .plan import Objective, Serving, Wire
from .segments import Weights
from .serving import SERVING

TANGENTS = 4
"""How often the search for the least product of energy and latency begins anew at the best one found."""


def layer_seconds(profile: Profile) -> list[float]:
    """Seconds by layer, which sum to the whole's median; a layer that the runtime did not show has 0.

    Without any layer time the whole is shared out by the layers' operations.
    """
    for shares in (
        [layer.latency_s or 0.0 for layer in profile.layers],
        [float(layer.flops) for layer in profile.layers],
    ):
        total = sum(shares)
        if total > 0:
            return [profile.whole.median_s * share / total for share in shares]
    return [profile.whole.median_s / len(profile.layers)] * len(profile.layers)


def additive_weights(
    edge: Profile,
    cloud: Profile,
    link: Link,
    *,
    objective: Objective = "latency",
    weight_s_per_j: float = 0.0,
    wire: Wire = "float32",
    edge_slowdown: float = 1.0,
    cloud_load: float = 1.0,
    serving: Serving = SERVING,
) -> Weights:
    """What each layer costs on either side, and each value that crosses: seconds, joules, or both for `weighted`.

    Raises EdgecutError for energy that is unknown, and for edp, which is no sum; ModelError for a profile without the
    model's graph.
    """
    if objective == "edp":
        raise EdgecutError("the product of energy and latency is no sum over layers; take latency, energy or weighted")
    graph = _graph(edge)
    edge_s = [seconds * edge_slowdown for seconds in layer_seconds(edge)]
    cloud_s = [seconds * cloud_load for seconds in layer_seconds(cloud)]
    sent_bytes = [value.tensor.elements if wire == "int8" else value.tensor.size_bytes for value in graph.values]
    uplink_s = [link.uplink_s(size) for size in sent_bytes]
    wait_s = [up + serving.per_byte_s * size for up, size in zip(uplink_s, sent_bytes, strict=True)]
    add_s = _add_per_element_s(edge) * edge_slowdown
    added_s = [wait + add_s * value.tensor.elements for wait, value in zip(wait_s, graph.values, strict=True)]
    latency = Weights(edge_s, cloud_s, added_s)
    if objective == "latency":
        return latency
    whole_j = edge.whole_energy.energy_j
    if edge.power is None or link.radio_tx_w is None or whole_j is None:
        raise EdgecutError(
            "energy is unavailable in the edge profile or the link; profile the edge with --power-idle-w and "
            "--power-max-w, or choose --objective latency"
        )
    busy_w, idle_w, radio_w = whole_j / edge.whole.median_s, edge.power.idle_w, link.radio_tx_w
    energy = Weights(
        [busy_w * seconds for seconds in edge_s],
        [idle_w * seconds for seconds in cloud_s],
        [radio_w * up + idle_w * wait for up, wait in zip(uplink_s, wait_s, strict=True)],
    )
    return energy if objective == "energy" else _sum(latency, energy, weight_s_per_j)


def candidates(
    edge: Profile,
    cloud: Profile,
    link: Link,
    *,
    objective: Objective = "latency",
    weight_s_per_j: float = 0.0,
    wire: Wire = "float32",
    edge_slowdown: float = 1.0,
    cloud_load: float = 1.0,
    serving: Serving = SERVING,
    k: int = 8,
) -> list[CutSpec]:
    """The `k` cheapest cuts, less those that both profiles timed; none where the energy in question is unknown.

    For `edp`, which is not additive, they are those of least product among the best in latency, in energy, and in the
    sums that touch the product where it was least. A percentile of the latency is not additive either; its candidates
    are those of the median. Raises ModelError for a profile without the model's graph.
    """
    graph = _graph(edge)
    price = functools.partial(
        additive_weights,
        edge,
        cloud,
        link,
        wire=wire,
        edge_slowdown=edge_slowdown,
        cloud_load=cloud_load,
        serving=serving,
    )

    if objective != "latency" and not _energy_known(edge, link):
        return []
    if objective == "edp":
        fixed_s = link.rtt_s + serving.fixed_s
        fixed_j = fixed_s * (edge.power.idle_w if edge.power is not None else 0.0)
        both = (price(objective="latency"), price(objective="energy"))
        found = _least_product(graph, both, (fixed_s, fixed_j), k)
    else:
        costs = price(objective=objective, weight_s_per_j=weight_s_per_j)
        found = [layers for _, layers in k_best(graph, costs, k)]
    timed = _timed(edge) & _timed(cloud)
    return [cut_of(edge.model, layers) for layers in found if tuple(sorted(layers)) not in timed]


def _least_product(
    graph: LayerGraph, costs: tuple[Weights, Weights], fixed: tuple[float, float], k: int
) -> list[frozenset[int]]:
    """Cuts by the product of two costs. The least one also has the least of some weighted sum, its tangent there."""

    def both(layers: frozenset[int]) -> tuple[float, float]:
        one, other = (cost_of(graph, weights, layers) + offset for weights, offset in zip(costs, fixed, strict=True))
        return one, other

    found = {layers: both(layers) for weights in costs for _, layers in k_best(graph, weights, k)}
    for _ in range(TANGENTS):
        known, (seconds, joules) = len(found), min(found.values(), key=math.prod, default=(0.0, 0.0))
        if not joules:
            break
        tangent = _sum(*costs, seconds / joules)
        found.update((layers, both(layers)) for _, layers in k_best(graph, tangent, k))
        if len(found) == known:
            break
    return sorted(found, key=lambda layers: math.prod(found[layers]))[:k]


def _sum(latency: Weights, energy: Weights, weight: float) -> Weights:
    pairs = ((latency.edge, energy.edge), (latency.cloud, energy.cloud), (latency.value, energy.value))
    return Weights(*([s + weight * j for s, j in zip(seconds, joules, strict=True)] for seconds, joules in pairs))


def _energy_known(edge: Profile, link: Link) -> bool:
    return edge.power is not None and link.radio_tx_w is not None and edge.whole_energy.energy_j is not None


def _graph(edge: Profile) -> LayerGraph:
    if edge.model.graph is None:
        raise ModelError(f"how the layers of {edge.model.name} depend on each other is not known; profile it again")
    return edge.model.graph


def _add_per_element_s(edge: Profile) -> float:
    """By how much adding noise takes longer for each value, by the cuts that were timed; 0 where these do not tell."""
    sizes = {cut.name: cut.elements for cut in edge.model.cuts}
    timed = {sizes[cut.name]: cut.add.median_s for cut in edge.cuts if cut.name in sizes}
    if len(timed) < 2:
        return 0.0
    slope, _ = np.polyfit(list(timed), list(timed.values()), 1)
    return max(0.0, float(slope))


def _timed(profile: Profile) -> set[tuple[int, ...]]:
    """The edge's layers of each cut that was timed and lies between layers."""
    names = {cut.name for cut in profile.cuts}
    return {cut.on_edge for cut in profile.model.cuts if cut.aligned and cut.name in names}
