"""Two measurements compared: ratios against figures worked out here, and everything that makes them unlike, said."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from edgecut.reports.compare import RunComparison, compare
from edgecut.runtime.accuracy import NoiseAccuracy
from edgecut.runtime.measurement import Measurement

Make = Callable[..., Any]
SPREAD = 0.008
"""Of every interval the fixtures make: median * (1 - SPREAD) to median * (1 + SPREAD)."""


def run(make_case: Make, split_s: float = 6e-3, **changes: Any) -> Measurement:
    medians = {"split": split_s, "edge-only": 4e-4, "cloud-only float32": 8e-3, "cloud-only uint8": 6.4e-3}
    made: Measurement = make_case(medians_s=medians, **changes)[0]
    return made


@pytest.mark.parametrize(
    ("b_s", "verdict"),
    [(5e-3, "faster"), (6.05e-3, "level within the error"), (5.95e-3, "level within the error"), (7e-3, "slower")],
)
def test_ratio_interval_and_verdict(make_case: Make, b_s: float, verdict: str) -> None:
    made = compare(run(make_case), run(make_case, b_s))
    split = made.split
    assert split.latency_ratio == pytest.approx(b_s / 6e-3)
    assert split.ratio_low == pytest.approx(b_s * (1 - SPREAD) / (6e-3 * (1 + SPREAD)))
    assert split.ratio_high == pytest.approx(b_s * (1 + SPREAD) / (6e-3 * (1 - SPREAD)))
    assert split.verdict == verdict
    assert f"B is {verdict}" in made.headline
    same = [way for way in made.ways if way.role != "split"]
    assert [way.latency_ratio for way in same] == [1.0, 1.0, 1.0]


def test_a_run_against_itself_differs_in_nothing(make_case: Make) -> None:
    made = compare(run(make_case), run(make_case))
    assert made.like_for_like
    assert made.differences == ()
    assert made.split.latency_ratio == made.split.energy_ratio == 1.0
    assert made.accuracy is not None
    assert made.accuracy.difference_points == 0.0
    assert made.accuracy.low_points < 0 < made.accuracy.high_points
    assert RunComparison.from_json(made.to_json(), "memory").to_json() == made.to_json()


def test_swapping_the_runs_inverts_every_ratio(make_case: Make) -> None:
    a, b = run(make_case), run(make_case, 7e-3)
    forth, back = compare(a, b), compare(b, a)
    for one, other in zip(forth.ways, back.ways, strict=True):
        assert one.latency_ratio * other.latency_ratio == pytest.approx(1)
        assert one.ratio_low * other.ratio_high == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "other"}, "Model"),
        ({"slowdown": 3.0}, "Edge slow-down"),
        ({"emulated_link": False}, "Kind of link"),
        ({"link_emulation": "tun", "congestion_control": "cubic"}, "Kind of link"),
        ({"pause_s": 0.5}, "Pause between runs"),
    ],
)
def test_what_makes_the_runs_unlike(make_case: Make, changes: dict[str, Any], what: str) -> None:
    made = compare(run(make_case), run(make_case, **changes))
    assert not made.like_for_like
    assert [difference.what for difference in made.differences if difference.decisive] == [what]
    assert made.headline.startswith("Not like for like, the runs differ in " + what.lower())


def test_another_link_or_processor_is_unlike(make_case: Make) -> None:
    a = run(make_case)
    link = a.link.model_copy(update={"uplink_bps": 2 * a.link.uplink_bps})
    environment = a.environment.model_copy(update={"processor": "Another"})
    made = compare(a, a.model_copy(update={"link": link, "environment": environment}))
    assert [difference.what for difference in made.differences] == ["Link", "Processor"]
    assert not made.like_for_like


def test_versions_bundle_and_cut_are_told_but_stay_like_for_like(make_case: Make) -> None:
    a = run(make_case)
    environment = a.environment.model_copy(update={"versions": {**a.environment.versions, "numpy": "9.9"}})
    cut = next(row for row in a.plan.cuts if row.name != a.plan.choice)
    variants = tuple(
        v.model_copy(update={"predicted": cut, "name": f"split after {cut.name}"}) if v.role == "split" else v
        for v in a.variants
    )
    changed = {
        "environment": environment,
        "bundle_id": "sha256:" + "cc" * 32,
        "plan": a.plan.model_copy(update={"choice": cut.name}),
        "variants": variants,
    }
    made = compare(a, a.model_copy(update=changed))
    assert made.like_for_like
    assert [d.what for d in made.differences] == ["Cut", "Bundle", "Version of numpy"]
    assert made.split.label == f"split after {a.plan.choice} (A), split after {cut.name} (B)"


def test_ways_of_one_run_alone_are_named(make_case: Make) -> None:
    a = run(make_case)
    fewer = a.model_copy(update={"variants": a.variants[:-1]})
    made, back = compare(a, fewer), compare(fewer, a)
    assert (made.only_a, made.only_b) == (("cloud-only uint8",), ())
    assert (back.only_a, back.only_b) == ((), ("cloud-only uint8",))
    assert len(made.ways) == 3


def test_unknown_energy_and_accuracy_stay_unknown(make_case: Make) -> None:
    a = run(make_case)
    made = compare(a, run(make_case, power=None, accuracy=None))
    assert [way.energy_ratio for way in made.ways] == [None] * 4
    assert {way.energy_provenance for way in made.ways} == {"unavailable"}
    assert made.accuracy is None
    assert made.accuracy_missing == "accuracy was not measured in B"
    neither = a.model_copy(update={"accuracy": None})
    assert compare(neither, neither).accuracy_missing == "accuracy was not measured in A and in B"


def test_difference_of_accuracies(make_case: Make) -> None:
    """Newcombe's method 10, from the Wilson bounds of the two shares."""
    better = NoiseAccuracy.of("mnist", clean=9_890, noisy=49_400, items=10_000, draws=5)
    a, b = run(make_case), run(make_case, accuracy=better)
    made = compare(a, b).accuracy
    assert a.accuracy is not None and made is not None
    one, two = a.accuracy.with_noise, better.with_noise
    assert made.difference_points == pytest.approx(100 * (0.988 - 0.9812))
    below = math.sqrt((0.988 - two.low) ** 2 + (one.high - 0.9812) ** 2)
    above = math.sqrt((two.high - 0.988) ** 2 + (0.9812 - one.low) ** 2)
    assert (made.low_points, made.high_points) == pytest.approx((0.68 - 100 * below, 0.68 + 100 * above))


def test_slower_than_waits_for_the_whole_interval(make_case: Make) -> None:
    a = run(make_case)
    # 6.6 / 6.0 is 10 % slower; the interval begins at 1.1 * 0.992 / 1.008 = 1.0825.
    made = compare(a, run(make_case, 6.6e-3))
    assert made.slower_than(0) and made.slower_than(8.2)
    assert not made.slower_than(8.3)
    assert not compare(a, run(make_case, 6.05e-3)).slower_than(0)
    assert not compare(a, run(make_case, 3e-3)).slower_than(0)
