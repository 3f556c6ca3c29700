"""The network's round trip to a server of HTTP/2, which gRPC speaks: timed with PING frames, beside that of connecting.

A PING is answered by the server's transport before any of its own code runs, and by the server itself where a relay,
a tunnel or a proxy of TCP stands between. Opening a connection is a round trip too, but only to whatever accepts it.
Source of the frames: RFC 9113, sections 3.4, 4.1 and 6.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from typing import NamedTuple

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ACK = 1
_MAX_FRAME_BYTES = 1 << 14
# gRPC's servers close a connection with a fourth ping in quick succession; the third is not needed.
_PINGS_PER_CONNECTION = 2


class RoundTrips(NamedTuple):
    """Seconds for each connection that was opened, and for each ping that came back."""

    connects_s: tuple[float, ...]
    pings_s: tuple[float, ...]


def round_trips(
    host: str,
    port: int,
    connections: int,
    until: float,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> RoundTrips:
    """Open connections one after the other, at least one and until `time.monotonic()` is `until`, and ping on each.

    With `tls` the pings go through it; connecting is timed without. Where the other side speaks no HTTP/2 there are no
    pings. Raises OSError where it cannot be connected to.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as first:
        address = first.getpeername()[:2]  # so that no name is looked up in what is timed
    connects: list[float] = []
    pings: list[float] = []
    for _ in range(connections):
        start = time.perf_counter()
        with socket.create_connection(address, timeout=timeout_s) as end:
            connects.append(time.perf_counter() - start)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if tls is None:
                    pings += _ping(end)
                else:
                    with tls.wrap_socket(end, server_hostname=host) as inner:
                        pings += _ping(inner)
            except OSError:
                break
        if time.monotonic() > until:
            break
    return RoundTrips(tuple(connects), tuple(pings))


def _ping(end: socket.socket) -> list[float]:
    """Seconds of each ping on a fresh connection. Raises OSError where the other side does not play along."""
    end.sendall(_PREFACE + _frame(_SETTINGS))
    _await(end, _SETTINGS, 0)
    end.sendall(_frame(_SETTINGS, _ACK))
    took = []
    for number in range(_PINGS_PER_CONNECTION):
        word = struct.pack(">Q", number)
        start = time.perf_counter()
        end.sendall(_frame(_PING, payload=word))
        if _await(end, _PING, _ACK) != word:
            raise ConnectionError("another ping's answer")
        took.append(time.perf_counter() - start)
    return took


def _frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + bytes(4) + payload


def _await(end: socket.socket, kind: int, flags: int) -> bytes:
    """The payload of the next frame of that kind, whatever comes before it."""
    while True:
        head = _exactly(end, 9)
        size = int.from_bytes(head[:3], "big")
        if size > _MAX_FRAME_BYTES or head[3] == _GOAWAY:
            raise ConnectionError("no HTTP/2, or a farewell")
        payload = _exactly(end, size)
        if (head[3], head[4] & _ACK) == (kind, flags):
            return payload


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection ended")
        data += part
    return data
