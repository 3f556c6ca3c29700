"""How fast is our server beside Triton, MLServer, the KServe SDK and a bare TCP echo? One run, all of them in turns.

Every server sends a float32 activation back as it came. All are asked by the same client, the edge agent's (`gRPC`,
`REST`), from this machine; MLServer and KServe over gRPC, the faster of their two. One client sends its next request
when the last answer is there; eight are eight processes that do so. Medians and 99th percentiles are over all requests
of a server and size, `medians_s` has one for each repeat, to show the spread. What turns exclude are drift and load of
the machine; what they add is that a server has been idle for some milliseconds when its turn comes, so the first
requests of a turn are not counted.

`--soak SECONDS` measures the capacity of our server instead, then loads it with 80 % of that for so long: errors,
latency by tenths of the time, and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import socket
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import write_result
from serving_servers import MODEL, SERVERS, Server, receive

from edgecut.agent.transport import open_transport

SIZES = (480, 36_864, 102_400, 400_000)
REPEATS, TURNS, TURN, UNCOUNTED = 5, 5, 40, 8
CLIENTS, LOAD_S, LOAD_REPEATS = 8, 1.5, 3
SOAK_SIZE, SOAK_SHARE, CAPACITY_S = 36_864, 0.8, 10.0
Ask = Callable[[], None]


def main() -> None:
    """Start the servers, ask them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--servers", type=Path, default=Path(tempfile.gettempdir()) / "edgecut-servers", metavar="FOLDER"
    )
    parser.add_argument("--only", nargs="*", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = ["ours"] if given.soak else given.only
        # `--servers` is where the others' packages are or will be installed; the result has no path of this machine.
        servers = {name: stack.enter_context(SERVERS[name](given.servers, work)) for name in chosen}
        crew = stack.enter_context(_crew(CLIENTS))
        if given.soak:
            write_result("serving_soak", _soak(servers["ours"], crew, given.soak))
        else:
            write_result("serving", _compare(servers, crew))


def _compare(servers: dict[str, Server], crew: list[Connection]) -> dict[str, Any]:
    targets = {
        name + (f" {protocol}" if protocol != "TCP" else ""): address
        for name, server in servers.items()
        for protocol, address in server.addresses.items()
    }
    one, eight = [], []
    for size in SIZES:
        one += _one_client(targets, size)
        eight += _many_clients(targets, size, crew)
        for row in one[-len(targets) :]:
            median_ms, p99_ms = row["median_s"] * 1e3, row["p99_s"] * 1e3
            print(f"{row['server']:14} {size:7} B  median {median_ms:7.3f} ms  p99 {p99_ms:8.3f} ms", flush=True)
    return {
        "releases": {name: server.release for name, server in servers.items()},
        "to_triton": _ratios(one),
        "one_client": one,
        "eight_clients": eight,
    }


def _ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Our median over Triton's of the same protocol, by size."""
    medians = {(row["server"], row["bytes"]): row["median_s"] for row in rows}
    return {
        protocol: {
            str(size): round(medians[f"ours {protocol}", size] / medians[f"triton {protocol}", size], 3)
            for size in SIZES
            if (f"triton {protocol}", size) in medians and (f"ours {protocol}", size) in medians
        }
        for protocol in ("gRPC", "REST")
    }


def _one_client(targets: dict[str, str], size: int) -> list[dict[str, Any]]:
    samples: dict[str, list[list[float]]] = {name: [[] for _ in range(REPEATS)] for name in targets}
    with contextlib.ExitStack() as stack:
        asks = {name: stack.enter_context(_asking(address, size)) for name, address in targets.items()}
        for ask in asks.values():
            for _ in range(TURN):
                ask()
        order = list(asks)
        for repeat in range(REPEATS):
            for _ in range(TURNS):
                for name in order:
                    samples[name][repeat] += _timed(asks[name], TURN)[UNCOUNTED:]
                order = [*order[1:], order[0]]
    return [{"server": name, "bytes": size, **_summary(values)} for name, values in samples.items()]


def _timed(ask: Ask, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
    return times


def _summary(repeats: list[list[float]]) -> dict[str, Any]:
    every = [value for values in repeats for value in values]
    return {
        "requests": len(every),
        "median_s": statistics.median(every),
        "p99_s": float(np.percentile(every, 99)),
        "medians_s": [statistics.median(values) for values in repeats],
    }


def _many_clients(targets: dict[str, str], size: int, crew: list[Connection]) -> list[dict[str, Any]]:
    taken: dict[str, list[list[float]]] = {name: [] for name in targets}
    rates: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(LOAD_REPEATS):
        for name, address in targets.items():
            times, errors = _load(crew, address, size, LOAD_S, 0.0)
            if errors:
                raise SystemExit(f"{name} failed: {errors[0]}")
            taken[name].append(times)
            rates[name].append(len(times) / LOAD_S)
    return [
        {
            "server": name,
            "bytes": size,
            **_summary(taken[name]),
            "requests_per_s": statistics.median(rates[name]),
            "rates_per_s": rates[name],
        }
        for name in targets
    ]


def _soak(server: Server, crew: list[Connection], seconds: float) -> dict[str, Any]:
    """80 % of the capacity that the same clients just had, open loop: each has its share of the rate."""
    address = server.addresses["gRPC"]
    times, errors = _load(crew, address, SOAK_SIZE, CAPACITY_S, 0.0)
    capacity = len(times) / CAPACITY_S
    rate = SOAK_SHARE * capacity
    process = psutil.Process(server.pid)
    memory: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(min(1.0, seconds / 100)):
            memory.append(process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    tenths = []
    try:
        for _ in range(10):
            times, failed = _load(crew, address, SOAK_SIZE, seconds / 10, len(crew) / rate)
            errors += failed
            tenths.append(_summary([times]))
            print(
                f"{len(times)} requests, median {tenths[-1]['median_s'] * 1e3:.2f} ms, {len(failed)} errors", flush=True
            )
    finally:
        done.set()
        watching.join()
    quarter = max(1, len(memory) // 4)
    return {
        "bytes": SOAK_SIZE,
        "clients": len(crew),
        "capacity_per_s": capacity,
        "rate_per_s": rate,
        "seconds": seconds,
        "requests": sum(tenth["requests"] for tenth in tenths),
        "errors": len(errors),
        "first_errors": errors[:5],
        "rss_bytes": {
            "second_quarter": statistics.median(memory[quarter : 2 * quarter] or memory),
            "last_quarter": statistics.median(memory[-quarter:]),
            "most": max(memory),
        },
        "tenths": tenths,
    }


@contextlib.contextmanager
def _asking(address: str, size: int) -> Iterator[Ask]:
    """A function that asks once and waits for the answer, which is held against what was sent the first time."""
    x = np.random.default_rng(0).standard_normal((1, size // 4)).astype(np.float32)
    if "://" not in address:
        with _asking_echo(address, x) as ask:
            yield ask
        return
    transport = open_transport(address)
    try:
        answer = transport.infer(MODEL, [("x", x)], 30.0)["y"]
        assert np.array_equal(answer, x), f"{address} does not give back what it gets"
        yield lambda: (transport.infer(MODEL, [("x", x)], 30.0), None)[1]
    finally:
        transport.close()


@contextlib.contextmanager
def _asking_echo(address: str, x: Any) -> Iterator[Ask]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = struct.pack("<q", x.nbytes) + x.tobytes()
        into = memoryview(bytearray(x.nbytes))

        def ask() -> None:
            connection.sendall(message)
            receive(connection, into)

        yield ask


@contextlib.contextmanager
def _crew(count: int) -> Iterator[list[Connection]]:
    """Client processes, each at the other end of a pipe."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        ends = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_member, args=(there,), daemon=True)
            process.start()
            stack.callback(process.join, 5)
            stack.callback(here.close)
            ends.append(here)
        for end in ends:
            end.recv()
        yield ends


def _member(pipe: Connection) -> None:
    """A client process: load a server for a while, when told to."""
    pipe.send("here")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            address, size, seconds, interval_s, offset_s = pipe.recv()
            with _asking(address, size) as ask:
                ask()
                pipe.send("connected")
                start_s = pipe.recv()
                pipe.send(_share(ask, start_s + offset_s, start_s + seconds, interval_s))


def _share(ask: Ask, due_s: float, end_s: float, interval_s: float) -> tuple[list[float], list[str]]:
    """One client's latencies and errors. With an interval a request is due at each, and its latency counts from then.

    Times are of the monotonic clock, which the processes of a machine share.
    """
    times: list[float] = []
    errors: list[str] = []
    while True:
        now = time.monotonic()
        if now < due_s:
            time.sleep(due_s - now)
        begun = due_s if interval_s else time.monotonic()
        if begun >= end_s and (times or errors):
            return times, errors
        try:
            ask()
            times.append(time.monotonic() - begun)
        except Exception as error:  # each is counted; none is expected
            errors.append(f"{type(error).__name__}: {error}"[:200])
        due_s += interval_s


def _load(
    crew: list[Connection], address: str, size: int, seconds: float, interval_s: float
) -> tuple[list[float], list[str]]:
    """All clients at once, for so long: latencies and errors. With an interval they ask in turns, one at each."""
    for i, end in enumerate(crew):
        end.send((address, size, seconds, interval_s, interval_s * i / len(crew)))
    for end in crew:
        end.recv()
    start_s = time.monotonic() + 0.05
    for end in crew:
        end.send(start_s)
    parts = [end.recv() for end in crew]
    return [value for times, _ in parts for value in times], [text for _, errors in parts for text in errors]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
