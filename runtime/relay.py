"""An emulated link: a TCP relay that holds bytes back as a slow, far network would. It needs no special rights.

A link has one rate per direction, shared by all its connections, and half of the round trip as delay per direction.
Each chunk leaves when the link is free, `t_free = max(now, t_free) + bits / rate`, and arrives at `t_free + rtt / 2`.
Uplink is from the client to the upstream. The rate is that of TCP payload: headers below are not counted, nothing is
lost, and there is no slow start, because each side's TCP ends here. Opening a connection costs no round trip either,
so the time of a NEW connection through the relay means nothing; that of messages on an open one does.

One thread with one `select` drives everything. asyncio and epoll round their timers to milliseconds, select does not.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, ValidationError

from ..artefacts import Record, first_fault
from ..errors import EdgecutError, LinkError, ServerError
from .processes import await_end_of_input, await_ending, child, first_line

if TYPE_CHECKING:
    from types import TracebackType

CHUNK_BYTES = 1448  # the payload of an Ethernet frame
# Chunks of a fast link are larger, so that Python keeps up, but never take longer than this to send.
CHUNK_S = 0.0002
# How far ahead the link is booked before reading stops; enough to bridge the loop's own delays.
BACKLOG_S = 0.02
SLACK_BYTES = 1 << 18
SELECTABLE = 1024  # select takes no file descriptor from here on
_RESET = struct.pack("ii", 1, 0)
_PR_SET_TIMERSLACK = 29


class LinkShape(Record):
    """A link's two rates in bit/s and its round trip in seconds."""

    uplink_bps: float = Field(gt=0)
    downlink_bps: float = Field(gt=0)
    rtt_s: float = Field(ge=0)


class _Direction:
    """One direction of the link: when it is next free, and how many bytes it has handed over."""

    def __init__(self, rate_bps: float, delay_s: float) -> None:
        self.rate_bps = rate_bps
        self.delay_s = delay_s
        self.chunk_bytes = max(CHUNK_BYTES, int(rate_bps / 8 * CHUNK_S))
        self.backlog_s = max(BACKLOG_S, 2 * 8 * self.chunk_bytes / rate_bps)
        # What a connection may have under way: the link's own content and some slack for a slow reader behind it.
        self.most_bytes = int(rate_bps / 8 * (delay_s + self.backlog_s)) + SLACK_BYTES
        self.free_at = 0.0
        self.total_bytes = 0

    def arrival(self, size_bytes: int, now: float) -> float:
        """Book the link for a chunk and return when it arrives."""
        self.free_at = max(now, self.free_at) + 8 * size_bytes / self.rate_bps
        return self.free_at + self.delay_s


class _Half:
    """One direction of one connection. An empty chunk is the end of the stream, delayed like any other."""

    def __init__(self, source: socket.socket, sink: socket.socket, link: _Direction) -> None:
        self.source, self.sink, self.link = source, sink, link
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self.ended = False
        self.done = False
        self.blocked = False

    def wants(self, now: float) -> bool:
        """Whether there is room to read more."""
        return not self.ended and self.held_bytes < self.link.most_bytes and self.resume_at() <= now

    def resume_at(self) -> float:
        """When the link's booking is short enough to read on."""
        return self.link.free_at - self.link.backlog_s

    def read(self) -> None:
        """Take one chunk from the source. Raises OSError where the connection broke."""
        try:
            data = self.source.recv(self.link.chunk_bytes)
        except BlockingIOError:
            return
        self.chunks.append((self.link.arrival(len(data), time.monotonic()), data))
        self.held_bytes += len(data)
        self.ended = not data

    def write(self, now: float) -> None:
        """Hand over what has arrived by now, as far as the sink takes it. Raises OSError."""
        self.blocked = False
        while self.chunks and self.chunks[0][0] <= now:
            due, data = self.chunks.popleft()
            if not data:
                self.sink.shutdown(socket.SHUT_WR)
                self.done = True
                return
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            self.held_bytes -= sent
            self.link.total_bytes += sent
            if sent < len(data):
                self.chunks.appendleft((due, data[sent:]))
                self.blocked = True
                return


class _Pair:
    """One connection through the relay."""

    def __init__(self, client: socket.socket, upstream: socket.socket, up: _Direction, down: _Direction) -> None:
        self.client, self.upstream = client, upstream
        self.connecting = True
        self.halves = (_Half(client, upstream, up), _Half(upstream, client, down))

    def close(self, *, reset: bool) -> None:
        for end in (self.client, self.upstream):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


class Relay:
    """A relay in a thread of this process; in a process that computes, prefer `relay_process`.

    Args:
        upstream_host: Where the server is.
        upstream_port: Its port.
        shape: The link.
        listen_port: The port to listen on at 127.0.0.1, 0 for any free one.
        also: Further (host, port) upstreams on the same link, each with a free port of its own.

    Raises:
        ServerError: an upstream's name is unknown, or a port is taken.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        shape: LinkShape,
        listen_port: int = 0,
        *,
        also: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.shape = shape
        self._up = _Direction(shape.uplink_bps, shape.rtt_s / 2)
        self._down = _Direction(shape.downlink_bps, shape.rtt_s / 2)
        self._upstreams = [_resolve(host, port) for host, port in ((upstream_host, upstream_port), *also)]
        self._listeners: list[socket.socket] = []
        try:
            for port in (listen_port, *[0] * len(also)):
                self._listeners.append(_listener(port))
        except ServerError:
            self._close_listeners()
            raise
        self.ports: tuple[int, ...] = tuple(one.getsockname()[1] for one in self._listeners)
        self._pairs: list[_Pair] = []
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="edgecut-relay", daemon=True)

    @property
    def port(self) -> int:
        """The port that leads to the first upstream."""
        return self.ports[0]

    @property
    def uplink_bytes(self) -> int:
        """Bytes handed to the upstreams so far."""
        return self._up.total_bytes

    @property
    def downlink_bytes(self) -> int:
        """Bytes handed to the clients so far."""
        return self._down.total_bytes

    def start(self) -> Self:
        """Begin to relay; returns itself."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Reset every connection and stop listening."""
        if self._wake.fileno() >= 0:
            self._wake.close()
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        sleep_precisely()
        try:
            while self._turn():
                pass
        finally:
            for pair in self._pairs:
                pair.close(reset=True)
            self._close_listeners()
            self._woken.close()

    def _turn(self) -> bool:
        """Wait for the next event and act on it. False when the relay is to end."""
        now = time.monotonic()
        readers: list[socket.socket] = [self._woken, *self._listeners]
        writers: list[socket.socket] = []
        times: list[float] = []
        for pair in self._pairs:
            if pair.connecting:
                writers.append(pair.upstream)
                continue
            for half in pair.halves:
                if half.wants(now):
                    readers.append(half.source)
                elif not half.ended and half.held_bytes < half.link.most_bytes:
                    times.append(half.resume_at())
                if half.blocked:
                    writers.append(half.sink)
                elif half.chunks:
                    times.append(half.chunks[0][0])
        wait_s = max(0.0, min(times) - time.monotonic()) if times else None
        readable, writable, _ = select.select(readers, writers, [], wait_s)
        if self._woken in readable:
            return False
        for index, listener in enumerate(self._listeners):
            if listener in readable:
                self._accept(listener, self._upstreams[index])
        ready = set(readable), set(writable)
        self._pairs = [pair for pair in self._pairs if self._serve(pair, *ready)]
        return True

    def _serve(self, pair: _Pair, readable: set[socket.socket], writable: set[socket.socket]) -> bool:
        """Move what can be moved on one connection. False when it is over."""
        try:
            if pair.connecting:
                if pair.upstream in writable:
                    pair.connecting = False
                    _raise_pending(pair.upstream)
                return True
            for half in pair.halves:
                if half.source in readable:
                    half.read()
                if not half.blocked or half.sink in writable:
                    half.write(time.monotonic())
        except OSError:
            pair.close(reset=True)
            return False
        if all(half.done for half in pair.halves):
            pair.close(reset=False)
            return False
        return True

    def _accept(self, listener: socket.socket, upstream: tuple[int, tuple[str, int]]) -> None:
        family, address = upstream
        try:
            client, _ = listener.accept()
        except OSError:  # it went away again
            return
        pair = _Pair(client, socket.socket(family, socket.SOCK_STREAM), self._up, self._down)
        for end in (pair.client, pair.upstream):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fits = max(client.fileno(), pair.upstream.fileno()) < SELECTABLE
        if fits and pair.upstream.connect_ex(address) in (0, errno.EINPROGRESS):
            self._pairs.append(pair)
        else:
            pair.close(reset=True)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()


@contextlib.contextmanager
def relay_process(upstreams: Sequence[tuple[str, int]], shape: LinkShape) -> Iterator[tuple[int, ...]]:
    """A relay in a process of its own, so that it never waits for the caller's interpreter; yields its ports.

    Raises ServerError where it does not start.
    """
    arguments = ["edgecut.runtime.relay", "--rtt-s", repr(shape.rtt_s)]
    arguments += ["--uplink-bps", repr(shape.uplink_bps), "--downlink-bps", repr(shape.downlink_bps)]
    for host, port in upstreams:
        arguments += ["--upstream", f"{host}:{port}"]
    with child(arguments, "the relay") as process:
        yield tuple(json.loads(first_line(process, "the relay"))["ports"])


def run_relay(upstreams: Sequence[tuple[str, int]], shape: LinkShape, listen_port: int = 0) -> None:
    """Relay until SIGTERM, SIGINT or the end of standard input (the parent is gone); main thread only.

    Prints one JSON line: `port` leads to the first upstream, `ports` to each in order. Raises ServerError as `Relay`.
    """
    ending: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: ending.put(number))
    (host, port), *rest = upstreams
    with Relay(host, port, shape, listen_port, also=rest) as relay:
        print(json.dumps({"port": relay.port, "ports": relay.ports}), flush=True)
        threading.Thread(target=await_end_of_input, args=(ending,), daemon=True).start()
        await_ending(ending)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `python -m edgecut.runtime.relay`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="edgecut.runtime.relay", description="A TCP relay with a link's rate and delay."
    )
    parser.add_argument("--upstream", action="append", required=True, metavar="HOST:PORT", help="may be repeated")
    for name in ("--uplink-bps", "--downlink-bps", "--rtt-s"):
        parser.add_argument(name, type=float, required=True)
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="for the first upstream, 0 for any")
    given = parser.parse_args(arguments)
    try:
        shape = LinkShape(uplink_bps=given.uplink_bps, downlink_bps=given.downlink_bps, rtt_s=given.rtt_s)
        run_relay([_host_port(text) for text in given.upstream], shape, given.listen)
    except ValidationError as error:
        print(f"the link is unusable ({first_fault(error)})", file=sys.stderr)
        return 2
    except EdgecutError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise LinkError(f"'{text}' is no upstream; write HOST:PORT")
    return host.strip("[]"), int(port)


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServerError(f"upstream {host}:{port} is unknown ({error.strerror}); check the name") from None
    return family, (str(address[0]), int(address[1]))


def _listener(port: int) -> socket.socket:
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
    except (OSError, OverflowError) as error:
        raise ServerError(f"the relay cannot listen on 127.0.0.1:{port} ({error}); choose another port") from None
    listener.setblocking(False)
    return listener


def _raise_pending(end: socket.socket) -> None:
    code = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def sleep_precisely() -> None:
    """Let this thread's timers end within a microsecond instead of Linux's usual fifty."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
