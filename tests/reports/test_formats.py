"""Reports and comparisons as Markdown, CSV, JSON and pages: the numbers of the data, read back out of each form."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from plotly import graph_objects

from edgecut.cli import app
from edgecut.errors import EdgecutError
from edgecut.reports.comma_separated import comparison_rows, report_rows
from edgecut.reports.compare import RunComparison, compare
from edgecut.reports.formats import FORMATS, text_of, write
from edgecut.reports.markdown import comparison_text, escaped, report_text
from edgecut.reports.summary import summarise

HOSTILE = "=cmd|' /C calc'!A1|<script>alert(1)</script>[x](http://y)\u202e"


class Page(HTMLParser):
    """Tags with their attributes, scripts with theirs, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.seen = ""
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        else:
            self.seen += data


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown's tables as cells; an escaped bar ends none."""
    found: list[list[list[str]]] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            found.append([])
            continue
        cells = line.replace("\\|", "\0").strip("|").split("|")
        found[-1].append([cell.strip().replace("\0", "|") for cell in cells])
    return [table for table in found if table]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def hostile_comparison(make_case: Callable[..., Any]) -> RunComparison:
    measurement = make_case(name=HOSTILE, suffix=HOSTILE)[0]
    return compare(measurement, measurement)


def test_markdown_holds_every_way_and_baseline(case: Any) -> None:
    made = summarise(*case)
    ways, baselines, notes = tables(report_text(made))
    assert [row[0].rstrip(" \N{BLACK STAR}") for row in ways[2:]] == [way.label for way in made.ways]
    split = next(row for row in ways if "\N{BLACK STAR}" in row[0])
    assert split[2] == "6.320" and split[5] == "modelled"
    assert [row[:3] for row in baselines[2:]] == [
        ["edge-only", "0.412", "0.065"],
        ["cloud-only float32", "8.610", "1.36"],
        ["cloud-only uint8", "6.410", "1.01"],
    ]
    assert len(notes) == 2 + len(made.provenance)
    for table in (ways, baselines, notes):
        assert len({len(row) for row in table}) == 1


def test_unavailable_is_said_in_markdown_and_empty_in_csv(bare_case: Any) -> None:
    made = summarise(*bare_case)
    text = report_text(made)
    assert "Accuracy is unavailable: no labelled data" in text
    assert all(row[4:6] == ["unavailable", "unavailable"] for row in tables(text)[0][2:])
    for row in rows_of(report_rows(made)):
        assert row["energy_j"] == row["predicted_energy_j"] == row["energy_ratio"] == ""


def test_csv_numbers_are_exact(case: Any) -> None:
    measurement = case[0]
    made = summarise(*case)
    rows = {row["way"]: row for row in rows_of(report_rows(made))}
    assert list(rows) == [way.label for way in made.ways]
    for variant in measurement.variants:
        name = f"split after {variant.predicted.name}" if variant.role == "split" else variant.predicted.name
        row = rows[name]
        assert float(row["latency_s"]) == variant.latency.median_s
        assert float(row["predicted_s"]) == variant.predicted.total_s
        assert float(row["energy_j"]) == variant.energy.energy_j
        assert row["energy_provenance"] == "modelled"
        if variant.role != "split":
            assert float(row["speedup"]) == measurement.speedup(variant)
    unmeasured = rows["split after conv1"]
    assert unmeasured["latency_s"] == unmeasured["wrong_answers"] == unmeasured["speedup"] == ""
    assert unmeasured["predicted_s"]


def test_comparison_in_all_forms_agrees(make_case: Callable[..., Any]) -> None:
    a = make_case()[0]
    made = compare(a, make_case(medians_s={**_medians(a), "split": 7e-3})[0])
    shown = tables(comparison_text(made))[0][2:]
    exact = rows_of(comparison_rows(made))
    page = Page(text_of(made, "html")).seen
    assert len(shown) == len(exact) == len(made.ways) == 4
    for cells, row, way in zip(shown, exact, made.ways, strict=True):
        assert cells[0] == row["way"] == way.label and way.label in page
        assert float(row["latency_ratio"]) == way.latency_ratio
        assert float(cells[3]) == pytest.approx(way.latency_ratio, rel=5e-3)
        assert cells[5] == row["verdict"] == way.verdict
    assert RunComparison.from_json(text_of(made, "json"), "text").ways == made.ways
    assert made.headline in page and "slower" in page


def _medians(measurement: Any) -> dict[str, float]:
    return {"split" if v.role == "split" else v.predicted.name: v.latency.median_s for v in measurement.variants}


def test_comparison_of_unlike_runs_says_so_in_every_form(make_case: Callable[..., Any]) -> None:
    made = compare(make_case()[0], make_case(name="other", slowdown=3.0)[0])
    assert not json.loads(text_of(made, "json"))["like_for_like"]
    assert {row["like_for_like"] for row in rows_of(text_of(made, "csv"))} == {"no"}
    assert "Not like for like" in text_of(made, "md")
    for form in ("html", "md"):
        assert "The two runs are no like for like" in Page(text_of(made, form)).seen


def test_the_page_runs_only_its_own_scripts_and_loads_nothing(make_case: Callable[..., Any]) -> None:
    page = Page(text_of(hostile_comparison(make_case), "html"))
    assert [tag for tag, _ in page.tags].count("script") == 4  # one of them data
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "svg")]
    policy = next(a["content"] or "" for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    allowed = next(part for part in policy.split("; ") if part.startswith("script-src")).split()[1:]
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for attributes, text in page.scripts
        if not attributes
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and sorted(allowed) == sorted(digests)
    assert all((a.get(key) or "data:").startswith("data:") for _, a in page.tags for key in ("src", "href"))
    assert "<script>alert(1)</script>" in page.seen and "\u202e" not in page.seen


def test_the_figure_of_a_comparison_is_its_medians_and_intervals(make_case: Callable[..., Any]) -> None:
    a = make_case()[0]
    made = compare(a, make_case(medians_s={**_medians(a), "split": 7e-3})[0])
    page = Page(text_of(made, "html"))
    figure = json.loads(next(text for attributes, text in page.scripts if attributes.get("id") == "figure-data"))[
        "ways"
    ]
    graph_objects.Figure(figure)
    assert [trace["name"] for trace in figure["data"]] == ["run A", "run B"]
    for trace, spreads in zip(figure["data"], ([w.a for w in made.ways], [w.b for w in made.ways]), strict=True):
        assert trace["y"] == [0, 1, 2, 3]
        assert trace["x"] == pytest.approx([spread.median_s * 1e3 for spread in spreads])
        ends = [[1e3 * (s.high_s - s.median_s) for s in spreads], [1e3 * (s.median_s - s.low_s) for s in spreads]]
        assert [trace["error_x"]["array"], trace["error_x"]["arrayminus"]] == [pytest.approx(end) for end in ends]
    assert figure["layout"]["yaxis"]["ticktext"] == [way.label for way in made.ways]


def test_hostile_names_are_text_in_markdown_and_no_formula_in_csv(make_case: Callable[..., Any]) -> None:
    made = hostile_comparison(make_case)
    text = comparison_text(made)
    assert "<script" not in text.replace("\\<", "") and "\u202e" not in text
    assert len({len(row) for row in tables(text)[0]}) == 1
    cells = [value for row in rows_of(comparison_rows(made)) for value in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert any(cell.startswith("'=cmd") for cell in cells)


def test_escaping_is_undone_by_dropping_the_backslashes() -> None:
    assert escaped("a|b*c`d<e>[f]") == "a\\|b\\*c\\`d\\<e\\>\\[f\\]"
    assert escaped("plain_name-1.5") == "plain_name-1.5"


def test_where_each_form_is_written(case: Any, tmp_path: Path) -> None:
    report, pair = summarise(*case), compare(case[0], case[0])
    assert write(report, "html", tmp_path / "r") == tmp_path / "r" / "report.html"
    assert write(pair, "html", tmp_path / "r") == tmp_path / "r" / "comparison.html"
    assert write(pair, "csv", tmp_path / "r") == tmp_path / "r" / "comparison.csv"
    assert write(report, "md", tmp_path / "log.txt").read_text() == report_text(report)
    assert (tmp_path / "r" / "comparison.json").read_text() == pair.to_json()
    with pytest.raises(EdgecutError, match="unknown format 'pdf'; known: csv, html, json, md"):
        text_of(report, "pdf")
    assert all(text_of(made, form) for made in (report, pair) for form in FORMATS)


def command(*arguments: object) -> int:
    """What `edgecut report` gives back, in this process; its faults are raised."""
    code = app(["report", *map(str, arguments)], standalone_mode=False)
    return code if isinstance(code, int) else 0


def test_the_command(make_case: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measurement, edge, cloud = make_case()
    a, b = measurement.save(tmp_path / "a.json"), tmp_path / "b.json"
    make_case(medians_s={**_medians(measurement), "split": 7e-3})[0].save(b)
    profiles = ["--edge-profile", edge.save(tmp_path / "e.json"), "--cloud-profile", cloud.save(tmp_path / "c.json")]
    assert command(a, *profiles, "--format", "csv") == 0
    assert len(rows_of(capsys.readouterr().out)) == 7
    assert command(a, b, "-o", tmp_path / "out") == 0
    assert (tmp_path / "out" / "comparison.html").is_file()
    capsys.readouterr()
    # 7 / 6.32 is 10.8 % slower, and the interval begins at 9 %.
    assert command(a, b, "--format", "md", "--fail-if-slower", 15) == 0
    assert capsys.readouterr().err == ""
    assert command(a, b, "--format", "md", "--fail-if-slower", 5) == 1
    printed = capsys.readouterr()
    assert "B is slower" in printed.out and "slower by more than 5 %" in printed.err


def test_a_failed_comparison_ends_the_process_with_one(make_case: Callable[..., Any], tmp_path: Path) -> None:
    measurement = make_case()[0]
    measurement.save(tmp_path / "a.json")
    make_case(medians_s={**_medians(measurement), "split": 7e-3})[0].save(tmp_path / "b.json")
    asked = [sys.executable, "-P", "-m", "edgecut", "report", "a.json", "b.json", "--format", "json"]
    done = subprocess.run([*asked, "--fail-if-slower", "5"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and json.loads(done.stdout)["kind"] == "comparison"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a.json"], "give -o FOLDER"),
        (["a.json", "-o", "x"], "needs --edge-profile and --cloud-profile"),
        (["a.json", "--format", "md", "--fail-if-slower", "5"], "compares two measurements"),
        (["a.json", "a.json", "--edge-profile", "e.json", "--format", "md"], "leave the profiles out"),
        (["a.json", "a.json", "--format", "pdf", "-o", "x"], "unknown format 'pdf'"),
        (["a.json", "none.json", "--format", "md"], "none.json"),
    ],
)
def test_what_the_command_refuses(
    case: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    case[0].save(tmp_path / "a.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgecutError, match=complaint):
        command(*arguments)
    assert capsys.readouterr().out == "" and sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
