"""Objectives, limits, risk, wire and Pareto front of hand-made profiles, against brute force written out again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.errors import DataError, EdgecutError, ModelError
from edgecut.models.cuts import edge_memory_bytes
from edgecut.partitioner.choose import plan
from edgecut.partitioner.limits import InfeasibleError, read_leakage
from edgecut.partitioner.link import PRESETS, Link, Transfers
from edgecut.partitioner.pareto import front
from edgecut.partitioner.plan import CutCost, Limits, Plan, Serving
from edgecut.profiler.profile import Profile, Timing

SERVING = Serving(fixed_s=1e-3, per_byte_s=1e-9, request_framing_bytes=90, answer_framing_bytes=95, source="a test")
HandMade = Callable[..., Profile]
Timed = Callable[..., Timing]
CUT = st.tuples(
    st.integers(1, 20_000),  # values sent
    *[st.floats(1e-5, 0.1)] * 4,  # prefix, suffix, noise, add
    st.floats(1e-4, 1.0),  # joules
    st.integers(0, 1_000_000),  # parameters
)


def pair(rows: list[tuple[Any, ...]], hand_made: HandMade, timed: Timed) -> Profile:
    elements, prefix, suffix, noise, add, joules, parameters = zip(*rows, strict=True)
    parts = {
        name: [timed(each) for each in times]
        for name, times in (("prefix", prefix), ("suffix", suffix), ("noise", noise), ("add", add))
    }
    return hand_made(elements, joules=joules, parameters=parameters, **parts)


def oracle(row: tuple[Any, ...], link: Link, value_bytes: int = 4) -> tuple[float, float]:
    """Seconds and joules, by DESIGN section 5."""
    elements, prefix, suffix, noise, add, joules, _ = row
    up, down = value_bytes * elements + 90, 40 + 95
    up_s, down_s = up * 8 / link.uplink_bps, down * 8 / link.downlink_bps
    wait = link.rtt_s + up_s + down_s + 1e-3 + 1e-9 * (up + down) + suffix
    assert link.radio_tx_w is not None and link.radio_rx_w is not None
    energy = joules + 3 * noise + link.radio_tx_w * up_s + link.radio_rx_w * down_s + 1.0 * max(0.0, wait - noise)
    return prefix + add + max(wait, noise), energy


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(CUT, min_size=1, max_size=7),
    link=st.sampled_from(sorted(PRESETS)),
    objective=st.sampled_from(["latency", "energy", "weighted", "edp"]),
    weight=st.floats(0, 10),
    wire=st.sampled_from(["float32", "int8"]),
    asked=st.tuples(*[st.one_of(st.none(), st.floats(0, 1))] * 3),
    min_depth=st.one_of(st.none(), st.integers(1, 7)),
    memory_rank=st.one_of(st.none(), st.integers(0, 6)),
)
def test_choice_is_the_brute_force_one(
    rows: list[tuple[Any, ...]],
    link: str,
    objective: str,
    weight: float,
    wire: str,
    asked: tuple[float | None, ...],
    min_depth: int | None,
    memory_rank: int | None,
    hand_made: HandMade,
    timed: Timed,
) -> None:
    """Limits are drawn between the least and the most that there is, so that each is broken about half the time."""
    made = pair(rows, hand_made, timed)
    costs = [oracle(row, PRESETS[link], 1 if wire == "int8" else 4) for row in rows]
    leaked = {f"c{place}": float((place * 5 + 3) % 7) for place in range(0, len(rows), 2)}
    memory = [edge_memory_bytes(made.model, cut) for cut in made.model.cuts]

    def within(share: float | None, values: list[float]) -> float | None:
        return None if share is None else min(values) + share * (max(values) - min(values)) * 1.0001 + 1e-9

    limits = Limits(
        latency_s=within(asked[0], [cost[0] for cost in costs]),
        edge_energy_j=within(asked[1], [cost[1] for cost in costs]),
        leakage_bits=within(asked[2], [0.0, 6.0]),
        min_depth=min_depth,
        edge_memory_bytes=None if memory_rank is None else sorted(memory)[memory_rank % len(memory)],
    )
    kept = [
        place
        for place, (seconds, joules) in enumerate(costs)
        if (limits.latency_s is None or seconds <= limits.latency_s)
        and (limits.edge_energy_j is None or joules <= limits.edge_energy_j)
        and (limits.leakage_bits is None or leaked.get(f"c{place}", math.inf) <= limits.leakage_bits)
        and (min_depth is None or place + 1 >= min_depth)
        and (limits.edge_memory_bytes is None or memory[place] <= limits.edge_memory_bytes)
    ]
    value = {
        "latency": lambda seconds, joules: seconds,
        "energy": lambda seconds, joules: joules,
        "weighted": lambda seconds, joules: seconds + weight * joules,
        "edp": lambda seconds, joules: seconds * joules,
    }[objective]
    arguments: dict[str, Any] = {
        "link": link,
        "objective": objective,
        "weight_s_per_j": weight if objective == "weighted" else None,
        "wire": wire,
        "limits": limits,
        "leakage": leaked,
        "serving": SERVING,
    }
    if not kept:
        with pytest.raises(InfeasibleError, match=r"^no cut keeps to "):
            plan(made, made, **arguments)
        return
    chosen = plan(made, made, **arguments)
    least = min(value(*costs[place]) for place in kept)
    assert value(*costs[int(chosen.choice[1:])]) == pytest.approx(least, rel=1e-9)
    assert [int(row.name[1:]) for row in chosen.cuts if not row.broken] == kept
    beaten = {
        place
        for place in kept
        for other in kept
        if costs[other][0] <= costs[place][0] and costs[other][1] <= costs[place][1] and costs[other] != costs[place]
    }
    expected = sorted((place for place in kept if place not in beaten), key=lambda place: costs[place])
    assert [costs[int(name[1:])] for name in chosen.pareto] == [
        pytest.approx(costs[place], rel=1e-9) for place in expected
    ]
    for row in chosen.cuts:
        assert row.depth == int(row.name[1:]) + 1
        assert row.leakage_bits == leaked.get(row.name)
        assert (row.edge_memory_bytes, row.memory_provenance) == (memory[row.depth - 1], "modelled")
        assert row.payload_bytes == rows[row.depth - 1][0] * (1 if wire == "int8" else 4)
        assert row.sends.startswith(wire)


THREE = [
    # values, prefix, suffix, noise, add, joules, parameters
    (1000, 0.001, 0.010, 0.0, 0.0, 0.010, 1_000),
    (400, 0.005, 0.008, 0.0, 0.0, 0.002, 10_000),
    (100, 0.020, 0.001, 0.0, 0.0, 0.030, 100_000),
]


@pytest.fixture
def three(hand_made: HandMade, timed: Timed) -> Profile:
    return pair(THREE, hand_made, timed)


@pytest.mark.parametrize(
    ("limits", "leakage", "sentence"),
    [
        (
            Limits(latency_s=0.001),
            {},
            "no cut keeps to the limit of at most 1 ms of latency: the least to be had is {c0:.4g} ms of latency, "
            "after c0; loosen it",
        ),
        (
            Limits(min_depth=5),
            {},
            "no cut keeps to the limit of at least 5 layer(s) on the edge: the most to be had is 3 layer(s) on the "
            "edge, after c2; loosen it",
        ),
        (
            Limits(min_depth=3, latency_s=0.0205, edge_energy_j=10.0),
            {},
            "no cut keeps to at most 20.5 ms of latency and at least 3 layer(s) on the edge at once: the least to be "
            "had with at least 3 layer(s) on the edge is {c2:.4g} ms of latency, after c2; the most to be had with at "
            "most 20.5 ms of latency is 2 layer(s) on the edge, after c1; loosen one of them",
        ),
        (
            Limits(leakage_bits=2),
            {"c1": 3.5},
            "no cut keeps to the limit of at most 2 bits of leakage: the least to be had is 3.5 bits of leakage, "
            "after c1; loosen it",
        ),
        (
            Limits(leakage_bits=2),
            {},
            "no cut keeps to the limit of at most 2 bits of leakage: there is no leakage figure for any cut; loosen it",
        ),
    ],
)
def test_infeasible_limits_say_which_binds(
    three: Profile, limits: Limits, leakage: dict[str, float], sentence: str
) -> None:
    seconds = {f"c{place}": oracle(row, PRESETS["wifi"])[0] * 1e3 for place, row in enumerate(THREE)}
    with pytest.raises(InfeasibleError) as caught:
        plan(three, three, limits=limits, leakage=leakage, serving=SERVING)
    assert str(caught.value) == sentence.format(**seconds)


def test_reason_names_the_cheaper_cut_that_a_limit_rules_out(three: Profile) -> None:
    free = plan(three, three, serving=SERVING)
    assert free.choice == "c0"
    made = plan(three, three, serving=SERVING, limits=Limits(min_depth=2))
    assert made.choice == "c1"
    assert "The split with the least latency that keeps to the limits is after c1" in made.reason
    assert (
        f"After c0 it would be {free.chosen.total_s * 1e3:.2f} ms, but that breaks a limit: 1 layer(s)" in made.reason
    )
    assert made.cost("c0").broken == ("1 layer(s) on the edge, at least 2 asked",)
    assert made.pareto == ("c1",)


def test_cuts_without_a_leakage_figure_break_that_limit(three: Profile) -> None:
    made = plan(three, three, limits=Limits(leakage_bits=5), leakage={"c2": 5.0, "c1": 5.1})
    assert made.choice == "c2"
    assert made.cost("c0").broken == ("no leakage figure",)
    assert made.cost("c1").broken == ("5.1 bits of leakage, at most 5 asked",)
    with pytest.raises(ModelError, match=r"unknown cut of model chain with a leakage figure 'c9'.*known: c0, c1, c2$"):
        plan(three, three, leakage={"c9": 1.0})
    with pytest.raises(DataError, match="says nan bits for cut c1"):
        plan(three, three, leakage={"c1": math.nan})


def test_measured_memory_goes_before_computed(three: Profile) -> None:
    measured = three.cuts[0].model_copy(update={"prefix_memory_bytes": 7_000_000})
    edge = three.model_copy(update={"cuts": (measured, *three.cuts[1:])})
    made = plan(edge, three, limits=Limits(edge_memory_bytes=1_000_000))
    assert made.cost("c0").broken == ("7 MB of edge memory, at most 1 MB asked",)
    assert [row.memory_provenance for row in made.cuts] == ["measured", "modelled", "modelled"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "weighted"}, "a weight in seconds per joule belongs to --objective weighted"),
        ({"weight_s_per_j": 1.0}, "a weight in seconds per joule belongs to --objective weighted"),
        ({"objective": "weighted", "weight_s_per_j": math.inf}, "a weight of inf s/J cannot be"),
        ({"risk": "worst"}, "unknown measure of risk 'worst'; known: mean, median, p95"),
        ({"wire": "int4"}, "unknown wire format 'int4', did you mean 'int8'; known: float32, int8"),
        ({"sweeps": [("rate", 1, 2)]}, "unknown quantity to sweep 'rate'"),
        ({"sweeps": [("uplink", 2, 1)]}, "uplink cannot be swept from 2 to 1"),
        ({"sweeps": [("cloud-load", 0.5, 1)]}, "cloud-load cannot be swept .* a factor of at least 1"),
    ],
)
def test_what_cannot_be_asked(three: Profile, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgecutError, match=message):
        plan(three, three, **arguments)


def test_energy_limits_need_energies(three: Profile) -> None:
    silent = PRESETS["wifi"].model_copy(update={"radio_tx_w": None})
    with pytest.raises(EdgecutError, match=r"energy cannot be limited .* --power-idle-w and --power-max-w"):
        plan(three, three, link=silent, limits=Limits(edge_energy_j=1.0))
    assert plan(three, three, link=silent).pareto == ()


def row(name: str, total_s: float, energy_j: float | None) -> CutCost:
    nothing = dict.fromkeys(
        ("edge_s", "noise_s", "add_s", "uplink_s", "downlink_s", "rtt_s", "request_s", "cloud_s"), 0.0
    )
    sizes = dict.fromkeys(("payload_bytes", "uplink_bytes", "downlink_bytes"), 0)
    joules: dict[str, Any] = {"edge_j": 0.0, "radio_j": 0.0, "idle_j": 0.0, "energy_j": energy_j}
    return CutCost(name=name, role="split", sends="", total_s=total_s, **nothing, **sizes, **joules)


def test_front_by_hand() -> None:
    rows = [row("a", 3, 1), row("b", 1, 3), row("c", 2, 3), row("d", 2, 2), row("e", 3, 1), row("f", 4, 1)]
    assert front(rows) == ("b", "d", "a", "e")
    assert front([*rows, row("g", 9, None)]) == ()
    assert front([]) == ()


# Risk


@settings(max_examples=25, deadline=None)
@given(
    medians=st.tuples(*[st.floats(1e-3, 0.1)] * 4),
    seed=st.integers(0, 10_000),
    risk=st.sampled_from(["mean", "p95"]),
)
def test_mean_and_p95_are_those_of_independent_samples(
    medians: tuple[float, ...], seed: int, risk: str, hand_made: HandMade, timed: Timed
) -> None:
    """Against every pairing of the parts' samples, which is what infinitely many draws would come to."""
    generator = np.random.default_rng(seed)
    parts = [timed(m, 0.0, m * generator.lognormal(0, 0.4, 25)) for m in medians]
    made = hand_made([100], prefix=[parts[0]], suffix=[parts[1]], noise=[parts[2]], add=[parts[3]])
    row = plan(made, made, risk=risk, serving=SERVING).cuts[0]
    fixed = row.rtt_s + row.uplink_s + row.downlink_s + row.request_s
    prefix, suffix, noise, add = np.meshgrid(*[part.samples_s for part in parts], indexing="ij", sparse=True)
    exact = prefix + add + np.maximum(fixed + suffix, noise)
    assert row.mean_s == pytest.approx(float(exact.mean()), rel=0.03)
    # An estimate of a percentile lies between the exact ones two percent of the draws to either side.
    low, high = np.percentile(exact, [93, 97])
    assert row.p95_s is not None
    assert low <= row.p95_s <= high


def test_risk_can_change_the_choice(hand_made: HandMade, timed: Timed) -> None:
    """One cut is faster at its median and has a long tail, the other never differs."""
    tail = [0.010] * 90 + [0.060] * 10
    made = hand_made(
        [100, 100],
        prefix=[timed(0.010, 0, tail), timed(0.012, 0, [0.012] * 100)],
        suffix=[timed(0.001, 0, [0.001])] * 2,
    )
    chosen = {risk: plan(made, made, risk=risk) for risk in ("median", "mean", "p95")}
    assert {risk: one.choice for risk, one in chosen.items()} == {"median": "c0", "mean": "c1", "p95": "c1"}
    assert "the least 95th percentile of latency is after c1" in chosen["p95"].reason
    first = chosen["p95"].cost("c0")
    assert first.p95_s == pytest.approx(first.total_s + 0.050)
    assert first.mean_s == pytest.approx(first.total_s + 0.005, abs=0.0015)
    limited = plan(made, made, risk="p95", limits=Limits(latency_s=first.total_s + 0.04))
    assert limited.cost("c0").broken


def test_a_measured_link_brings_its_own_spread(hand_made: HandMade, timed: Timed) -> None:
    made = hand_made([10_000], prefix=[timed(0.01)], suffix=[timed(0.01)])
    link = PRESETS["lte"].model_copy(
        update={
            "samples": (
                Transfers(what="request", elapsed_s=(0.05, 0.05, 0.05)),
                Transfers(what="ping", elapsed_s=(0.05,) * 10),
                Transfers(what="uplink", size_bytes=10, elapsed_s=(9.0, 9.5)),
                Transfers(what="uplink", size_bytes=100_000, elapsed_s=(0.15,) * 90 + (0.25,) * 10),
            )
        }
    )
    row = plan(made, made, link=link).cuts[0]
    assert row.p95_s == pytest.approx(row.total_s + row.uplink_s)  # a tenth of the transfers took twice as long
    calm = plan(made, made, link="lte").cuts[0]
    assert (calm.mean_s, calm.p95_s) == (pytest.approx(calm.total_s), pytest.approx(calm.total_s))


def share(made: Plan, name: str) -> float:
    found = made.cost(name).best_share
    assert found is not None
    return found


def test_best_share_of_equal_dominated_and_doubtful_cuts(hand_made: HandMade, timed: Timed) -> None:
    def planned(second: float, spread: float, measured: bool = True) -> Plan:
        made = hand_made(
            [100, 100],
            prefix=[timed(0.1, spread, measured=measured), timed(second, spread, measured=measured)],
            suffix=[timed(0.001, 0.0)] * 2,
        )
        return plan(made, made)

    equal = planned(0.1, 0.2)
    assert share(equal, "c0") == pytest.approx(0.5, abs=0.03)
    assert share(equal, "c0") + share(equal, "c1") == pytest.approx(1)
    assert (share(planned(0.1, 0.0), "c0"), share(planned(0.1, 0.0), "c1")) == (0.5, 0.5)
    assert (share(planned(0.5, 0.2), "c0"), share(planned(0.5, 0.2), "c1")) == (1.0, 0.0)
    # ln(second / first) = ln 1.1 against a standard deviation of sqrt(2) * ln 1.2 / 1.96: normal's distribution.
    expected = 0.5 * (1 + math.erf(math.log(1.1) / (math.sqrt(2) * math.log(1.2) / 1.959964) / math.sqrt(2)))
    assert share(planned(0.11, 0.2), "c0") == pytest.approx(expected, abs=0.025)
    # A prediction's error is one and the same for all its parts: the order of the cuts never changes.
    assert share(planned(0.11, 0.2, measured=False), "c0") == 1.0


def test_best_share_feels_the_link(hand_made: HandMade, timed: Timed) -> None:
    """Two cuts that cost the same at the median rate: the bigger one is better whenever the rate is higher."""
    serving = SERVING.model_copy(update={"per_byte_s": 0.0})
    link = Link(
        name="mine",
        uplink_bps=1e6,
        downlink_bps=1e6,
        rtt_s=0.0,
        provenance="measured",
        source="a test",
        uplink_interval_bps=(0.5e6, 1.5e6),
    )
    made = hand_made([10_000, 1_000], prefix=[timed(0.100), timed(0.100 + 9_000 * 32e-6)], suffix=[timed(0.001)] * 2)
    assert share(plan(made, made, link=link, serving=serving), "c0") == pytest.approx(0.5, abs=0.03)
    fixed = link.model_copy(update={"uplink_interval_bps": None, "uplink_bps": 1.01e6})
    assert share(plan(made, made, link=fixed, serving=serving), "c0") == 1.0


def test_cuts_out_of_question_have_no_share(three: Profile) -> None:
    made = plan(three, three, limits=Limits(min_depth=2))
    assert made.cost("c0").best_share is None
    assert share(made, "c1") + share(made, "c2") == pytest.approx(1)
    assert all(row.best_share is None for row in made.baselines)
    assert all(row.p95_s is not None for row in made.baselines)


# The command line


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edgecut", "plan", "p.json", "p.json", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder)


def test_every_option_reaches_the_plan(three: Profile, tmp_path: Path) -> None:
    three.save(tmp_path / "p.json")
    (tmp_path / "bits.json").write_text('{"c0": 1, "c1": 2.5, "c2": 9}')
    ended = command(
        tmp_path,
        *("--objective", "weighted", "--weight-s-per-j", "0.5", "--risk", "mean", "--wire", "int8", "--json"),
        *("--max-edge-memory-mb", "0.2", "--max-edge-energy-mj", "500", "--max-latency-ms", "90", "--min-depth", "2"),
        *("--max-leakage-bits", "3", "--leakage", "bits.json", "--sweep", "uplink=1:100", "--sweep", "rtt=1:10"),
        *("--sweep", "slowdown=1:9", "--jpeg-bytes", "50"),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    made = Plan.from_json(ended.stdout, "stdout")
    assert made.limits == Limits(
        edge_memory_bytes=200_000, edge_energy_j=0.5, latency_s=0.09, min_depth=2, leakage_bits=3
    )
    assert (made.objective, made.weight_s_per_j, made.risk, made.wire) == ("weighted", 0.5, "mean", "int8")
    assert (made.choice, made.chosen.leakage_bits, made.jpeg_bytes) == ("c1", 2.5, 50)
    assert [(one.quantity, one.low, one.high) for one in made.sweeps] == [
        ("uplink", 1e6, pytest.approx(1e8)),
        ("rtt", 1e-3, 1e-2),
        ("edge-slowdown", 1, 9),
    ]
    for arguments, message in [
        (["--max-latency-ms", "1"], "no cut keeps to the limit of at most 1 ms"),
        (["--sweep", "up=1:2"], "unknown quantity to sweep 'up'"),
        (["--sweep", "uplink=fast"], "a sweep of uplink is asked for as uplink=LOW:HIGH, not as uplink=fast"),
        (["--leakage", "none.json"], "there is no file none.json"),
        (["--leakage", "p.json"], "p.json holds no leakage figures"),
    ]:
        ended = command(tmp_path, *arguments)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
        assert ended.stderr.startswith(f"edgecut: {message}")


def test_leakage_file(tmp_path: Path) -> None:
    path = tmp_path / "bits.json"
    path.write_text(json.dumps({"a": 1, "b": 2.5}))
    assert read_leakage(path) == {"a": 1.0, "b": 2.5}
    for bad in ('["a"]', '{"a": "much"}', '{"a": -1}', '{"a": Infinity}', "{"):
        path.write_text(bad)
        with pytest.raises(DataError, match=r"bits\.json"):
            read_leakage(path)
