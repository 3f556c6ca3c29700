"""The pages of an audit and a sweep, their tables for a terminal, and a verdict in the report of a measurement."""

from __future__ import annotations

import base64
import html
import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgecut.artefacts import digest
from edgecut.errors import ArtefactError
from edgecut.privacy.audited import (
    Audit,
    Bound,
    Clustering,
    Curve,
    Floors,
    LabelAttack,
    LeakageSweep,
    Metric,
    NearDuplicate,
    Reconstruction,
    SweepPoint,
    Verdict,
)
from edgecut.reports import audit_words
from edgecut.reports.audit_figures import audit_figures, sweep_figures
from edgecut.reports.audit_page import render_audit
from edgecut.reports.audit_pictures import address, png
from edgecut.reports.audit_recorded import recorded
from edgecut.reports.audit_sweep_page import render_sweep
from edgecut.reports.audit_table import audit_table, sweep_table
from edgecut.reports.formats import text_of
from edgecut.reports.summary import summarise
from edgecut.runtime.accuracy import Accuracy, NoiseAccuracy
from edgecut.runtime.manifest import Leakage, LeakageLimits, Manifest


class Pictures:
    """Four unseen images of random pixels, as a reconstruction's samples have them."""

    attacker = "decoder"
    truth = from_clean = from_messages = np.random.default_rng(0).integers(0, 256, (4, 8, 8)).astype(np.uint8)


def label(accuracy: float, copies: int = 1) -> LabelAttack:
    return LabelAttack(
        attacker="perceptron",
        knows_noise=copies > 1,
        copies=copies,
        accuracy=Accuracy.of(round(1000 * accuracy), 1000),
        curve=Curve(steps=(10, 20), held_out=(0.3, 0.6), converged=copies == 1),
        parameters=1_000,
        seconds=2.0,
    )


def make_audit() -> Audit:
    """With numbers of the size that LeNet-5 gave under plain Laplace noise."""
    decoder = Reconstruction(
        attacker="decoder",
        knows_noise=False,
        copies=1,
        ssim_mean=0.55,
        ssim_p95=0.799,
        ssim_p95_low=0.78,
        ssim_p95_high=0.81,
        ssim_mean_low=0.54,
        ssim_mean_high=0.56,
        mse=0.031,
        curve=Curve(steps=(10, 20), held_out=(0.06, 0.04), converged=True),
        parameters=9_000,
    )
    metric = Metric(
        scaling="standardised",
        k=3,
        samples=1000,
        clean_bits=258.6,
        noisy_bits=16.5,
        null_bits=-0.5,
        null_sd=0.2,
        note="for comparison only",
    )
    floors = Floors(
        chance=0.2, label_only=0.28, mean_ssim_mean=0.1, mean_ssim_p95=0.2, label_ssim_mean=0.3, label_ssim_p95=0.564
    )
    limits = LeakageLimits(max_private_accuracy=0.5, max_bits=20.0, max_ssim=0.9)
    fields: dict[str, Any] = {"bundle_id": "sha256:" + "b1" * 32, "model_name": "lenet5", "model_digest": "d"}
    return Audit(
        **fields,
        cut_name="conv3",
        mechanism="laplace",
        place="cut",
        elements=120,
        values_sent=120,
        data="mnist",
        private="slant",
        train_items=60_000,
        test_items=10_000,
        seed=0,
        accuracy=NoiseAccuracy.of("mnist", clean=9_890, noisy=48_900, items=10_000, draws=5),
        upper=Bound(kind="upper", bits=12.9, low=12.8, high=13.1, items=10_000, method="class Gaussians"),
        lower=Bound(kind="lower", bits=12.7, low=12.6, high=12.8, items=2_048, method="InfoNCE", cap_bits=14.0),
        metrics=(metric,),
        entropy_bits=304.8,
        entropy_note="exact",
        labels=(label(0.624), label(0.79, 16)),
        reconstructions=(decoder,),
        clustering=Clustering(messages=200, clusters=20, purity=0.97, chance=0.2, purity_of="k-means"),
        near_duplicates=(
            NearDuplicate(copies=1, amplitude=0.01, error=2.5, accuracy=None),
            NearDuplicate(copies=16, amplitude=0.01, error=0.15625, accuracy=Accuracy.of(755, 1000)),
        ),
        floors=floors,
        missing=("no reason at all",),
        notes=("a note",),
        verdict=Verdict(holds=False, limits=limits, broken=("an attacker reads 62.40%, where 50.00% is allowed",)),
        seconds=61.0,
        timings={"labels": 40.0},
        versions={"edgecut": "0.1.0"},
        created_at="2026-11-22T10:00:00+00:00",
    )


def make_sweep() -> LeakageSweep:
    """Two mechanisms at two losses, one of them at two cuts as well, and one that could not be fitted."""
    audit = make_audit()
    whole = SweepPoint(
        mechanism="laplace",
        cut_name="conv3",
        depth=3,
        allowed_loss_points=1.0,
        accuracy=audit.accuracy,
        elements=120,
        values_sent=120,
        upper=audit.upper,
        lower=audit.lower,
        private_accuracy=audit.private_accuracy,
        ssim_p95=0.799,
        fit_s=3.0,
        audit_s=20.0,
    )
    better = NoiseAccuracy.of("mnist", clean=9_890, noisy=49_200, items=10_000, draws=5)
    points = (
        whole,
        whole.model_copy(update={"mechanism": "gaussian"}),
        whole.model_copy(update={"mechanism": "gaussian", "allowed_loss_points": 2.0, "accuracy": better}),
        SweepPoint(mechanism="cloak", cut_name="conv3", depth=3, allowed_loss_points=1.0, failed="it is too wide"),
        whole.model_copy(update={"cut_name": "conv2", "depth": 2}),
    )
    fields: dict[str, Any] = {"key": "k", "model_name": "lenet5", "model_digest": "d", "cut_name": "conv3"}
    return LeakageSweep(
        **fields,
        data="mnist",
        private="slant",
        mechanisms=("laplace", "gaussian", "cloak"),
        losses_points=(1.0, 2.0),
        cuts=("conv2",),
        depth_loss_points=1.0,
        seed=0,
        floors=audit.floors,
        points=points,
        seconds=120.0,
        versions={"edgecut": "0.1.0"},
        created_at="2026-11-22T10:00:00+00:00",
    )


def printed(table: Any, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def unpacked(data: bytes) -> np.ndarray:
    """The pixels of a PNG without interlacing and filters, every checksum checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(data):
        size, name = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + body)
        chunks[name], place = body, place + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8 and rest == [0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, {0: 1, 2: 3}[colour])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 5, 7), (3, 5, 7)])
def test_pictures_are_png(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    upright = image if shape[0] == 5 else np.moveaxis(image, 0, 2)
    assert np.array_equal(unpacked(png(image)), upright.reshape(5, 7, -1))
    assert base64.b64decode(address(image).removeprefix("data:image/png;base64,")) == png(image)


@pytest.mark.parametrize("image", [np.zeros((5, 7), np.float32), np.zeros((5, 7, 2), np.uint8), np.zeros(4, np.uint8)])
def test_what_is_no_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no picture"):
        png(image)


def test_the_page_holds_every_figure_and_number() -> None:
    made = make_audit()
    page = render_audit(made, Pictures())
    for name in ("bits", "labels", "reconstructions", "label_curves", "decoder_curves"):
        assert f'id="figure-{name}"' in page
    assert page.count('alt="Item ') == 3 * 4
    for words in ("12.70", "62.40 %", "0.799", "28.00 %", "258.6", "Missing: No reason at all."):
        assert words in page, words
    assert "http://" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert made.verdict.broken[0].split(",")[0][3:] in page


def test_nothing_to_draw_is_not_drawn_and_not_zero() -> None:
    made = make_audit().model_copy(
        update={
            "labels": (),
            "reconstructions": (),
            "upper": None,
            "lower": None,
            "metrics": (),
            "accuracy": None,
            "verdict": Verdict(holds=True, limits=LeakageLimits(), broken=()),
        }
    )
    assert audit_figures(made) == {}
    page = render_audit(made)
    assert "figure-" not in page.split('<script type="application/json"')[0].split("</head>")[1]
    assert page.count("unavailable</span>") >= 4 and "No limits were given" in page
    assert "No limits were given" in printed(audit_table(made))


def test_figures_are_of_the_records() -> None:
    made = make_audit()
    drawn = audit_figures(made)
    bits = drawn["bits"]["data"][0]
    assert bits["x"] == [12.9, 12.7] and bits["error_x"]["array"] == pytest.approx([0.2, 0.1])
    assert drawn["labels"]["data"][0]["x"] == pytest.approx([62.4, 79.0])
    shown = {note["text"]: note["x"] for note in drawn["labels"]["layout"]["annotations"]}
    assert shown == pytest.approx({"chance": 20.0, "public label alone": 28.0, "limit": 50.0})
    assert drawn["label_curves"]["data"][0]["y"] == [0.3, 0.6]


def test_near_duplicates_are_said_where_there_are_any() -> None:
    made = make_audit()
    none = made.model_copy(update={"near_duplicates": ()})
    for text in (html.unescape(render_audit(made)), " ".join(printed(audit_table(made)).split())):
        assert "The mean of 16 messages of an input whose values move by up to 1% of their range" in text
        assert (
            "a squared error of 0.156 times the activation's variance, and the private label is read for 75.50" in text
        )
        assert text.count("of an input whose values move") == 2
    assert "values move" not in render_audit(none) + printed(audit_table(none))


def test_names_are_text() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    made = make_audit().model_copy(update={"model_name": hostile, "private": hostile})
    page = render_audit(made)
    assert hostile not in page and "&lt;img src=x" in page
    swept = make_sweep()
    point = swept.points[0].model_copy(update={"cut_name": hostile})
    assert hostile not in render_sweep(swept.model_copy(update={"points": (point,)}))


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_says_what_is_missing(width: int) -> None:
    text = printed(audit_table(make_audit()), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for words in ("at most", "12.90", "62.40 %", "79.00 %", "missing: no reason at all", "Not all limits hold"):
        assert words in " ".join(text.split()), words


def test_a_sweep_has_a_line_for_each_mechanism() -> None:
    made = make_sweep()
    drawn = sweep_figures(made)
    assert set(drawn) == {f"{against}_{what}" for against in ("loss", "depth") for what in ("bits", "private", "ssim")}
    lines = {trace["name"]: trace for trace in drawn["loss_bits"]["data"]}
    assert set(lines) == {"laplace", "gaussian"}
    # Points stand in the order of what was lost on unseen items, whatever was allowed.
    assert lines["gaussian"]["x"] == sorted(lines["gaussian"]["x"]) and len(lines["gaussian"]["x"]) == 2
    assert drawn["depth_bits"]["layout"]["xaxis"]["ticktext"] == ["conv2", "conv3"]
    page = render_sweep(made)
    assert "it is too wide" in page and page.count('class="plot"') == 6
    text = " ".join(printed(sweep_table(made)).split())
    assert "gaussian, conv3" in text and "cloak at conv3, 1 points: it is too wide" in text


def test_a_sweep_of_one_cut_shows_no_depth() -> None:
    made = make_sweep()
    points = tuple(point for point in made.points if point.cut_name == made.cut_name)
    assert all(name.startswith("loss_") for name in sweep_figures(made.model_copy(update={"points": points})))


def test_at_its_cap_a_lower_bound_says_so() -> None:
    made = make_audit()
    assert made.lower is not None
    capped = made.lower.model_copy(update={"bits": 11.0, "low": 10.9, "high": 11.0, "cap_bits": 11.0})
    assert "2,048 unseen inputs" in audit_words.sandwich(made.upper, capped)
    assert "cap" not in audit_words.sandwich(made.upper, made.lower.model_copy(update={"cap_bits": 20.0}))


LEAKAGE = Leakage(
    audit_digest="sha256:" + "a1" * 32,
    data="mnist",
    private="slant",
    upper_bits=11.6,
    lower_bits=10.3,
    private_accuracy=0.449,
    limits=LeakageLimits(max_bits=12.0, max_ssim=0.7),
    holds=False,
    broken=("the similarity is unknown",),
    audited_at="2026-11-22T10:00:00+00:00",
)


def test_every_form_of_the_report_shows_the_verdict(case: Any) -> None:
    made = summarise(*case, LEAKAGE)
    page, text, table = (text_of(made, form) for form in ("html", "md", "csv"))
    for words in ("11.60", "44.90%", "unavailable", "Not all limits hold: at most 12 bits and SSIM at most 0.7"):
        assert words in page and words in text, words
    assert '<h2 id="leakage">' in page and '<a href="#leakage">' in page and "## What leaks" in text
    [header, *rows] = [line.split(",") for line in table.splitlines()]
    chosen = [row for row in rows if row[header.index("chosen")] == "yes"]
    assert [row[header.index("leakage_upper_bits")] for row in chosen] == ["11.6"]
    assert all(row[header.index("leakage_limits_hold")] == ("no" if row in chosen else "") for row in rows)
    assert '"upper_bits": 11.6' in text_of(made, "json")
    plain = summarise(*case)
    assert not any("What leaks" in text_of(plain, form) for form in ("html", "md"))


def test_the_verdict_must_be_of_the_bundle_that_was_measured(case: Any, tmp_path: Path) -> None:
    manifest = Manifest(
        model_name="m",
        model_digest="sha256:" + "0" * 64,
        cut_name="c",
        edge_digest="sha256:" + "1" * 64,
        cloud_digest="sha256:" + "2" * 64,
        files=(),
        accuracy=None,
        accuracy_missing="",
        largest_difference=0.0,
        versions={},
        created_at="now",
    )
    measured = case[0].model_copy(update={"bundle_id": digest(manifest.to_json().encode())})
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(ArtefactError, match="no leakage verdict"):
        recorded(tmp_path, measured)
    other = "sha256:" + "5" * 64
    verdict = LEAKAGE.model_copy(update={"earlier_ids": (measured.bundle_id, other)})
    audited = manifest.model_copy(update={"leakage": verdict}).to_json()
    (tmp_path / "manifest.json").write_text(audited)
    for known in (measured.bundle_id, other, digest(audited.encode())):
        assert recorded(tmp_path, measured.model_copy(update={"bundle_id": known})) == verdict
    with pytest.raises(ArtefactError, match="not the bundle that was measured"):
        recorded(tmp_path, case[0])


def test_records_are_files(tmp_path: Path) -> None:
    audit, swept = make_audit(), make_sweep()
    assert Audit.load(audit.save(tmp_path / "a.json")).labels == audit.labels
    assert LeakageSweep.load(swept.save(tmp_path / "s.json")).points == swept.points


Opener = Callable[[int], Any]
DRAWN = """return [...document.querySelectorAll('.plot')].map(p => ({
    id: p.id, marks: p.querySelectorAll('svg .points path, svg .bars path').length,
    width: p.querySelector('svg')?.clientWidth ?? 0 }))"""


@pytest.mark.deep
@pytest.mark.parametrize("width", [1280, 360])
def test_pages_open_in_a_browser_and_fetch_nothing(open_browser: Opener, tmp_path: Path, width: int) -> None:
    browser = open_browser(width)
    for name, text in (("audit", render_audit(make_audit(), Pictures())), ("sweep", render_sweep(make_sweep()))):
        page = tmp_path / f"{name}.html"
        page.write_text(text)
        browser.open(page)
        assert browser.console() == []
        assert browser.run("return document.documentElement.dataset.errors") == "0"
        assert browser.run("return document.documentElement.scrollWidth") <= width
        figures = browser.run(DRAWN)
        assert len(figures) == (5 if name == "audit" else 6)
        assert all(figure["marks"] and 200 < figure["width"] <= width for figure in figures), figures
        loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [one for one in loaded if not one.startswith(("data:", "blob:"))] == []
        shown = browser.run("return [...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
        assert shown == [[8, 8]] * (12 if name == "audit" else 0)
