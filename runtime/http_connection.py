"""One connection of the HTTP server: heads read, bodies bounded, answers sent, one request after the other.

The head of a request has `HEAD_BYTES` and `HEAD_S` seconds, the body a length stated beforehand and a rate of at least
`LEAST_BPS`, a connection without a request `IDLE_S`. Bodies without a length (chunked) are refused: nothing that speaks
the Open Inference Protocol sends them, and what is not known beforehand cannot be bounded beforehand.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol

import numpy as np

HEAD_BYTES = 16 * 1024
HEADERS = 100
HEAD_S = 10.0
IDLE_S = 120.0
HANDSHAKE_S = 10.0
LEAST_S = 20.0
LEAST_BPS = 128_000.0
LINGER_BYTES = 1 << 20
LINGER_S = 2.0
_BLOCK_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Head(NamedTuple):
    """A request before its body. Header names are in lower case; `peer` is host:port."""

    method: str
    target: str
    headers: Mapping[str, str]
    length: int
    peer: str


class Response(NamedTuple):
    """An answer; `parts` are sent one after the other, `headers` beside Content-Length and Connection."""

    status: int
    parts: Sequence[bytes | memoryview] = ()
    headers: Sequence[tuple[str, str]] = ()


class HttpError(Exception):
    """A request that is answered with this and after which the connection is closed."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Application(Protocol):
    """What answers. All methods are called from several threads."""

    def admit(self, head: Head) -> Response | None:
        """An answer where the body is not wanted, for instance a refusal; None reads on."""

    def reserve(self, size_bytes: int) -> Response | None:
        """Count bytes of a body as held before they are read; an answer where that is too many."""

    def free(self, size_bytes: int) -> None:
        """Give back what was reserved."""

    def answer(self, head: Head, body: memoryview) -> Response: ...

    def error(self, status: int, sentence: str, peer: str) -> Response:
        """What is said of a request that is no HTTP or out of bounds."""


class Connection:
    """One client's connection and its requests, one after the other."""

    def __init__(
        self,
        application: Application,
        end: socket.socket,
        peer: str,
        context: Callable[[], ssl.SSLContext] | None,
        stopping: Callable[[], bool],
    ) -> None:
        self._application, self._end, self._peer = application, end, peer
        self._context, self._stopping = context, stopping
        self._left = b""
        self._last: tuple[bytes, tuple[Head, bool]] | None = None
        self.busy = True

    def serve(self) -> None:
        """Until the client goes, stays silent, or breaks a rule."""
        try:
            self._end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                self._end.settimeout(HANDSHAKE_S)
                self._end = self._context().wrap_socket(self._end, server_side=True)
            while self._one():
                pass
        except (OSError, ValueError):  # gone, silent for too long, or no TLS
            return

    def refuse(self, response: Response) -> None:
        """Answer without having read anything; a client of TLS sees only that the connection closes."""
        if self._context is None:
            with contextlib.suppress(OSError):
                self._end.settimeout(0.0)
                self._end.send(b"".join(_head_and_parts(response, False, True)))
                self._end.shutdown(socket.SHUT_WR)
        self.close()

    def cut(self) -> None:
        """Wake the thread that reads or writes here; it then closes the connection."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(OSError):
            self._end.close()

    def _one(self) -> bool:
        """Read and answer one request; whether another may follow."""
        self.busy = bool(self._left)
        if self._stopping() and not self.busy:
            return False
        try:
            raw = self._read_head()
            if raw is None:
                return False
            self.busy = True
            # The requests of a client mostly have the same head, byte by byte.
            if self._last is None or self._last[0] != raw:
                self._last = raw, _parse(raw, self._peer)
            head, keep = self._last[1]
        except HttpError as error:
            self._send(self._application.error(error.status, str(error), self._peer), False, False)
            self._linger()
            return False
        refusal = self._application.admit(head)
        if refusal is not None:
            return self._refuse(refusal, head, keep)
        if head.headers.get("expect", "").lower() == "100-continue" and head.length > len(self._left):
            self._end.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._answer(head, keep)

    def _answer(self, head: Head, keep: bool) -> bool:
        reserved = 0
        try:
            # Memory that is only announced is not touched, and so not there, until bytes come.
            view = np.empty(head.length, np.uint8).data
            got = min(len(self._left), head.length)
            view[:got] = self._left[:got]
            self._left = self._left[got:]
            deadline = time.monotonic() + LEAST_S + head.length * 8 / LEAST_BPS
            while True:
                if got >= reserved:  # bytes are counted block by block, as they come and not as they are announced
                    more = min(_BLOCK_BYTES, head.length - reserved)
                    refusal = self._application.reserve(more) if more else None
                    if refusal is not None:
                        return self._refuse(refusal, head, False, unread=head.length - got)
                    reserved += more
                if got >= head.length:
                    break
                got += self._receive_into(view[got:reserved], deadline)
            response = self._application.answer(head, view.toreadonly())
            keep = keep and not self._stopping()
            self._send(response, keep, head.method == "HEAD")
            return keep
        finally:
            self._application.free(reserved)

    def _refuse(self, response: Response, head: Head, keep: bool, unread: int | None = None) -> bool:
        """Answer before the body was read; a short body is read away, after a long one the connection ends."""
        unread = head.length if unread is None else unread
        waits = head.headers.get("expect", "").lower() == "100-continue"
        keep = keep and unread <= len(self._left) and not waits and not self._stopping()
        self._send(response, keep, head.method == "HEAD")
        if keep:
            self._left = self._left[unread:]
        else:
            self._linger()
        return keep

    def _read_head(self) -> bytes | None:
        """The bytes up to the empty line, or None where the client closed between two requests."""
        data = self._left.lstrip(b"\r\n")
        deadline = time.monotonic() + (HEAD_S if data else IDLE_S)
        looked = 0
        while True:
            end = data.find(b"\r\n\r\n", max(0, looked - 3))
            if 0 <= end <= HEAD_BYTES:
                self._left = data[end + 4 :]
                return data[:end]
            if len(data) > HEAD_BYTES:
                raise HttpError(431, f"the request's head is larger than {HEAD_BYTES} bytes")
            looked = len(data)
            self._end.settimeout(_remaining(deadline))
            try:
                more = self._end.recv(_READ_BYTES)
            except TimeoutError:
                if data:
                    raise HttpError(408, f"the request's head did not come within {HEAD_S:g} s") from None
                return None
            if not more:
                if data:
                    raise HttpError(400, "the request ended within its head")
                return None
            if not data:
                self.busy = True
                deadline = time.monotonic() + HEAD_S
            data += more
            if not looked:
                data = data.lstrip(b"\r\n")

    def _receive_into(self, view: memoryview, deadline: float) -> int:
        self._end.settimeout(_remaining(deadline))
        got = self._end.recv_into(view)
        if not got:
            raise ConnectionError
        return got

    def _send(self, response: Response, keep: bool, bodyless: bool) -> None:
        pieces = _head_and_parts(response, keep, bodyless)
        size = sum(len(piece) for piece in pieces)
        self._end.settimeout(LEAST_S + size * 8 / LEAST_BPS)
        if isinstance(self._end, ssl.SSLSocket):
            self._end.sendall(b"".join(pieces) if size < _BLOCK_BYTES or len(pieces) == 1 else pieces[0])
            for piece in pieces[1:] if size >= _BLOCK_BYTES else ():
                self._end.sendall(piece)
            return
        sent = self._end.sendmsg(pieces)
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
                continue
            self._end.sendall(memoryview(piece)[sent:])
            sent = 0

    def _linger(self) -> None:
        """Read what is still on its way for a moment: closing at once would take the answer back."""
        with contextlib.suppress(OSError, ValueError):
            if not isinstance(self._end, ssl.SSLSocket):
                self._end.shutdown(socket.SHUT_WR)
            deadline, read = time.monotonic() + LINGER_S, 0
            while read < LINGER_BYTES:
                self._end.settimeout(_remaining(deadline))
                more = len(self._end.recv(_READ_BYTES))
                if not more:
                    return
                read += more


def _parse(raw: bytes, peer: str) -> tuple[Head, bool]:
    """A head, and whether the connection is to be kept. Raises HttpError."""
    first, *lines = raw.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not words[1] or not first.isascii():
        raise HttpError(400, "this is no HTTP request")
    if words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise HttpError(505 if words[2].startswith(b"HTTP/") else 400, "this server speaks version 1.1 of HTTP")
    if len(lines) > HEADERS:
        raise HttpError(431, f"the request has more than {HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or b"\r" in value or b"\n" in value or b"\0" in value:
            raise HttpError(400, "the request has a header that is none")
        key = name.decode("ascii").lower()
        if key in headers and key in _ONCE:
            raise HttpError(400, f"the request has the header {key} twice")
        headers[key] = value.decode("latin-1").strip(" \t")
    if "transfer-encoding" in headers:
        raise HttpError(411, "a body needs a Content-Length here; chunks are not taken")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal() and len(length) <= 15):
        raise HttpError(400, "the request's Content-Length is no length")
    connection = headers.get("connection", "").lower()
    keep = "close" not in connection if words[2] == b"HTTP/1.1" else "keep-alive" in connection
    return Head(words[0].decode("ascii"), words[1].decode("ascii"), headers, int(length), peer), keep


_ONCE = frozenset({"content-length", "transfer-encoding", "host", "authorization", "inference-header-content-length"})


def _head_and_parts(response: Response, keep: bool, bodyless: bool) -> list[bytes | memoryview]:
    parts = [part for part in response.parts if len(part)]
    lines = [f"HTTP/1.1 {response.status} {_PHRASES.get(response.status, '')}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines.append(f"Content-Length: {sum(len(part) for part in parts)}")
    if not keep:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return [head] if bodyless else [head, *parts]


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
