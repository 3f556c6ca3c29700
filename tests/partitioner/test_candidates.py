"""The additive costs against the cost formula written out again, and the candidates against exhaustive search."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from edgecut.errors import EdgecutError, ModelError
from edgecut.models.cuts import crossing, cut_of, legal
from edgecut.models.spec import CutSpec, LayerGraph, LayerSpec, ModelSpec, TensorSpec, Value
from edgecut.partitioner.candidates import additive_weights, candidates, layer_seconds
from edgecut.partitioner.link import PRESETS, Link
from edgecut.partitioner.mincut import cost_of
from edgecut.partitioner.plan import Objective, Serving, Wire
from edgecut.profiler.predicted import predicted_timing
from edgecut.profiler.profile import CutProfile, Energy, Environment, LayerProfile, PowerModel, Profile, Timing

SERVING = Serving(fixed_s=2e-3, per_byte_s=3e-9, request_framing_bytes=90, answer_framing_bytes=95, source="a test")
POWER = PowerModel(idle_w=2.0, max_w=8.0, source="a test")
LINK = PRESETS["wifi"]
ADD_S = (1e-5, 4e-9)
"""Seconds to add noise: fixed, and per value."""
NOTHING = Energy(energy_j=None, provenance="unavailable", source="a test")


def tensor(name: str, elements: int) -> TensorSpec:
    """A float32 vector."""
    return TensorSpec(name=name, dtype="float32", shape=(elements,))


def network(pick: random.Random, count: int) -> ModelSpec:
    """Layers with random connections, every one of which needs the one before or an earlier one."""
    consumers: list[set[int]] = [set() for _ in range(count)]
    for place in range(1, count):
        for _ in range(pick.choice([1, 1, 2])):
            consumers[pick.randrange(max(0, place - 3), place)].add(place)
    for place in range(count - 1):
        consumers[place] = consumers[place] or {count - 1}
    made = [tensor(f"made{place}", pick.randint(1, 5000)) for place in range(count)]
    raw = tensor("input", 3000)
    values = [Value(tensor=raw, layer=None, consumers=(0,), sendable=False)]
    values += [
        Value(tensor=made[place], layer=place, consumers=tuple(sorted(consumers[place])), sendable=True)
        for place in range(count - 1)
    ]
    layers = tuple(
        LayerSpec(name=f"layer{place}", kind="Conv", operators=("Conv",), output=one, parameters=0, work=())
        for place, one in enumerate(made)
    )
    graph = LayerGraph(values=tuple(values), first=(0,), last=(count - 1,))
    return ModelSpec(
        name="random", digest="sha256:0", inputs=(raw,), outputs=(made[-1],), layers=layers, cuts=(), graph=graph
    )


def timing(seconds: float) -> Timing:
    """A time as if predicted."""
    return predicted_timing(seconds, seconds, seconds, 1.0)


def profile_of(spec: ModelSpec, seconds: list[float], timed: tuple[CutSpec, ...] = (), gap: float = 1.0) -> Profile:
    """A device where layers take `seconds`, sub-models as long as their layers, and whose profiler slows by `gap`."""

    def cut_profile(cut: CutSpec) -> CutProfile:
        prefix = sum(seconds[place] for place in cut.on_edge)
        return CutProfile(
            name=cut.name,
            prefix=timing(prefix),
            suffix=timing(sum(seconds) - prefix),
            noise=timing(1e-6),
            add=timing(ADD_S[0] + ADD_S[1] * cut.elements),
            prefix_energy=Energy(energy_j=5.0 * prefix, provenance="modelled", source="a test"),
            suffix_energy=NOTHING,
            noise_energy=NOTHING,
        )

    return Profile(
        model=spec.model_copy(update={"cuts": timed}),
        device="a test",
        backend="none",
        provenance="modelled",
        threads=None,
        pause_s=0.0,
        environment=Environment(processor="none"),
        power=POWER,
        whole=timing(sum(seconds)),
        whole_energy=Energy(energy_j=5.0 * sum(seconds), provenance="modelled", source="a test"),
        layers=tuple(LayerProfile.of(layer, gap * own) for layer, own in zip(spec.layers, seconds, strict=True)),
        cuts=tuple(map(cut_profile, timed)),
        converged=True,
        elapsed_s=0.0,
        measured_at="2026-11-22T00:00:00+00:00",
    )


def sides(seed: int, count: int, timed: int = 3) -> tuple[Profile, Profile]:
    """The edge's and the cloud's profile of a random network, with the first few cuts timed."""
    pick = random.Random(seed)
    spec = network(pick, count)
    cuts = tuple(itertools.islice((cut_of(spec, layers) for layers in every_cut(spec)), timed))
    edge_s, cloud_s = ([pick.uniform(0.1, 3.0) * scale for _ in range(count)] for scale in (1e-3, 1e-4))
    return profile_of(spec, edge_s, cuts, gap=1.7), profile_of(spec, cloud_s, cuts, gap=0.6)


def every_cut(spec: ModelSpec) -> Iterator[frozenset[int]]:
    """Every legal set of layers on the edge."""
    assert spec.graph is not None
    for mask in range(2 ** len(spec.layers)):
        layers = frozenset(place for place in range(len(spec.layers)) if mask >> place & 1)
        if legal(spec.graph, layers):
            yield layers


class Real:
    """What cuts cost in all, written out again from DESIGN section 5, with noise that the wait hides."""

    def __init__(self, edge: Profile, cloud: Profile, link: Link, wire: Wire, slow: float, load: float) -> None:
        self.edge, self.cloud, self.link, self.wire, self.slow, self.load = edge, cloud, link, wire, slow, load

    def both(self, layers: frozenset[int]) -> tuple[float, float]:
        """Seconds and joules."""
        assert self.edge.model.graph is not None and self.link.radio_tx_w is not None
        tensors = crossing(self.edge.model.graph, layers)
        elements = sum(tensor.elements for tensor in tensors)
        sent = elements * (1 if self.wire == "int8" else 4)
        edge_s = self.slow * sum(self.true(self.edge)[place] for place in layers)
        cloud_s = self.load * sum(own for place, own in enumerate(self.true(self.cloud)) if place not in layers)
        up = 8 * sent / self.link.uplink_bps
        wait = self.link.rtt_s + up + SERVING.fixed_s + SERVING.per_byte_s * sent + cloud_s
        seconds = edge_s + self.slow * ADD_S[1] * elements + wait
        return seconds, 5.0 * edge_s + self.link.radio_tx_w * up + POWER.idle_w * wait

    def true(self, profile: Profile) -> list[float]:
        """The layers' own times: as the profiler tells them, less what it slowed."""
        told = [layer.latency_s or 0.0 for layer in profile.layers]
        return [own * profile.whole.median_s / sum(told) for own in told]

    def cost(self, objective: Objective, layers: frozenset[int], weight: float = 0.0) -> float:
        """The objective's value."""
        seconds, joules = self.both(layers)
        return {
            "latency": seconds,
            "energy": joules,
            "weighted": seconds + weight * joules,
            "edp": seconds * joules,
        }[objective]


@pytest.mark.parametrize("wire", ["float32", "int8"])
@pytest.mark.parametrize("objective", ["latency", "energy", "weighted"])
def test_two_cuts_differ_by_what_the_formula_says(objective: Objective, wire: Wire) -> None:
    edge, cloud = sides(1, 8)
    assert edge.model.graph is not None
    weights = additive_weights(
        edge, cloud, LINK, objective=objective, weight_s_per_j=0.3, wire=wire, edge_slowdown=4, cloud_load=2,
        serving=SERVING,
    )  # fmt: skip
    real = Real(edge, cloud, LINK, wire, slow=4, load=2)
    every = list(every_cut(edge.model))
    assert len(every) > 10
    base, real_base = cost_of(edge.model.graph, weights, every[0]), real.cost(objective, every[0], 0.3)
    for layers in every[1:]:
        more = cost_of(edge.model.graph, weights, layers) - base
        assert more == pytest.approx(real.cost(objective, layers, 0.3) - real_base, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("objective", ["latency", "energy", "weighted"])
def test_candidates_are_the_cheapest_of_all_cuts_less_the_timed_ones(objective: Objective, seed: int) -> None:
    edge, cloud = sides(seed, 9, timed=4)
    real = Real(edge, cloud, LINK, "float32", slow=2, load=1)
    found = candidates(
        edge, cloud, LINK, objective=objective, weight_s_per_j=0.1, edge_slowdown=2, serving=SERVING, k=6
    )
    cheapest = sorted(every_cut(edge.model), key=lambda layers: real.cost(objective, layers, 0.1))[:6]
    timed = {cut.on_edge for cut in edge.model.cuts}
    assert [cut.on_edge for cut in found] == [
        each for layers in cheapest if (each := tuple(sorted(layers))) not in timed
    ]
    for cut in found:
        assert cut == cut_of(edge.model, cut.on_edge)


@pytest.mark.parametrize("seed", range(10))
def test_the_least_product_of_energy_and_latency_is_among_the_candidates(seed: int) -> None:
    edge, cloud = sides(seed, 9, timed=0)
    real = Real(edge, cloud, LINK, "float32", slow=3, load=1)
    found = candidates(edge, cloud, LINK, objective="edp", edge_slowdown=3, serving=SERVING, k=3)
    least = min(every_cut(edge.model), key=lambda layers: real.cost("edp", layers))
    assert found[0].on_edge == tuple(sorted(least))
    products = [real.cost("edp", frozenset(cut.on_edge)) for cut in found]
    assert products == sorted(products)


def test_what_is_timed_on_one_side_alone_stays_a_candidate() -> None:
    edge, cloud = sides(2, 8, timed=500)
    assert candidates(edge, cloud, LINK) == []
    some = cloud.model_copy(update={"cuts": cloud.cuts[1:]})
    assert [cut.name for cut in candidates(edge, some, LINK, k=500)] == [cloud.cuts[0].name]


def test_a_measured_chain_has_nothing_left_to_time(profiled: Profile) -> None:
    assert profiled.model.graph is not None
    assert candidates(profiled, profiled, LINK, k=100) == []


def test_layer_times_are_scaled_to_the_whole(profiled: Profile) -> None:
    seconds = layer_seconds(profiled)
    assert sum(seconds) == pytest.approx(profiled.whole.median_s, rel=1e-12)
    told = [layer.latency_s or 0.0 for layer in profiled.layers]
    assert max(told) > 0
    assert [own / seconds[0] for own in seconds] == pytest.approx([own / told[0] for own in told])


def test_a_layer_that_the_runtime_did_not_show_takes_no_time(profiled: Profile) -> None:
    unseen = profiled.layers[1].model_copy(update={"latency_s": None})
    seconds = layer_seconds(profiled.model_copy(update={"layers": (profiled.layers[0], unseen, *profiled.layers[2:])}))
    assert seconds[1] == 0
    assert sum(seconds) == pytest.approx(profiled.whole.median_s, rel=1e-12)


def test_without_layer_times_operations_share_the_whole(profiled: Profile) -> None:
    untimed = [layer.model_copy(update={"latency_s": None}) for layer in profiled.layers]
    seconds = layer_seconds(profiled.model_copy(update={"layers": tuple(untimed)}))
    every = sum(layer.flops for layer in profiled.layers)
    shares = [profiled.whole.median_s * layer.flops / every for layer in profiled.layers]
    assert seconds == pytest.approx(shares)
    idle = tuple(layer.model_copy(update={"flops": 0}) for layer in untimed)
    assert set(layer_seconds(profiled.model_copy(update={"layers": idle}))) == {profiled.whole.median_s / len(idle)}


def test_energy_that_nothing_tells_is_not_taken_for_none_at_all() -> None:
    edge, cloud = sides(4, 6)
    unknown = edge.model_copy(update={"power": None})
    for objective in ("energy", "weighted", "edp"):
        assert candidates(unknown, cloud, LINK, objective=objective) == []
    with pytest.raises(EdgecutError, match="energy is unavailable"):
        additive_weights(unknown, cloud, LINK, objective="energy")
    assert candidates(unknown, cloud, LINK)


def test_a_product_is_no_sum() -> None:
    with pytest.raises(EdgecutError, match="no sum over layers"):
        additive_weights(*sides(5, 6), LINK, objective="edp")


def test_a_profile_without_the_graph_has_no_candidates_to_name(profiled: Profile) -> None:
    old = profiled.model_copy(update={"model": profiled.model.model_copy(update={"graph": None})})
    with pytest.raises(ModelError, match="profile it again"):
        candidates(old, profiled, LINK)
