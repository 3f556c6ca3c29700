"""The edge's side of benchmarks/regret.py: every way to run a network, over one link, in turns.

Reads its task and then orders as lines of JSON from standard input and answers each with a line. An order names ways,
a number of rounds and the seconds after which no further round begins; all its ways take turns, in another order each
round, so that drift and what was in the caches before hit all alike. A way runs twice in its turn, once where it is
long, each time after a pause, as in a profile. It ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from real_links import pinger
from regret_prepare import WHOLE, WHOLE_UINT8

from edgecut.agent.edge_part import hold
from edgecut.agent.timing import LONG_S
from edgecut.agent.transport import Security
from edgecut.models.session import open_session
from edgecut.runtime.client import CloudClient
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.edge_worker import EDGE_ONLY, FLOAT32, UINT8

PING = "ping"
TIMEOUT_S = 120.0
LEAST_ROUNDS = 3


class Parts(NamedTuple):
    """One request's seconds: `edge_s` without `add_s`; `model_s` is the edge's model alone."""

    total_s: float
    edge_s: float = 0.0
    add_s: float = 0.0
    noise_s: float = 0.0
    wait_s: float = 0.0
    model_s: float = 0.0


class Ways:
    """Opens each way when it is first asked for."""

    def __init__(self, task: dict[str, Any], stack: contextlib.ExitStack) -> None:
        self.task, self._stack = task, stack
        self._security = Security(allow_plaintext=True)
        with np.load(task["inputs"], allow_pickle=False) as file:
            self._arrays = dict(file)
        self._opened: dict[str, Callable[[], Parts]] = {}
        self._client = stack.enter_context(CloudClient(task["server"], TIMEOUT_S, self._security))

    def __getitem__(self, name: str) -> Callable[[], Parts]:
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> Callable[[], Parts]:
        inputs = self._arrays["inputs"]
        if name == PING:
            once = self._stack.enter_context(pinger(*self.task["ping"]))
            return lambda: _timed(once)
        if name == EDGE_ONLY:
            return self._edge_only(inputs[:1])
        if name == FLOAT32:
            return lambda: _timed(lambda: self._client.infer(WHOLE, [(self.task["input"], inputs[:1])]))
        if name == UINT8:
            pixels = self._arrays["pixels"]
            return lambda: _timed(lambda: self._client.infer(WHOLE_UINT8, [("pixels", pixels[:1])]))
        return self._split(self.task["sides"][name], inputs[:1])

    def _edge_only(self, x: Any) -> Callable[[], Parts]:
        session, slowdown = open_session(self.task["whole"], 1), self.task["slowdown"]

        def run() -> Parts:
            start = time.perf_counter()
            session.run(None, {self.task["input"]: x})
            taken = hold(start, slowdown)
            return Parts(taken, taken, model_s=taken)

        return run

    def _split(self, side: str, x: Any) -> Callable[[], Parts]:
        session = self._stack.enter_context(
            EdgeSession(
                side,
                self.task["server"],
                timeout_s=TIMEOUT_S,
                slowdown=self.task["slowdown"],
                security=self._security,
            )
        )

        def run() -> Parts:
            start = time.perf_counter()
            session.infer(x)
            taken, trace = time.perf_counter() - start, session.trace
            edge_s = trace.edge_s - trace.add_s
            return Parts(taken, edge_s, trace.add_s, trace.noise_s, trace.wait_s, trace.model_s)

        return run


def _timed(run: Callable[[], object]) -> Parts:
    start = time.perf_counter()
    run()
    taken = time.perf_counter() - start
    return Parts(taken, wait_s=taken)


def measure(ways: Ways, order: dict[str, Any], pause_s: float) -> dict[str, Any]:
    """Rounds over the ways that the order names: for each way its rounds, and each part of its requests."""
    turns, sizes = list(order["ways"]), {}
    for name in turns:
        way = ways[name]
        once = way().total_s
        if once < 2 * LONG_S:  # the first one opens the connection
            once = way().total_s
        sizes[name] = 1 if once > LONG_S else 2
    end = time.perf_counter() + order["seconds"]
    blocks: dict[str, list[list[Parts]]] = {name: [] for name in turns}
    generator = random.Random(0)
    for number in range(order["rounds"]):
        if number >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        generator.shuffle(turns)
        for name in turns:
            way, block = ways[name], []
            for _ in range(sizes[name]):
                time.sleep(pause_s)
                block.append(way())
            blocks[name].append(block)
    return {
        name: {field: [[getattr(one, field) for one in block] for block in taken] for field in Parts._fields}
        for name, taken in blocks.items()
    }


def main() -> None:
    """Obey until standard input closes."""
    task = json.loads(sys.stdin.readline())
    with contextlib.ExitStack() as stack:
        ways = Ways(task, stack)
        for line in sys.stdin:
            print(json.dumps(measure(ways, json.loads(line), task["pause_s"])), flush=True)


if __name__ == "__main__":
    main()
