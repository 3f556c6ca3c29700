"""The HTTP server against what clients do wrong, by accident and on purpose, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.errors import ServerError
from edgecut.runtime import http_connection
from edgecut.runtime.http_connection import Head, HttpError, Response, _parse
from edgecut.runtime.http_server import HttpServer


class Echo:
    """Answers a body with itself; /slow waits for `gate`, /refused is refused before its body is read."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.held = 0
        self.most_held = 1 << 30

    def admit(self, head: Head) -> Response | None:
        return Response(403, (b"no",)) if head.target == "/refused" else None

    def reserve(self, size_bytes: int) -> Response | None:
        if self.held + size_bytes > self.most_held:
            return Response(503, (b"full",))
        self.held += size_bytes
        return None

    def free(self, size_bytes: int) -> None:
        self.held -= size_bytes

    def answer(self, head: Head, body: memoryview) -> Response:
        if head.target == "/slow":
            self.entered.set()
            self.gate.wait(20)
        return Response(200, (b"<", bytes(body), b">"), (("X-Method", head.method),))

    def error(self, status: int, sentence: str, peer: str) -> Response:
        return Response(status, (sentence.encode(),))


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[HttpServer]:
    made = HttpServer("127.0.0.1", 0, echo, max_connections=4)
    made.start()
    yield made
    echo.gate.set()
    made.stop(5)


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=20)


def said(server: HttpServer, data: bytes) -> bytes:
    """All that the server answers to these bytes until it closes."""
    with connect(server) as end:
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := end.recv(65536):
                answer += more
        return answer


def one_answer(end: socket.socket) -> bytes:
    """The next answer of a connection that stays open."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = end.recv(65536)
        assert more, answer
        answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    while len(body) < length:
        body += end.recv(65536)
    assert len(body) == length
    return head + b"\r\n\r\n" + body


def test_requests_one_after_the_other_and_piled_up(server: HttpServer) -> None:
    request = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    with connect(server) as end:
        for _ in range(3):
            end.sendall(request)
            assert one_answer(end) == b"HTTP/1.1 200 OK\r\nX-Method: POST\r\nContent-Length: 5\r\n\r\n<abc>"
    assert said(server, request * 5).count(b"<abc>") == 5
    assert said(server, b"\r\n\r\n" + request).count(b"<abc>") == 1


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 120), max_size=12), st.integers(1, 3))
def test_however_a_request_is_cut_into_pieces(body: bytes, cuts: list[int], times: int) -> None:
    whole = (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body) * times
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = http_connection.Connection(Echo(), theirs, "peer", None, lambda: False)
        thread = threading.Thread(target=serve_quietly, args=(connection,))
        thread.start()
        at = 0
        for cut in [*cuts, len(whole)]:
            ours.sendall(whole[at : at + cut])
            at += cut
        answers = b"".join(one_of(ours) for _ in range(times))
        ours.close()
        thread.join(20)
        assert not thread.is_alive()
    assert answers == (b"<" + body + b">") * times


def serve_quietly(connection: Any) -> None:
    while connection._one():
        pass


def one_of(end: socket.socket) -> bytes:
    """The body of the next answer, byte by byte so that nothing of the one after is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += end.recv(1)
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    body = b""
    while len(body) < length:
        body += end.recv(length - len(body))
    return body


BAD: dict[str, tuple[bytes, int]] = {
    "junk": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
    "one word": (b"hello\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "later version": (b"GET / HTTP/2.0\r\n\r\n", 505),
    "other protocol": (b"GET / FTP/1.1\r\n\r\n", 400),
    "foreign bytes": (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    "blank before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "folded header": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    "lone line feed": (b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
    "zero byte": (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
    "length twice": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "signed length": (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", 400),
    "odd digits": ("POST / HTTP/1.1\r\nContent-Length: \u0661\r\n\r\na".encode(), 400),
    "endless length": (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
    "chunks": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "chunks and length": (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 411),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    "long head": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
    "head without end": (b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000, 431),
    "half a head": (b"GET / HTTP/1.1\r\nA: b", 400),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_told_so_and_the_connection_ends(name: str, server: HttpServer) -> None:
    data, status = BAD[name]
    answer = said(server, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_head_or_refused(raw: bytes) -> None:
    with contextlib.suppress(HttpError):
        head, _ = _parse(raw, "peer")
        assert head.length >= 0 and head.method.isascii()
    with contextlib.suppress(HttpError):
        _parse(b"POST / HTTP/1.1\r\n" + raw, "peer")


@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
def test_whether_the_connection_stays(version: str, header: str, stays: bool, server: HttpServer) -> None:
    line = f"Connection: {header}\r\n" if header else ""
    with connect(server) as end:
        end.sendall(f"GET / HTTP/{version}\r\n{line}\r\n".encode())
        assert one_answer(end).endswith(b"<>")
        if stays:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert one_answer(end).endswith(b"<>")
        else:
            assert end.recv(1) == b""


def test_a_client_that_asks_before_it_sends(server: HttpServer) -> None:
    with connect(server) as end:
        end.sendall(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert end.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        end.sendall(b"abc")
        assert one_answer(end).endswith(b"<abc>")
        end.sendall(b"POST /refused HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert one_answer(end).startswith(b"HTTP/1.1 403")


def test_a_refused_body_is_not_taken_for_the_next_request(server: HttpServer) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\n\r\n"
    for body in (smuggled, smuggled + b"x" * 200_000):
        answer = said(server, b"POST /refused HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert answer.startswith(b"HTTP/1.1 403") and answer.count(b"HTTP/1.1") == 1


def test_the_bytes_held_are_counted_as_they_come_and_given_back(
    server: HttpServer, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "LINGER_S", 0.2)
    echo.most_held = 3 << 20
    with connect(server) as end:
        end.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2000000000\r\n\r\n")  # announced, never sent
        end.sendall(b"a")
        time.sleep(0.02)
        assert echo.held <= 1 << 20
        with connect(server) as other:
            other.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + b"a" * 2_000_000)
            assert one_answer(other).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(OSError):  # the server closes before it took all of it
            end.sendall(b"a" * 8_000_000)
        with contextlib.suppress(ConnectionResetError):
            assert end.recv(100).startswith(b"HTTP/1.1 503")
    wait_for(lambda: server.connections == 0)
    assert echo.held == 0


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_more_connections_than_it_takes(server: HttpServer) -> None:
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(connect(server)) for _ in range(4)]
        wait_for(lambda: server.connections == 4)
        with connect(server) as fifth:
            assert b"503" in fifth.recv(1000)
        for end in ends:
            end.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert one_answer(end).endswith(b"<>")
    wait_for(lambda: server.connections == 0)
    with connect(server) as end:
        end.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert one_answer(end).endswith(b"<>")


@pytest.mark.parametrize("what", ["head", "body", "nothing"])
def test_a_client_that_drips_or_sleeps_is_left(what: str, server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_S", 0.3)
    monkeypatch.setattr(http_connection, "IDLE_S", 0.3)
    monkeypatch.setattr(http_connection, "LEAST_S", 0.3)
    monkeypatch.setattr(http_connection, "LINGER_S", 10.0)  # a client that is kept waiting itself reads late
    data = {"head": b"GET / HTTP/1.1\r\n", "body": b"POST / HTTP/1.1\r\nContent-Length: 90\r\n\r\n", "nothing": b""}[
        what
    ]
    with connect(server) as end:
        end.sendall(data)
        end.settimeout(0.02)
        answer, ended, until = b"", False, time.monotonic() + 20
        while not ended and time.monotonic() < until:
            with contextlib.suppress(OSError):
                if what != "nothing" and not answer:
                    end.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                try:
                    more = end.recv(1000)
                except ConnectionResetError:
                    more = b""
                answer, ended = answer + more, not more
    assert ended and (what != "head" or answer.startswith(b"HTTP/1.1 408"))


def test_a_stop_lets_the_request_at_hand_finish_and_closes_idle_ones(server: HttpServer, echo: Echo) -> None:
    with connect(server) as busy, connect(server) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
        one_answer(idle)
        busy.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert echo.entered.wait(20)
        stopping = threading.Thread(target=server.stop, args=(20,))
        stopping.start()
        assert idle.recv(1) == b""
        echo.gate.set()
        answer = one_answer(busy)
        assert answer.endswith(b"<>") and b"Connection: close" in answer
        stopping.join(20)
    with pytest.raises(OSError):
        connect(server)


def test_a_stop_without_patience_cuts_off(server: HttpServer, echo: Echo) -> None:
    with connect(server) as busy:
        busy.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert echo.entered.wait(20)
        threading.Timer(0.05, echo.gate.set).start()
        server.stop(0.0)
        assert busy.recv(100) == b""


def test_a_taken_port_is_one_sentence(server: HttpServer, echo: Echo) -> None:
    with pytest.raises(ServerError, match=r"cannot listen on 127\.0\.0\.1"):
        HttpServer("127.0.0.1", server.port, echo).start()
