"""What was wanted of mechanisms before they were built, and whether it was reached, for docs/privacy.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from privacy_rows import Entry, private_share, ssim_p95
from privacy_tasks import TASKS


@dataclass(frozen=True)
class Target:
    """The most of each that a mechanism may tell, send and cost at one task, on unseen items; None: nothing wanted.

    `private` is the share of private labels told from one message, `ssim` a 95th percentile, both the best attacker's.
    """

    task: str
    mechanism: str
    loss_points: float
    bits: float
    private: float | None = None
    ssim: float | None = None
    values: int | None = None


TARGETS = (
    Target("digit", "gaussian", 1.34, 12.0, 0.46, 0.69),
    Target("digit", "channel", 1.34, 12.0, 0.46, 0.69),
    Target("gt4", "gaussian", 1.34, 3.0, 0.43, 0.33),
    Target("gt4", "channel", 1.34, 3.0, 0.43, 0.33),
    Target("resnet20_stage3", "channel", 1.8, 20.0),
    Target("resnet20_stage2", "channel", 1.8, 610.0, ssim=0.52, values=450),
    Target("resnet20_stage1", "channel", 1.8, 3000.0),
)
POINTS = "points lost"
HEADERS = ("task", "mechanism", "figure", "at most", "measured", "met")


def target_rows(entries: dict[str, Entry]) -> Iterator[tuple[str, ...]]:
    """A row for each figure that something was wanted of."""
    for target in TARGETS:
        entry = entries.get(f"{target.task}/{target.mechanism}", {})
        low, high = entry.get("loss_interval_points") or (None, None)
        interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        for name, most, got, form in _figures(target, entry):
            if most is None:
                continue
            if got is None:
                measured, met = entry.get("refused", "not measured"), "-"
            else:
                measured, met = format(got, form), "yes" if got <= most else "**no**"
                measured += interval if name == POINTS else ""
            yield TASKS[target.task].title, target.mechanism, name, format(most, form), measured, met


def _figures(target: Target, entry: Entry) -> Iterator[tuple[str, float | None, float | None, str]]:
    audit: dict[str, Any] = entry.get(
        "audit", {"upper": None, "values_sent": None, "labels": (), "reconstructions": ()}
    )
    yield POINTS, target.loss_points, entry.get("loss_points"), ".2f"
    yield "bits, from above", target.bits, None if audit["upper"] is None else audit["upper"]["bits"], ",.1f"
    yield "private labels told", target.private, private_share(audit["labels"], None, 1), ".1%"
    yield "SSIM, 95th percentile", target.ssim, ssim_p95(audit), ".3f"
    yield "values sent", target.values, audit["values_sent"], ",d"
