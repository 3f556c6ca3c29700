"""Cuts that nothing timed: costed from layer times, named to be timed next, chosen only where nothing else is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecut.errors import ArtefactError
from edgecut.models.cuts import cut_of
from edgecut.models.spec import CutSpec, LayerGraph, LayerSpec, ModelSpec, TensorSpec, Value
from edgecut.partitioner.choose import plan
from edgecut.partitioner.limits import InfeasibleError
from edgecut.partitioner.link import PRESETS
from edgecut.partitioner.plan import Limits, Plan, Serving
from edgecut.profiler.predicted import beside
from edgecut.profiler.profile import LayerProfile, Profile, Timing

HandMade = Callable[..., Profile]
Timed = Callable[..., Timing]


def diamond() -> ModelSpec:
    """Two branches after the first layer, which the last joins; {first, right} is no prefix of the order."""
    sizes = {"first": 200, "left": 50, "right": 50}
    tensors = {name: TensorSpec(name=f"t.{name}", dtype="float32", shape=(size,)) for name, size in sizes.items()}
    answer = TensorSpec(name="answer", dtype="float32", shape=(10,))
    source = TensorSpec(name="x", dtype="float32", shape=(64,))
    layers = tuple(
        LayerSpec(name=name, kind="conv", operators=("Conv",), output=out, parameters=100, work=())
        for name, out in (*tensors.items(), ("last", answer))
    )
    values = (
        Value(tensor=source, layer=None, consumers=(0,), sendable=True),
        Value(tensor=tensors["first"], layer=0, consumers=(1, 2), sendable=True),
        Value(tensor=tensors["left"], layer=1, consumers=(3,), sendable=True),
        Value(tensor=tensors["right"], layer=2, consumers=(3,), sendable=True),
    )
    spec = ModelSpec(
        name="diamond",
        digest="sha256:" + "2" * 64,
        inputs=(source,),
        outputs=(answer,),
        layers=layers,
        cuts=(),
        graph=LayerGraph(values=values, first=(0,), last=(3,)),
    )
    first = CutSpec(name="first", depth=1, tensors=(tensors["first"],), aligned=True)
    both = CutSpec(name="right", depth=3, tensors=(tensors["left"], tensors["right"]), aligned=True)
    return spec.model_copy(update={"cuts": (first, both)})


def profiles(hand_made: HandMade, timed: Timed, cuts: int = 2) -> tuple[Profile, Profile]:
    """The edge is slow at `left`, the cloud at `right`; two cuts are timed, neither of which splits the branches."""
    made = hand_made([1, 1], prefix=[timed(0.010), timed(0.220)], suffix=[timed(0.220), timed(0.010)])
    spec = diamond()

    def side(left_s: float, right_s: float) -> Profile:
        seconds = (0.010, left_s, right_s, 0.010)
        return made.model_copy(
            update={
                "model": spec,
                "whole": timed(0.230, 0.1),
                "whole_energy": made.whole_energy.model_copy(update={"energy_j": 0.460}),
                "cuts": tuple(
                    cut.model_copy(update={"name": spec.cuts[place].name}) for place, cut in enumerate(made.cuts)
                )[:cuts],
                # The runtime's profiler saw twice of what the whole takes: the planner has to scale that down.
                "layers": tuple(
                    LayerProfile.of(layer, 2 * took) for layer, took in zip(spec.layers, seconds, strict=True)
                ),
            }
        )

    return side(0.200, 0.010), side(0.010, 0.200)


def test_a_cheaper_cut_that_nothing_timed_is_named(hand_made: HandMade, timed: Timed, tmp_path: Path) -> None:
    edge, cloud = profiles(hand_made, timed)
    serving = Serving(
        fixed_s=0.003, per_byte_s=1e-9, request_framing_bytes=90, answer_framing_bytes=95, source="a test"
    )
    made = plan(edge, cloud, serving=serving, output=tmp_path / "d.plan.json")
    assert made.chosen.basis == "sub-models"
    assert made.candidates[0] == "{right}"
    cheap = made.cost("{right}")
    assert (cheap.basis, cheap.depth, cheap.best_share, cheap.payload_bytes) == ("layers", 2, None, 4 * 250)
    up, down = 8 * (1000 + 90) / 12.8e6, 8 * (40 + 95) / 54.97e6
    # Making and adding noise took the timed cuts no time here.
    expected = 0.020 + 0.020 + 0.005 + up + down + 0.003 + 1e-9 * (1090 + 135)
    assert cheap.total_s == pytest.approx(expected, rel=1e-6)
    assert cheap.edge_j == pytest.approx(0.460 * 0.020 / 0.230)
    assert all(row.total_s >= made.chosen.total_s or row.name in made.candidates for row in made.cuts)
    assert made.choice not in made.candidates
    again = Plan.load(tmp_path / "d.plan.json")
    assert again.model.cut("{right}").on_edge == (0, 2)
    assert again.model.cut("{right}") == cut_of(edge.model, (0, 2))


def test_once_timed_it_is_chosen(hand_made: HandMade, timed: Timed) -> None:
    edge, cloud = profiles(hand_made, timed)
    found = cut_of(edge.model, (0, 2))

    def added(profile: Profile, **times: Timing) -> Profile:
        spec = profile.model.model_copy(update={"cuts": (*profile.model.cuts, found)})
        cut = profile.cuts[0].model_copy(update={"name": found.name, **times})
        return profile.model_copy(update={"model": spec, "cuts": (*profile.cuts, cut)})

    both = added(edge, prefix=timed(0.021)), added(cloud, suffix=timed(0.019))
    made = plan(*both)
    assert (made.choice, made.chosen.basis, made.cut.on_edge) == ("{right}", "sub-models", (0, 2))
    assert made.chosen.best_share == 1.0
    assert made.candidates == ()
    # Timed on one side only, it is a candidate still; and known by name where only the cloud's profile lists it.
    one = plan(both[0], cloud)
    assert (one.choice == "{right}", one.candidates) == (False, ("{right}",))
    listed = edge.model_copy(update={"cuts": both[0].cuts})
    assert plan(listed, both[1]).cut.on_edge == (0, 2)


def test_without_timed_cuts_layer_times_decide(hand_made: HandMade, timed: Timed) -> None:
    edge, cloud = profiles(hand_made, timed, cuts=0)
    made = plan(edge, cloud)
    assert (made.choice, made.chosen.basis) == ("{right}", "layers")
    assert made.candidates[0] == made.choice
    assert {row.name for row in made.cuts} == {"first", "right", "{right}", "{left}"}
    assert all(row.best_share is None for row in made.cuts)
    assert made.reason.endswith("Its times are sums of layer times: nothing timed its halves yet.")
    noise, add = beside(250, 1.0)
    assert (made.chosen.noise_s, made.chosen.add_s) == (noise.median_s, add.median_s)
    assert made.chosen.edge_j == pytest.approx((0.020 + noise.median_s) * 0.460 / 0.230)
    assert made.chosen.p95_s is not None
    with pytest.raises(InfeasibleError, match="the most to be had is 3 layer"):
        plan(edge, cloud, limits=Limits(min_depth=4))
    deep = plan(edge, cloud, limits=Limits(min_depth=3))
    assert deep.choice == "right"
    bare = [side.model_copy(update={"model": side.model.model_copy(update={"graph": None})}) for side in (edge, cloud)]
    assert {row.name for row in plan(*bare).cuts} == {"first", "right"}
    none = [side.model_copy(update={"model": side.model.model_copy(update={"cuts": ()})}) for side in bare]
    with pytest.raises(ArtefactError, match="diamond has no legal cut, so there is nothing to plan"):
        plan(*none)


def test_an_untimed_cut_where_no_timed_one_keeps_to_the_limits(hand_made: HandMade, timed: Timed) -> None:
    edge, cloud = profiles(hand_made, timed)
    made = plan(edge, cloud, limits=Limits(latency_s=0.1))
    assert (made.choice, made.chosen.basis) == ("{right}", "layers")
    assert all(made.cost(name).broken for name in ("first", "right"))


def test_considered_cuts_are_costed_whatever_they_cost(hand_made: HandMade, timed: Timed) -> None:
    edge, cloud = profiles(hand_made, timed)
    dear = cut_of(edge.model, (0, 1))
    assert dear.name not in {row.name for row in plan(edge, cloud).cuts}
    made = plan(edge, cloud, consider=[dear, edge.model.cuts[0]])
    assert made.cost(dear.name).total_s > made.chosen.total_s
    assert dear.name not in made.candidates
    assert made.model.cut(dear.name) == dear
    assert made.choice == plan(edge, cloud).choice


def test_noise_lies_between_that_of_the_timed_cuts(hand_made: HandMade, timed: Timed) -> None:
    """250 values between 100 (1 ms) and 200 (2 ms): beyond the largest, in proportion to it."""
    edge, cloud = profiles(hand_made, timed)
    sizes = {"first": 200, "right": 100}
    parts: dict[str, Any] = {"right": timed(0.001, 0.5), "first": timed(0.002, 0.5)}
    assert {cut.name: cut.elements for cut in edge.model.cuts} == sizes
    cuts = tuple(cut.model_copy(update={"noise": parts[cut.name], "add": parts[cut.name]}) for cut in edge.cuts)
    row = plan(edge.model_copy(update={"cuts": cuts}), cloud).cost("{right}")
    assert row.noise_s == pytest.approx(0.002 * 250 / 200)
    assert row.add_s == pytest.approx(0.002 * 250 / 200)


@pytest.mark.parametrize("link", sorted(PRESETS))
def test_untimed_cuts_are_costed_under_every_objective(link: str, hand_made: HandMade, timed: Timed) -> None:
    edge, cloud = profiles(hand_made, timed, cuts=0)
    for arguments in ({"objective": "energy"}, {"objective": "edp"}, {"objective": "weighted", "weight_s_per_j": 0.3}):
        made = plan(edge, cloud, link=link, risk="p95", wire="int8", edge_slowdown=2, cloud_load=3, **arguments)
        assert made.candidates[0] == made.choice
        assert made.chosen.energy_j is not None
