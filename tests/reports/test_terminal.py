"""The terminal's tables: what they say, that they fit, and that a name is never obeyed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from edgecut.reports import terminal, units
from edgecut.reports.plan_table import plan_table

WIDTHS = (80, 120)


def printed(renderable: RenderableType, width: int = 120) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(start))


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_fit_and_no_row_wraps(case: Any, width: int) -> None:
    measurement, profile, _ = case
    for text in (
        printed(terminal.profile_table(profile), width),
        printed(plan_table(measurement.plan), width),
        printed(terminal.measurement_table(measurement), width),
    ):
        assert max(len(line) for line in text.splitlines()) <= width
    plan = printed(plan_table(measurement.plan), width)
    for row in (*measurement.plan.cuts, *measurement.plan.baselines):
        assert f"{row.total_s * 1e3:.3f}" in next(line for line in plan.splitlines() if f" {row.name} " in line), row


def test_choice_is_marked_and_missing_baseline_explained(case: Any) -> None:
    text = printed(plan_table(case[0].plan))
    assert line_of(text, "→").split()[1] == case[0].plan.choice
    assert "not compared: cloud-only JPEG: the model's inputs are no photographs" in text
    assert "Emulated edge: this machine's processor, held back by a factor of 12" in text
    assert "modelled from measured parts" in text


def test_measurement_shows_measured_beside_plan_and_banner_first(case: Any) -> None:
    measurement = case[0]
    text = printed(terminal.measurement_table(measurement))
    assert text.startswith("Emulated edge: this machine's processor, held back by a factor of 12")
    assert "emulated link (a relay holds bytes back)" in text
    row = line_of(text, "cloud-only float32")
    assert "8.610" in row
    assert f"{measurement.variants[2].predicted.total_s * 1e3:.3f}" in row
    assert "1.36" in row


def test_unavailable_is_a_dash_with_a_reason_and_never_nought(bare_case: Any) -> None:
    measurement, profile, _ = bare_case
    plan = printed(plan_table(measurement.plan))
    assert "energy unavailable: the edge profile has no energy and the edge's idle power is unknown" in plan
    assert line_of(plan, "edge-only").split()[-2] == "-"
    text = printed(terminal.measurement_table(measurement))
    assert "energy unavailable: no meter here" in text
    assert "accuracy unavailable" in text
    assert "layer times unavailable" in printed(terminal.profile_table(profile))


def test_profile_without_a_cut_says_so_in_place_of_the_table(case: Any) -> None:
    profile = case[1]
    bare, full = (printed(terminal.profile_table(one)) for one in (profile.model_copy(update={"cuts": ()}), profile))
    assert bare.count("no cut was timed (--cuts layers)") == 1
    assert "cut after" not in bare and "the parts above" not in bare
    assert "cut after" in full and "the parts above decide" in full and "no cut was timed" not in full


def test_unsettled_measurement_says_so(make_case: Callable[..., Any]) -> None:
    text = printed(terminal.measurement_table(make_case(converged=False)[0]))
    assert "the intervals are wider than asked for" in text


def test_long_names_are_shortened_to_fit_only(make_case: Callable[..., Any]) -> None:
    measurement = make_case(suffix="/features/a.very.long.module.path/Conv")[0]
    narrow, wide = (printed(plan_table(measurement.plan), width) for width in (80, 160))
    assert "…" in narrow
    assert all(len(line) <= 80 for line in narrow.splitlines())
    assert "conv1/features/a.very.long.module.path/Conv" in wide


def test_shortened_names_still_tell_themselves_apart() -> None:
    names = [f"inception{block}.branch{branch}.conv" for block in ("3a", "3b", "4a") for branch in (1, 2)]
    rows = terminal.Rows(("name", "much"), tuple((name, "x" * 60) for name in names))
    shown = [line.split()[0] for line in printed(rows, 80).splitlines()[1:]]
    assert len(set(shown)) == len(names) and all(len(name) < len(names[0]) for name in shown)


def test_names_are_neither_markup_nor_escape_sequences(make_case: Callable[..., Any]) -> None:
    measurement = make_case(suffix="[bold]\x1b[31m")[0]
    text = printed(plan_table(measurement.plan), 160)
    assert "conv1[bold]" in text
    assert "\x1b" not in text


def test_accuracy_line(case: Any) -> None:
    line = str(terminal.accuracy_line(case[0].accuracy))
    assert "10,000 unseen items of mnist, measured: 98.90 % [98.68, 99.09] without noise" in line
    assert "98.12 % [97.83, 98.37] with (5 draws); loss 0.78 points" in line


def test_terminal_loads_neither_plotly_nor_jinja2() -> None:
    code = (
        "import sys, edgecut.reports.terminal; sys.exit(any(m in sys.modules for m in ('plotly', 'jinja2', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_numbers_are_spelled_with_care() -> None:
    scale = units.milliseconds([0.25])
    assert scale.text(None) == "unavailable"
    assert scale.text(0.0) == "0.0"
    assert scale.text(1e-6) == "<0.1"
    assert units.times([5e-6]).unit == "µs"
    assert [units.ratio(value) for value in (None, 0.0004, 0.0652, 1.362, 20.41, 1234.5)] == [
        "unavailable",
        "0.0004",
        "0.065",
        "1.36",
        "20.4",
        "1,234",
    ]
    assert units.shorten("features.12/Conv_1", 9) == "feat…nv_1"
    assert units.moment("2026-11-21T22:13:55+00:00") == "2026-11-21 22:13:55 UTC"
