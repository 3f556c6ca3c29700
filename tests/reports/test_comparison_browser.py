"""The comparison's page in a real browser: its figure shows both runs' medians and intervals, on a phone as well."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecut.reports.compare import RunComparison, compare
from edgecut.reports.formats import write

pytestmark = pytest.mark.deep

Opener = Callable[[int], Any]

WIDTHS = {"desktop": 1280, "phone": 360}
MEDIANS_A = {"split": 6.3e-3, "edge-only": 2.0e-3, "cloud-only float32": 8.6e-3, "cloud-only uint8": 5.2e-3}
MEDIANS_B = {"split": 3.1e-3, "edge-only": 2.5e-3, "cloud-only float32": 9.9e-3, "cloud-only uint8": 4.4e-3}
DRAWN = """
const middle = box => [box.left + box.width / 2, box.top + box.height / 2];
const all = (selector, place) => [...place.querySelectorAll(selector)];
const figure = document.getElementById('figure-ways');
const texts = selector => all(selector, figure).map(one => [one.textContent, ...middle(one.getBoundingClientRect())]);
return {
    traces: all('.scatterlayer .trace', figure).map(trace => ({
        marks: all('path.point', trace).map(one => middle(one.getBoundingClientRect())),
        bars: all('path.xerror', trace).map(one => one.getBBox().width),
        fill: getComputedStyle(trace.querySelector('path.point')).fill })),
    legend: texts('.legendtext').map(one => one[0]),
    x: texts('.xtick text'), y: texts('.ytick text'),
    width: figure.querySelector('svg').clientWidth }"""


def comparison(make_case: Callable[..., Any], **changes: Any) -> RunComparison:
    return compare(
        make_case(medians_s=MEDIANS_A, **changes)[0],
        make_case(medians_s=MEDIANS_B, **changes)[0],
    )


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_figure_shows_both_runs(
    make_case: Callable[..., Any], open_browser: Opener, tmp_path: Path, width: int
) -> None:
    made = comparison(make_case)
    browser = open_browser(width)
    browser.open(write(made, "html", tmp_path))
    assert browser.console() == []
    assert browser.run("return document.documentElement.dataset.errors") == "0"
    assert browser.run("return document.documentElement.scrollWidth") <= width
    drawn = browser.run(DRAWN)
    assert 200 < drawn["width"] <= width
    assert drawn["legend"] == ["run A", "run B"]
    # Where a mark stands is read off the axis' own numbers.
    (low, first, _), (high, last, _) = drawn["x"][0], drawn["x"][-1]
    pixels_ms = (last - first) / (float(high) - float(low))
    for trace, spreads in zip(drawn["traces"], zip(*[(way.a, way.b) for way in made.ways], strict=True), strict=True):
        shown = [float(low) + (x - first) / pixels_ms for x, _ in trace["marks"]]
        assert shown == pytest.approx([spread.median_s * 1e3 for spread in spreads], abs=1.5 / pixels_ms)
        intervals = [(spread.high_s - spread.low_s) * 1e3 for spread in spreads]
        assert [bar / pixels_ms for bar in trace["bars"]] == pytest.approx(intervals, abs=1.5 / pixels_ms)
    for (_, _, middle), (_, a), (_, b) in zip(
        drawn["y"], drawn["traces"][0]["marks"], drawn["traces"][1]["marks"], strict=True
    ):
        assert 3 < middle - a < 20 and 3 < b - middle < 20
    if width == WIDTHS["desktop"]:
        assert [name for name, *_ in drawn["y"]] == [way.label for way in made.ways]


def test_nothing_is_fetched_and_names_stay_text(
    make_case: Callable[..., Any], open_browser: Opener, tmp_path: Path
) -> None:
    made = comparison(make_case, suffix="<i>x</i>")
    browser = open_browser(1280)
    browser.open(write(made, "html", tmp_path))
    assert browser.console() == []
    loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []
    assert browser.run(DRAWN)["y"][0][0] == made.split.label
    assert re.search(r"<i>x</i>$", made.split.label)


def test_figure_follows_the_dark_scheme(make_case: Callable[..., Any], open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    browser.media(prefers_color_scheme="dark")
    browser.open(write(comparison(make_case), "html", tmp_path))
    body = browser.run("return getComputedStyle(document.body).color")
    a, b = (trace["fill"] for trace in browser.run(DRAWN)["traces"])
    assert a == body == "rgb(232, 234, 237)" and b not in (a, "rgb(20, 23, 27)")


@pytest.mark.parametrize("kept", [1, 4])
def test_a_comparison_of_few_or_all_ways_is_drawn(
    make_case: Callable[..., Any], open_browser: Opener, tmp_path: Path, kept: int
) -> None:
    made = comparison(make_case)
    browser = open_browser(360)
    browser.open(write(made.model_copy(update={"ways": made.ways[:kept]}), "html", tmp_path))
    assert browser.console() == []
    assert [len(trace["marks"]) for trace in browser.run(DRAWN)["traces"]] == [kept, kept]
