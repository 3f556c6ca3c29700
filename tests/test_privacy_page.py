"""The page of mechanisms: every figure is the result's, and what is missing is never shown as nothing."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "privacy_table.json"
MADE = {"processor": "A processor", "processors": 2, "measured_at": "2026-11-22T10:00:00+00:00"}


def script(name: str) -> ModuleType:
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def attack(share: float, knows: bool, copies: int = 1) -> dict[str, Any]:
    return {"accuracy": {"correct": int(share * 1000), "total": 1000}, "knows_noise": knows, "copies": copies}


def entry(bits: float | None, loss: float, values: int) -> dict[str, Any]:
    floors = dict.fromkeys(("chance", "label_only", "mean_ssim_p95", "label_ssim_p95"), 0.25)
    audit = {
        "cut_name": "conv3",
        "elements": 120,
        "values_sent": values,
        "train_items": 500,
        "test_items": 100,
        "upper": None if bits is None else {"bits": bits},
        "lower": {"bits": 3.0, "high": 3.5, "cap_bits": 11.0},
        "labels": [attack(0.6, False), attack(0.5, False), attack(0.7, True), attack(0.8, True, 16)],
        "reconstructions": [{"ssim_p95": 0.9, "copies": 4}, {"ssim_p95": 0.5, "copies": 1}],
        "metrics": [{"scaling": "standardised", "clean_bits": 40.0, "noisy_bits": 10.0}],
        "accuracy": {"without": {"correct": 980, "total": 1000}},
        "floors": floors,
    }
    made_with = {"audit": {"attacks": "full"}}
    return {
        "made_with": made_with,
        **MADE,
        "loss_points": loss,
        "fit_seconds": 2.0,
        "audit": audit,
        "retrained": None,
        "near_duplicates": None,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "command": "python benchmarks/privacy_table.py",
        "entries": {
            "digit/none": entry(None, 0.0, 120),
            "digit/shredder": entry(216.04, 1.1, 120),
            "digit/gaussian": entry(11.9, 1.2, 120),
            "resnet20_stage2/channel": entry(600.0, 1.2, 451),
            "resnet20_stage3/gaussian": {
                "made_with": {"audit": {"attacks": "full"}},
                **MADE,
                "processor": "Another",
                "processors": 1,
                "refused": "it has too many values; take channel",
            },
        },
    }


def test_the_page_shows_every_entry(result: dict[str, Any]) -> None:
    text = script("privacy_page").page(result)
    row = "| 120 | 3.0 to 216.0 | 60.0% | 70.0% | 80.0% | 0.500 | 2.0 |"
    assert f"| shredder, ordered Laplace | 1.10 {row}" in text
    assert "| none | 0.00 | 120 | 3.0 to no bound |" in text
    assert "* gaussian, full covariance: it has too many values; take channel." in text
    assert "most frequent private label 25.0%" in text in text
    assert "Measured on 2 processors (A processor) and on 1 processor (Another) by" in text.replace("\n", " ")
    assert "the last one on 2026-11-22." in text.replace("\n", " ")
    assert "| LeNet | 301.84 | 18.9 | 93.74 % | 1.34 ± 0.39 | 40.0 to 10.0 | 75.0% | 1.10 | 70.0% |" in text
    assert "| SVHN | 19.2 | 7.1 | 64.58 % | 1.12 ± 0.22 | - | - | - | - |" in text
    assert "Not final" not in text and "Sticky" not in text and "## CNN, smiling" not in text


def test_short_attacks_are_said_to_be_short(result: dict[str, Any]) -> None:
    result["entries"]["digit/none"]["made_with"] = {"audit": {"attacks": "quick"}}
    assert "**Not final**: short attacks on fewer items, with `--quick`, in digit/none." in script("privacy_page").page(
        result
    )


def met(entries: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """Of each task, mechanism and figure: whether its target is met."""
    return {tuple(row[:3]): row[-1] for row in script("privacy_targets").target_rows(entries)}


def test_targets_are_met_missed_or_open(result: dict[str, Any]) -> None:
    digit, stage2 = ("LeNet-5, MNIST digit", "gaussian"), ("ResNet-20, CIFAR-10, after stage 2", "channel")
    got = met(result["entries"])
    assert got[*digit, "points lost"] == got[*digit, "bits, from above"] == "yes"
    assert got[*digit, "private labels told"] == "**no**"  # 70 % by the one who knows the noise
    assert got[*digit, "SSIM, 95th percentile"] == "yes"  # of one message, not of four
    assert got[*stage2, "values sent"] == "**no**"  # one too many
    assert got["ResNet-20, CIFAR-10, after stage 1", "channel", "bits, from above"] == "-"
    for change, figure in (({"loss_points": 1.35}, "points lost"), ({"bits": 12.1}, "bits, from above")):
        other = copy.deepcopy(result["entries"])
        made = other["digit/gaussian"]
        made["loss_points"] = change.get("loss_points", made["loss_points"])
        made["audit"]["upper"]["bits"] = change.get("bits", made["audit"]["upper"]["bits"])
        assert met(other)[*digit, figure] == "**no**"
    other["digit/gaussian"] = {"refused": "it has too many values"}
    rows = [row for row in script("privacy_targets").target_rows(other) if row[:2] == digit]
    assert {row[4:] for row in rows} == {("it has too many values", "-")}


def test_the_columns_of_scrunchs_table(result: dict[str, Any]) -> None:
    none = result["entries"]["digit/none"]
    none["audit"]["labels"] = [attack(0.9, False)]
    text = script("privacy_page").page(result)
    # (98 - 1.1) / 98, 90 - 70 points, 1 - 10/40, 1 - 0.5
    assert "| LeNet-5, MNIST digit | shredder, ordered Laplace | 98.88 | 20.00 | 75.00 | 50.00 |" in text
    assert "| LeNet-5, MNIST digit | none | 100.00 | 0.00 | - | 50.00 |" in text


def test_a_lower_bound_at_its_cap_means_everything(result: dict[str, Any]) -> None:
    audit = result["entries"]["digit/shredder"]["audit"]
    audit["lower"] = {"bits": 10.98, "high": 11.0, "cap_bits": 11.0}
    assert script("privacy_rows").bits(audit) == "all to 216.0"
    assert script("privacy_rows").bits({"lower": None, "upper": None}) == "no bound"


def test_near_duplicates_and_retrained_networks(result: dict[str, Any]) -> None:
    errors = [{"copies": count, "amplitude": 0.01, "error": 1 / count, "accuracy": None} for count in (1, 4)]
    result["entries"]["digit/gaussian"]["near_duplicates"] = errors
    made = entry(None, 0.4, 120)
    made["retrained"] = {"weight": 0.9, "spread_before": {"share": 0.5}, "spread_after": {"share": 0.1}}
    result["entries"]["digit/scrunch"] = made
    text = script("privacy_page").page(result)
    assert "| gaussian, full covariance | 1.000 | 0.250 |" in text and "by up to 1% of their range" in text.replace(
        "\n", " "
    )
    assert "| LeNet-5, MNIST digit | scrunch | 0.9 | 0.40 | 50.0% to 10.0% | 70.0% to 70.0% |" in text


def test_slant_and_fifths() -> None:
    tasks = script("privacy_tasks")
    image = np.zeros((3, 9, 9), np.uint8)
    for row in range(9):
        image[0, row, 4] = image[1, row, row] = image[2, row, 8 - row] = 200
    assert tasks.slant(image) == pytest.approx([0, 1, -1])
    assert tasks.brightness(np.full((2, 4, 4, 3), 7, np.uint8)).tolist() == [7, 7]
    from edgecut.models.data import DataSet

    x, y = np.arange(100, dtype=np.float64), np.zeros(100, np.int64)
    made = tasks.fifths(DataSet("d", "sha256:0", x, y, x[:10], y[:10]), "size", lambda values: values)
    assert np.bincount(made.private.train).tolist() == [20] * 5 and not made.private.test.any()


def test_the_documented_figures_are_those_of_the_result() -> None:
    text = (ROOT / "docs" / "privacy.md").read_text()
    assert text == script("privacy_page").page(json.loads(RESULT.read_text()))
