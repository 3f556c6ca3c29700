"""The arithmetic of benchmarks/regret.py: from rounds of measured requests to regrets, bounds, speedups and a summary.

A request's time is the median of its rounds' medians, with the 95 % interval of that median. Two cuts are compared
round by round: what drifts with the machine divides out of the ratio.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from edgecut.agent.timing import median, median_interval
from edgecut.partitioner.plan import CutCost

Blocks = list[list[float]]
PARTS = ("edge_s", "add_s", "noise_s", "wait_s")
PAPER = {"wifi": 1.79, "lte": 2.17}
"""Shredder, ASPLOS 2020: geometric means over its six networks, against sending the float32 input."""
PAPER_NETWORKS = ("lenet5", "cifar10_cnn", "svhn_cnn", "alexnet", "vgg16", "text_cnn_20news")


def middle(blocks: Blocks) -> float:
    """The median of the rounds' medians."""
    return median([median(block) for block in blocks])


def measured(fields: Mapping[str, Blocks]) -> dict[str, Any]:
    """A way's time with its interval, and its parts."""
    rounds = [median(block) for block in fields["total_s"]]
    low, high = median_interval(rounds)
    parts = {name: middle(fields[name]) for name in PARTS}
    return {"measured_s": median(rounds), "low_s": low, "high_s": high, "rounds": len(rounds), "parts": parts}


def predicted(row: CutCost) -> dict[str, Any]:
    """What the plan says of the same way."""
    parts = {"edge_s": row.edge_s, "add_s": row.add_s, "noise_s": row.noise_s, "wait_s": row.wait_s}
    if row.role == "edge-only":
        parts["wait_s"] = 0.0
    return {"predicted_s": row.total_s, "predicted_parts": parts, "payload_bytes": row.payload_bytes}


def outside(bytes_s: Mapping[str, float], best_s: float) -> dict[str, float]:
    """The cuts whose bytes alone take longer than a measured split takes in all: none of them can be the best."""
    return {name: seconds for name, seconds in bytes_s.items() if seconds > best_s}


def regret(planned: str, again: Mapping[str, Blocks]) -> dict[str, Any]:
    """How much longer the planned cut takes than the best of those measured again, which may be itself.

    The best is the one with the least median; the interval is that of the rounds' ratios.
    """
    best = min(again, key=lambda name: middle(again[name]))
    ratios = [median(one) / median(other) - 1 for one, other in zip(again[planned], again[best], strict=True)]
    low, high = median_interval(ratios)
    found = middle(again[planned]) / middle(again[best]) - 1
    return {"best": best, "regret": found, "regret_low": low, "regret_high": high}


def bound(
    edge_s: float, ping_s: float, payload_bytes: float, answer_bytes: float, cloud_s: float, link: Mapping[str, float]
) -> float:
    """What a request takes at least: measured compute on both sides, one round trip, and the bits over the rates."""
    bits_s = 8 * payload_bytes / link["uplink_bps"] + 8 * answer_bytes / link["downlink_bps"]
    return edge_s + ping_s + bits_s + cloud_s


def geometric(values: Iterable[float]) -> float | None:
    """The geometric mean; None of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else None


def summary(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Over everything measured: regrets, shares of the bound, errors of prediction, and speedups by link."""
    rows = [row for links in networks.values() for row in links.values()]
    errors = [
        abs(one["predicted_s"] / one["measured_s"] - 1)
        for row in rows
        for one in (*row["cuts"].values(), *row["baselines"].values())
    ]
    at_choice = [abs(row["cuts"][row["planned"]]["predicted_s"] / row["again"][row["planned"]] - 1) for row in rows]
    regrets = [row["regret"] for row in rows]
    links = dict.fromkeys(link for found in networks.values() for link in found)
    return {
        "rows": len(rows),
        "regret_median": statistics.median(regrets),
        "regret_worst": max(regrets),
        "share_of_optimum": statistics.fmean(1 / (1 + one) for one in regrets),
        "reached_least": min(row["reached"] for row in rows),
        "reached_median": statistics.median(row["reached"] for row in rows),
        "prediction_error_median": statistics.median(errors),
        "prediction_error_planned_median": statistics.median(at_choice),
        "cuts_measured": sum(len(row["cuts"]) for row in rows),
        "cuts_left_out": sum(len(row["left_out"]) for row in rows),
        "speedups": {link: _speedups(networks, link) for link in links},
    }


def _speedups(networks: Mapping[str, Mapping[str, Any]], link: str) -> dict[str, Any]:
    """Geometric means over the paper's networks, each with the number of networks that have that baseline."""
    rows = [networks[name][link]["speedups"] for name in PAPER_NETWORKS if link in networks.get(name, {})]
    found: dict[str, Any] = {"paper, cloud-only float32": PAPER.get(link)}
    for baseline in dict.fromkeys(name for row in rows for name in row):
        values = [row[baseline] for row in rows if row.get(baseline) is not None]
        found[baseline] = {"mean": geometric(values), "networks": len(values)}
    return found
