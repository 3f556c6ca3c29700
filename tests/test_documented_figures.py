"""Tables in the documentation are those of the committed results: nobody types a figure in and forgets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def result(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return values


def test_calibration() -> None:
    text, found = (ROOT / "docs" / "prediction.md").read_text(), result("calibration")
    assert found["command"].replace("benchmarks/", "") in text.replace("benchmarks/", "")
    assert f"{found['layers']} layers" in text
    for row in found["networks"]:
        times = [row[name] * 1e3 for name in ("measured_s", "predicted_s", "low_s", "high_s")]
        measured, predicted, low, high = (f"{value:#.3g}".rstrip(".") for value in times)
        errors = f"{row['error']:+.0%} | {row['linear_error']:+.0%}".replace("%", " %")
        assert f"| {row['network']} | {measured} ms | {predicted} ms, {low} to {high} | {errors} |" in text


def test_repeatability() -> None:
    text, found = (ROOT / "docs" / "devices.md").read_text(), result("repeatability")
    assert found["command"] in text
    for name, row in found["networks"].items():
        same = "yes" if row["same_cut"] else "no"
        shares = [f"{row[f'{which}_difference'] * 100:#.2g}".rstrip(".") for which in ("median", "p90", "worst")]
        assert f"| {name} | {same} | {shares[0]} % | {shares[1]} % | {shares[2]} % |" in text


def test_noise_of_predicted_devices() -> None:
    from edgecut.profiler import predicted

    found = result("noise_time")
    for what in ("noise", "add"):
        for name in ("fixed_s", "per_value_s"):
            constant = getattr(predicted, f"{what}_{name}".upper())
            assert abs(constant / found[what][name] - 1) < 0.05
