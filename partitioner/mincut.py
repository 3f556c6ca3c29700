"""The cheapest legal cuts of a layer graph where costs add up: exact, for any directed acyclic graph.

The graph is split into segments that share nothing. A segment's few cuts are enumerated; where there are many, minimum
s-t cuts and branching find the cheapest ones. What is the same for every cut (the round trip) is left out.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator

from ..models.cuts import legal, sent_values
from ..models.spec import LayerGraph
from .branching import Branching
from .derived import bounded
from .segments import Order, Segment, Weights, layer_count, places, split, whole_numbers


def min_cut(
    graph: LayerGraph, weights: Weights, keep: frozenset[int] = frozenset(), away: frozenset[int] = frozenset()
) -> tuple[float, frozenset[int]] | None:
    """The least cost and the edge's layers, with `keep` on the edge and `away` in the cloud; None without a legal cut.

    Raises ValueError for a weight that is negative or not finite.
    """
    return next(ascending(graph, weights, most=1, limit=0, keep=keep, away=away), None)


def enumerate_cuts(graph: LayerGraph, limit: int) -> list[frozenset[int]] | None:
    """The edge's layers of every legal cut, in no special order; None when there are more than `limit`."""
    count = layer_count(graph)
    none, bound = [0] * count, bounded(graph, [0] * len(graph.values))
    segments = split(Order.of(bound.graph, count), bound.graph, (none, none, bound.weights))
    every = (edge for segment in segments for edge in segment.cuts() if bound.exact or legal(graph, places(edge)))
    found = list(itertools.islice(every, limit + 1))
    return None if len(found) > limit else [places(edge) for edge in found]


def k_best(graph: LayerGraph, weights: Weights, k: int, limit: int = 20_000) -> list[tuple[float, frozenset[int]]]:
    """The `k` cheapest legal cuts, cost and the edge's layers, cheapest first; fewer where there are fewer.

    `limit` bounds what is enumerated: cuts, times the layers that are free in them; where there is more, branching
    finds the same ones. Raises ValueError for a weight that is negative or not finite.
    """
    return list(itertools.islice(ascending(graph, weights, most=k, limit=limit), k))


def cost_of(graph: LayerGraph, weights: Weights, layers: frozenset[int]) -> float:
    """What a legal cut with these layers on the edge costs."""
    sides = (weights.edge[place] if place in layers else cloud for place, cloud in enumerate(weights.cloud))
    return math.fsum([*sides, *(weights.value[number] for number in sent_values(graph, layers))])


def ascending(
    graph: LayerGraph,
    weights: Weights,
    *,
    most: int,
    limit: int = 20_000,
    keep: frozenset[int] = frozenset(),
    away: frozenset[int] = frozenset(),
) -> Iterator[tuple[float, frozenset[int]]]:
    """Legal cuts and their costs, cheapest first: at least the first `most`. `limit` is as in `k_best`."""
    edge, cloud, value, scale = whole_numbers(weights)
    bound = bounded(graph, value)
    segments = split(Order.of(bound.graph, len(edge)), bound.graph, (edge, cloud, bound.weights), keep, away)
    share = limit // max(1, sum(1 for segment in segments if segment.free))
    enough = most if bound.exact else None
    found = heapq.merge(*(_of_segment(segment, enough, share) for segment in segments))
    for cost, layers in found if bound.exact else _reordered(found, graph, (edge, cloud, value)):
        yield cost / scale, places(layers)


def _reordered(
    found: Iterator[tuple[int, int]], graph: LayerGraph, costs: tuple[list[int], list[int], list[int]]
) -> Iterator[tuple[int, int]]:
    """Cuts by what they really cost, from the same by what they cost at least."""
    edge, cloud, value = costs
    waiting: list[tuple[int, int]] = []
    for least, mask in found:
        while waiting and waiting[0][0] <= least:
            yield heapq.heappop(waiting)
        layers = places(mask)
        sent = sent_values(graph, layers)
        if all(graph.values[number].sendable for number in sent):
            sides = sum(edge[place] if place in layers else other for place, other in enumerate(cloud))
            heapq.heappush(waiting, (sides + sum(value[number] for number in sent), mask))
    yield from sorted(waiting)


def _of_segment(segment: Segment, most: int | None, limit: int) -> Iterator[tuple[int, int]]:
    few = limit // len(segment.free) if segment.free else 1
    found = list(itertools.islice(segment.cuts(), few + 1))
    if len(found) <= few:
        return iter(sorted((segment.cost(edge), edge) for edge in found))
    return iter(Branching(segment, most))
