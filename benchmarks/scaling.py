"""What does serving over Ray cost, and from which model on does a second replica pay? For docs/scaling.md.

Our own server, Ray with one replica and Ray with two answer the same requests of 37 kB, one after the other on this
machine: of a model that takes next to no time, where all the time is the server's, and of one of some 10 ms. Asked by
one client (median, 99th percentile) and by eight (answers a second). Start is until the first answer; memory is what
all processes of the server hold of their own and their share of what they have in common. Clients and servers share
the processors, so the gain of a second replica is what this machine leaves of it.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from machine import write_result
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent.caller import Caller

ROWS, COLUMNS, WIDTH = 16, 576, 2048
LAYERS = {"light": 0, "heavy": 3}
SERIAL_S, PARALLEL_S, CLIENTS = 4.0, 4.0, 8
RAY = """
import json, sys
from edgecut.runtime.ray_engine import serve_on_ray
serve_on_ray(sys.argv[1], port=0, plaintext=True, **json.loads(sys.argv[2]))
"""
SERVERS: dict[str, list[str]] = {
    "edgecut serve": ["-m", "edgecut", "serve", "FOLDER", "--port=0", "--rest-port=none", "--workers=2"],
    "ray, 1 replica": ["-c", RAY, "FOLDER", json.dumps({"replicas": 1})],
    "ray, 2 replicas": ["-c", RAY, "FOLDER", json.dumps({"replicas": 2})],
}


def main() -> None:
    """Measure every server and write the result."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, layers in LAYERS.items():
            _write(Path(folder), name, layers)
        for server, command in SERVERS.items():
            with _running([folder if part == "FOLDER" else part for part in command]) as (address, start_s, process):
                caller = Caller(f"grpc://{address}")
                for model in LAYERS:
                    row = {"server": server, "model": model, "start_s": start_s, **_measured(caller, model)}
                    rows.append({**row, "memory_bytes": _memory(process)})
                    print(rows[-1])
                caller.close()
    write_result("scaling", {"request_bytes": ROWS * COLUMNS * 4, "clients": CLIENTS, "rows": rows})


def _write(root: Path, name: str, layers: int) -> None:
    from edgecut.runtime.repository import write_model

    random = np.random.default_rng(0)
    widths = [COLUMNS, *[WIDTH] * layers, 10]
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) / 50).astype(np.float32), f"w{i}")
        for i, shape in enumerate(itertools.pairwise(widths))
    ]
    values = ["x", *(f"v{i}" for i in range(layers)), "y"]
    nodes = [helper.make_node("MatMul", [values[i], f"w{i}"], [values[i + 1]]) for i in range(layers + 1)]
    sides = [
        helper.make_tensor_value_info(side, TensorProto.FLOAT, ["batch", size])
        for side, size in (("x", COLUMNS), ("y", 10))
    ]
    graph = helper.make_graph(nodes, name, sides[:1], sides[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    write_model(root, name, model.SerializeToString(), [("x", "TYPE_FP32", [COLUMNS])], [("y", "TYPE_FP32", [10])])


@contextmanager
def _running(arguments: list[str]) -> Iterator[tuple[str, float, psutil.Process]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-P", *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        try:
            port = next(line for line in child.stdout if line.startswith("serving ")).rpartition(":")[2].strip()
            yield f"127.0.0.1:{port}", time.monotonic() - started, psutil.Process(child.pid)
        finally:
            child.terminate()
            child.wait(60)


def _measured(caller: Caller, model: str) -> dict[str, float]:
    x = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32)

    def ask(until: float) -> list[float]:
        taken = []
        while time.perf_counter() < until:
            started = time.perf_counter()
            caller.infer(model, [("x", x)])
            taken.append(time.perf_counter() - started)
        return taken

    ask(time.perf_counter() + 0.5)
    alone = sorted(ask(time.perf_counter() + SERIAL_S))
    together: list[float] = []
    end = time.perf_counter() + PARALLEL_S
    threads = [threading.Thread(target=lambda: together.extend(ask(end))) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "median_s": statistics.median(alone),
        "p99_s": alone[int(len(alone) * 0.99)],
        "answers_per_s": len(together) / PARALLEL_S,
        "together_median_s": statistics.median(together),
    }


def _memory(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main()
