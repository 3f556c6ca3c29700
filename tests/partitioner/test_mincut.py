"""The cheapest cuts against exhaustive search over all sets of layers, with its own rules for what is legal."""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.models import cuts
from edgecut.models.spec import LayerGraph, TensorSpec, Value
from edgecut.partitioner import branching
from edgecut.partitioner.mincut import enumerate_cuts, k_best, min_cut
from edgecut.partitioner.segments import Segment, Weights

CLOSE = 1e-12
WHOLE_LIST = 40
"""Networks with no more cuts than this are compared cut by cut; of larger ones, as many of the cheapest."""

Priced = tuple[LayerGraph, Weights]


NAMES = (f"value{number}" for number in itertools.count())


def value(layer: int | None, consumers: list[int], *, sendable: bool = True, made_of: tuple[str, ...] = ()) -> Value:
    """A value, of no matter what shape."""
    return Value(
        tensor=TensorSpec(name=next(NAMES), dtype="float32", shape=(1,)),
        layer=layer,
        consumers=tuple(consumers),
        sendable=sendable,
        made_of=made_of,
    )


def weights_for(draw: Callable[[], float], graph: LayerGraph, count: int) -> Weights:
    """Weights of every layer and value."""
    return Weights(*([draw() for _ in range(length)] for length in (count, count, len(graph.values))))


@st.composite
def networks(draw: st.DrawFn) -> Priced:
    """Up to 14 layers with any connections: several inputs and outputs, dead ends, values that cannot be sent."""
    count = draw(st.integers(2, 14))
    seed = draw(st.integers(0, 2**32))
    weight = draw(st.sampled_from([(0.0, 1.0), (1.0,), (0.0, 1.0, 2.0, 3.0), ()]), label="few weights, or any")
    return made(random.Random(seed), count, weight)


def made(pick: random.Random, count: int, few: tuple[float, ...] = ()) -> Priced:
    """A random network and its weights: of a `few` values, so that there are ties, or over fifteen powers of ten."""
    near, pinned = pick.choice([0.1, 0.2, 0.4]), pick.choice([0, 0, 0.1])
    unsendable, derived, odd = pick.choice([0, 0, 0.1, 0.3]), pick.choice([0, 0, 0.3]), pick.choice([0, 0.1, 0.3])
    places = range(1, count)
    values = [value(None, [0, *(place for place in places if pick.random() < pinned)], sendable=False)]
    for layer in range(count - 1):
        for _ in range(pick.choice([1, 1, 1, 2])):
            consumers = [place for place in range(layer + 1, count) if pick.random() < near]
            if not consumers and pick.random() < 0.1:
                continue
            sources = [one for one in values[1:] if layer in (one.layer, *one.consumers) or pick.random() < odd]
            made_of = pick.sample(sources, min(len(sources), pick.choice([1, 1, 1, 2])))
            values.append(
                value(
                    layer,
                    consumers or [pick.randrange(layer + 1, count)],
                    sendable=pick.random() >= unsendable,
                    made_of=tuple(one.tensor.name for one in made_of) if pick.random() < derived else (),
                )
            )
    outputs = {count - 1, *(place for place in places if pick.random() < pinned)}
    graph = LayerGraph(values=tuple(values), first=values[0].consumers, last=tuple(sorted(outputs)))
    return graph, weights_for(lambda: pick.choice(few) if few else 10 ** pick.uniform(-9, 6), graph, count)


class Every(NamedTuple):
    """Every legal cut: its layers, one row a cut, and its cost."""

    edge: np.ndarray
    cost: np.ndarray


def exhaustive(graph: LayerGraph, weights: Weights) -> Every:
    """All sets of layers, the illegal ones sorted out rule by rule, and what each costs."""
    count = len(weights.edge)
    edge = (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1
    legal = edge[:, list(graph.first)].all(1) & ~edge[:, list(graph.last)].any(1)
    cost = edge @ np.asarray(weights.edge) + ~edge @ np.asarray(weights.cloud)
    crosses = np.zeros(len(edge), bool)
    there: dict[str, np.ndarray] = {}
    for value, weight in zip(graph.values, weights.value, strict=True):
        needed_in_cloud = ~edge[:, list(value.consumers)].all(1)
        if value.layer is None:
            legal &= ~needed_in_cloud
            continue
        made_on_edge = edge[:, value.layer]
        legal &= made_on_edge | ~edge[:, list(value.consumers)].any(1)
        needed, anew = made_on_edge & needed_in_cloud, np.full(len(edge), bool(value.made_of))
        for name in value.made_of:
            anew = anew & there[name]
        there[value.tensor.name] = needed | anew
        crosses |= needed
        if not value.sendable:
            legal &= ~needed | anew
        cost = cost + weight * (needed & ~anew)
    legal &= crosses
    order = np.argsort(cost[legal], kind="stable")
    return Every(edge[legal][order], cost[legal][order])


def cost_of(graph: LayerGraph, weights: Weights, layers: frozenset[int]) -> float:
    """A cut's cost, summed as it is defined."""
    sides = [weights.edge[place] if place in layers else weights.cloud[place] for place in range(len(weights.edge))]
    sent = {tensor.name for tensor in cuts.crossing(graph, layers)}
    crossing = [weight for value, weight in zip(graph.values, weights.value, strict=True) if value.tensor.name in sent]
    return math.fsum([*sides, *crossing])


def check_list(found: list[tuple[float, frozenset[int]]], priced: Priced, every: Every, k: int) -> None:
    """The cuts are legal, distinct and cost what is said, and none that is cheaper is missing."""
    graph, weights = priced
    assert [cost for cost, _ in found] == pytest.approx(every.cost[:k].tolist(), rel=CLOSE, abs=0)
    assert len({layers for _, layers in found}) == len(found)
    for cost, layers in found:
        assert cuts.legal(graph, layers)
        assert cost == pytest.approx(cost_of(graph, weights, layers), rel=CLOSE, abs=0)


@settings(max_examples=200, deadline=None)
@given(networks())
def test_the_minimum_cut_costs_what_exhaustive_search_finds(priced: Priced) -> None:
    every = exhaustive(*priced)
    found = min_cut(*priced)
    check_list([] if found is None else [found], priced, every, 1)


@settings(max_examples=100, deadline=None)
@given(networks(), st.integers(0, 2**14 - 1), st.integers(0, 2**14 - 1))
def test_kept_and_banned_layers_are_honoured_at_least_cost(priced: Priced, kept: int, banned: int) -> None:
    count = len(priced[1].edge)
    keep = frozenset(place for place in range(count) if kept >> 2 * place & 3 == 3)
    away = frozenset(place for place in range(count) if banned >> 2 * place & 3 == 3)
    edge, cost = exhaustive(*priced)
    allowed = edge[:, sorted(keep)].all(1) & ~edge[:, sorted(away)].any(1)
    found = min_cut(*priced, keep=keep, away=away)
    if found is not None:
        assert keep <= found[1] and not away & found[1]
    check_list([] if found is None else [found], priced, Every(edge[allowed], cost[allowed]), 1)


@settings(max_examples=100, deadline=None)
@given(networks(), st.sampled_from([0, 8, 20_000]))
def test_the_k_best_are_the_first_of_the_sorted_list(priced: Priced, limit: int) -> None:
    every = exhaustive(*priced)
    for k in (1, 5, WHOLE_LIST):
        check_list(k_best(*priced, k=k, limit=limit), priced, every, k)


@settings(max_examples=100, deadline=None)
@given(networks())
def test_every_legal_cut_is_enumerated_once(priced: Priced) -> None:
    edge, _ = exhaustive(*priced)
    found = enumerate_cuts(priced[0], len(edge))
    assert found is not None
    assert len(found) == len(set(found)) == len(edge)
    assert set(found) == {frozenset(np.flatnonzero(row).tolist()) for row in edge}
    if len(edge):
        assert enumerate_cuts(priced[0], len(edge) - 1) is None


def flows_freely(segment: Segment) -> branching.Arcs:
    """A wrong network: nothing keeps data from flowing back."""
    return {}


def pays_every_consumer(segment: Segment) -> tuple[branching.Arcs, int]:
    """A wrong network: a value is paid once for each layer that needs it."""
    alone = [(maker, (one,), weight) for maker, consumers, weight in segment.shared for one in consumers]
    return RIGHT_PAYMENTS(Segment(**{**vars(segment), "shared": alone}))


def pays_no_value(segment: Segment) -> tuple[branching.Arcs, int]:
    """A wrong network: what crosses is free."""
    return RIGHT_PAYMENTS(Segment(**{**vars(segment), "shared": []}))


RIGHT_PAYMENTS = branching.payments


@pytest.mark.parametrize(
    ("part", "wrong"), [("bonds", flows_freely), ("payments", pays_every_consumer), ("payments", pays_no_value)]
)
def test_a_wrong_network_would_be_noticed(monkeypatch: pytest.MonkeyPatch, part: str, wrong: object) -> None:
    examples = [made(random.Random(seed), 10, (0.0, 1.0, 2.0, 3.0)) for seed in range(60)]
    for priced in examples:
        check_list(k_best(*priced, k=5, limit=0), priced, exhaustive(*priced), 5)
    monkeypatch.setattr(branching, part, wrong)
    noticed = 0
    for priced in examples:
        try:
            check_list(k_best(*priced, k=5, limit=0), priced, exhaustive(*priced), 5)
        except AssertionError:
            noticed += 1
    assert noticed >= 5


def test_a_value_that_many_need_is_paid_once() -> None:
    graph = LayerGraph(
        values=(value(None, [0]), value(0, [1, 2, 3]), value(1, [4]), value(2, [4]), value(3, [4])),
        first=(0,),
        last=(4,),
    )
    weights = Weights([0.0, 9, 9, 9, 0], [0.0] * 5, [0.0, 7, 1, 1, 1])
    assert min_cut(graph, weights) == (7, {0})


def chain(count: int) -> LayerGraph:
    """One layer after the other."""
    values = [value(None, [0]), *(value(place, [place + 1]) for place in range(count - 1))]
    return LayerGraph(values=tuple(values), first=(0,), last=(count - 1,))


def branches(width: int, depth: int) -> LayerGraph:
    """`width` chains of `depth` layers between a first and a last layer: (depth + 1) ** width cuts."""
    values, places = [value(None, [0])], itertools.count(1)
    starts, ends = [], []
    for _ in range(width):
        own = list(itertools.islice(places, depth))
        values += [value(one, [other]) for one, other in itertools.pairwise(own)]
        starts.append(own[0])
        ends.append(own[-1])
    last = next(places)
    values += [value(0, starts), *(value(end, [last]) for end in ends)]
    return LayerGraph(values=tuple(values), first=(0,), last=(last,))


def test_a_chain_is_cut_after_any_of_its_layers_but_the_last() -> None:
    assert enumerate_cuts(chain(50), 100) == [frozenset(range(depth)) for depth in range(1, 50)]


def test_branches_are_cut_independently_of_each_other() -> None:
    assert len(enumerate_cuts(branches(4, 2), 3**4) or []) == 3**4
    assert enumerate_cuts(branches(30, 33), 20_000) is None


def test_of_too_many_cuts_to_enumerate_the_best_are_found_branch_by_branch() -> None:
    width, depth, k = 12, 5, 12
    graph, pick = branches(width, depth), random.Random(1)
    weights = weights_for(pick.random, graph, width * depth + 2)
    found = k_best(graph, weights, k)
    for cost, layers in found:
        assert cuts.legal(graph, layers)
        assert cost == pytest.approx(cost_of(graph, weights, layers), rel=CLOSE)
    assert len({layers for _, layers in found}) == k
    # Branches share only the first layer's value. Where all go on behind it, their costs just add up; where some stop
    # there, it is paid, once. The k least sums of lists need no more than the k least of each.
    shared, inner, ends = weights.value[-width - 1], weights.value[1 : -width - 1], weights.value[-width:]
    lists = []
    for branch in range(width):
        own = range(1 + branch * depth, 1 + (branch + 1) * depth)
        sent = [0.0, *inner[branch * (depth - 1) : (branch + 1) * (depth - 1)], ends[branch]]
        edge, cloud = ([side[place] for place in own] for side in (weights.edge, weights.cloud))
        lists.append([sum(edge[:stop]) + sum(cloud[stop:]) + sent[stop] for stop in range(depth + 1)])
    going_on = least_sums([costs[1:] for costs in lists], k)
    # Of all sums, those where none stops are taken off again, as often as they are there.
    some_stop = collections.Counter(least_sums(lists, 1000)) - collections.Counter(
        least_sums([c[1:] for c in lists], 1000)
    )
    fixed = weights.edge[0] + weights.cloud[-1]
    every = [*going_on, *(cost + shared for cost in some_stop.elements())]
    assert [cost for cost, _ in found] == pytest.approx([fixed + cost for cost in sorted(every)[:k]], rel=CLOSE)


def least_sums(lists: list[list[float]], k: int) -> list[float]:
    """The `k` least sums of one number from each list."""
    best = [0.0]
    for numbers in lists:
        best = sorted(one + other for one in best for other in numbers)[:k]
    return best


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_no_cost_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="negative or not finite"):
        min_cut(chain(3), Weights([0, weight, 0], [0, 0, 0], [0, 0, 0]))


def test_no_legal_cut_is_none() -> None:
    graph = LayerGraph(values=(value(None, [0, 1]), value(0, [1])), first=(0, 1), last=(1,))
    weights = Weights([0, 0], [0, 0], [0, 0])
    assert min_cut(graph, weights) is None
    assert k_best(graph, weights, 3) == []
    assert enumerate_cuts(graph, 3) == []
