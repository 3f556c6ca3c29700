"""report.html as text: self-contained, escaped, and saying what it must; a browser looks at it in test_browser.py."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgecut.errors import ArtefactError
from edgecut.partitioner.plan import BreakPoint, Limits, Sweep
from edgecut.reports.content import Report
from edgecut.reports.html import CONTENTS, report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.seen = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.seen += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.seen)


def made(case: Any, folder: Path) -> Page:
    return Page(report(*case, folder).read_text(encoding="utf-8"))


def test_writes_page_and_json_side_by_side(case: Any, tmp_path: Path) -> None:
    page = report(*case, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    assert Report.load(page.with_suffix(".json")).split.label == "split after fc1"
    assert json.loads(page.with_suffix(".json").read_text())["kind"] == "report"
    named = report(*case, tmp_path / "lenet.html")
    assert named.is_file()
    assert named.with_suffix(".json").is_file()


def test_reads_files_as_well(case: Any, tmp_path: Path) -> None:
    names = ("m.measure.json", "edge.profile.json", "cloud.profile.json")
    paths = [value.save(tmp_path / name) for value, name in zip(case, names, strict=True)]
    again, direct = report(*paths, tmp_path / "a"), report(*case, tmp_path / "b")
    assert again.read_bytes() == direct.read_bytes()


def test_unwritable_output_is_one_sentence(case: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot be written"):
        report(*case, tmp_path / "file" / "report.html")


def test_loads_nothing_from_anywhere(case: Any, tmp_path: Path) -> None:
    page = made(case, tmp_path)
    sources = [
        attrs[key] or ""
        for _, attrs in page.tags
        for key in ("src", "href", "srcset", "action", "data")
        if key in attrs
    ]
    anchors = {f"#{attrs['id']}" for _, attrs in page.tags if attrs.get("id")}
    assert all(source.startswith("data:") or source in anchors for source in sources)
    policy = next(
        attrs["content"] or "" for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy.replace("http-equiv", "")


def test_hostile_names_break_out_of_nothing(make_case: Callable[..., Any], tmp_path: Path) -> None:
    page = made(make_case(name=HOSTILE, suffix=HOSTILE), tmp_path)
    assert [tag for tag, _ in page.tags].count("script") == 7  # two of them data
    assert not [tag for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert HOSTILE in page.text


def test_banner_headline_and_badges(case: Any, tmp_path: Path) -> None:
    text = made(case, tmp_path).text
    assert "Emulated edge: this machine's processor, held back by a factor of 12" in text
    assert "emulated link (a relay holds bytes back)" in text
    assert "it is slower than edge-only" in text
    assert "15.3 times as fast" in text
    assert "98.12 %" in text
    assert "98.90 % without" in text
    assert all(badge in text for badge in ("measured", "modelled", "published", "counted"))
    assert "+77.2 %" in text
    assert "Not compared: cloud-only JPEG" in text


def test_unavailable_is_said_and_a_real_edge_has_no_banner(bare_case: Any, tmp_path: Path) -> None:
    page = made(bare_case, tmp_path)
    assert "Emulated" not in page.text
    assert "emulated" not in page.text
    assert "No meter here, and no power figures given." in page.text
    assert "Accuracy is unavailable: no labelled data" in page.text
    assert "the edge profile has no energy and the edge's idle power is unknown" in page.text
    assert not [attrs for _, attrs in page.tags if attrs.get("id") in ("figure-energy", "figure-layers")]
    assert "Energy is unavailable, so the bytes sent stand in for it." in page.text


def test_tables_and_figures_are_described(case: Any, tmp_path: Path) -> None:
    page = made(case, tmp_path)
    headers = [attrs for tag, attrs in page.tags if tag == "th"]
    assert headers
    assert all(attrs.get("scope") in ("row", "col") for attrs in headers)
    plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
    assert len(plots) == 5
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in plots)
    assert [tag for tag, _ in page.tags if tag == "h1"] == ["h1"]


def test_contents_lead_to_every_section_in_order(case: Any, tmp_path: Path) -> None:
    page = made(case, tmp_path)
    assert [attrs["id"] for tag, attrs in page.tags if tag == "h2"] == list(CONTENTS)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["#main", *(f"#{place}" for place in CONTENTS)]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(deeper <= level + 1 for level, deeper in itertools.pairwise(levels))
    assert {"header", "main", "nav", "footer"} <= {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attrs.get(name) is None or attrs[name] in {other.get("id") for _, other in page.tags}


def test_what_the_plan_says_is_shown(case: Any, tmp_path: Path) -> None:
    measurement, edge, cloud = case
    first, *rest = measurement.plan.cuts
    leaky = first.model_copy(update={"leakage_bits": 9.25, "broken": ("9.25 bits of leakage, at most 9 asked",)})
    untimed = rest[0].model_copy(update={"basis": "layers", "edge_memory_bytes": 1_250_000})
    sweep = Sweep(
        quantity="uplink", low=1e6, high=1e8, first="fc1", points=(BreakPoint(at=4.1e7, before="fc1", after=""),)
    )
    plan = measurement.plan.model_copy(
        update={
            "cuts": (leaky, untimed, *rest[1:]),
            "limits": Limits(leakage_bits=9.0, latency_s=0.02),
            "risk": "p95",
            "wire": "int8",
            "changes": ("Below 4.1 Mbit/s up the cut moves to conv3.",),
            "sweeps": (sweep,),
            "candidates": ("{left+right}",),
        }
    )
    text = made((measurement.model_copy(update={"plan": plan}), edge, cloud), tmp_path).text
    for said in (
        "Planned for the least latency, in the 95th percentile; activations cross as int8, a byte a value.",
        "Limits: latency at most 20 ms; leakage at most 9 bits.",
        "After fc1 it is the best of 4 cuts in 100 % of 4,000 draws under the measured spread, the link's rates as "
        "given.",
        "Below 4.1 Mbit/s up the cut moves to conv3.",
        "A cut that nothing timed could be cheaper by layer times, after {left+right}: run 'edgecut profile",
        "9.25 bits of leakage, at most 9 asked",
        "Cuts \N{LEFT DOUBLE QUOTATION MARK}from layers\N{RIGHT DOUBLE QUOTATION MARK} were never timed",
        "Uplink, Mbit/s141fc1",
        "Uplink, Mbit/s41100no cut keeps to the limits",
        "It plans in medians, although the plan itself went by the 95th percentile.",
        "As the user gave it to the planner.",
    ):
        assert said in text, said


def test_data_of_the_panel_is_the_plan_without_its_slowdown(case: Any, tmp_path: Path) -> None:
    text = report(*case, tmp_path).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="whatif-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data, plan = json.loads(found[1]), case[0].plan
    assert data["start"] == {"uplink_bps": 12.8e6, "rtt_s": 0.005, "slowdown": 12.0}
    assert data["range"]["uplink_bps"] == [0.1e6, 1000e6]
    assert (data["objective"], data["deployed"]) == ("latency", plan.choice)
    profiled = {cut.name: cut for cut in case[1].cuts}
    for row in data["rows"]:
        if row["role"] == "split":
            assert row["edge_s"] == pytest.approx(profiled[row["name"]].prefix.median_s, rel=1e-12)
            assert row["noise_s"] == pytest.approx(profiled[row["name"]].noise.median_s, rel=1e-12)
    assert [row["name"] for row in data["rows"]] == [row.name for row in (*plan.cuts, *plan.baselines)]
