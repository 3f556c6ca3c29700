"""What the report's page needs to plan again by itself for another uplink, round trip and edge slow-down.

Every row has the parts of its cost that do not change with those three, in seconds and joules, edge parts before any
slow-down; templates/whatif.js puts them together by the formula of partitioner/cost.py, in medians, under the plan's
objective and limits. Nothing here is measured anew: what comes out is modelled.
"""

from __future__ import annotations

from typing import Any

from .content import Report, Way
from .drawing import full, tick

UPLINK_BPS, RTT_S, SLOWDOWN = (0.1e6, 1000e6), (0.0, 0.3), (1.0, 100.0)


def panel(report: Report) -> dict[str, Any]:
    """The data of the page's what-if panel, as plain JSON values."""
    planned, slowdown = report.planned, report.planned.edge_slowdown
    link = planned.link
    return {
        "objective": report.objective,
        "weight_s_per_j": planned.weight_s_per_j,
        "limits": planned.limits.model_dump(),
        "deployed": report.split.modelled.name,
        "radio_tx_w": link.radio_tx_w,
        "radio_rx_w": link.radio_rx_w,
        "idle_w": planned.idle_w,
        "start": {"uplink_bps": link.uplink_bps, "rtt_s": link.rtt_s, "slowdown": slowdown},
        "range": {
            "uplink_bps": _around(UPLINK_BPS, link.uplink_bps),
            "rtt_s": _around(RTT_S, link.rtt_s),
            "slowdown": _around(SLOWDOWN, slowdown),
        },
        "rows": [_row(way, slowdown) for way in report.ways],
    }


def _around(usual: tuple[float, float], value: float) -> tuple[float, float]:
    """The usual range, widened where the plan itself lies outside."""
    return min(usual[0], value), max(usual[1], value)


def _row(way: Way, slowdown: float) -> dict[str, Any]:
    cost = way.modelled
    return {
        "name": cost.name,
        "role": way.role,
        "label": way.label,
        "tick": full(tick(way, star=False)),
        "narrow": full(tick(way, star=False, narrow=True)),
        "hover": full(way.label),
        "timed": cost.basis == "sub-models",
        "uplink_bytes": cost.uplink_bytes,
        "downlink_s": cost.downlink_s,
        "request_s": cost.request_s,
        "cloud_s": cost.cloud_s,
        "edge_s": cost.edge_s / slowdown,
        "noise_s": cost.noise_s / slowdown,
        "add_s": cost.add_s / slowdown,
        "edge_j": None if cost.edge_j is None else cost.edge_j / slowdown,
        "depth": cost.depth,
        "edge_memory_bytes": cost.edge_memory_bytes,
        "leakage_bits": cost.leakage_bits,
    }
