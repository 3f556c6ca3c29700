"""The report in a real browser: Debian's chromium, headless; how it looks, prints, sorts, and can be used by all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecut.reports.html import report

pytestmark = pytest.mark.deep

Opener = Callable[[int], Any]

WIDTHS = {"desktop": 1280, "phone": 360}
FIGURES = """return [...document.querySelectorAll('.plot')].map(p => ({
    id: p.id, bars: p.querySelectorAll('svg .bars path').length, width: p.querySelector('svg')?.clientWidth ?? 0,
    label: p.getAttribute('aria-label') }))"""
AXE = "4.10.3"
AXE_INTEGRITY = "sha512-Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg=="
CACHE = Path(os.environ["EDGECUT_CACHE"])
SPACE = "\ue00d"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_page_opens_from_disk_without_errors(case: Any, open_browser: Opener, tmp_path: Path, width: int) -> None:
    page = report(*case, tmp_path)
    browser = open_browser(width)
    browser.open(page)
    assert browser.console() == []
    assert browser.run("return document.documentElement.dataset.errors") == "0"
    drawn = {figure["id"]: figure for figure in browser.run(FIGURES)}
    assert set(drawn) == {f"figure-{name}" for name in ("latency", "whatif", "pareto", "energy", "layers")}
    assert all(figure["label"] for figure in drawn.values())
    assert all(figure["bars"] > 8 for name, figure in drawn.items() if name != "figure-pareto")
    assert browser.run("return document.querySelectorAll('#figure-pareto .points path').length") == len(
        case[0].plan.cuts + case[0].plan.baselines
    )
    assert all(200 < figure["width"] <= width for figure in drawn.values())


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_page_never_overflows_sideways(case: Any, open_browser: Opener, tmp_path: Path, width: int) -> None:
    browser = open_browser(width)
    browser.open(report(*case, tmp_path))
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_nothing_is_fetched(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    browser.open(report(*case, tmp_path))
    loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_hostile_names_stay_text(make_case: Callable[..., Any], open_browser: Opener, tmp_path: Path) -> None:
    # plotly.js reads some HTML in its labels, so the links in its figures are counted too.
    name = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'><a href='https://example.org'>x</a>"
    browser = open_browser(1280)
    browser.open(report(*make_case(name=name, suffix=name), tmp_path))
    assert browser.console() == []
    assert name in browser.run("return document.querySelector('h1').textContent")
    assert not browser.run("return document.title").startswith("owned")
    found = "return document.querySelectorAll('img, a:not([href^=\"#\"]), body script:not([id])').length"
    assert browser.run(found) == 4  # plotly.js and three of ours


def test_figures_follow_the_dark_scheme(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    browser.media(prefers_color_scheme="dark")
    browser.open(report(*case, tmp_path))
    shown = (
        "return [getComputedStyle(document.body).color, getComputedStyle(document.querySelector('.ytick text')).fill]"
    )
    page, tick = browser.run(shown)
    assert page == tick == "rgb(232, 234, 237)"


def test_page_without_energy_accuracy_and_layer_times(bare_case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(360)
    browser.open(report(*bare_case, tmp_path))
    assert browser.console() == []
    assert [figure["id"] for figure in browser.run(FIGURES)] == ["figure-latency", "figure-whatif", "figure-pareto"]
    assert browser.run("return document.documentElement.scrollWidth") <= 360


def test_layer_table_sorts_by_keyboard(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    browser.open(report(*case, tmp_path))
    browser.run("[...document.querySelectorAll('table.sortable')].at(-1).id = 'layers'")
    names = "return [...document.querySelectorAll('#layers tbody th')].map(cell => cell.textContent)"
    sorts = "return [...document.querySelectorAll('#layers thead th')].map(head => head.ariaSort)"

    def press(column: int) -> list[str]:
        browser.press(f"#layers thead th:nth-child({column}) button", SPACE)
        found: list[str] = browser.run(names)
        return found

    layers = ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert browser.run(names) == layers
    # Parameters are shown as 156, 2,416, 48,120, 10,164 and 850.
    assert press(4) == ["conv1", "fc2", "conv2", "fc1", "conv3"]
    assert browser.run(sorts) == ["none"] * 3 + ["ascending"] + ["none"] * 3
    assert press(4) == ["conv3", "fc1", "conv2", "fc2", "conv1"]
    assert press(4) == layers
    # fc2 has no edge time: it is last both ways.
    assert press(6) == ["fc1", "conv2", "conv3", "conv1", "fc2"]
    assert press(6) == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert browser.run(sorts) == ["none"] * 5 + ["descending", "none"]


def test_print_has_no_panel_and_figures_that_fit_a_page(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    browser.open(report(*case, tmp_path))
    browser.media("print")
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run("return document.getElementById('whatif-section').offsetParent") is None
    assert browser.run("return [...document.querySelectorAll('details')].every(part => part.open)")
    sizes = browser.run(
        "return [...document.querySelectorAll('.plot')].filter(p => p.offsetParent).map(p => {"
        "const box = p.querySelector('svg').getBoundingClientRect(); return [box.width, box.height] })"
    )
    assert len(sizes) == 4
    assert all(width <= 680 and height <= 900 for width, height in sizes)
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    browser.media()
    assert not browser.run("return [...document.querySelectorAll('details')].every(part => part.open)")


def axe() -> str:
    """axe-core's text, from npm, installed once beside the tests' other caches."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    folder = CACHE / f"axe-core-{AXE}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".axe-core-") as beside:
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", beside]
            command = ["npm", "install", *options, f"axe-core@{AXE}"]
            done = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stderr[-500:]
            lock = json.loads((Path(beside) / "node_modules" / ".package-lock.json").read_text())
            assert lock["packages"]["node_modules/axe-core"]["integrity"] == AXE_INTEGRITY
            (Path(beside) / "node_modules").rename(folder)
    return (folder / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_axe_finds_nothing_serious(case: Any, open_browser: Opener, tmp_path: Path, width: int, scheme: str) -> None:
    browser = open_browser(width)
    browser.media(prefers_color_scheme=scheme)
    browser.open(report(*case, tmp_path))
    browser.run(axe() + "; window.axe = axe")
    script = "const done = arguments[0]; window.axe.run(document).then(done, error => done(String(error)))"
    found = browser.call("/execute/async", {"script": script, "args": []})
    assert len(found["passes"]) > 20
    serious = [rule for rule in found["violations"] if rule["impact"] in ("serious", "critical")]
    assert not [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in serious]
