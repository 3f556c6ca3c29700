"""The page's what-if panel in a real browser: it plans as the planner does, and a keyboard is enough to use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecut.partitioner.choose import plan
from edgecut.partitioner.limits import InfeasibleError
from edgecut.partitioner.plan import Limits, Plan
from edgecut.profiler.profile import Energy, Profile, Timing
from edgecut.reports.html import report
from edgecut.runtime.measurement import Measurement

pytestmark = pytest.mark.deep

Opener = Callable[[int], Any]

ENTER, RIGHT = "\ue007", "\ue014"
# Mbit/s up, ms of round trip, edge slow-down; the first is the plan's own.
SETTINGS = (
    (12.8, 5, 12),
    (0.1, 5, 12),
    (1000, 0, 1),
    (1, 100, 50),
    (100, 5, 100),
    (40, 300, 2),
    (3.3, 17.5, 36.7),
    (200, 1, 80),
    (0.5, 250, 99),
    (1000, 0, 60),  # making the noise takes longer than the answer
)
AIMS: dict[str, dict[str, Any]] = {
    "latency": {"objective": "latency"},
    "energy": {"objective": "energy"},
    # In one setting, 20 ms to the joule choose as latency alone does, and 100 ms as energy does.
    "weighted": {"objective": "weighted", "weight_s_per_j": 0.02},
    "weighted more": {"objective": "weighted", "weight_s_per_j": 0.1},
    "edp": {"objective": "edp"},
    "limits": {"limits": Limits(latency_s=0.3, edge_energy_j=0.3, min_depth=2)},
    "leakage": {
        "objective": "energy",
        "limits": Limits(leakage_bits=8.5),
        "leakage": {"conv1": 9.0, "conv2": 8.0, "conv3": 7},
    },
}
SET = """['uplink', 'rtt', 'slowdown'].forEach((name, place) => {
    const field = document.getElementById('whatif-' + name);
    field.value = String(arguments[place]);
    field.dispatchEvent(new Event('input', { bubbles: true }));
}); return Object.assign({}, document.getElementById('whatif-section').dataset)"""
STATE = "return Object.assign({}, document.getElementById('whatif-section').dataset)"


def times(timing: Timing, factor: float) -> Timing:
    fields = ("median_s", "low_s", "high_s", "p95_s")
    made = {name: getattr(timing, name) * factor for name in fields}
    return timing.model_copy(update={**made, "samples_s": tuple(value * factor for value in timing.samples_s)})


def joules(energy: Energy, factor: float) -> Energy:
    return energy.model_copy(update={"energy_j": None if energy.energy_j is None else energy.energy_j * factor})


def contested(profile: Profile) -> Profile:
    """With edge parts so unlike that every cut is the best one somewhere, and noise that can outlast the wait."""
    cuts = []
    for place, cut in enumerate(profile.cuts, 1):
        changes = {
            "prefix": times(cut.prefix, 5.0 * place),
            "prefix_energy": joules(cut.prefix_energy, 5.0 * place),
            "noise": times(cut.noise, 0.2 * place),
            "noise_energy": joules(cut.noise_energy, 0.2 * place),
        }
        cuts.append(cut.model_copy(update=changes))
    return profile.model_copy(update={"cuts": tuple(cuts)})


def planned_as(measurement: Measurement, made: Plan) -> Measurement:
    """The same run under another plan."""
    named = [made.chosen, *made.baselines]
    variants = [v.model_copy(update={"predicted": row}) for v, row in zip(measurement.variants, named, strict=True)]
    return measurement.model_copy(update={"plan": made, "variants": tuple(variants)})


@pytest.mark.parametrize("options", AIMS.values(), ids=AIMS.keys())
def test_what_if_agrees_with_the_planner(
    case: Any, open_browser: Opener, tmp_path: Path, options: dict[str, Any]
) -> None:
    measurement, edge, cloud = case[0], contested(case[1]), case[2]
    slowdown, serving = measurement.plan.edge_slowdown, measurement.plan.serving
    made = plan(edge, cloud, edge_slowdown=slowdown, serving=serving, **options)
    browser = open_browser(1280)
    browser.open(report(planned_as(measurement, made), edge, cloud, tmp_path))
    assert browser.run(STATE)["choice"] == made.choice
    choices = []
    for uplink_mbps, rtt_ms, slower in SETTINGS:
        link = made.link.model_copy(update={"uplink_bps": uplink_mbps * 1e6, "rtt_s": rtt_ms * 1e-3})
        page = browser.run(SET, uplink_mbps, rtt_ms, slower)
        choices.append(page["choice"])
        try:
            there = plan(edge, cloud, link=link, edge_slowdown=slower, serving=serving, **options)
        except InfeasibleError:
            assert page["choice"] == page["totalS"] == page["energyJ"] == ""
            assert "no split keeps to the plan's limits" in browser.run("return document.body.textContent")
            continue
        assert page["choice"] == there.choice, (uplink_mbps, rtt_ms, slower)
        assert float(page["totalS"]) == pytest.approx(there.chosen.total_s, rel=1e-9)
        assert float(page["energyJ"]) == pytest.approx(there.chosen.energy_j, rel=1e-9)
    assert len(set(choices) - {""}) >= 2
    assert ("" in choices) == ("limits" in options and options["limits"].latency_s is not None)
    assert browser.console() == []


def test_what_if_plans_medians_and_says_so(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    measurement, edge, cloud = case[0], contested(case[1]), case[2]
    made = plan(edge, cloud, edge_slowdown=12, serving=measurement.plan.serving, risk="p95")
    medians = plan(edge, cloud, edge_slowdown=12, serving=measurement.plan.serving)
    browser = open_browser(1280)
    browser.open(report(planned_as(measurement, made), edge, cloud, tmp_path))
    assert float(browser.run(STATE)["totalS"]) == pytest.approx(medians.chosen.total_s, rel=1e-9)
    how = browser.run("return document.getElementById('whatif-how').textContent")
    assert "It plans in medians, although the plan itself went by the 95th percentile." in how


def test_what_if_bars_and_table_show_the_setting(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    measurement, edge, cloud = case
    browser = open_browser(1280)
    browser.open(report(*case, tmp_path))
    browser.run(SET, 0.1, 5, 12)
    link = measurement.link.model_copy(update={"uplink_bps": 0.1e6})
    rows = plan(edge, cloud, link=link, edge_slowdown=12, serving=measurement.plan.serving)
    wanted = [row.total_s * 1e3 for row in (*rows.cuts, *rows.baselines)]
    stacks = browser.run(
        "const bars = document.getElementById('figure-whatif').data.map(trace => trace.x);"
        "return bars[0].map((_, row) => bars.reduce((sum, part) => sum + part[row], 0))"
    )
    assert stacks == pytest.approx(wanted)
    cells = browser.run(
        "return [...document.querySelectorAll('#whatif-rows tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    assert [float(cell[1]) for cell in cells] == pytest.approx(wanted, rel=2e-3)
    assert [cell[0] for cell in cells if "\N{BLACK STAR}" in cell[0]] == [f"split after {rows.choice} \N{BLACK STAR}"]


def test_what_if_by_keyboard(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    browser.open(report(*case, tmp_path))
    before = browser.run(STATE)
    browser.press("#whatif-uplink-slider", RIGHT * 40)
    moved = browser.run("return document.getElementById('whatif-uplink').valueAsNumber")
    assert moved == pytest.approx(12.8 * 10**0.4, rel=0.02)
    assert browser.run("return document.getElementById('whatif-uplink-slider').ariaValueText") == f"{moved:g} Mbit/s"
    assert float(browser.run(STATE)["totalS"]) < float(before["totalS"])
    browser.press("#whatif-rtt", "x9999")  # no number of milliseconds that the field takes
    assert browser.run("return document.getElementById('whatif-rtt').getAttribute('aria-invalid')") == "true"
    assert "from 0 to 300" in browser.run("return document.getElementById('whatif-rtt-error').textContent")
    browser.press("#whatif-reset", ENTER)
    assert browser.run(STATE) == before
    assert browser.run("return document.getElementById('whatif-rtt').value") == "5"
    assert browser.run("return document.getElementById('whatif-rtt').getAttribute('aria-invalid')") is None
