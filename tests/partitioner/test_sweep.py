"""Break-points against a dense search with costs written out again, and the sentences that are made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.errors import EdgecutError
from edgecut.partitioner.choose import plan
from edgecut.partitioner.explain import sentence
from edgecut.partitioner.link import Link
from edgecut.partitioner.plan import BreakPoint, Limits, Quantity, Serving, Sweep
from edgecut.partitioner.sweep import break_points, parse_sweep
from edgecut.profiler.profile import Profile, Timing

FREE = Serving(fixed_s=0.0, per_byte_s=0.0, request_framing_bytes=0, answer_framing_bytes=0, source="a test")
LINK = Link(
    name="mine", uplink_bps=1e6, downlink_bps=1e6, rtt_s=0.01, provenance="measured", source="a test",
    radio_tx_w=1.0, radio_rx_w=1.0,
)  # fmt: skip
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
RANGES: dict[Quantity, tuple[float, float]] = {
    "uplink": (1e4, 1e8),
    "downlink": (1e4, 1e8),
    "rtt": (1e-4, 1.0),
    "edge-slowdown": (1.0, 100.0),
    "cloud-load": (1.0, 100.0),
}
HandMade = Callable[..., Profile]
Timed = Callable[..., Timing]


def profile_of(rows: list[tuple[int, float, float, float]], hand_made: HandMade, timed: Timed) -> Profile:
    elements, prefix, suffix, noise = zip(*rows, strict=True)
    return hand_made(
        elements, prefix=list(map(timed, prefix)), suffix=list(map(timed, suffix)), noise=list(map(timed, noise))
    )


def costs_at(rows: list[tuple[int, float, float, float]], quantity: Quantity, at: float) -> list[tuple[float, float]]:
    """Latency and energy after every cut when one quantity is another."""
    value = {"uplink": 1e6, "downlink": 1e6, "rtt": 0.01, "edge-slowdown": 1.0, "cloud-load": 1.0, quantity: at}
    found = []
    for elements, prefix, suffix, noise in rows:
        edge, beside = prefix * value["edge-slowdown"], noise * value["edge-slowdown"]
        up, down = elements * 32 / value["uplink"], 320 / value["downlink"]
        wait = value["rtt"] + up + down + suffix * value["cloud-load"]
        found.append((edge + max(wait, beside), 3 * (edge + beside) + up + down + max(0.0, wait - beside)))
    return found


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 50_000), st.floats(1e-4, 0.3), st.floats(1e-4, 0.3), st.floats(1e-5, 0.05)),
        min_size=2,
        max_size=6,
    ),
    quantity=st.sampled_from(QUANTITIES),
    objective=st.sampled_from(["latency", "energy", "edp"]),
    limit=st.one_of(st.none(), st.floats(0.02, 0.6)),
)
def test_break_points_are_where_a_dense_search_finds_them(
    rows: list[tuple[int, float, float, float]],
    quantity: Quantity,
    objective: str,
    limit: float | None,
    hand_made: HandMade,
    timed: Timed,
) -> None:
    made, (low, high) = profile_of(rows, hand_made, timed), RANGES[quantity]

    def best(at: float) -> tuple[float, dict[str, float]]:
        values = {"latency": lambda s, j: s, "energy": lambda s, j: j, "edp": lambda s, j: s * j}[objective]
        kept = {
            f"c{place}": values(*cost)
            for place, cost in enumerate(costs_at(rows, quantity, at))
            if limit is None or cost[0] <= limit
        }
        return min(kept.values(), default=math.inf), kept

    try:
        planned = plan(
            made,
            made,
            link=LINK,
            objective=objective,
            serving=FREE,
            limits=Limits(latency_s=limit),
            sweeps=[(quantity, low, high)],
        )
    except EdgecutError:
        assert not best({"rtt": 0.01, "uplink": 1e6, "downlink": 1e6}.get(quantity, 1.0))[1]
        return
    (swept,) = planned.sweeps
    assert (swept.quantity, swept.low, swept.high) == (quantity, low, high)
    names = [swept.first, *(point.after for point in swept.points)]
    edges = [low, *(point.at for point in swept.points), high]
    assert [point.before for point in swept.points] == names[:-1]
    assert edges == sorted(edges)
    for name, (start, end) in zip(names, itertools.pairwise(edges), strict=True):
        # Between break-points the named cut is the best everywhere, up to what one grid step can hide.
        for at in np.geomspace(start * (1 + 1e-3), end * (1 - 1e-3), 60) if end > start * 1.01 else []:
            least, kept = best(float(at))
            assert (name in kept) if name else not kept
            assert not name or kept[name] <= least * 1.01
    for point in swept.points:
        # And it is exact to a thousandth: there, the two cuts change places, or a limit begins to bind.
        before, after = best(point.at * (1 - 1e-3))[1], best(point.at * (1 + 1e-3))[1]
        for name, side in ((point.before, before), (point.after, after)):
            assert (name in side) if name else not side
        if point.before and point.after and {point.before, point.after} <= {*before} & {*after}:
            assert before[point.before] <= before[point.after] * (1 + 1e-9)
            assert after[point.after] <= after[point.before] * (1 + 1e-9)


def test_a_crossing_by_hand(hand_made: HandMade, timed: Timed) -> None:
    """10 000 values at 1 ms of edge against 1 000 at 100 ms: 36 000 bytes are worth 99 ms at 2.909 Mbit/s."""
    made = profile_of([(10_000, 0.001, 0.001, 0.0), (1_000, 0.100, 0.001, 0.0)], hand_made, timed)
    at = 36_000 * 8 / 0.099
    for link, choice, moved in [
        (LINK, "c1", "Above 2.91 Mbit/s up the cut moves to c0."),
        (LINK.model_copy(update={"uplink_bps": 1e7}), "c0", "Below 2.91 Mbit/s up the cut moves to c1."),
    ]:
        planned = plan(made, made, link=link, serving=FREE, sweeps=[("uplink", 1e5, 1e8)])
        assert planned.choice == choice
        assert moved in planned.changes
        (point,) = planned.sweeps[0].points
        assert (point.at, point.before, point.after) == (pytest.approx(at, rel=2e-4), "c1", "c0")
    slow = plan(made, made, link=LINK, serving=FREE)
    assert slow.changes == (
        "Above 2.91 Mbit/s up the cut moves to c0.",
        f"Above an edge slow-down of {0.288 / 0.099:.3g} the cut moves to c0.",
    )


def test_nothing_moves_the_only_sensible_cut(hand_made: HandMade, timed: Timed) -> None:
    made = profile_of([(100, 0.001, 0.001, 0.0), (20_000, 0.1, 0.1, 0.0)], hand_made, timed)
    assert plan(made, made, link=LINK, serving=FREE).changes == (
        "No uplink, round trip, edge slow-down or cloud load within a factor of 100 moves the cut.",
    )
    alone = profile_of([(100, 0.001, 0.001, 0.0)], hand_made, timed)
    assert plan(alone, alone, link=LINK, serving=FREE).changes == ()


def test_a_limit_that_begins_to_bind_is_told(hand_made: HandMade, timed: Timed) -> None:
    made = profile_of([(1_000, 0.010, 0.005, 0.0)], hand_made, timed)
    planned = plan(made, made, link=LINK, serving=FREE, limits=Limits(latency_s=0.2))
    least = planned.chosen.total_s
    assert f"Above a round trip of {(0.2 - least + 0.01) * 1e3:.3g} ms no cut keeps to the limits." in planned.changes
    assert f"Above an edge slow-down of {1 + (0.2 - least) / 0.010:.3g} no cut keeps to the limits." in planned.changes


@pytest.mark.parametrize("risk", ["mean", "p95"])
def test_draws_move_where_their_figures_cross(risk: str, hand_made: HandMade, timed: Timed) -> None:
    """The break-point under a risk: there, the plan's own figures of the two cuts are the same."""
    samples = [0.010] * 80 + [0.060] * 20
    made = hand_made(
        [10_000, 1_000],
        prefix=[timed(0.010, 0.0, samples), timed(0.100, 0.0, [0.1])],
        suffix=[timed(0.001, 0.0, [0.001])] * 2,
    )
    planned = plan(made, made, link=LINK, risk=risk, serving=FREE, sweeps=[("uplink", 1e5, 1e8)])
    (point,) = planned.sweeps[0].points
    there = plan(made, made, link=LINK.model_copy(update={"uplink_bps": point.at}), risk=risk, serving=FREE)
    figures = [row.mean_s if risk == "mean" else row.p95_s for row in there.cuts]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)
    median = plan(made, made, link=LINK, serving=FREE, sweeps=[("uplink", 1e5, 1e8)])
    assert median.sweeps[0].points[0].at < point.at


def test_narrow_lines_are_found_however_narrow() -> None:
    """Tangents of a parabola, each the least between the crossings with its neighbours, far closer than a step."""
    at = np.array([1.0, 2.0, 2.0004, 2.003, 2.0034, 7.0])

    asked: list[int] = []

    def score(place: int, values: Any) -> Any:
        asked.append(len(values))
        return 100 + at[place] ** 2 - 2 * at[place] * (10 - values)

    first, points = break_points(score, len(at), (0.5, 9.9), 1.01)
    crossings = sorted(10 - (one + other) / 2 for one, other in itertools.pairwise(at))
    assert first == 5
    assert [(before, after) for _, before, after in points] == [(place, place - 1) for place in (5, 4, 3, 2, 1)]
    assert [point for point, *_ in points] == pytest.approx(crossings, rel=2e-4)
    assert sum(asked) < 5_000  # a dense search that is as exact would ask for 180 000


def test_where_nothing_is_left_there_is_none() -> None:
    def score(place: int, values: Any) -> Any:
        return np.where((values > 2) & (values < 5), 1.0, np.inf)

    first, points = break_points(score, 1, (1.0, 4.0), 1.01)
    assert (first, [pair for _, *pair in points]) == (-1, [[-1, 0]])
    assert points[0][0] == pytest.approx(2, rel=1e-4)


def test_sentences() -> None:
    said = {
        "uplink": "4.1 Mbit/s up",
        "downlink": "4.1 Mbit/s down",
        "rtt": "a round trip of 4,100,000,000 ms",
        "edge-slowdown": "an edge slow-down of 4,100,000",
        "cloud-load": "a cloud load of 4,100,000",
    }
    for quantity in QUANTITIES:
        point = BreakPoint(at=4.1e6, before="pool5", after="")
        assert sentence(point, quantity, below=True) == f"Below {said[quantity]} the cut moves to pool5."
        assert sentence(point, quantity, below=False) == f"Above {said[quantity]} no cut keeps to the limits."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uplink=1:100", ("uplink", 1e6, 1e8)),
        ("downlink=0.5:2", ("downlink", 5e5, 2e6)),
        ("rtt=1:200", ("rtt", 1e-3, 0.2)),
        ("slowdown=1:20", ("edge-slowdown", 1, 20)),
        ("load=1.5:3", ("cloud-load", 1.5, 3)),
    ],
)
def test_sweeps_are_read_in_the_units_people_use(text: str, expected: tuple[str, float, float]) -> None:
    assert parse_sweep(text) == (expected[0], pytest.approx(expected[1]), pytest.approx(expected[2]))


@pytest.mark.parametrize(
    "text",
    ["", "uplink", "uplink=", "uplink=1", "uplink=1:2:3", "uplink=2:1", "uplink=1:1", "uplink=0:1", "uplink=-1:1",
     "uplink=1:inf", "uplink=nan:1", "slowdown=0.5:2", "speed=1:2", "uplink=a:b"],
)  # fmt: skip
def test_sweeps_that_cannot_be(text: str) -> None:
    with pytest.raises(EdgecutError):
        parse_sweep(text)


def test_sweep_survives_a_file(hand_made: HandMade, timed: Timed, tmp_path: Any) -> None:
    made = profile_of([(10_000, 0.001, 0.001, 0.0), (1_000, 0.100, 0.001, 0.0)], hand_made, timed)
    planned = plan(made, made, link=LINK, sweeps=[("uplink", 1e5, 1e8)], output=tmp_path / "a.plan.json")
    again = type(planned).load(tmp_path / "a.plan.json")
    assert isinstance(again.sweeps[0], Sweep)
    assert again.sweeps == planned.sweeps
