"""Writing a benchmark's result beside it, with the machine it was taken on and the command that made it."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from edgecut.artefacts import write_bytes
from edgecut.profiler.environment import read_environment

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` and say so."""
    content = {
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": read_environment().model_dump(),
        **result,
    }
    path = write_bytes(RESULTS / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    print(f"wrote {path}")
    return path
