"""A layer graph's legal cuts, split into segments that share nothing, for the search of the cheapest ones.

Sets of layers are bit masks, one bit a layer by its place. A bottleneck is a layer that needs all earlier ones, with
all later ones needing it. Every legal cut lies in exactly one segment: its last bottleneck on the edge and the first
one in the cloud are consecutive, so that only the layers between them are free. Costs are whole numbers, the weights
times a power of two, so that their sums and comparisons are exact.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..models.spec import LayerGraph, Value


@dataclass(frozen=True)
class Weights:
    """What a cut costs: of each layer on the edge or in the cloud, and of each of the graph's values that crosses.

    The cut's cost is the sum. All are finite and at least 0, in one unit.
    """

    edge: Sequence[float]
    cloud: Sequence[float]
    value: Sequence[float]


@dataclass(frozen=True)
class Order:
    """What the graph's edges imply of each layer.

    `takes` and `gives` are the layers that it takes values from and gives values to, `holds` those that take of it what
    cannot be sent, `ancestors` all that it needs, directly or not. With a layer on the edge, all that it `requires` are
    there: itself, its ancestors, what it holds, and so on. With a layer in the cloud, all that it `forbids` the edge
    are there. `parts` are the parts of the graph that no value connects.
    """

    count: int
    takes: list[int]
    gives: list[int]
    holds: list[int]
    ancestors: list[int]
    requires: list[int]
    forbids: list[int]
    parts: list[int]

    @classmethod
    def of(cls, graph: LayerGraph, count: int) -> Order:
        """The order of a graph of `count` layers."""
        takes, gives = _relation(graph, count, lambda value: True)
        held, holds = _relation(graph, count, lambda value: not value.sendable)
        nothing: list[set[int]] = [set() for _ in range(count)]
        return cls(
            count=count,
            takes=list(map(mask_of, takes)),
            gives=list(map(mask_of, gives)),
            holds=list(map(mask_of, holds)),
            ancestors=[mask ^ 1 << place for place, mask in enumerate(_implied(takes, nothing))],
            requires=_implied(takes, holds),
            forbids=_implied(held, gives),
            parts=_parts(takes),
        )

    def crosses(self, edge: int) -> bool:
        """Whether anything crosses: some connected part of the graph has layers on both sides."""
        return any(edge & part not in (0, part) for part in self.parts)

    def latest(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Those of the layers, in ascending order, that none of the others needs."""
        return tuple(
            one for i, one in enumerate(layers) if not any(self.ancestors[x] >> one & 1 for x in layers[i + 1 :])
        )


@dataclass
class Segment:
    """The cuts with the layers `inside` on the edge, none of `outside`, and any legal choice among the `free` ones.

    Such a cut costs `constant`, the `extra` (of either sign) of each free layer on the edge, and each of `shared`: a
    weight that is paid where the maker (None: inside) is on the edge and some of the consumers is not.
    """

    order: Order
    inside: int
    outside: int
    free: tuple[int, ...]
    constant: int
    extra: dict[int, int]
    shared: list[tuple[int | None, tuple[int, ...], int]] = field(default_factory=list)

    def cost(self, edge: int) -> int:
        """The cost of one of the segment's cuts, as a whole number."""
        total = self.constant + sum(extra for place, extra in self.extra.items() if edge >> place & 1)
        for maker, consumers, weight in self.shared:
            if (maker is None or edge >> maker & 1) and not all(edge >> other & 1 for other in consumers):
                total += weight
        return total

    def cuts(self) -> Iterator[int]:
        """Every cut of the segment, once; only those where something crosses."""
        free = mask_of(self.free)
        stack = [(self.inside, self.outside)]
        while stack:
            inside, outside = stack.pop()
            open_ends = free & ~(inside | outside)
            if open_ends:
                place = (open_ends & -open_ends).bit_length() - 1
                stack.append((inside, outside | self.order.forbids[place]))
                stack.append((inside | self.order.requires[place], outside))
            elif self.order.crosses(inside):
                yield inside

    def add(self, maker: int, consumers: Sequence[int], weight: int) -> None:
        """Account for a sendable value that some layer between the two bottlenecks makes or needs."""
        if self.outside >> maker & 1:
            return
        made_here = not self.inside >> maker & 1
        if any(self.outside >> other & 1 for other in consumers):
            if made_here:
                self.extra[maker] += weight
            else:
                self.constant += weight
            return
        left = self.order.latest([other for other in consumers if not self.inside >> other & 1])
        if made_here and left:
            self.shared.append((maker, left, weight))
        elif len(left) == 1:
            self.constant += weight
            self.extra[left[0]] -= weight
        elif left:
            self.shared.append((None, left, weight))


def layer_count(graph: LayerGraph) -> int:
    """How many layers a graph speaks of."""
    spoken = {place for value in graph.values for place in (*value.consumers, value.layer or 0)}
    return max({*spoken, *graph.first, *graph.last}, default=-1) + 1


def whole_numbers(weights: Weights) -> tuple[list[int], list[int], list[int], int]:
    """The weights of edge, cloud and values as whole numbers, and what they were multiplied by.

    Raises ValueError for a weight that is negative or not finite.
    """
    kinds = ([float(weight) for weight in kind] for kind in (weights.edge, weights.cloud, weights.value))
    edge, cloud, value = kinds
    if not all(0 <= weight < math.inf for weight in (*edge, *cloud, *value)):
        raise ValueError("a weight is negative or not finite")
    ratios = [[weight.as_integer_ratio() for weight in kind] for kind in (edge, cloud, value)]
    scale = max((below for kind in ratios for _, below in kind), default=1)
    edges, clouds, values = ([above * (scale // below) for above, below in kind] for kind in ratios)
    return edges, clouds, values, scale


def split(
    order: Order,
    graph: LayerGraph,
    costs: tuple[list[int], list[int], list[int]],
    keep: Iterable[int] = (),
    away: Iterable[int] = (),
) -> list[Segment]:
    """The graph's segments with `keep` on the edge and `away` in the cloud; those without a legal set are left out."""
    edge, cloud, paid = costs
    raw = (place for value in graph.values if value.layer is None for place in value.consumers)
    inside = _union(order.requires[place] for place in (*graph.first, *raw, *keep))
    outside = _union(order.forbids[place] for place in (*graph.last, *away))
    bounds = [-1, *_bottlenecks(order), order.count]
    surely, local = _values(graph, paid, bounds)
    before = [0, *itertools.accumulate(edge)]
    after = [0, *itertools.accumulate(cloud)]
    found = []
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        here = inside | (order.requires[low] if low >= 0 else 0)
        there = outside | (order.forbids[high] if high < order.count else 0)
        if here & there:
            continue
        between = range(low + 1, high)
        free = tuple(place for place in between if not (here | there) >> place & 1)
        constant = before[low + 1] + after[-1] - after[high] + surely[number]
        constant += sum(edge[place] if here >> place & 1 else cloud[place] for place in between)
        segment = Segment(order, here, there, free, constant, {place: edge[place] - cloud[place] for place in free})
        for index in local[number]:
            value = graph.values[index]
            assert value.layer is not None
            segment.add(value.layer, value.consumers, paid[index])
        found.append(segment)
    return found


def places(mask: int) -> frozenset[int]:
    """The layers of a mask."""
    return frozenset(place for place, bit in enumerate(reversed(f"{mask:b}")) if bit == "1")


def mask_of(layers: Iterable[int]) -> int:
    """Layers as a mask."""
    return _union(1 << place for place in layers)


def _union(masks: Iterable[int]) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total


def _relation(graph: LayerGraph, count: int, which: Callable[[Value], bool]) -> tuple[list[set[int]], list[set[int]]]:
    """By layer, through the values that count: the layers it takes them from, and those it gives them to."""
    takes: list[set[int]] = [set() for _ in range(count)]
    gives: list[set[int]] = [set() for _ in range(count)]
    for value in graph.values:
        if value.layer is not None and which(value):
            gives[value.layer].update(value.consumers)
            for consumer in value.consumers:
                takes[consumer].add(value.layer)
    return takes, gives


def _implied(earlier: list[set[int]], later: list[set[int]]) -> list[int]:
    """By layer, itself and all that it implies through others, when it directly implies these before and behind it."""
    masks = [1 << place for place in range(len(earlier))]
    before: list[int] = []
    while masks != before:
        before = list(masks)
        for place, direct in enumerate(earlier):
            masks[place] |= _union(masks[other] for other in direct)
        for place, direct in reversed(list(enumerate(later))):
            masks[place] |= _union(masks[other] for other in direct)
    return masks


def _parts(needs: list[set[int]]) -> list[int]:
    parts: list[int] = []
    for place, direct in enumerate(needs):
        mask = 1 << place | mask_of(direct)
        apart = [part for part in parts if not part & mask]
        parts = [*apart, mask | _union(part for part in parts if part & mask)]
    return parts


def _bottlenecks(order: Order) -> list[int]:
    everything = (1 << order.count) - 1
    found = []
    for place in range(order.count):
        to_here = (2 << place) - 1
        from_here = everything ^ (to_here >> 1)
        if order.requires[place] & to_here == to_here and order.forbids[place] & from_here == from_here:
            found.append(place)
    return found


def _values(graph: LayerGraph, paid: list[int], bounds: list[int]) -> tuple[list[int], list[list[int]]]:
    """By segment: what crosses with each of its cuts, summed, and the places of the values it may depend on."""
    lows, highs = bounds[:-1], bounds[1:]
    steps = [0] * (len(lows) + 1)
    local: list[list[int]] = [[] for _ in lows]
    known = set(bounds)
    for index, value in enumerate(graph.values):
        if value.layer is None or not value.sendable or not paid[index] or not value.consumers:
            continue
        last = max(value.consumers)
        first, behind = bisect_left(lows, value.layer), bisect_right(highs, last)
        if first < behind:
            steps[first] += paid[index]
            steps[behind] -= paid[index]
        touched = {bisect_left(lows, place) - 1 for place in (value.layer, last) if place not in known}
        for number in touched:
            local[number].append(index)
    return list(itertools.accumulate(steps))[:-1], local
