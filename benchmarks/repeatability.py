"""Does profiling the same model twice pick the same cut, and how far apart are the two measurements of each cut?

Each network is profiled twice on this machine, the two turns as far apart as the others take. The plan is over the wifi
preset, with the edge held back by 5. `difference` is |a - b| / mean of the two medians, of every prefix and suffix.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from machine import write_result

from edgecut.partitioner.choose import plan
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile

NETWORKS = ("lenet5", "svhn_cnn", "text_cnn_20news", "squeezenet1_1", "mobilenet_v2", "alexnet")
SLOWDOWN = 5.0


def differences(first: Profile, second: Profile) -> dict[str, float]:
    """Relative difference of each part's two medians."""
    found = {}
    for one in first.cuts:
        other = second.cut(one.name)
        for what in ("prefix", "suffix"):
            a, b = getattr(one, what).median_s, getattr(other, what).median_s
            found[f"{what}:{one.name}"] = abs(a - b) / ((a + b) / 2)
    return found


def choice(profiled: Profile) -> str:
    """The planned cut with this machine as both sides."""
    return plan(profiled, profiled, link="wifi", edge_slowdown=SLOWDOWN).choice


def compare(pair: list[Profile]) -> dict[str, Any]:
    """What two profiles of a network have in common."""
    found = differences(*pair)
    values = sorted(found.values())
    return {
        "choices": [choice(one) for one in pair],
        "same_cut": choice(pair[0]) == choice(pair[1]),
        "median_difference": statistics.median(values),
        "p90_difference": values[int(0.9 * (len(values) - 1))],
        "worst_difference": values[-1],
        "parts": len(values),
        "whole_s": [one.whole.median_s for one in pair],
        "converged": [one.converged for one in pair],
        "load_1min": [one.environment.load_1min for one in pair],
    }


def main() -> None:
    """Profile all networks, then all again."""
    names = sys.argv[1:] or NETWORKS
    taken: dict[str, list[Profile]] = {name: [] for name in names}
    for turn in (1, 2):
        for name in names:
            print(f"turn {turn}: {name}", flush=True)
            taken[name].append(profile(name, threads=1, meter="none"))
    result = {name: compare(pair) for name, pair in taken.items()}
    medians = [each["median_difference"] for each in result.values()]
    write_result(
        "repeatability",
        {
            "networks": result,
            "median_of_medians": statistics.median(medians),
            "same_cut": sum(each["same_cut"] for each in result.values()),
            "of": len(result),
        },
    )


if __name__ == "__main__":
    main()
