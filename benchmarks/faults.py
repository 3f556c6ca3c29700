"""What becomes of a thousand requests while servers and links fail? The scenarios of tests/runtime/faults, as a table.

Three edges ask at the same time, with real processes over a real link (root, or user namespaces): over gRPC and over
HTTP, where the cloud's absence is an error, and over gRPC where the rest of the model then runs on the device. `late`
is how many requests ended more than 0.25 s after their deadline of 1 s, `worst_s` what the slowest took.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import write_result

from edgecut.models.load import load_model
from edgecut.partitioner.choose import plan
from edgecut.privacy.learn import Settings, learn
from edgecut.profiler.run import profile
from edgecut.runtime.bundle import bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "runtime" / "faults"))

import fault_scenarios as scenes

QUICK = Settings(distributions=4, steps=120, scale=0.5, max_accuracy_loss=20.0)
MARGIN_S = 0.25


def main() -> None:
    """Play every scenario, or those named on the command line, and write the result."""
    names = sys.argv[1:] or list(scenes.SCENARIOS)
    rows: list[dict[str, Any]] = []
    print(
        f"{'scenario':28} {'edge':11} {'cloud':>5} {'local':>5} {'error':>5} wrong late retries "
        f"{'median':>9} {'worst':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        made = _bundle(Path(folder))
        for number, name in enumerate(names):
            scratch = Path(folder) / str(number)
            scratch.mkdir()
            for row in scenes.play(name, made, scratch, margin_s=MARGIN_S):
                print(_line(row), flush=True)
                rows.append({**row._asdict(), "what": scenes.SCENARIOS[name].__doc__})
    write_result(
        "faults",
        {
            "link": scenes.SHAPE.model_dump(),
            "timeout_s": scenes.TIMEOUT_S,
            "margin_s": MARGIN_S,
            "period_s": scenes.PERIOD_S,
            "threads": scenes.THREADS,
            "rows": json.loads(json.dumps(rows)),
        },
    )


def _bundle(folder: Path) -> Path:
    load_model("lenet5")
    measured = profile("lenet5", threads=1, max_seconds=1.0)
    planned = plan(measured, measured, link="wifi", edge_slowdown=5).model_copy(update={"choice": "conv3"})
    noise = folder / "lenet5.noise.npz"
    learn(planned, model="lenet5", settings=QUICK, output=noise)
    return bundle(planned, model="lenet5", noise=noise, output=folder / "bundle", local_fallback=True).folder


def _line(row: scenes.Row) -> str:
    return (
        f"{row.scenario:28} {row.transport + ' ' + row.away:11} {row.right_cloud:5} {row.right_local:5} "
        f"{row.clear_errors:5} {row.wrong + row.unclear:5} {row.late:4} {row.retries:7} {row.median_s * 1e3:6.1f} ms "
        f"{row.worst_s:5.2f} s"
    )


if __name__ == "__main__":
    main()
