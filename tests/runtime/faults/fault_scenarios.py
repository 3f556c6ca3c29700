"""Faults of servers and links, with real processes over a real link, and what became of every request meanwhile.

    askers (edge namespace) ── relay of packets ── servers (cloud namespace): `edgecut serve` over gRPC and REST

Each scenario is a generator: up to its first `yield` it prepares, then the askers begin; its next part runs when every
asker has a third of its requests behind it, the last part at two thirds. Where requests hang that takes long, so that
third also ends by itself after `MOST_S`. The last sixth waits until whatever was away has been back for `RECOVERY_S`,
and shows who has recovered. Nothing here needs to know what is right: the askers judge, see `asker`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgecut.runtime.tunnel import RealLink, TunnelShape, real_link

SHAPE = TunnelShape(uplink_bps=100e6, downlink_bps=100e6, rtt_s=0.004)
TIMEOUT_S = 1.0
PERIOD_S = 0.004
THREADS = 4
MOST_S = 4.0
# A try of 1 s that began before the end of the fault may open a breaker for 2 s more.
RECOVERY_S = 4.0
START_S = 60.0
GRPC, REST = 8001, 8000
COMPILER = "cc"


class Edge(NamedTuple):
    """One asker's way of asking."""

    transport: str
    away: str

    def addresses(self, host: str, servers: Sequence[int]) -> list[str]:
        if self.transport == "grpc":
            return [f"{host}:{GRPC + 10 * one}" for one in servers]
        return [f"http://{host}:{REST + 10 * one}" for one in servers]


EDGES = (Edge("grpc", "fail"), Edge("grpc", "local"), Edge("http", "fail"))


class Row(NamedTuple):
    """One asker in one scenario. `late` is how many requests ended after deadline and margin.

    `spans` says how the first third ended, the second, the fifth sixth and the last: c right by the cloud, l right by
    the device, e with a clear error, w wrong, u with an unclear error.
    """

    scenario: str
    transport: str
    away: str
    requests: int
    right_cloud: int
    right_local: int
    clear_errors: int
    wrong: int
    unclear: int
    late: int
    retries: int
    changed_retries: int
    median_s: float
    worst_s: float
    spans: tuple[dict[str, int], ...]
    sentences: dict[str, int]
    notes: tuple[str, ...]


class Stage:
    """A link, the servers behind it, and what is done to them."""

    def __init__(self, link: RealLink, bundle: Path, scratch: Path) -> None:
        self.link, self.bundle, self.scratch = link, bundle, scratch
        self.notes: list[str] = []
        self.recovery_s = 0.0
        self.servers: dict[int, subprocess.Popen[str]] = {}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(self, number: int = 0) -> None:
        """Start server `number` and wait until it serves."""
        command = [sys.executable, "-P", "-m", "edgecut", "serve", str(self.bundle / "cloud"), "--plaintext"]
        command += ["--host", self.link.cloud.address]
        command += ["--port", str(GRPC + 10 * number), "--rest-port", str(REST + 10 * number)]
        with open(self.scratch / f"server{number}.log", "a") as log:
            process = self.link.cloud.popen(command, stdout=subprocess.PIPE, stderr=log, env=self.environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), (line, (self.scratch / f"server{number}.log").read_text())
        self.servers[number] = process

    def end(self, number: int = 0, how: signal.Signals = signal.SIGKILL) -> None:
        self.recovery_s = RECOVERY_S
        self.servers[number].send_signal(how)
        self.servers[number].wait(START_S)


Scenario = Callable[[Stage], Iterator[None]]


def undisturbed(stage: Stage) -> Iterator[None]:
    """Nothing goes wrong: what the others are compared with."""
    stage.start()
    yield
    yield


def killed(stage: Stage) -> Iterator[None]:
    """The server is killed, as by the kernel's out-of-memory killer, and started again."""
    stage.start()
    yield
    stage.end()
    yield
    stage.start()


def stopped(stage: Stage) -> Iterator[None]:
    """The server is told to stop, finishes what it holds, and is started again."""
    stage.start()
    yield
    stage.end(how=signal.SIGTERM)
    yield
    stage.start()


def cut(stage: Stage) -> Iterator[None]:
    """The link loses everything, and carries again."""
    stage.start()
    yield
    stage.link.cut()
    yield
    stage.link.restore()
    stage.recovery_s = RECOVERY_S


def slow(stage: Stage) -> Iterator[None]:
    """The link falls to 64 kbit/s and a round trip of 0.4 s, and recovers."""
    stage.start()
    yield
    stage.link.change(uplink_bps=64e3, downlink_bps=64e3, rtt_s=0.4)
    yield
    stage.link.change(uplink_bps=SHAPE.uplink_bps, downlink_bps=SHAPE.downlink_bps, rtt_s=SHAPE.rtt_s)
    stage.recovery_s = RECOVERY_S


def half_open(stage: Stage) -> Iterator[None]:
    """The way forgets its connections, as a NAT does: neither end hears of it, and only new ones are carried."""
    stage.start()
    yield
    stage.link.forget()
    yield
    stage.link.forget()


def vanished(stage: Stage) -> Iterator[None]:
    """The server's machine loses power and another takes its place: nobody ever says that connections have ended."""
    stage.start()
    yield
    stage.link.cut()
    stage.end()
    stage.link.forget()
    yield
    stage.start()
    stage.link.restore()


def lossy(stage: Stage) -> Iterator[None]:
    """Every twentieth packet is lost, in both directions, from beginning to end."""
    stage.link.change(loss=0.05)
    stage.start()
    yield
    yield


def memory(stage: Stage) -> Iterator[None]:
    """The server may have no more memory than it has (RLIMIT_AS), while a neighbour asks for what needs a lot more."""
    stage.start()
    process = stage.servers[0]
    status = Path(f"/proc/{process.pid}/status").read_text()
    used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize")) * 1024
    script, server = str(Path(__file__).with_name("neighbour.py")), f"{stage.link.cloud.address}:{GRPC}"
    command = [sys.executable, "-P", script, str(stage.bundle), server]
    neighbour = stage.link.cloud.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert neighbour.stdin is not None and neighbour.stdout is not None
    assert neighbour.stdout.readline() == "ready\n"
    yield
    resource.prlimit(process.pid, resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
    neighbour.stdin.write("\n")
    neighbour.stdin.flush()
    stage.notes.append("the neighbour was told: " + neighbour.stdout.readline().strip())
    yield
    neighbour.kill()
    neighbour.wait()
    stage.recovery_s = RECOVERY_S
    if process.poll() is None:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        stage.notes.append(f"the server ended with status {process.returncode}")
        stage.start()


def clock(stage: Stage) -> Iterator[None]:
    """Every wall clock jumps an hour ahead, then two back; the monotonic clocks run on, see clock.c."""
    offset, library = stage.scratch / "offset", stage.scratch / "clock.so"
    _write_offset(offset, 0)
    source = str(Path(__file__).with_name("clock.c"))
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", source, "-o", str(library)], check=True)
    stage.environment |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    stage.start()
    yield
    _write_offset(offset, 3600)
    yield
    _write_offset(offset, -3600)


def one_of_two(stage: Stage) -> Iterator[None]:
    """Of two servers the one that is asked dies and stays away."""
    stage.start(0)
    stage.start(1)
    yield
    stage.end(0)
    yield


SCENARIOS: dict[str, Scenario] = {
    "undisturbed": undisturbed,
    "server killed and restarted": killed,
    "server stopped and restarted": stopped,
    "link cut": cut,
    "link slow": slow,
    "half-open connection": half_open,
    "server vanished": vanished,
    "5 % loss": lossy,
    "server out of memory": memory,
    "clock jump": clock,
    "one of two servers dies": one_of_two,
}


def _write_offset(file: Path, seconds: int) -> None:
    # In place: the processes have it mapped.
    with open(file, "r+b" if file.exists() else "wb") as opened:
        opened.write(struct.pack("=q", seconds))


class _Asker:
    """An asker's process, and how far it is."""

    def __init__(self, stage: Stage, edge: Edge, requests: int, timeout_s: float, seed: int) -> None:
        task = {
            "bundle": str(stage.bundle),
            "servers": edge.addresses(stage.link.cloud.address, sorted(stage.servers)),
            "away": edge.away,
            "requests": requests,
            "hold": 5 * (requests // 6),
            "timeout_s": timeout_s,
            "period_s": PERIOD_S,
            "threads": THREADS,
            "batch": 1,
            "seed": seed,
        }
        command = [sys.executable, "-P", str(Path(__file__).with_name("asker.py")), json.dumps(task)]
        self.edge, self.ended, self.last = edge, 0, ""
        self.process = stage.link.edge.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=stage.environment
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        assert self.process.stdout.readline() == "ready\n", f"the {edge} did not open its session"
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def go_on(self) -> None:
        """Begin, or after that go on with the last sixth."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last = line
            if line.strip().isdecimal():
                self.ended = int(line)

    def result(self, wait_s: float) -> dict[str, Any]:
        self._reading.join(wait_s)
        assert not self._reading.is_alive(), f"the asker {self.edge} hangs after {self.ended} requests"
        found: dict[str, Any] = json.loads(self.last)
        return found


def play(
    name: str,
    bundle: Path,
    scratch: Path,
    *,
    requests: int = 1000,
    timeout_s: float = TIMEOUT_S,
    margin_s: float = 0.25,
    edges: Sequence[Edge] = EDGES,
) -> list[Row]:
    """Run a scenario with all edges at once: a row for each. Raises LinkError where no link can be made."""
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(real_link(SHAPE, seed=1))
        stage = Stage(link, bundle, scratch)
        parts = SCENARIOS[name](stage)
        next(parts)
        askers = [_Asker(stage, edge, requests, timeout_s, seed) for seed, edge in enumerate(edges)]
        for asker in askers:
            asker.go_on()
        for third, most_s in ((1, START_S), (2, MOST_S)):
            end = time.monotonic() + most_s
            while any(one.ended < third * requests // 3 - 2 * THREADS for one in askers) and time.monotonic() < end:
                time.sleep(0.01)
            next(parts, None)
        time.sleep(stage.recovery_s)
        for asker in askers:
            asker.go_on()
        # Even if every request took its whole deadline.
        wait_s = requests * (timeout_s + margin_s) / THREADS + START_S
        results = [asker.result(wait_s) for asker in askers]
    return [
        _row(name, asker.edge, result, timeout_s + margin_s, stage.notes)
        for asker, result in zip(askers, results, strict=True)
    ]


def _row(name: str, edge: Edge, result: dict[str, Any], latest_s: float, notes: Sequence[str]) -> Row:
    outcomes, took_s = result["outcomes"], result["took_s"]
    count = {letter: outcomes.count(letter) for letter in "clewu?"}
    size = len(outcomes) // 6
    bounds = (0, 2 * size, 4 * size, 5 * size, len(outcomes))
    spans = [outcomes[start:end] for start, end in itertools.pairwise(bounds)]
    return Row(
        scenario=name,
        transport=edge.transport,
        away=edge.away,
        requests=len(outcomes),
        right_cloud=count["c"],
        right_local=count["l"],
        clear_errors=count["e"],
        wrong=count["w"],
        unclear=count["u"] + count["?"],
        late=sum(one > latest_s for one in took_s),
        retries=result["retries"],
        changed_retries=result["changed"],
        median_s=sorted(took_s)[len(took_s) // 2],
        worst_s=max(took_s),
        spans=tuple({letter: span.count(letter) for letter in sorted(set(span))} for span in spans),
        sentences=result["sentences"],
        notes=tuple(notes),
    )
