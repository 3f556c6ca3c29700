"""What does a request cost beside the link and the model? The source of partitioner/serving.py's figures.

An identity model behind our server, in a process and a network namespace of its own, is asked over HTTP through a link
of packets with the wifi preset's rates and delay (`runtime/tunnel.py`), one request every 5 ms after the last answer,
as a profile and a measurement pace theirs. A TCP message of one byte there and back, in turns with the requests, is the
round trip: it wakes the same processes. From the median latency are taken the round trip, the bits over the rate, and
the model's own paced time. What is left is the work of client and server on a request. Two numbers come out: seconds
per request, and seconds per byte, by least squares over the sizes. gRPC is measured beside it, to be compared with.
Framing is counted by a relay of bytes that holds nothing back. A third number is what an edge session does itself
beside model, noise and client (checking, waking the noise's thread): LeNet-5 cut after conv3, in turns with the client.

The congestion window is kept over pauses (net.ipv4.tcp_slow_start_after_idle is 0 in both namespaces), since requests
of other sizes come between two of one kind here. It needs root.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result
from onnx import TensorProto, helper
from real_links import keep_windows, ping_server, pinger
from regret_prepare import prepare

from edgecut.agent.timing import measure, median
from edgecut.agent.transport import Security
from edgecut.models.load import load_model
from edgecut.models.session import open_session
from edgecut.partitioner.link import PRESETS
from edgecut.runtime.client import CloudClient
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.processes import cloud_server
from edgecut.runtime.relay import LinkShape, Relay
from edgecut.runtime.repository import write_model
from edgecut.runtime.tunnel import carrying, real_link

SIZES = (84, 480, 1600, 4704, 9216, 36864, 102400)
ANSWER = 10
PAUSE_S = 0.005
COUNTED = 50
SCHEMES = ("http", "grpc")
CUT = "conv3"


def main() -> None:
    """Measure every size and write the result. With `edge`, measure from within the link's edge namespace."""
    if sys.argv[1:2] == ["edge"]:
        print(json.dumps(_within(*sys.argv[2:])))
        return
    link = PRESETS["wifi"]
    shape = LinkShape(uplink_bps=link.uplink_bps, downlink_bps=link.downlink_bps, rtt_s=link.rtt_s)
    with tempfile.TemporaryDirectory() as folder:
        for elements in SIZES:
            _write(Path(folder) / "repository", elements)
        network = load_model("lenet5")
        prepare(network, [network.spec.cut(CUT)], Path(folder))
        root = Path(folder) / "repository"
        framing = {scheme: _framing(root, scheme) for scheme in SCHEMES}
        with real_link(carrying(shape)) as made:
            keep_windows(made)
            with (
                ping_server(made) as ping,
                cloud_server(root, 1, made.cloud, "http") as http,
                cloud_server(root, 1, made.cloud, "grpc") as grpc,
            ):
                addresses = ["{}:{}".format(*address) for address in (http, grpc, ping)]
                command = [sys.executable, __file__, "edge", folder, *addresses]
                told = made.edge.run(command, stdout=subprocess.PIPE, check=True).stdout
            congestion = made.congestion
    rows, session_s = json.loads(told)
    result = {scheme: _fit([row for row in rows if row["scheme"] == scheme], framing[scheme]) for scheme in SCHEMES}
    print(f"session {session_s * 1e3:.3f} ms")
    for scheme, fit in result.items():
        print(f"{scheme}: fixed {fit['fixed_s'] * 1e3:.3f} ms, {fit['per_byte_s'] * 1e9:.2f} ns a byte, {fit}")
    write_result(
        "request_overhead",
        {
            "link": "wifi",
            "congestion_control": congestion,
            "tcp_slow_start_after_idle": 0,
            "transport": "http",
            **result["http"],
            "session_s": session_s,
            "grpc": result["grpc"],
            "rows": rows,
        },
    )


def _fit(rows: list[dict[str, Any]], framing: list[tuple[float, float]]) -> dict[str, Any]:
    """Seconds per request and per byte, after the bits over the link; adds `overhead_s` to each row."""
    link, sizes = PRESETS["wifi"], []
    for row, (up, down) in zip(rows, framing, strict=True):
        bits_s = link.uplink_s(up) + link.downlink_s(down)
        row |= {"uplink_bytes": up, "downlink_bytes": down, "bits_s": bits_s}
        row["overhead_s"] = row["latency_s"] - row["ping_s"] - bits_s - row["model_s"]
        sizes.append(up + down)
    per_byte, fixed = np.polyfit(np.array(sizes), np.array([row["overhead_s"] for row in rows]), 1)
    return {
        "fixed_s": float(fixed),
        "per_byte_s": float(per_byte),
        "request_framing_bytes": statistics.median(row["uplink_bytes"] - row["payload_bytes"] for row in rows),
        "answer_framing_bytes": statistics.median(row["downlink_bytes"] - ANSWER * 4 for row in rows),
    }


def _write(root: Path, elements: int) -> None:
    nodes = [helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"])]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", ANSWER), ("axis", 1))
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", elements), ("y", ANSWER))
    ]
    graph = helper.make_graph(nodes, "first", values[:1], values[1:], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    made = model.SerializeToString()
    write_model(root, f"first{elements}", made, [("x", "TYPE_FP32", [elements])], [("y", "TYPE_FP32", [ANSWER])])


def _framing(root: Path, scheme: Any) -> list[tuple[float, float]]:
    """Bytes up and down per request, for each size, on a connection that is open."""
    free = LinkShape(uplink_bps=1e11, downlink_bps=1e11, rtt_s=0.0)
    found = []
    with (
        cloud_server(root, 1, scheme=scheme) as address,
        Relay(*address, free) as relay,
        CloudClient(f"{scheme}://127.0.0.1:{relay.port}") as client,
    ):
        for elements in SIZES:
            x = np.zeros((1, elements), np.float32)
            client.infer(f"first{elements}", [("x", x)])
            up, down = relay.uplink_bytes, relay.downlink_bytes
            for _ in range(COUNTED):
                client.infer(f"first{elements}", [("x", x)])
            found.append(((relay.uplink_bytes - up) / COUNTED, (relay.downlink_bytes - down) / COUNTED))
    return found


def _within(folder: str, http: str, grpc: str, ping: str) -> tuple[list[dict[str, Any]], float]:
    """In the edge namespace: a row for each size and scheme, and the session's own seconds."""
    security = Security(allow_plaintext=True)
    host, _, port = ping.rpartition(":")
    rows = []
    with (
        pinger(host, int(port)) as once,
        CloudClient(f"http://{http}", 60, security) as over_http,
        CloudClient(f"grpc://{grpc}", 60, security) as over_grpc,
    ):
        for elements in SIZES:
            x = np.random.default_rng(0).standard_normal((1, elements)).astype(np.float32)
            clients = dict(zip(SCHEMES, (over_http, over_grpc), strict=True))
            rows += _rows(Path(folder) / "repository", elements, x, clients, once)
        return rows, _session_s(Path(folder), f"http://{http}", over_http, security)


def _session_s(folder: Path, url: str, client: CloudClient, security: Security) -> float:
    """A session's request, less its model and its adding of noise, less the client's request for the same."""
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        x = file["inputs"][:1]
    with EdgeSession(folder / "side0", url, security=security) as session:
        cut = session.part.description.cut
        activations = [(tensor.name, np.zeros((1, *tensor.shape), np.float32)) for tensor in cut]

        def split() -> float:
            start = time.perf_counter()
            session.infer(x)
            return time.perf_counter() - start - session.trace.model_s - session.trace.add_s

        tasks = {"split": split, "client": lambda: client.infer("cut0", activations)}
        samples = measure(tasks, max_seconds=15, relative_width=0.01, min_rounds=60, pause_s=PAUSE_S).samples
    split_s, client_s = (median([median(block) for block in samples[name].rounds]) for name in tasks)
    return float(split_s - client_s)


def _rows(root: Path, elements: int, x: Any, clients: dict[str, CloudClient], ping: Any) -> list[dict[str, Any]]:
    model = f"first{elements}"
    session = open_session(str(root / model / "1" / "model.onnx"))
    tasks: dict[str, Any] = {
        scheme: lambda client=client: client.infer(model, [("x", x)]) for scheme, client in clients.items()
    }
    tasks |= {"ping": ping, "model": lambda: session.run(None, {"x": x})}
    samples = measure(tasks, max_seconds=15, relative_width=0.01, min_rounds=30, pause_s=PAUSE_S).samples
    medians = {name: median([median(block) for block in taken.rounds]) for name, taken in samples.items()}
    rows = []
    for scheme in SCHEMES:
        every = sorted(value for block in samples[scheme].rounds for value in block)
        rows.append(
            {
                "scheme": scheme,
                "payload_bytes": elements * 4,
                "latency_s": medians[scheme],
                "latency_p25_s": every[len(every) // 4],
                "latency_p75_s": every[3 * len(every) // 4],
                "ping_s": medians["ping"],
                "model_s": medians["model"],
            }
        )
    return rows


if __name__ == "__main__":
    main()
