"""How closely does the real link (`runtime/tunnel.py`) keep the rate, the round trip and the loss that it is given?

Measured with iperf3, which knows nothing of it: TCP in both directions for every preset, with this kernel's congestion
control and with reno, medians of `REPEATS` runs; UDP for the loss. The round trip is that of 64-byte messages on an
open connection, beside what it must be, and beside that the time of opening one. Rates are of IP packets, so a TCP
that wastes nothing carries 1448 of 1500 bytes, 96.5 %.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from machine import write_result

from edgecut.errors import LinkError
from edgecut.partitioner.link import PRESETS
from edgecut.runtime.tunnel import RealLink, TunnelShape, real_link

REPEATS = 3
SECONDS = 3
LOSSES = (0.01, 0.05)
MESSAGE_BYTES = 64
HEADER_BYTES = 52
ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("up", flush=True)
while True:
    end, _ = server.accept()
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := end.recv(65536):
        end.sendall(data)
"""
ASK = """
import json, socket, sys, time
connects, trips = [], []
for _ in range(10):
    start = time.perf_counter()
    with socket.create_connection((sys.argv[1], 7000)) as end:
        connects.append(time.perf_counter() - start)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(6):
            start = time.perf_counter()
            end.sendall(bytes(64))
            end.recv(64)
            trips.append(time.perf_counter() - start)
print(json.dumps([connects, trips]))
"""


def main() -> None:
    """Measure every preset and write the result."""
    rows = []
    for name, preset in PRESETS.items():
        for congestion in (None, "reno"):
            shape = TunnelShape(uplink_bps=preset.uplink_bps, downlink_bps=preset.downlink_bps, rtt_s=preset.rtt_s)
            try:
                with real_link(shape, congestion=congestion) as link:
                    rows.append({"link": name, "congestion_control": link.congestion, **_row(link, shape)})
            except LinkError as error:
                if congestion is None:
                    raise
                print(f"{name} with {congestion}: {error}")
                continue
            print(_line(rows[-1]))
    losses = [_loss(share) for share in LOSSES]
    for one in losses:
        print(f"loss {one['asked']:.3f}: {one['lost']} of {one['packets']} datagrams, {one['measured']:.4f}")
    with real_link(TunnelShape(uplink_bps=1e11, downlink_bps=1e11, rtt_s=0.0)) as link:
        most = [_rate(link) for _ in range(REPEATS)]
    print(f"unshaped {statistics.median(most) / 1e9:.2f} Gbit/s")
    write_result("link_accuracy", {"rows": rows, "losses": losses, "unshaped_bps": most})


def _row(link: RealLink, shape: TunnelShape) -> dict[str, Any]:
    connects, trips = _times(link)
    bits = 8 * (MESSAGE_BYTES + HEADER_BYTES)
    expected_s = shape.rtt_s + bits / shape.uplink_bps + bits / shape.downlink_bps
    up, down = ([_rate(link, *options) for _ in range(REPEATS)] for options in ((), ("-R",)))
    return {
        "uplink_bps": shape.uplink_bps,
        "uplink_measured_bps": up,
        "uplink_ratio": statistics.median(up) / shape.uplink_bps,
        "downlink_bps": shape.downlink_bps,
        "downlink_measured_bps": down,
        "downlink_ratio": statistics.median(down) / shape.downlink_bps,
        "round_trip_s": expected_s,
        "round_trip_measured_s": statistics.median(trips),
        "round_trip_p95_s": sorted(trips)[int(0.95 * len(trips))],
        "connect_measured_s": statistics.median(connects),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['link']:5} {row['congestion_control']:6} up {row['uplink_ratio']:.3f}, down {row['downlink_ratio']:.3f} "
        f"of the rate; round trip {row['round_trip_measured_s'] * 1e3:.2f} ms for {row['round_trip_s'] * 1e3:.2f}, "
        f"connecting {row['connect_measured_s'] * 1e3:.2f} ms"
    )


def _times(link: RealLink) -> tuple[list[float], list[float]]:
    server = link.cloud.popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    asked = link.edge.run([sys.executable, "-c", ASK, link.cloud.address], stdout=subprocess.PIPE, check=True)
    server.kill()
    connects, trips = json.loads(asked.stdout)
    return connects, trips


def _rate(link: RealLink, *options: str) -> float:
    return float(_iperf(link, "-t", str(SECONDS), "-O", "1", *options)["sum_received"]["bits_per_second"])


def _loss(share: float) -> dict[str, Any]:
    with real_link(TunnelShape(uplink_bps=1e9, downlink_bps=1e9, rtt_s=0.0, loss=share), seed=1) as link:
        total = _iperf(link, "-u", "-b", "8M", "-l", "500", "-t", str(SECONDS))["sum"]
    packets, lost = total["packets"], total["lost_packets"]
    return {"asked": share, "packets": packets, "lost": lost, "measured": lost / packets}


def _iperf(link: RealLink, *options: str) -> dict[str, Any]:
    server = link.cloud.popen(["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    server.stdout.readline()  # it listens
    done = link.edge.run(["iperf3", "-c", link.cloud.address, "-J", *options], stdout=subprocess.PIPE)
    server.wait(10)
    result: dict[str, Any] = json.loads(done.stdout)
    if "error" in result:
        raise SystemExit(f"iperf3: {result['error']}")
    end: dict[str, Any] = result["end"]
    return end


if __name__ == "__main__":
    main()
