"""The arithmetic behind docs/reproduction.md: the paper's own shares, footprints, JPEG sizes, rows of the planner."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import statistics
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgecut.partitioner.choose import plan
from edgecut.profiler.run import profile

ROOT = Path(__file__).resolve().parents[1]


@cache
def script(name: str) -> ModuleType:
    """A benchmark as a module. They import each other as scripts do, from their own folder."""
    if str(ROOT / "benchmarks") not in sys.path:
        sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def result() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "reproduction.json").read_text())
    return values


def test_the_bars_give_the_papers_averages() -> None:
    """Worked out by hand from the slides' table beforehand."""
    paper = script("paper_figures")
    found = {name: shares.speedup() for name, shares in paper.FIGURE_6.items()}
    by_hand = {"lenet5": 1.751, "cifar10_cnn": 1.649, "svhn_cnn": 1.407, "alexnet": 3.438, "vgg16": 0.8065}
    for name, speedup in {**by_hand, "text_cnn_20news": 2.953}.items():
        assert found[name] == pytest.approx(speedup, abs=6e-4)
    assert round(paper.geometric_mean(found.values()), 2) == paper.WIFI_SPEEDUP
    assert paper.geometric_mean(found[name] for name in by_hand) == pytest.approx(1.623, abs=6e-4)


def test_slower_communication_gives_the_papers_lte_figures() -> None:
    paper = script("paper_figures")
    by_vgg, by_mean = paper.lte_factors()
    assert paper.FIGURE_6["vgg16"].speedup(by_vgg) == pytest.approx(1.03)
    assert statistics.geometric_mean([s.speedup(by_mean) for s in paper.FIGURE_6.values()]) == pytest.approx(2.17)
    assert 1.873 < by_vgg < 1.932 and 1.914 < by_mean < 1.952


def test_vgg16_is_relative_to_shredder_and_the_others_to_cloud_only() -> None:
    for name, bars in script("paper_figures").FIGURE_6.items():
        shredder, cloud_only = bars.edge + bars.sending + bars.cloud, bars.all_sending + bars.all_cloud
        assert (shredder if name == "vgg16" else cloud_only) == pytest.approx(1, abs=1e-9)


def test_footprints_are_the_formulas() -> None:
    rows = result()["table_3"]
    elements = {"lenet5": 120, "cifar10_cnn": 400, "svhn_cnn": 256, "alexnet": 9216, "vgg16": 25088}
    for name, n in {**elements, "text_cnn_20news": 128}.items():
        assert rows[name]["elements"] == n
        assert rows[name]["bytes"] == math.ceil(20 * n * (n - 1).bit_length() / 8)
    same = {name for name, row in rows.items() if round(row["bytes"] / 1024, 2) == row["published_kb"]}
    assert same == {"lenet5", "svhn_cnn", "alexnet", "vgg16"}


def test_jpeg_sizes_are_those_of_the_files() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    sizes = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=85)
        sizes.append(file.tell())
    module = script("jpeg_sizes")
    found = module._size(module._pictures(pixels), "chance")
    assert (found["least_bytes"], found["most_bytes"]) == (min(sizes), max(sizes))
    assert found["mean_bytes"] == round(statistics.fmean(sizes)) and found["pictures"] == 3


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    """LeNet-5 on the TX2's GPU and a Titan Xp over wifi, with inputs of 600 bytes as JPEG."""
    edge, cloud = profile("lenet5", device="jetson-tx2:maxq", backend="tensorrt"), profile("lenet5", device="titan-xp")
    found: dict[str, Any] = script("reproduction")._row(plan(edge, cloud, link="wifi", jpeg_bytes=600), 2, True)
    # What the page calls level must be: planned anew with a JPEG of that size.
    level = plan(edge, cloud, link="wifi", jpeg_bytes=round(found["jpeg_break_even_bytes"]))
    return {**found, "level": level.cost("cloud-only JPEG").total_s / level.chosen.total_s}


def test_a_rows_parts_add_up_and_its_speedups_are_ratios(row: dict[str, Any]) -> None:
    for way in (row, row["float32"], row["paper_cut"], row["last_convolution"]):
        parts = way["edge_s"] + way["sending_s"] + way["request_s"] + way["cloud_s"]
        assert way["total_s"] == pytest.approx(parts)
        assert way["energy_j"] == pytest.approx(way["edge_j"] + way["radio_j"] + way["idle_j"])
    assert row["speedups"]["cloud-only float32"] == row["float32"]["total_s"] / row["total_s"]
    assert row["level"] == pytest.approx(1, abs=1e-3)
    assert set(row["speedups"]) == {"cloud-only float32", "cloud-only uint8", "cloud-only JPEG"}


def test_the_papers_cut_is_after_so_many_convolutions(row: dict[str, Any]) -> None:
    assert row["paper_cut"]["name"] == "conv2" and row["paper_cut"]["payload_bytes"] == 4 * 16 * 5 * 5
    assert row["last_convolution"]["payload_bytes"] == 4 * 120
    assert row["paper_cut"]["total_s"] >= row["total_s"]


def regret() -> dict[str, Any]:
    """regret.json as the page reads it: one network that gains, one that loses against JPEG."""

    def of(cut: str, speedups: dict[str, float | None]) -> dict[str, Any]:
        cuts = {cut: {"measured_s": 0.012}}
        return {"planned": cut, "cuts": cuts, "again": {cut: 0.0125}, "reached": 0.97, "speedups": speedups}

    lenet = {"cloud-only float32": 1.5, "cloud-only uint8": 1.0, "cloud-only JPEG": 0.5}
    text = {"cloud-only float32": 6.0, "cloud-only JPEG": None}
    rows = {"lenet5": of("conv3", lenet), "text_cnn_20news": of("conv3", text), "resnet18": of("x", lenet)}
    networks = {name: {"wifi": found} for name, found in rows.items()}
    return {"command": "python benchmarks/regret.py", "slowdown": 4.0, "links": {"wifi": {}}, "networks": networks}


def test_the_measured_half_comes_from_regret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = script("reproduction")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert module._measured() is None
    (tmp_path / "regret.json").write_text(json.dumps(regret()))
    found = module._measured()
    assert set(found["networks"]) == {"lenet5", "text_cnn_20news"}, "the page is on the paper's six"
    text = script("reproduction_text").page({**result(), "measured": found})
    assert "| LeNet | conv3 | 12.5 | 1.50 | 1.00 | 0.50 | 97.0 % |" in text
    assert "| geometric mean (the paper: 1.79) | | | 3.00 (2) | 1.00 (1) | 0.50 (1) | |" in text
    assert "A cloud-only baseline wins here: LeNet over wifi: cloud-only JPEG, 2.00 times as fast." in text
    assert "Not measured yet" not in text


def test_without_regret_the_page_says_so() -> None:
    text = script("reproduction_text").page({**result(), "measured": None})
    assert "Not measured yet" in text and "A cloud-only baseline wins here" not in text


def test_known_jpeg_sizes_outlive_a_run_without_the_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = script("reproduction")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "jpeg_sizes", lambda folder: {"lenet5": {"mean_bytes": 2}})
    assert module._sizes(None) == {"lenet5": {"mean_bytes": 2}}
    known = {"lenet5": {"mean_bytes": 1}, "cifar10_cnn": {"mean_bytes": 9}}
    (tmp_path / "reproduction.json").write_text(json.dumps({"jpeg": known}))
    assert module._sizes(None) == {"lenet5": {"mean_bytes": 2}, "cifar10_cnn": {"mean_bytes": 9}}
