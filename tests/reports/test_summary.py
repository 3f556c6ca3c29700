"""report.json's data: every number equals its input, every absence has a reason, losses are said plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgecut.errors import ArtefactError
from edgecut.partitioner.plan import BreakPoint, Limits, Sweep
from edgecut.reports import plan_words
from edgecut.reports.choice_table import choice_table
from edgecut.reports.content import Report
from edgecut.reports.summary import summarise
from edgecut.reports.words import headline, noise_cost


def test_numbers_equal_the_inputs(case: Any) -> None:
    measurement, edge, cloud = case
    made = summarise(*case)
    split = made.split.measured
    assert split is not None
    assert split.latency.median_s == measurement.split.latency.median_s
    assert (split.latency.low_s, split.latency.high_s) == (
        measurement.split.latency.low_s,
        measurement.split.latency.high_s,
    )
    assert [way.modelled for way in made.ways] == [*measurement.plan.cuts, *measurement.plan.baselines]
    assert [c.baseline for c in made.comparisons] == ["edge-only", "cloud-only float32", "cloud-only uint8"]
    for compared, variant in zip(made.comparisons, measurement.variants[1:], strict=True):
        assert compared.speedup == measurement.speedup(variant)
        assert (compared.speedup_low, compared.speedup_high) == measurement.speedup_interval(variant)
        assert compared.energy_ratio == measurement.energy_ratio(variant)
        assert compared.energy_provenance == "modelled"
    assert made.accuracy is not None
    assert made.accuracy.loss_points == pytest.approx(0.78)
    assert [row.edge_s for row in made.layers] == [layer.latency_s for layer in edge.layers]
    assert made.edge.layer_gap_s == pytest.approx(edge.layer_sum_s - edge.whole.median_s)
    assert made.cloud.whole.median_s == cloud.whole.median_s
    assert [cut.edge_prefix.median_s for cut in made.cuts] == [cut.prefix.median_s for cut in edge.cuts]


def test_what_the_plan_was_asked_for_is_taken_over(case: Any) -> None:
    plan = case[0].plan.model_copy(update={"weight_s_per_j": 0.2, "limits": Limits(min_depth=2), "candidates": ("x",)})
    planned = summarise(case[0].model_copy(update={"plan": plan}), *case[1:]).planned
    same = set(type(planned).model_fields) - {"kind", "version", "link", "idle_w", "best_share"}
    assert {name: getattr(planned, name) for name in same} == {name: getattr(plan, name) for name in same}
    assert planned.link.uplink_bps == plan.link.uplink_bps
    assert planned.idle_w == plan.edge.power.idle_w
    assert planned.best_share == plan.chosen.best_share


def test_file_reads_back(case: Any, tmp_path: Any) -> None:
    made = summarise(*case)
    assert Report.load(made.save(tmp_path / "report.json")).model_copy(update={"kind": "", "version": 0}) == made


def test_only_the_measured_ways_carry_measurements(case: Any) -> None:
    made = summarise(*case)
    assert [way.label for way in made.ways if way.measured] == [
        "split after fc1",
        "edge-only",
        "cloud-only float32",
        "cloud-only uint8",
    ]
    assert sum(way.chosen for way in made.ways) == 1


def test_what_is_unavailable_is_none_with_a_reason(bare_case: Any) -> None:
    made = summarise(*bare_case)
    assert made.accuracy is None
    assert made.accuracy_missing
    assert all(way.modelled.energy_j is None and way.modelled_energy_missing for way in made.ways)
    assert all(
        c.energy_ratio is None and c.energy_provenance == "unavailable" and c.energy_source for c in made.comparisons
    )
    assert made.edge.layer_sum_s is None
    assert made.edge.layer_gap_share is None
    assert made.warnings == ()


def test_headline_says_losses_first_and_ties_as_ties(case: Any) -> None:
    assert headline(case[0]) == (
        "The split after fc1 takes 6.320 ms end to end (95 % interval 6.269\N{EN DASH}6.371): it is slower than "
        "edge-only (0.412 ms, 15.3 times as fast); within the error it is level with cloud-only uint8 (6.410 ms, "
        "speedup 1.01); it is 1.36 times as fast as cloud-only float32 (8.610 ms)."
    )


def test_the_noise_has_its_sentence(case: Any) -> None:
    text, (added, worked) = noise_cost(case[0]), case[0].noise_shares
    assert text.startswith(f"The noise adds {100 * added:.2f} % of the time that the link takes")
    assert "while the answer is awaited" in text and f"it is {100 * worked:.2f} % (measured" in text


def test_headline_says_slower_of_a_tie_that_leans_to_the_baseline(make_case: Callable[..., Any]) -> None:
    medians = {"split": 6.32e-3, "edge-only": 9e-3, "cloud-only float32": 8e-3, "cloud-only uint8": 6.28e-3}
    text = headline(make_case(medians_s=medians)[0])
    assert "level with cloud-only uint8 (6.280 ms, speedup 0.994)" in text
    assert "slower than" not in text


def test_emulation_and_doubts_are_warned_of(make_case: Callable[..., Any]) -> None:
    measurement, edge, cloud = make_case(converged=False)
    other = edge.model_copy(update={"measured_at": "2026-01-01T00:00:00+00:00", "converged": False})
    warnings = summarise(measurement, other, cloud).warnings
    assert warnings[0].startswith("Emulated edge: this machine's processor, held back by a factor of 12")
    assert "emulated link (a relay holds bytes back)" in warnings[1]
    assert "the intervals are wider than asked for" in warnings[2]
    assert "the plan was made from one of 2026-11-21T22:13:55+00:00" in warnings[3]
    assert "The edge profile ran out of time" in warnings[4]


def test_wrong_answers_of_a_baseline_are_warned_of_but_not_the_noise(make_case: Callable[..., Any]) -> None:
    measurement, edge, cloud = make_case()
    wrong = tuple(variant.model_copy(update={"wrong_answers": 3}) for variant in measurement.variants)
    warnings = summarise(measurement.model_copy(update={"variants": wrong}), edge, cloud).warnings
    assert "edge-only 3, cloud-only float32 3, cloud-only uint8 3" in warnings[2]
    assert "split" not in warnings[2]


def test_every_note_has_a_provenance_and_the_plan_is_modelled(case: Any) -> None:
    notes = {note.figures: note for note in summarise(*case).provenance}
    assert all(note.how.endswith(".") for note in notes.values())
    predicted = notes["Predicted latency of every cut and baseline, and its parts"]
    assert predicted.provenance == "modelled"
    assert "slow-down of 12" in predicted.how
    assert notes["Rates and round trip of link wifi"].provenance == "published"
    assert "held back by a factor of 12" in next(n.how for f, n in notes.items() if f.startswith("End-to-end"))


def test_profiles_of_another_model_are_refused(case: Any) -> None:
    measurement, edge, cloud = case
    other = edge.model_copy(update={"model": edge.model.model_copy(update={"digest": "sha256:" + "00" * 32})})
    with pytest.raises(ArtefactError, match="the edge profile is of lenet5"):
        summarise(measurement, other, cloud)
    with pytest.raises(ArtefactError, match="the cloud profile"):
        summarise(measurement, edge, other)


def test_choice_table_shows_only_what_the_plan_knows(case: Any) -> None:
    measurement = case[0]
    bare = {"depth": None, "edge_memory_bytes": None, "mean_s": None, "p95_s": None, "best_share": None}
    cuts = tuple(cut.model_copy(update=bare) for cut in measurement.plan.cuts)
    plan = measurement.plan.model_copy(update={"cuts": cuts, "pareto": ()})
    variants = tuple(
        v.model_copy(update={"predicted": v.predicted.model_copy(update=bare)}) for v in measurement.variants
    )
    nothing = summarise(measurement.model_copy(update={"plan": plan, "variants": variants}), *case[1:])
    assert choice_table(nothing) is None
    known = cuts[0].model_copy(update={"edge_memory_bytes": 1_234_567, "memory_provenance": "measured"})
    plan = plan.model_copy(update={"cuts": (known, *cuts[1:])})
    table = choice_table(summarise(measurement.model_copy(update={"plan": plan}), *case[1:]))
    assert table is not None
    assert [title for title, *_ in table.titles] == ["Edge memory"]
    assert [(row.cells[0].text, row.cells[0].sort) for row in table.rows] == [
        ("1.235", "1234567"),
        *[("unavailable", "")] * 3,
    ]
    assert table.rows[0].cells[0].badge == "measured"


def test_aims_limits_and_sweeps_in_words(case: Any) -> None:
    made = summarise(*case)
    asked = (made.objective, made.planned.weight_s_per_j, made.planned.risk, made.planned.wire)
    assert plan_words.aim(*asked) == "Planned for the least latency, of medians."
    assert plan_words.aim("weighted", 0.3, "p95", "int8") == (
        "Planned for the least sum of latency and weighted energy (300 ms to the joule), in the 95th percentile; "
        "activations cross as int8, a byte a value."
    )
    kept = Limits(edge_memory_bytes=2_500_000, edge_energy_j=0.004, latency_s=0.01, min_depth=3, leakage_bits=7.5)
    assert plan_words.limits(kept) == [
        "edge memory at most 2.5 MB",
        "edge energy at most 4 mJ",
        "latency at most 10 ms",
        "at least 3 compute layers on the edge",
        "leakage at most 7.5 bits",
    ]
    assert plan_words.limits(Limits()) == []
    points = (BreakPoint(at=0.02, before="a", after=""), BreakPoint(at=0.05, before="", after="b"))
    stretches = plan_words.segments((Sweep(quantity="rtt", low=0.0, high=0.2, first="a", points=points),))
    assert [(part.low, part.high, part.choice) for part in stretches] == [
        ("0", "20", "a"),
        ("20", "50", "no cut keeps to the limits"),
        ("50", "200", "b"),
    ]
    assert {part.quantity for part in stretches} == {"Round trip, ms"}


def test_figures_beside_latency_say_where_they_come_from(case: Any) -> None:
    measurement = case[0]
    first, second, *rest = measurement.plan.cuts
    cuts = (
        first.model_copy(update={"edge_memory_bytes": 10**6, "memory_provenance": "measured", "leakage_bits": 9.0}),
        second.model_copy(update={"edge_memory_bytes": 10**6, "memory_provenance": "modelled", "basis": "layers"}),
        *(cut.model_copy(update={"edge_memory_bytes": None}) for cut in rest),
    )
    plan = measurement.plan.model_copy(update={"cuts": cuts})
    notes = {
        note.figures: note for note in summarise(measurement.model_copy(update={"plan": plan}), *case[1:]).provenance
    }
    assert notes["Memory of the edge partition: conv1"].provenance == "measured"
    assert notes["Memory of the edge partition: conv2"].provenance == "modelled"
    assert notes["Times of cuts that nothing timed: conv2"].provenance == "modelled"
    assert notes["Leakage of cuts"].provenance == "given"
