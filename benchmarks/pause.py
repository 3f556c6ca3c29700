"""How much longer does LeNet-5 take when requests come with pauses, as they do, than in a tight loop?

The same profile with different pauses between runs, one after the other: medians and 95 % intervals of the whole
model and of its deepest prefix, and the ratio to the tight loop.
"""

from __future__ import annotations

from typing import Any

from machine import write_result

from edgecut.profiler.profile import Timing
from edgecut.profiler.run import profile

PAUSES_S = (0.0, 0.001, 0.005, 0.02)


def main() -> None:
    """Profile with every pause and write the result."""
    rows: list[dict[str, Any]] = []
    for pause_s in PAUSES_S:
        made = profile("lenet5", threads=1, pause_s=pause_s, max_seconds=15)
        rows.append({"pause_s": pause_s, "whole": _row(made.whole), "prefix": _row(made.cuts[-1].prefix)})
        ratio = made.whole.median_s / rows[0]["whole"]["median_s"]
        print(f"pause {pause_s * 1e3:g} ms: whole {made.whole.median_s * 1e6:.0f} us, {ratio:.1f} times the tight loop")
    write_result("pause", {"model": "lenet5", "rows": rows})


def _row(timing: Timing) -> dict[str, float]:
    return {"median_s": timing.median_s, "low_s": timing.low_s, "high_s": timing.high_s, "p95_s": timing.p95_s}


if __name__ == "__main__":
    main()
