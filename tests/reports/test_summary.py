"""report.json's data: every number equals its input, every absence has a reason, losses are said plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgecut.errors import ArtefactError
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
    assert "level with cloud-only uint8 (6.280 ms, speedup 0.994, slower)" in text
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
