"""The report in a real browser: Debian's chromium, headless, driven through chromedriver's HTTP interface."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecut.reports.html import report

pytestmark = pytest.mark.deep

WIDTHS = {"desktop": 1280, "phone": 390}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
FIGURES = """return [...document.querySelectorAll('.plot')].map(p => ({
    id: p.id, bars: p.querySelectorAll('svg .bars path').length, width: p.querySelector('svg')?.clientWidth ?? 0,
    label: p.getAttribute('aria-label') }))"""


class Browser:
    """One chromium at one width. `call` is the WebDriver protocol: JSON over HTTP."""

    def __init__(self, port: int, width: int) -> None:
        self.base = f"http://127.0.0.1:{port}/session"
        options = {
            "args": [*FLAGS, f"--window-size={max(width, 600)},900"],
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": 900, "pixelRatio": 1.0}},
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.call("", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/" + made["sessionId"]

    def call(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script: str) -> Any:
        return self.call("/execute/sync", {"script": script, "args": []})

    def open(self, page: Path) -> None:
        self.call("/url", {"url": page.as_uri()})
        give_up = time.monotonic() + 30
        while self.run("return document.documentElement.dataset.ready") != "true":
            assert time.monotonic() < give_up, f"the page is not ready: {self.console()}"
            time.sleep(0.1)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.call("/se/log", {"type": "browser"})]

    def picture(self) -> bytes:
        """The whole page, as tall as it is."""
        height = self.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        parameters = {"captureBeyondViewport": True, "clip": clip}
        made = self.call("/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": parameters})
        return base64.b64decode(made["data"])


Opener = Callable[[int], Browser]


@pytest.fixture
def open_browser() -> Iterator[Opener]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("chromium and chromedriver are needed: apt-get install chromium chromium-driver")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    opened: list[Browser] = []
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "successfully on port" in line)
        port = int(line.rsplit("on port", 1)[1].strip(" .\n"))

        def opener(width: int) -> Browser:
            opened.append(Browser(port, width))
            return opened[-1]

        yield opener
    finally:
        for browser in opened:
            browser.call("", method="DELETE")
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_page_opens_from_disk_without_errors(case: Any, open_browser: Opener, tmp_path: Path, width: int) -> None:
    page = report(*case, tmp_path)
    browser = open_browser(width)
    browser.open(page)
    assert browser.console() == []
    assert browser.run("return document.documentElement.dataset.errors") == "0"
    drawn = {figure["id"]: figure for figure in browser.run(FIGURES)}
    assert set(drawn) == {"figure-latency", "figure-energy", "figure-layers"}
    assert all(figure["bars"] > 8 and figure["label"] for figure in drawn.values())
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
    assert (
        browser.run("return document.querySelectorAll('img, a, body script:not([id])').length") == 2
    )  # plotly.js and ours


def test_figures_follow_the_dark_scheme(case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(1280)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.call("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": dark})
    browser.open(report(*case, tmp_path))
    shown = (
        "return [getComputedStyle(document.body).color, getComputedStyle(document.querySelector('.ytick text')).fill]"
    )
    page, tick = browser.run(shown)
    assert page == tick == "rgb(232, 234, 237)"


def test_page_without_energy_accuracy_and_layer_times(bare_case: Any, open_browser: Opener, tmp_path: Path) -> None:
    browser = open_browser(390)
    browser.open(report(*bare_case, tmp_path))
    assert browser.console() == []
    assert [figure["id"] for figure in browser.run(FIGURES)] == ["figure-latency"]
    assert browser.run("return document.documentElement.scrollWidth") <= 390
