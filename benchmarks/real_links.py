"""What benchmarks over a real link (`runtime/tunnel.py`) share: round trips of one byte, and windows that last."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

from edgecut.runtime.tunnel import RealLink

SYSCTL = "/proc/sys/net/ipv4/tcp_slow_start_after_idle"
_ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
while True:
    end, _ = server.accept()
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := end.recv(64):
        end.sendall(data)
"""


def keep_windows(link: RealLink) -> None:
    """Keep each connection's congestion window over pauses, on both sides. Needs root.

    A deployed edge asks again before its window is forgotten (after a retransmission timeout, 0.2 s and more), and so
    never sends from a window of ten packets; in turns with other ways to run the model it would.
    """
    for side in (link.edge, link.cloud):
        side.run([sys.executable, "-c", f"open({SYSCTL!r}, 'w').write('0')"], check=True)


@contextlib.contextmanager
def ping_server(link: RealLink) -> Iterator[tuple[str, int]]:
    """Something on the cloud's side that sends every byte back; yields (host, port)."""
    server = link.cloud.popen([sys.executable, "-c", _ECHO, link.cloud.address], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield link.cloud.address, int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def pinger(host: str, port: int) -> Iterator[Callable[[], None]]:
    """One byte there and back over an open connection."""
    with socket.create_connection((host, port), timeout=30) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def once() -> None:
            end.sendall(b"x")
            end.recv(1)

        yield once
