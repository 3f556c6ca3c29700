"""`edgecut demo`: every arrow of the data flow once, on LeNet-5 and real handwritten digits.

Both sides are this machine, so the edge is held back by a stated factor, and its powers are published ones of a
Jetson TX2. The report says so in plain sight.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .terminal import Bar, console, say

MODEL = "lenet5"
LEARNING_STEPS = 600
"""Of the mechanism shredder, fewer than by default: a few seconds, for a scale that is about a tenth smaller."""
T = TypeVar("T")


def run(output: Path, link: str, edge_slowdown: float, data: str | None, mechanism: str = "shredder") -> Path:
    """Write every artefact below `output` and return the report's path. Raises EdgecutError and its relatives."""
    from .partitioner.choose import plan
    from .partitioner.link import load_link
    from .privacy.learn import learn
    from .privacy.settings import choose_settings
    from .profiler.profile import PowerModel
    from .profiler.run import profile
    from .reports import terminal
    from .reports.html import report
    from .reports.plan_table import plan_table
    from .runtime.bundle import bundle
    from .runtime.measure import measure

    tx2 = PowerModel(
        idle_w=1.88,
        max_w=7.35,
        source="published for a Jetson TX2 module: 1.88 W idle, 7.2 to 7.5 W with six cores busy",
    )
    # Names are looked up before anything takes long.
    load_link(link)
    settings = choose_settings(mechanism, steps=LEARNING_STEPS if mechanism == "shredder" else None)
    start = time.perf_counter()
    edge_file, cloud_file = output / "edge.profile.json", output / "cloud.profile.json"
    plan_file, noise_file = output / "lenet5.plan.json", output / "lenet5.noise.npz"
    show = console().print
    edge = _step(
        "1/7 profile the edge",
        lambda bar: profile(MODEL, threads=1, data=data, power=tx2, output=edge_file, progress=bar),
    )
    cloud = _step(
        "2/7 profile the cloud",
        lambda bar: profile(MODEL, threads=1, data=data, output=cloud_file, progress=bar),
    )
    show(terminal.profile_table(edge))
    planned = _step(
        f"3/7 plan over {link}",
        lambda _: plan(edge, cloud, link=link, edge_slowdown=edge_slowdown, output=plan_file),
    )
    show(plan_table(planned))
    learned = _step(
        "4/7 learn the noise",
        lambda bar: learn(
            planned, model=MODEL, data=data, mechanism=mechanism, settings=settings, output=noise_file, progress=bar
        ),
    )
    show(terminal.accuracy_line(learned.accuracy))
    made = _step(
        "5/7 write the bundle",
        lambda bar: bundle(
            planned,
            model=MODEL,
            noise=noise_file,
            output=output / "bundle",
            profiles=[edge_file, cloud_file],
            data=data,
            overwrite=True,
            progress=bar,
        ),
    )
    measured = _step(
        "6/7 measure end to end",
        lambda bar: measure(made.folder, model=MODEL, data=data, output=output / "lenet5.measure.json", progress=bar),
    )
    show(terminal.measurement_table(measured))
    page = _step("7/7 report", lambda _: report(measured, edge, cloud, output))
    say(f"{time.perf_counter() - start:.0f} s in all; open {page}")
    return page


def _step(what: str, do: Callable[[Bar], T]) -> T:
    start = time.perf_counter()
    with Bar() as bar:
        result = do(bar)
    say(f"{what}: {time.perf_counter() - start:.1f} s")
    return result
