"""OIP over HTTP: against a small server of its own, and against every answer that a server should not give."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.agent.http1 import Answer, Connection, DamagedAnswer, NoHttp
from edgecut.agent.oip_http import HttpTransport, decode
from edgecut.agent.transport import NOTHING, Security, TransportError, open_transport

X = np.arange(6, dtype=np.float32).reshape(1, 6)
TOKEN = "s3cret-Token"
Reply = Callable[[socket.socket, bytes, bytes, int], object]


class Server(socketserver.ThreadingTCPServer):
    """Reads whole requests and hands each to `reply(connection, head, body, its number)`; true ends the connection."""

    daemon_threads = True

    def __init__(self, reply: Reply) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with outer.lock:
                    outer.connections += 1
                with contextlib.suppress(OSError):
                    self.answer()

            def answer(self) -> None:
                while True:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        line = self.rfile.readline()
                        if not line:
                            return
                        head += line
                    sizes = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
                    body = self.rfile.read(int(sizes[0].split()[1])) if sizes else b""
                    with outer.lock:
                        outer.requests.append((head, body))
                        number = len(outer.requests)
                    if reply(self.connection, head, body, number):
                        return

        super().__init__(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def serving(reply: Reply, security: Security = NOTHING) -> Iterator[tuple[Server, HttpTransport]]:
    with Server(reply) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        made = open_transport(f"http://127.0.0.1:{server.server_address[1]}", security)
        assert isinstance(made, HttpTransport)
        try:
            yield server, made
        finally:
            made.close()
            server.shutdown()


def message(
    header: Any, raws: bytes = b"", status: str = "200 OK", extra: str = "", length: str | None = None
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = str(len(text)) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(text) + len(raws)}\r\n{extra}"
    return f"{head}Inference-Header-Content-Length: {length}\r\n\r\n".encode() + text + raws


def told(name: str = "y", datatype: str = "FP32", shape: Any = (1, 6), size: Any = 24, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}, **more}


GOOD = message({"model_name": "m", "outputs": [told()]}, (X * 2).tobytes())


def mirror(connection: socket.socket, head: bytes, body: bytes, number: int) -> None:
    """Every input comes back as an output, read and written by this test's own means."""
    size = next(int(line[32:]) for line in head.split(b"\r\n") if line.startswith(b"Inference-Header-Content-Length:"))
    inputs = json.loads(body[:size])["inputs"]
    connection.sendall(message({"outputs": inputs}, body[size:]))


TENSORS = {
    "float32": X,
    "float16": X.astype(np.float16),
    "float64 of the other byte order": X.astype(">f8"),
    "int8": np.array([[-128, 127]], np.int8),
    "uint64": np.array([2**64 - 1], np.uint64),
    "bool": np.array([[True, False]]),
    "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "empty": np.zeros((0, 3), np.float32),
    "a number": np.float32(3).reshape(()),
    "large": np.arange(100_000, dtype=np.float32)[None],
}


def test_requests_of_several_kinds_take_turns() -> None:
    """What the last request and answer looked like is kept; nothing of it may stay where the next one differs."""
    kinds = [("m", "float32"), ("m", "float32"), ("other", "float32"), ("m", "float16"), ("m", "large"), ("m", "int8")]
    with serving(mirror) as (server, transport):
        for model, what in [*kinds, *reversed(kinds)]:
            for factor in (1, 0):
                array = TENSORS[what] * TENSORS[what].dtype.type(factor)
                found = transport.infer(model, [("x", array)], 5.0)["x"]
                assert found.dtype == array.dtype and np.array_equal(found, array)
                head, body = server.requests[-1]
                assert head.startswith(f"POST /v2/models/{model}/infer ".encode())
                assert body.endswith(array.tobytes())


def test_the_same_header_over_too_few_bytes_is_damaged() -> None:
    seen: dict[bytes, Any] = {}
    text = json.dumps({"outputs": [told()]}).encode()
    fields = {"inference-header-content-length": str(len(text))}
    assert np.array_equal(decode(Answer(200, fields, memoryview(text + X.tobytes())), seen)["y"], X)
    assert list(seen) == [text]
    with pytest.raises(DamagedAnswer, match="needs 24 bytes"):
        decode(Answer(200, fields, memoryview(text + X.tobytes()[:-1])), seen)
    with pytest.raises(DamagedAnswer, match="belong to no tensor"):
        decode(Answer(200, fields, memoryview(text + X.tobytes() + b"x")), seen)


@pytest.mark.parametrize("what", TENSORS)
def test_a_tensor_there_and_back(what: str) -> None:
    with serving(mirror) as (server, made):
        answer = made.infer("m", [("x", TENSORS[what]), ("odd", np.array([7], np.uint8))], 10)
    assert list(answer) == ["x", "odd"] and answer["odd"].tolist() == [7]
    np.testing.assert_array_equal(answer["x"], TENSORS[what])
    assert answer["x"].shape == TENSORS[what].shape and answer["x"].dtype == TENSORS[what].dtype.newbyteorder("<")
    assert not answer["x"].flags.writeable and answer["x"].flags.aligned
    head = server.requests[0][0]
    assert head.startswith(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAccept-Encoding: identity\r\n" in head and b"Authorization" not in head


def test_one_connection_is_kept_and_every_thread_gets_its_own_answer() -> None:
    with serving(mirror) as (server, made):
        for i in range(20):
            assert made.infer("m", [("x", X + i)], 10)["x"][0, 0] == i
        assert server.connections == 1
        assert made._idle[0][0]._end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        def ask(i: int) -> bool:
            return bool(made.infer("m", [("x", X + i)], 30)["x"][0, 0] == i)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(200)))
        assert server.connections <= 8


def test_metadata_and_names_that_need_quoting() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes, number: int) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 6]}
        connection.sendall(message({"name": "m", "inputs": [tensor], "outputs": []}))

    with serving(reply) as (server, made):
        assert made.metadata("a/b c", 10) == {"inputs": [("x", "FP32", (-1, 6))], "outputs": []}
    assert server.requests[0][0].startswith(b"GET /v2/models/a%2Fb%20c HTTP/1.1\r\n")


@pytest.mark.parametrize("data", [[0, 2, 4, 6, 8, 10.0], [[0, 2, 4], [6, 8, 10]]])
def test_numbers_in_json_are_taken_from_servers_without_the_extension(data: Any) -> None:
    text = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 6], "data": data}]}).encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text
    with serving(lambda connection, *_: connection.sendall(raw)) as (_, made):
        np.testing.assert_array_equal(made.infer("m", [("x", X)], 10)["y"], X * 2)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nInference-Header-Content-Length: %d\r\n\r\n"
BODY = GOOD.split(b"\r\n\r\n", 1)[1]
HEADER = len(BODY) - 24
PIECES = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i : i + 7]), BODY[i : i + 7]) for i in range(0, len(BODY), 7))
WHOLE = {
    "in pieces": CHUNKED % HEADER + PIECES + b"0\r\nTrailer: 1\r\n\r\n",
    "after a 100": b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,
    "without a length": b"HTTP/1.0 200 OK\r\nInference-Header-Content-Length: %d\r\n\r\n" % HEADER + BODY,
}


@pytest.mark.parametrize("what", WHOLE)
def test_other_ways_to_send_an_answer(what: str) -> None:
    def reply(connection: socket.socket, *_: Any) -> bool:
        for i in range(0, len(WHOLE[what]), 50):
            connection.sendall(WHOLE[what][i : i + 50])
        return "without" in what

    with serving(reply) as (server, made):
        for _ in range(2):
            np.testing.assert_array_equal(made.infer("m", [("x", X)], 10)["y"], X * 2)
        assert server.connections == (2 if "without" in what else 1)


def json_error(status: str, text: str = "because") -> bytes:
    return message({"error": text}, status=status)


ODD: dict[str, tuple[bytes, str, str]] = {
    "garbage": (b"\x00\xff" * 50, "protocol", "does not speak"),
    "garbage without end": (b"x" * 100_000, "protocol", "does not speak"),
    "our own request": (b"POST /v2 HTTP/1.1\r\n\r\n", "protocol", "does not speak"),
    "another version": (b"HTTP/2.0 200 OK\r\n\r\n", "protocol", "does not speak"),
    "an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 50_000, "damaged", "head is too long"),
    "no fields": (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", "damaged", "a field of its head"),
    "a folded field": (b"HTTP/1.1 200 OK\r\nX: 1\r\n  2\r\n\r\n", "damaged", "a field of its head"),
    "nothing": (b"", "unavailable", "connection ended"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", "unavailable", "connection ended"),
    "half a body": (GOOD[:-7], "unavailable", "stopped after"),
    "two lengths": (GOOD.replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1), "damaged", "two fields"),
    "a length and pieces": (GOOD.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1), "damaged", "two ways"),
    "packed pieces": (GOOD.replace(b"Content-Length", b"Transfer-Encoding: gzip\r\nX", 1), "damaged", "two ways"),
    "a negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "damaged", "no number"),
    "a length of two": (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "damaged", "no number"),
    "65 MB": (b"HTTP/1.1 200 OK\r\nContent-Length: 70000000\r\n\r\n", "damaged", "more than"),
    "a huge length": (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n", "damaged", "more than"),
    "a longer one": (b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000), "damaged", "no number"),
    "a huge piece": (CHUNKED % 5 + b"ffffffff\r\n", "damaged", "larger than"),
    "a piece of no length": (CHUNKED % 5 + b"-5\r\n", "damaged", "has no length"),
    "a piece too long": (CHUNKED % 5 + b"3\r\nabcdef\r\n", "damaged", "too long"),
    "compressed": (GOOD.replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1), "damaged", "compressed"),
    "another protocol": (b"HTTP/1.1 101 Switching\r\n\r\n", "damaged", "another protocol"),
    "a redirection": (b"HTTP/1.1 302 Found\r\nLocation: http://evil\r\nContent-Length: 0\r\n\r\n", "protocol", "302"),
    "a web page": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>", "protocol", "404"),
    "no model": (json_error("404 Not Found"), "refused", "refused the request: because"),
    "a bad request": (json_error("400 Bad"), "refused", "because"),
    "too large": (json_error("413 Too large"), "refused", "because"),
    "a failure": (json_error("500 Oh"), "refused", "because"),
    "no token": (json_error("401 No"), "unauthenticated", "because"),
    "a wrong token": (json_error("403 No"), "unauthenticated", "because"),
    "too many": (json_error("429 No"), "full", "because"),
    "a full queue": (json_error("503 No"), "full", "because"),
    "a proxy alone": (b"HTTP/1.1 502 X\r\nContent-Length: 4\r\n\r\noops", "unavailable", "502"),
    "an error of no text": (message({"error": [1]}, status="400 X"), "refused", "HTTP status 400"),
    "no JSON": (message(b"{]"), "damaged", "no JSON"),
    "no UTF-8": (message(b'{"\xff": 1}'), "damaged", "no JSON"),
    "deep JSON": (message(b"[" * 100_000), "damaged", "no JSON"),
    "a long number": (message(b'{"outputs": ' + b"1" * 5000 + b"}"), "damaged", "no"),
    "much JSON": (message(b" " * (9 << 20)), "damaged", "of JSON are more than"),
    "a list": (message([]), "damaged", "no object"),
    "no outputs": (message({"outputs": {}}), "damaged", "no list of outputs"),
    "odd outputs": (message({"outputs": [1]}), "damaged", "no list of outputs"),
    "no header length": (message({"outputs": []}, length=""), "damaged", "header's length"),
    "a long header": (message({"outputs": []}, length="9999"), "damaged", "header's length"),
    "a signed header": (message({"outputs": []}, length="+5"), "damaged", "header's length"),
    "bytes to spare": (message({"outputs": [told()]}, bytes(25)), "damaged", "1 bytes of it belong to no tensor"),
    "bytes missing": (message({"outputs": [told()]}, bytes(23)), "damaged", "needs 24 bytes"),
    "a wrong size": (message({"outputs": [told(size=20)]}, bytes(20)), "damaged", "needs 24 bytes"),
    "a size that is none": (message({"outputs": [told(size=24.0)]}, bytes(24)), "damaged", "needs 24 bytes"),
    "a true size": (message({"outputs": [told("y", "UINT8", [1], True)]}, b"x"), "damaged", "needs 1 bytes"),
    "a negative size": (message({"outputs": [told(shape=[-1, -6])]}, bytes(24)), "damaged", "impossible"),
    "2^62 elements": (message({"outputs": [told(shape=[0, 2**62])]}), "damaged", "more than"),
    "17 dimensions": (message({"outputs": [told(shape=[1] * 17)]}, bytes(4)), "damaged", "impossible shape"),
    "a true shape": (message({"outputs": [told(shape=[True])]}, bytes(4)), "damaged", "impossible shape"),
    "an unknown datatype": (message({"outputs": [told(datatype="BYTES")]}, bytes(24)), "damaged", "impossible"),
    "no name": (message({"outputs": [told(name=None)]}, bytes(24)), "damaged", "no name"),
    "a name twice": (message({"outputs": [told(), told()]}, bytes(48)), "damaged", "comes twice"),
    "a third truth": (message({"outputs": [told("y", "BOOL", [1], 1)]}, b"\2"), "damaged", "BOOL"),
    "no data": (message({"outputs": [told(parameters={})]}), "damaged", "needs 6 values"),
    "text as data": (message({"outputs": [told(parameters={}, data=["1"] * 6)]}), "damaged", "needs 6 values"),
    "a fraction": (message({"outputs": [told("y", "INT8", [1], None, data=[0.5])]}), "damaged", "needs 1 values"),
    "too large a number": (message({"outputs": [told("y", "INT8", [1], None, data=[200])]}), "damaged", "do not fit"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_answer_that_is_none(what: str, tmp_path: Path) -> None:
    raw, kind, word = ODD[what]

    def reply(connection: socket.socket, *_: Any) -> bool:
        connection.sendall(raw)
        return True

    with serving(reply) as (server, made):
        with pytest.raises(TransportError) as raised:
            made.infer("m", [("x", X)], 10)
        assert (raised.value.kind, word in str(raised.value)) == (kind, True), str(raised.value)
        assert made.server in str(raised.value) and "\n" not in str(raised.value)
        assert raised.value.retry == (kind in ("unavailable", "full"))
        assert len(server.requests) == 1, "what died on a new connection is not sent again from here"


def test_what_no_answer_may_hold_out_for() -> None:
    """A byte now and then, nothing at all, and a server that reads nothing: the deadline is the whole request's."""

    def drip(connection: socket.socket, *_: Any) -> bool:
        for i in range(len(GOOD)):
            connection.sendall(GOOD[i : i + 1])
            time.sleep(0.05)
        return True

    done = threading.Event()
    for reply in (drip, lambda *_: done.wait(5)):
        with serving(reply) as (_, made):
            start = time.monotonic()
            with pytest.raises(TransportError, match=r"(did not answer|answers at .* \(not) within 0.3 s") as raised:
                made.infer("m", [("x", X)], 0.3)
            assert raised.value.kind == "deadline" and 0.25 < time.monotonic() - start < 8
    done.set()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        made = open_transport(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(TransportError) as raised:
            made.infer("m", [("x", np.zeros(4_000_000, np.float32))], 0.3)
        assert raised.value.kind == "deadline"
        with pytest.raises(TransportError) as raised:
            made.infer("m", [("x", X)], 0.0)
        assert raised.value.kind == "deadline"
        made.close()


def test_a_connection_that_was_closed_meanwhile_is_replaced_once() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes, number: int) -> bool:
        if number == 2:  # the race: the request was taken in, the connection ends without an answer
            return True
        connection.sendall(GOOD)
        return number == 4

    with serving(reply) as (server, made):
        made.infer("m", [("x", X)], 10)
        made.infer("m", [("x", X)], 10)
        assert [body for _, body in server.requests] == [server.requests[0][1]] * 3, "the identical message again"
        assert server.connections == 2
        made.infer("m", [("x", X)], 10)
        deadline = time.monotonic() + 10
        while made._idle and made._idle[0][0].quiet() and time.monotonic() < deadline:
            time.sleep(0.01)
        made.infer("m", [("x", X)], 10)
        assert len(server.requests) == 5 and server.connections == 3, "seen to be closed before anything was sent"


def test_an_answer_that_stops_on_a_kept_connection_is_not_asked_for_again() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes, number: int) -> bool:
        connection.sendall(GOOD if number == 1 else GOOD[:20])
        return number > 1

    with serving(reply) as (server, made):
        made.infer("m", [("x", X)], 10)
        with pytest.raises(TransportError) as raised:
            made.infer("m", [("x", X)], 10)
        assert raised.value.kind == "unavailable" and len(server.requests) == 2


def test_bytes_that_nobody_asked_for_are_not_the_next_answer() -> None:
    evil = message({"outputs": [told()]}, (X * 666).tobytes())

    def reply(connection: socket.socket, head: bytes, body: bytes, number: int) -> None:
        connection.sendall(GOOD + evil if number == 1 else GOOD)
        if number == 2:
            time.sleep(0.2)
            connection.sendall(evil)

    with serving(reply) as (_, made):
        for pause_s in (0, 0, 0.5, 0):
            time.sleep(pause_s)
            np.testing.assert_array_equal(made.infer("m", [("x", X)], 10)["y"], X * 2)


def test_closing_ends_a_request_under_way() -> None:
    waiting, done = threading.Event(), threading.Event()

    def reply(*_: Any) -> bool:
        waiting.set()
        done.wait(20)
        return True

    with serving(reply) as (_, made), ThreadPoolExecutor(1) as pool:
        request = pool.submit(made.infer, "m", [("x", X)], 20)
        assert waiting.wait(10)
        made.close()
        error = request.exception(timeout=10)
        done.set()
        assert isinstance(error, TransportError) and (error.kind, error.retry) == ("cancelled", False)
        with pytest.raises(TransportError) as raised:
            made.infer("m", [("x", X)], 5)
        assert raised.value.kind == "cancelled"


def test_nobody_there_and_a_name_of_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "no-such-host.invalid:80"):
        made = open_transport(f"http://{address}", Security(allow_plaintext=True))
        with pytest.raises(TransportError, match=f"no server .* answers at http://{address} \\(.+\\); start") as raised:
            made.infer("m", [("x", X)], 5)
        assert raised.value.kind == "unavailable" and not raised.value.met


def test_a_silent_name_server_meets_the_deadline_and_the_last_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = socket.getaddrinfo
    silent, done = threading.Event(), threading.Event()

    def getaddrinfo(host: str, *rest: Any) -> Any:
        if host == "cloud.test":
            if rest[-1] & socket.AI_NUMERICHOST:
                raise socket.gaierror("not a number")
            if silent.is_set():
                done.wait(20)
            host = "127.0.0.1"
        return ask(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with serving(mirror) as (server, _):
        made = open_transport(f"http://cloud.test:{server.server_address[1]}", Security(allow_plaintext=True))
        made.infer("m", [("x", X)], 10)
        silent.set()
        made.close()
        again = open_transport(made.server, Security(allow_plaintext=True))
        again.infer("m", [("x", X)], 0.6)
        again.close()
        other = open_transport("http://cloud.test:9", Security(allow_plaintext=True))
        with pytest.raises(TransportError) as raised:
            other.infer("m", [("x", X)], 0.2)
        assert raised.value.kind == "deadline"
    done.set()


def test_a_token_goes_to_the_server_and_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "token"
    path.write_text(TOKEN)
    echoes = [
        lambda head: json_error("401 No", head.decode()),
        lambda head: b"HTTP/1.1 200 " + head.replace(b"\r\n", b" ") + b"\r\nX\r\n\r\n",
        lambda head: message({"outputs": [told(name=head.decode(), size=1)]}),
        lambda head: message({"outputs": [told(datatype=head.decode())]}),
        lambda head: head,
    ]

    def reply(connection: socket.socket, head: bytes, body: bytes, number: int) -> bool:
        connection.sendall(echoes[number - 1](head))
        return True

    with serving(reply, Security(token_file=str(path))) as (server, made):
        for number in range(len(echoes)):
            with pytest.raises(TransportError) as raised:
                made.infer("m", [("x", X)], 10)
            error = raised.value
            shown = "".join(traceback.format_exception(error))
            assert TOKEN not in f"{error} {error!r} {error.args} {made!r} {error.__cause__} {shown}"
            assert f"\r\nAuthorization: Bearer {TOKEN}\r\n".encode() in server.requests[number][0]
        path.write_text("another-one")
        assert made._credentials.authorization() == "Bearer another-one"
    assert TOKEN not in caplog.text


def test_what_cannot_be_sent() -> None:
    made = open_transport("http://127.0.0.1:9")
    for array, word in ((np.array(["a"]), "dtype <U1"), (np.zeros(17_000_000, np.float32), "larger than")):
        with pytest.raises(TransportError, match=word) as raised:
            made.infer("m", [("x", array)], 5)
        assert (raised.value.kind, raised.value.retry) == ("refused", False)


def mutated(data: bytes, edits: list[tuple[float, int, int]]) -> bytes:
    made = bytearray(data)
    for place, kind, byte in edits:
        at = int(place * len(made))
        if kind == 0 and made:
            made[min(at, len(made) - 1)] = byte
        elif kind == 1:
            made.insert(at, byte)
        elif kind == 2:
            del made[at : at + 1 + byte % 9]
        else:
            del made[at:]
    return bytes(made)


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=4)
ANSWERS = [GOOD, *WHOLE.values(), message({"outputs": [told(parameters={}, data=[1.5] * 6)]})]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(raw=st.sampled_from(ANSWERS), edits=EDITS)
def test_any_bytes_are_an_answer_or_an_error(raw: bytes, edits: list[tuple[float, int, int]]) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(mutated(raw, edits))
        there.shutdown(socket.SHUT_WR)
        with contextlib.suppress(NoHttp, DamagedAnswer, ConnectionError):
            answer = Connection(here).exchange(b"x", 1 << 20, time.monotonic() + 10)
            assert 200 <= answer.status < 600
            arrays = decode(answer)
            assert sum(array.nbytes for array in arrays.values()) <= 8 * len(answer.body)


def test_random_headers_are_tensors_or_an_error() -> None:
    generator = random.Random(5)
    words = [None, True, -1, 0, 1, 6, 24, 2**63, 1e300, "FP32", "BOOL", "y", [], [6], [[]], {}, {"binary_data_size": 4}]
    seen = set()
    for _ in range(3000):
        keys = ["name", "datatype", "shape", "parameters", "data"]
        one = told() | {key: generator.choice(words) for key in generator.sample(keys, generator.randint(0, 3))}
        text = json.dumps({"outputs": [one] * generator.randint(1, 2)}).encode()
        try:
            arrays = decode(
                Answer(200, {"inference-header-content-length": str(len(text))}, memoryview(text + bytes(24)))
            )
            seen.add(sum(array.nbytes for array in arrays.values()))
        except DamagedAnswer as error:
            seen.add(str(error)[:8])
    assert 24 in seen and len(seen) >= 4
