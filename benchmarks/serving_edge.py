"""What the edge agent adds to a request beside model, noise and wire, and the noise's share of the time on a link.

LeNet-5 cut before its fully connected layers, a real bundle, a real server process on loopback. Two readings of the
agent's own time, medians in seconds: `own_s` out of the session's trace (the whole request less model, adding the noise
and waiting for the answer), and `beyond_parts_s`, the whole request less the medians of its parts run alone in turns
with it: the model, adding the noise, and the same bytes sent by the bare transport. The second also counts what parts
cost each other, such as drawing the next noise while the answer is awaited.

The shares are those of benchmarks/noise_share.py, with the edge slowed by two, over the presets of wifi and LTE.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result

from edgecut.agent.transport import open_transport
from edgecut.partitioner.choose import plan
from edgecut.privacy.learn import learn
from edgecut.privacy.settings import settings_for
from edgecut.profiler.run import profile
from edgecut.runtime.bundle import bundle
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.measure import measure
from edgecut.runtime.processes import cloud_server

MODEL, CUT, LINKS, SLOWDOWN, STEPS = "lenet5", "conv3", ("wifi", "lte"), 2.0, 600
TURNS, TURN, UNCOUNTED = 40, 25, 5


def main() -> None:
    """Every step from profile to result, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edge = profile(MODEL, threads=1)
        planned = plan(edge, edge, link="wifi", edge_slowdown=SLOWDOWN).model_copy(update={"choice": CUT})
        learn(planned, model=MODEL, settings=settings_for("sampled", steps=STEPS), output=folder / "noise.npz")
        sides = [edge.save(folder / f"{side}.profile.json") for side in ("edge", "cloud")]
        noise = folder / "noise.npz"
        made = bundle(planned, model=MODEL, noise=noise, output=folder / "bundle", profiles=sides).folder
        with cloud_server(made / "cloud" / "model_repository", threads=1) as (host, port):
            overhead = _overhead(made, f"{host}:{port}")
        print(overhead)
        shares = {}
        for link in LINKS:
            split = measure(made, model=MODEL, link=link)
            shares[link] = dict(zip(("added_share", "worked_share"), split.noise_shares, strict=True))
            print(link, shares[link])
    write_result("serving_edge", {"cut": planned.choice, "overhead": overhead, "noise_shares": shares})


def _overhead(folder: Path, server: str) -> dict[str, Any]:
    x = np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    transport = open_transport(server)
    with EdgeSession(folder, server) as session:
        part, model = session.part, session.part.description.model_name
        inputs = np.zeros((1, *part.description.input.shape), part.description.input.dtype)
        feed = {part.description.input.name: inputs}
        found = part.runner.call(feed)
        activations = [found[name] for name in part.names]
        message = list(zip(part.names, part.protected(inputs), strict=True))
        traces: list[Any] = []

        def ask() -> None:
            session.infer(x)
            traces.append(session.trace)

        def add() -> None:
            part.protector.add([array.copy() for array in activations])

        work: dict[str, Callable[[], object]] = {
            "request": ask,
            "model": lambda: part.runner.call(feed),
            "add": add,
            "wire": lambda: transport.infer(model, message, 10.0),
        }
        samples: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(TURNS):
            for name, one in work.items():
                for i in range(TURN):
                    if name == "add":
                        part.protector.draw_ahead(1)
                    start = time.perf_counter()
                    one()
                    if i >= UNCOUNTED:
                        samples[name].append(time.perf_counter() - start)
    transport.close()
    medians = {name: statistics.median(values) for name, values in samples.items()}
    own = [trace.total_s - trace.model_s - trace.add_s - trace.wait_s for trace in traces]
    return {
        "requests": len(samples["request"]),
        "medians_s": medians,
        "own_s": statistics.median(own),
        "own_p99_s": float(np.percentile(own, 99)),
        "beyond_parts_s": medians["request"] - medians["model"] - medians["add"] - medians["wire"],
    }


if __name__ == "__main__":
    main()
