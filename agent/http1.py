"""One request and its answer over a connection of HTTP/1.1, within a deadline for the whole of it.

The standard library's client bounds each wait, not their sum: a server that sends a byte now and then holds it for
ever. Here every send and every receive gets what is left. Of an answer nothing is believed: its head is bounded, its
size is stated once and bounded, no compression is taken, no redirection followed, and a connection with bytes to spare
after its answer is not used again, since they would be read as the next one.
"""

import contextlib
import re
import select
import socket
import ssl
from typing import Any, Dict, List, NamedTuple, Tuple

from .reach import left_s

MAX_HEAD_BYTES = 32 * 1024
_PIECE_BYTES = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
# Fields that say how long something is, or what it is: one that comes twice can be read in two ways.
_ONCE = ("content-length", "transfer-encoding", "content-encoding", "inference-header-content-length")


ENDINGS = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What is raised where the other side ends the connection, with TLS or without."""


class NoHttp(Exception):
    """What came is no HTTP at all; `tls` where it is an alert of TLS, which answers plaintext so."""

    def __init__(self, came: bytes) -> None:
        super().__init__()
        self.tls = came.startswith(b"\x15\x03")


class DamagedAnswer(Exception):
    """An answer that contradicts itself, or is larger than allowed."""


class Ended(ConnectionError):
    """The other side closed the connection; `begun` is whether a byte of the answer had come."""

    def __init__(self, sentence: str, begun: bool) -> None:
        super().__init__(sentence)
        self.begun = begun


class Answer(NamedTuple):
    """A complete answer; names of fields are in lower case."""

    status: int
    fields: Dict[str, str]
    body: memoryview


class Connection:
    """One connection. Whatever is raised on it, it is of no further use then."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._held = b""
        self.begun = False
        """Whether a byte of the answer has come."""
        self.reusable = False

    def close(self) -> None:
        self._end.close()

    def stop(self) -> None:
        """End it from another thread, which `close` alone would not notice."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def quiet(self) -> bool:
        """Whether it is still open and nothing lies on it that nobody asked for."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, request: bytes, limit_bytes: int, deadline: float) -> Answer:
        """Send a request and take its answer, whose body has at most `limit_bytes`.

        Raises socket.timeout, OSError where the connection ends, NoHttp and DamagedAnswer.
        """
        self.begun = self.reusable = False
        refused = None
        try:
            self._send(request, deadline)
        except socket.timeout:
            raise
        except OSError as error:
            refused = error  # perhaps it has answered before it had read everything
        try:
            return self._answer(limit_bytes, deadline)
        except ENDINGS:
            if refused is not None and not self.begun:
                raise refused from None
            raise

    def _send(self, request: bytes, deadline: float) -> None:
        rest = memoryview(request)
        while rest:
            self._end.settimeout(left_s(deadline))
            rest = rest[self._end.send(rest) :]

    def _answer(self, limit_bytes: int, deadline: float) -> Answer:
        while True:
            lines = self._head(deadline)
            first = _STATUS.fullmatch(lines[0])
            if first is None:
                raise NoHttp(lines[0])
            status = int(first.group(2))
            fields = _fields(lines[1:])
            if status == 101:
                raise DamagedAnswer("it changes to another protocol")
            if status >= 200:  # what is below announces an answer
                break
        if fields.get("content-encoding", "identity").lower() != "identity":
            raise DamagedAnswer("it is compressed, which was not asked for")
        body, ends = self._body(status, fields, limit_bytes, deadline)
        closing = "close" in fields.get("connection", "").lower() or first.group(1) == b"0"
        self.reusable = not (ends or closing or self._held)
        return Answer(status, fields, memoryview(body))

    def _body(self, status: int, fields: Dict[str, str], limit_bytes: int, deadline: float) -> Tuple[Any, bool]:
        """The body, and whether the connection ends with it."""
        if "transfer-encoding" in fields:
            if fields["transfer-encoding"].lower() != "chunked" or "content-length" in fields:
                raise DamagedAnswer("its length is stated in two ways")
            return self._chunks(limit_bytes, deadline), False
        if status in (204, 304):
            return b"", False
        if "content-length" in fields:
            size = fields["content-length"]
            if not re.fullmatch("[0-9]{1,18}", size):
                raise DamagedAnswer("its length is no number")
            if int(size) > limit_bytes:
                raise DamagedAnswer("its {} bytes are more than {}".format(size, limit_bytes))
            return self._exactly(int(size), deadline), False
        return self._rest(limit_bytes, deadline), True

    def _chunks(self, limit_bytes: int, deadline: float) -> bytearray:
        body = bytearray()
        while True:
            line = self._line(256, deadline).split(b";")[0].strip()
            if not re.fullmatch(b"[0-9A-Fa-f]{1,8}", line):
                raise DamagedAnswer("a piece of it has no length")
            size = int(line, 16)
            if len(body) + size > limit_bytes:
                raise DamagedAnswer("it is larger than {} bytes".format(limit_bytes))
            if size == 0:
                break
            body += self._exactly(size, deadline)
            if self._line(0, deadline):
                raise DamagedAnswer("a piece of it is longer than stated")
        trailers = 0
        while True:  # fields after the body, of which none is wanted
            line = self._line(MAX_HEAD_BYTES, deadline)
            trailers += len(line)
            if trailers > MAX_HEAD_BYTES:
                raise DamagedAnswer("its end is too long")
            if not line:
                return body

    def _head(self, deadline: float) -> List[bytes]:
        """The lines of an answer's head."""
        while b"\r\n\r\n" not in self._held:
            if len(self._held) > MAX_HEAD_BYTES:
                raise DamagedAnswer("its head is too long")
            self._held += self._receive(deadline)
            if not b"HTTP/1.".startswith(self._held[:7]):
                raise NoHttp(self._held)
        head, self._held = self._held.split(b"\r\n\r\n", 1)
        return head.split(b"\r\n")

    def _line(self, limit_bytes: int, deadline: float) -> bytes:
        while b"\r\n" not in self._held[: limit_bytes + 2]:
            if len(self._held) >= limit_bytes + 2:
                raise DamagedAnswer("a line of it is too long")
            self._held += self._receive(deadline)
        line, self._held = self._held.split(b"\r\n", 1)
        return line

    def _exactly(self, size: int, deadline: float) -> bytearray:
        body = bytearray(size)
        at = min(size, len(self._held))
        body[:at] = self._held[:at]
        self._held = self._held[at:]
        view = memoryview(body)
        while at < size:
            self._end.settimeout(left_s(deadline))
            got = self._end.recv_into(view[at:])
            if not got:
                raise Ended("the answer stopped after {} of {} bytes".format(at, size), True)
            at += got
        return body

    def _rest(self, limit_bytes: int, deadline: float) -> bytearray:
        body = bytearray(self._held)
        self._held = b""
        while True:
            try:
                body += self._receive(deadline)
            except Ended:
                return body
            if len(body) > limit_bytes:
                raise DamagedAnswer("it is larger than {} bytes".format(limit_bytes))

    def _receive(self, deadline: float) -> bytes:
        self._end.settimeout(left_s(deadline))
        data = self._end.recv(_PIECE_BYTES)
        if not data:
            raise Ended("the connection ended before the answer did", self.begun)
        self.begun = True
        return data


def _fields(lines: List[bytes]) -> Dict[str, str]:
    fields = {}  # type: Dict[str, str]
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise DamagedAnswer("a field of its head is none")
        name, value = found.group(1).decode("ascii").lower(), found.group(2).decode("latin-1")
        if name in fields:
            if name in _ONCE:
                raise DamagedAnswer("it has two fields {}".format(name))
            value = fields[name] + ", " + value
        fields[name] = value
    return fields


def is_tls_failure(error: Exception) -> bool:
    """Whether TLS itself failed, rather than the connection below it."""
    return isinstance(error, (ssl.SSLError, ssl.CertificateError)) and not isinstance(error, ENDINGS)
