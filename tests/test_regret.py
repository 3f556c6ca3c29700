"""The arithmetic of benchmarks/regret.py: regrets, bounds and summaries against figures worked out by hand."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
MS = 1e-3


@pytest.fixture(scope="module")
def sums() -> ModuleType:
    return script("regret_sums")


def script(name: str) -> ModuleType:
    """A benchmark's module; they import each other as scripts do, from their own folder."""
    folder = str(ROOT / "benchmarks")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def test_a_ways_time_is_the_median_of_its_rounds_medians(sums: ModuleType) -> None:
    rounds = [[1.0, 3.0], [10.0, 10.0], [4.0, 2.0]]  # medians 2, 10, 3
    fields = {"total_s": rounds, **{name: [[0.5]] for name in sums.PARTS}}
    assert sums.measured(fields) == {
        "measured_s": 3.0,
        "low_s": 2.0,
        "high_s": 10.0,
        "rounds": 3,
        "parts": {"edge_s": 0.5, "add_s": 0.5, "noise_s": 0.5, "wait_s": 0.5},
    }


def test_only_cuts_that_cannot_win_are_left_out(sums: ModuleType) -> None:
    assert sums.outside({"a": 0.9, "b": 1.0, "c": 1.1}, 1.0) == {"c": 1.1}


def test_regret_is_against_the_best_of_those_measured_again(sums: ModuleType) -> None:
    again = {"planned": [[1.1], [2.2], [1.1]], "best": [[1.0], [2.0], [1.0]], "other": [[3.0], [1.5], [3.0]]}
    found = sums.regret("planned", again)
    assert found["best"] == "best" and found["regret"] == pytest.approx(0.1)
    # The middle round was slow for all, which does not widen the interval of the ratios.
    assert found["regret_low"] == pytest.approx(0.1) and found["regret_high"] == pytest.approx(0.1)
    itself = sums.regret("best", again)
    assert (itself["best"], itself["regret"], itself["regret_low"], itself["regret_high"]) == ("best", 0.0, 0.0, 0.0)


@given(st.lists(st.lists(st.floats(0.001, 10), min_size=2, max_size=2), min_size=3, max_size=9), st.integers(2, 4))
def test_regret_is_never_negative_and_zero_for_the_best(rounds: list[list[float]], ways: int) -> None:
    sums = script("regret_sums")
    again = {f"cut{i}": [[value * (1 + i * 0.1) for value in block] for block in rounds] for i in range(ways)}
    for name in again:
        found = sums.regret(name, again)
        assert found["best"] == "cut0" and found["regret"] >= 0
        assert found["regret"] == pytest.approx(0.1 * int(name.removeprefix("cut")))


def test_the_bound_is_compute_round_trip_and_bits(sums: ModuleType) -> None:
    link = {"uplink_bps": 8e6, "downlink_bps": 16e6}
    # 2000 bytes are 2 ms up, 40 bytes 0.02 ms down.
    least = sums.bound(3 * MS, 5 * MS, 2000, 40, 1 * MS, link)
    assert least == pytest.approx((3 + 5 + 2 + 0.02 + 1) * MS)


def test_geometric_means(sums: ModuleType) -> None:
    assert sums.geometric([1.0, 4.0]) == pytest.approx(2.0)
    assert sums.geometric([]) is None


def row(regret: float, planned_ms: float, speedup: float, jpeg: float | None) -> dict[str, Any]:
    parts = {"edge_s": 1 * MS, "add_s": 0.1 * MS, "noise_s": 0.2 * MS, "wait_s": 5 * MS}
    cut = {
        "measured_s": planned_ms * MS,
        "low_s": planned_ms * MS,
        "high_s": planned_ms * MS,
        "rounds": 3,
        "parts": parts,
        "predicted_s": 1.1 * planned_ms * MS,
        "predicted_parts": parts,
        "payload_bytes": 480,
    }
    return {
        "planned": "conv1",
        "best": "conv1" if regret == 0 else "conv2",
        "regret": regret,
        "regret_low": regret - 0.01,
        "regret_high": regret + 0.01,
        "again": {"conv1": planned_ms * MS},
        "cuts": {"conv1": cut},
        "left_out": {"conv0": 3.0},
        "baselines": {"edge-only": {**cut, "predicted_s": planned_ms * MS}},
        "bound_s": 0.9 * planned_ms * MS,
        "reached": 0.9,
        "bounds": {"cloud-only float32": {"reached": 0.95}},
        "speedups": {"cloud-only float32": speedup, "cloud-only JPEG": jpeg},
    }


@pytest.fixture
def networks() -> dict[str, Any]:
    return {
        "lenet5": {"wifi": row(0.0, 6.0, 1.0, None)},
        "alexnet": {"wifi": row(0.04, 300.0, 4.0, 0.5)},
        "resnet18": {"wifi": row(0.01, 200.0, 9.0, 0.9)},
    }


def test_the_summary_of_three_networks(sums: ModuleType, networks: dict[str, Any]) -> None:
    found = sums.summary(networks)
    assert found["rows"] == 3 and found["cuts_measured"] == 3 and found["cuts_left_out"] == 3
    assert found["regret_median"] == 0.01 and found["regret_worst"] == 0.04
    assert found["share_of_optimum"] == pytest.approx((1 + 1 / 1.04 + 1 / 1.01) / 3)
    assert found["reached_least"] == found["reached_median"] == 0.9
    # Half of the six figures are off by a tenth, the baselines by nothing.
    assert found["prediction_error_median"] == pytest.approx(0.05)
    assert found["prediction_error_planned_median"] == pytest.approx(0.1)
    # ResNet-18 is none of the paper's six, and LeNet-5 has no JPEG here.
    wifi = found["speedups"]["wifi"]
    assert wifi["paper, cloud-only float32"] == 1.79
    assert wifi["cloud-only float32"] == {"mean": pytest.approx(2.0), "networks": 2}
    assert wifi["cloud-only JPEG"] == {"mean": pytest.approx(0.5), "networks": 1}


def test_the_page_shows_every_row(sums: ModuleType, networks: dict[str, Any]) -> None:
    result = {
        "command": "python benchmarks/regret.py",
        "measured_at": "2026-11-22T10:00:00+00:00",
        "environment": {"processor": "A processor", "processors": 2},
        "slowdown": 4.0,
        "pause_s": 0.005,
        "networks": networks,
        "summary": sums.summary(networks),
    }
    text = script("regret_page").page(result)
    assert "| alexnet | wifi | conv1 | conv2 | 4.00% | 3.00% to 5.00% | 1 | 1 |" in text
    assert "| lenet5 | wifi | conv1 | conv1 | 0.00% | - | 1 | 1 |" in text
    assert "| lenet5 | wifi | 1.00 / 1.00 | 0.10 / 0.10 | 0.20 / 0.20 | 5.00 / 5.00 | 6.60 / 6.00 |" in text
    assert "| lenet5 | wifi | 5.40 ms | 6.00 ms | 90.0% | 95.0% | - |" in text
    assert "| wifi | 1.79 | 2.00 (2) | - | 0.50 (1) |" in text
    assert "held back 4\ntimes" in text and "Median **1.00%**, worst **4.00%** over 3 pairs" in text


def test_the_documented_figures_are_those_of_the_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "regret.json").read_text())
    assert (ROOT / "docs" / "regret.md").read_text() == script("regret_page").page(result)
    assert script("regret_sums").summary(result["networks"]) == result["summary"]
