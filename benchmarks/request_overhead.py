"""What does a request cost beside the link and the model? The source of partitioner/serving.py's figures.

An identity model behind our server, in a process of its own, is asked through the relay at the wifi preset, one
request every 5 ms after the last answer, as a profile and a measurement pace theirs. From the median latency are
taken the round trip, the bits over the rate, and the model's own paced time. What is left is serialising, gRPC,
waking four sleeping processes and the relay's own lateness. Two numbers come out: seconds per request, and seconds
per byte, by least squares over the sizes. Framing is counted by a relay that holds nothing back.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
from machine import write_result
from onnx import TensorProto, helper

from edgecut.agent.timing import measure, median
from edgecut.models.session import open_session
from edgecut.partitioner.link import PRESETS
from edgecut.runtime.client import CloudClient
from edgecut.runtime.processes import cloud_server
from edgecut.runtime.relay import LinkShape, Relay, relay_process
from edgecut.runtime.repository import write_model

SIZES = (84, 480, 1600, 4704, 9216, 36864, 102400)
ANSWER = 10
PAUSE_S = 0.005
COUNTED = 50


def main() -> None:
    """Measure every size and write the result."""
    link = PRESETS["wifi"]
    shape = LinkShape(uplink_bps=link.uplink_bps, downlink_bps=link.downlink_bps, rtt_s=link.rtt_s)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for elements in SIZES:
            _write(Path(folder), elements)
        with cloud_server(Path(folder), 1) as address, relay_process([address], shape) as ports:
            for elements in SIZES:
                up, down = _framing(address, elements)
                row = _row(Path(folder), ports[0], elements, link.uplink_s(up) + link.downlink_s(down) + link.rtt_s)
                rows.append({**row, "uplink_bytes": up, "downlink_bytes": down})
                print(rows[-1])
    sizes = np.array([row["uplink_bytes"] + row["downlink_bytes"] for row in rows])
    left = np.array([row["overhead_s"] for row in rows])
    per_byte, fixed = np.polyfit(sizes, left, 1)
    print(f"fixed {fixed * 1e3:.3f} ms, {per_byte * 1e9:.2f} ns a byte")
    write_result(
        "request_overhead",
        {
            "fixed_s": float(fixed),
            "per_byte_s": float(per_byte),
            "request_framing_bytes": statistics.median(r["uplink_bytes"] - r["payload_bytes"] for r in rows),
            "answer_framing_bytes": statistics.median(r["downlink_bytes"] - ANSWER * 4 for r in rows),
            "rows": rows,
        },
    )


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


def _framing(address: tuple[str, int], elements: int) -> tuple[float, float]:
    free = LinkShape(uplink_bps=1e11, downlink_bps=1e11, rtt_s=0.0)
    x = np.zeros((1, elements), np.float32)
    with Relay(*address, free) as relay, CloudClient(f"127.0.0.1:{relay.port}") as client:
        client.infer(f"first{elements}", [("x", x)])
        up, down = relay.uplink_bytes, relay.downlink_bytes
        for _ in range(COUNTED):
            client.infer(f"first{elements}", [("x", x)])
        return (relay.uplink_bytes - up) / COUNTED, (relay.downlink_bytes - down) / COUNTED


def _row(root: Path, port: int, elements: int, link_s: float) -> dict[str, float]:
    x = np.random.default_rng(0).standard_normal((1, elements)).astype(np.float32)
    session = open_session(str(root / f"first{elements}" / "1" / "model.onnx"))
    with CloudClient(f"127.0.0.1:{port}", timeout_s=60) as client:
        tasks = {
            "request": lambda: client.infer(f"first{elements}", [("x", x)]),
            "model": lambda: session.run(None, {"x": x}),
        }
        samples = measure(tasks, max_seconds=12, relative_width=0.01, min_rounds=30, pause_s=PAUSE_S).samples
    latency, own = (median([median(block) for block in samples[name].rounds]) for name in ("request", "model"))
    every = sorted(value for block in samples["request"].rounds for value in block)
    return {
        "payload_bytes": elements * 4,
        "latency_s": latency,
        "latency_p25_s": every[len(every) // 4],
        "latency_p75_s": every[3 * len(every) // 4],
        "link_s": link_s,
        "model_s": own,
        "overhead_s": latency - link_s - own,
    }


if __name__ == "__main__":
    main()
