"""A report or a comparison as CSV: one row a way to run the model, SI units in the column names.

An empty cell is unavailable or was not measured, and never 0. A text that a spreadsheet would take for a
formula gets an apostrophe before it, for names come from model files that anyone may have written.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from . import units
from .compare import RunComparison, WayChange
from .content import Report, Way

FORMULA_STARTS = ("=", "+", "-", "@")


def report_rows(made: Report) -> str:
    """Every cut and baseline: what was predicted, and what was measured where it was run."""
    speedups = {compared.baseline: compared for compared in made.comparisons}
    rows = []
    for way in made.ways:
        compared = speedups.get(units.printable(way.label))
        row = {
            "model": made.model.name,
            "link": made.link.name,
            "edge_slowdown": made.edge_slowdown,
            "measured_at": made.measured_at,
            "way": way.label,
            "role": way.role,
            "chosen": way.chosen,
            **_predicted(way),
            **_measured(way),
            "speedup": compared and compared.speedup,
            "speedup_low": compared and compared.speedup_low,
            "speedup_high": compared and compared.speedup_high,
            "energy_ratio": compared and compared.energy_ratio,
            **_leakage(made, way),
        }
        rows.append(row)
    return _written(rows)


def _leakage(made: Report, way: Way) -> dict[str, Any]:
    """What an audit found of the deployed split."""
    found = made.leakage if way.chosen else None
    return {
        "leakage_upper_bits": found and found.upper_bits,
        "leakage_lower_bits": found and found.lower_bits,
        "private_accuracy": found and found.private_accuracy,
        "ssim_p95": found and found.ssim_p95,
        "leakage_limits_hold": found and found.holds,
    }


def _predicted(way: Way) -> dict[str, Any]:
    cost = way.modelled
    return {
        "predicted_s": cost.total_s,
        "predicted_edge_s": cost.edge_s + cost.add_s,
        "predicted_link_s": cost.link_s,
        "predicted_request_s": cost.request_s,
        "predicted_cloud_s": cost.cloud_s,
        "predicted_energy_j": cost.energy_j,
        "predicted_uplink_bytes": cost.uplink_bytes,
    }


def _measured(way: Way) -> dict[str, Any]:
    found = way.measured
    return {
        "latency_s": found and found.latency.median_s,
        "latency_low_s": found and found.latency.low_s,
        "latency_high_s": found and found.latency.high_s,
        "latency_p95_s": found and found.latency.p95_s,
        "uplink_bytes": found and found.uplink_bytes,
        "energy_j": found and found.energy.energy_j,
        "energy_provenance": found and found.energy.provenance,
        "wrong_answers": found and found.wrong_answers,
    }


def comparison_rows(made: RunComparison) -> str:
    """Every way that both runs measured: A, B and B over A."""
    return _written([_change(made, way) for way in made.ways])


def _change(made: RunComparison, way: WayChange) -> dict[str, Any]:
    return {
        "a_model": made.a.model,
        "b_model": made.b.model,
        "a_link": made.a.link,
        "b_link": made.b.link,
        "a_measured_at": made.a.measured_at,
        "b_measured_at": made.b.measured_at,
        "like_for_like": made.like_for_like,
        "way": way.label,
        "role": way.role,
        "a_latency_s": way.a.median_s,
        "a_latency_low_s": way.a.low_s,
        "a_latency_high_s": way.a.high_s,
        "b_latency_s": way.b.median_s,
        "b_latency_low_s": way.b.low_s,
        "b_latency_high_s": way.b.high_s,
        "latency_ratio": way.latency_ratio,
        "ratio_low": way.ratio_low,
        "ratio_high": way.ratio_high,
        "verdict": way.verdict,
        "a_energy_j": way.a_energy.energy_j,
        "b_energy_j": way.b_energy.energy_j,
        "energy_ratio": way.energy_ratio,
        "energy_provenance": way.energy_provenance,
    }


def _written(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return repr(value)
    shown = units.printable(value)
    return f"'{shown}" if shown.startswith(FORMULA_STARTS) else shown
