"""The edge as a process of its own: runs every way to run the model in turns and reports what each took.

Started by `measure` as `python -m edgecut.runtime.edge_worker`. Reads one JSON object (a `Task`) from standard
input, writes one JSON line per progress step (`{"share": 0.5}`) and at last the `Outcome`. It ends when its input
closes. Times are seconds of wall time; what `slowdown` stretches is the edge's own computing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..agent.edge_part import PROCESSOR
from ..agent.timing import Result, measure
from ..agent.transport import Security
from ..artefacts import Record
from ..errors import EdgecutError
from ..models.session import open_session
from .client import CloudClient
from .edge import EdgeSession, hold

SPLIT, EDGE_ONLY, FLOAT32, UINT8 = "split", "edge-only", "cloud-only float32", "cloud-only uint8"
WHOLE_MODEL, WHOLE_UINT8_MODEL = "whole", "whole_uint8"


class Task(Record):
    """What to run: addresses are http://HOST:PORT, `inputs` is an .npz with `inputs` and perhaps `pixels`.

    `plaintext` allows addresses beyond loopback, which a link of namespaces has.
    """

    edge_side: str
    split_server: str
    whole_server: str
    whole_model: str
    inputs: str
    slowdown: float
    threads: int
    pause_s: float
    max_seconds: float
    timeout_s: float
    plaintext: bool


class Taken(Record):
    """One way's times: per round, per request; medians of its parts; how often its answer's class was another."""

    rounds: tuple[tuple[float, ...], ...]
    cpu_s: float
    wall_s: float
    edge_s: tuple[float, ...]
    add_s: tuple[float, ...]
    noise_s: tuple[float, ...]
    wait_s: tuple[float, ...]
    wrong_answers: int
    requests: int


class Outcome(Record):
    """The worker's last line: all ways, or the sentence why there are none."""

    taken: dict[str, Taken]
    converged: bool
    elapsed_s: float
    error: str = ""


class _Parts(NamedTuple):
    """Where one request's time went, as in `edge.Trace`."""

    edge_s: float = 0.0
    add_s: float = 0.0
    noise_s: float = 0.0
    wait_s: float = 0.0


class _Way:
    """One way to run the model: `run(index)` gives the answer and its parts."""

    def __init__(self, run: Callable[[int], tuple[Any, _Parts]], classes: np.ndarray[Any, Any]):
        self.run, self.classes = run, classes
        self.parts: list[_Parts] = []
        self.wrong = 0

    def __call__(self) -> None:
        index = len(self.parts) % len(self.classes)
        answer, parts = self.run(index)
        self.parts.append(parts)
        self.wrong += int(np.argmax(answer[0]) != self.classes[index])


def run(task: Task, progress: Callable[[float], None]) -> Outcome:
    """Measure all ways. Raises EdgecutError where a side cannot be opened or goes away."""
    whole = open_session(task.whole_model, task.threads)
    with np.load(task.inputs, allow_pickle=False) as file:
        inputs = file["inputs"]
        pixels = file["pixels"] if "pixels" in file.files else None
    source, answer = whole.get_inputs()[0].name, whole.get_outputs()[0].name
    classes = np.argmax(np.concatenate([whole.run(None, {source: x[None]})[0] for x in inputs]), axis=1)

    security = Security(allow_plaintext=task.plaintext)

    def edge_only(index: int) -> tuple[Any, _Parts]:
        start = time.perf_counter()
        logits = whole.run(None, {source: inputs[index : index + 1]})[0]
        return logits, _Parts(edge_s=hold(start, task.slowdown))

    with (
        EdgeSession(
            task.edge_side,
            task.split_server,
            threads=task.threads,
            timeout_s=task.timeout_s,
            slowdown=task.slowdown,
            backend=PROCESSOR,
            security=security,
        ) as session,
        CloudClient(task.whole_server, task.timeout_s, security) as client,
    ):

        def split(index: int) -> tuple[Any, _Parts]:
            logits = session.infer(inputs[index : index + 1])
            return logits, _Parts(*session.trace[:4])

        def cloud_only(model: str, name: str, rows: Any) -> Callable[[int], tuple[Any, _Parts]]:
            def one(index: int) -> tuple[Any, _Parts]:
                start = time.perf_counter()
                logits = client.infer(model, [(name, rows[index : index + 1])])[answer]
                return logits, _Parts(wait_s=time.perf_counter() - start)

            return one

        runs = {SPLIT: split, EDGE_ONLY: edge_only, FLOAT32: cloud_only(WHOLE_MODEL, source, inputs)}
        if pixels is not None:
            runs[UINT8] = cloud_only(WHOLE_UINT8_MODEL, "pixels", pixels)
        ways = {name: _Way(one, classes) for name, one in runs.items()}
        result = measure(
            dict(ways),
            max_seconds=task.max_seconds,
            relative_width=0.05,
            min_rounds=60,
            pause_s=task.pause_s,
            progress=progress,
        )
    return _outcome(ways, result)


def _outcome(ways: dict[str, _Way], result: Result) -> Outcome:
    taken = {}
    for name, way in ways.items():
        samples = result.samples[name]
        edge, add, noise, wait = (tuple(part) for part in zip(*way.parts, strict=True))
        taken[name] = Taken(
            rounds=tuple(tuple(block) for block in samples.rounds),
            cpu_s=samples.cpu_s,
            wall_s=samples.wall_s,
            edge_s=edge,
            add_s=add,
            noise_s=noise,
            wait_s=wait,
            wrong_answers=way.wrong,
            requests=len(way.parts),
        )
    return Outcome(taken=taken, converged=result.converged, elapsed_s=result.elapsed_s)


def _end_with_parent() -> None:
    """The parent's end of standard input closes with it, and then nobody waits for this process."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """Read the task, run it, write the outcome; status 0 also where the outcome is an error."""
    task = Task.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = run(task, lambda share: print(f'{{"share": {share:.4f}}}', flush=True))
    except EdgecutError as error:
        outcome = Outcome(taken={}, converged=False, elapsed_s=0.0, error=str(error))
    print(outcome.model_dump_json(), flush=True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
