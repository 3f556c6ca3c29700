"""What the noise adds to a request, beside the time on the link: LeNet-5 over wifi, the edge slowed by two.

Medians in seconds of one measurement through real processes and an emulated link. `added_share` is what a request waits
for, `worked_share` all the work, over the link's time for the request and its answer (`Measurement.noise_shares`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from machine import write_result

from edgecut.partitioner.choose import plan
from edgecut.privacy.learn import learn
from edgecut.privacy.settings import settings_for
from edgecut.profiler.run import profile
from edgecut.runtime.bundle import bundle
from edgecut.runtime.measure import measure

MODEL, LINK, SLOWDOWN = "lenet5", "wifi", 2.0
STEPS = 600


def main() -> None:
    """Every step from profile to measurement, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edge = profile(MODEL, threads=1)
        planned = plan(edge, edge, link=LINK, edge_slowdown=SLOWDOWN)
        learn(planned, model=MODEL, settings=settings_for("sampled", steps=STEPS), output=folder / "noise.npz")
        bundle(planned, model=MODEL, noise=folder / "noise.npz", output=folder / "bundle")
        made = measure(folder / "bundle", model=MODEL)
    split, (added, worked) = made.split, made.noise_shares
    result = {
        "cut": planned.choice,
        "values": planned.cut.elements,
        "link": made.link.name,
        "edge_slowdown": made.edge_slowdown,
        "add_s": split.add_s,
        "noise_s": split.noise_s,
        "added_share": added,
        "worked_share": worked,
    }
    print(result)
    write_result("noise_share", result)


if __name__ == "__main__":
    main()
