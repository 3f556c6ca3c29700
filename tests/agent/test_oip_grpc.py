"""OIP over gRPC: against a server of grpcio's own with protobuf's messages, and what statuses mean."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edgecut.agent.oip_grpc import SERVICE, GrpcTransport
from edgecut.agent.transport import NOTHING, Security, TransportError, open_transport
from edgecut.runtime import oip
from edgecut.runtime.tensors import append, decode_all

X = np.arange(6, dtype=np.float32)[None]
TOKEN = "s3cret-Token"
Answer = Callable[[bytes, grpc.ServicerContext], bytes]


class Handler(grpc.GenericRpcHandler):
    """Hands a call's bytes to `answer`, and remembers where they came from and with what metadata."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.peers: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.seconds: list[float] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def call(data: bytes, context: grpc.ServicerContext) -> bytes:
            self.peers.append(context.peer())
            self.metadata.append(dict(context.invocation_metadata()))
            self.seconds.append(context.time_remaining())
            return self.answer(data, context)

        return grpc.unary_unary_rpc_method_handler(call) if details.method.startswith(SERVICE) else None


def mirror(data: bytes, context: grpc.ServicerContext) -> bytes:
    """Every input comes back as an output."""
    request = oip.message("ModelInferRequest").FromString(data)
    response = oip.message("ModelInferResponse")(model_name=request.model_name)
    for name, array in decode_all(request.inputs, request.raw_input_contents).items():
        append(response.outputs, response.raw_output_contents, name, array)
    return bytes(response.SerializeToString())


@contextlib.contextmanager
def serving(
    answer: Answer = mirror, security: Security = NOTHING, port: int = 0
) -> Iterator[tuple[Handler, GrpcTransport]]:
    handler = Handler(answer)
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    made = open_transport(f"127.0.0.1:{port}", security)
    assert isinstance(made, GrpcTransport)
    try:
        yield handler, made
    finally:
        made.close()
        server.stop(0).wait()


def test_tensors_there_and_back_on_one_connection() -> None:
    with serving() as (handler, made):
        tensors = [("x", X), ("half", X.astype(np.float16)), ("bits", np.array([True, False])), ("none", X[:0])]
        answer = made.infer("m", tensors, 10)
        for name, array in tensors:
            np.testing.assert_array_equal(answer[name], array)
            assert answer[name].dtype == array.dtype and not answer[name].flags.writeable
        with futures.ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda i: made.infer("m", [("x", X + i)], 30)["x"][0, 0] == i, range(100)))
        assert len(set(handler.peers)) == 1
        assert all("authorization" not in metadata for metadata in handler.metadata)
        # gRPC rounds it up where it travels: 10 s became 10.1.
        assert 5 < handler.seconds[0] <= 10.5, "the deadline travels"


def test_metadata() -> None:
    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        response = oip.message("ModelMetadataResponse")(name=oip.message("ModelMetadataRequest").FromString(data).name)
        response.inputs.add(name="x", datatype="FP32", shape=[-1, 6])
        return bytes(response.SerializeToString())

    with serving(answer) as (_, made):
        assert made.metadata("m", 10)["inputs"] == [("x", "FP32", (-1, 6))]


STATUSES = [
    ("INVALID_ARGUMENT", "no", "refused", "refused the request: no"),
    ("NOT_FOUND", "no", "refused", "refused the request: no"),
    ("INTERNAL", "no", "refused", "refused the request: no"),
    ("UNKNOWN", "", "refused", "refused the request: UNKNOWN"),
    ("RESOURCE_EXHAUSTED", "queue", "full", r"too much to do \(queue\)"),
    ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 5)", "refused", "larger than max"),
    ("UNAUTHENTICATED", "no", "unauthenticated", r"token or certificate \(no\)"),
    ("PERMISSION_DENIED", "no", "unauthenticated", r"token or certificate \(no\)"),
    ("UNAVAILABLE", "stopping", "unavailable", r"\(stopping\)"),
    ("CANCELLED", "stopping", "cancelled", r"given up \(stopping\)"),
    ("DEADLINE_EXCEEDED", "in the queue", "deadline", "10 s"),
    ("UNIMPLEMENTED", "what?", "protocol", "does not speak the Open Inference Protocol; start edgecut serve there"),
    ("INTERNAL", "Received RST_STREAM with error code 2", "unavailable", "RST_STREAM"),
]


@pytest.mark.parametrize(("code", "said", "kind", "words"), STATUSES)
def test_what_a_status_means(code: str, said: str, kind: str, words: str) -> None:
    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(getattr(grpc.StatusCode, code), said)

    with serving(answer) as (_, made):
        with pytest.raises(TransportError, match=words) as raised:
            made.infer("m", [("x", X)], 10)
        assert raised.value.kind == kind and raised.value.code == code and made.server in str(raised.value)
        assert raised.value.retry == (kind in ("unavailable", "cancelled", "deadline", "full"))


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x2a\x7f", bytes(5)])
def test_a_damaged_answer(data: bytes) -> None:
    with serving(lambda *_: data) as (_, made):
        for ask in (lambda: made.infer("m", [("x", X)], 10), lambda: made.metadata("m", 10)):
            with pytest.raises(TransportError, match="sent a damaged answer") as raised:
                ask()
            assert (raised.value.kind, raised.value.retry) == ("damaged", False)


def test_nobody_there_then_somebody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    made = open_transport(f"127.0.0.1:{port}")
    with pytest.raises(TransportError, match=rf"no server .* at 127.0.0.1:{port} \(Connection refused\)") as raised:
        made.infer("m", [("x", X)], 10)
    assert (raised.value.kind, raised.value.retry, raised.value.met) == ("unavailable", True, False)
    with serving(port=port):
        deadline = time.monotonic() + 20
        while True:  # gRPC pauses at most 1 s before it connects again
            try:
                assert made.infer("m", [("x", X)], 10)["x"].shape == (1, 6)
                break
            except TransportError as error:
                assert error.kind == "unavailable" and time.monotonic() < deadline
                time.sleep(0.02)
    with pytest.raises(TransportError, match="cannot be reached or went away"):
        made.infer("m", [("x", X)], 10)
    made.close()
    with pytest.raises(TransportError, match="no server"):
        open_transport("no-such-host.invalid:1", Security(allow_plaintext=True)).infer("m", [("x", X)], 10)


def test_a_connection_that_misses_a_deadline_is_replaced_but_ends_no_other_request() -> None:
    hold, go, there = threading.Event(), threading.Event(), threading.Event()

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        if hold.is_set():
            there.set()
            go.wait(20)
        return mirror(data, context)

    with serving(answer) as (handler, made), futures.ThreadPoolExecutor(1) as pool:
        made.infer("m", [("x", X)], 10)
        hold.set()
        patient = pool.submit(made.infer, "m", [("x", X)], 20)
        assert there.wait(10)
        start = time.monotonic()
        with pytest.raises(TransportError, match=r"did not answer within 0.2 s") as raised:
            made.infer("m", [("x", X)], 0.2)
        assert raised.value.kind == "deadline" and time.monotonic() - start < 8
        hold.clear()
        made.infer("m", [("x", X)], 10)
        go.set()
        assert patient.result(20)["x"].shape == (1, 6)
        assert handler.peers[0] == handler.peers[1] == handler.peers[2] != handler.peers[3]


def test_a_connection_that_is_still_being_made_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = open_transport(f"127.0.0.1:{silent.getsockname()[1]}")
        assert isinstance(made, GrpcTransport)
        kept = []
        for _ in range(2):
            with pytest.raises(TransportError, match=r"no server .* \(not within 0.15 s\)"):
                made.infer("m", [("x", X)], 0.15)
            kept.append(made._channel)
        assert kept[0] is kept[1] is not None
        made.close()


def test_closing_ends_a_request_under_way() -> None:
    there, go = threading.Event(), threading.Event()

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        there.set()
        go.wait(20)
        return data

    with serving(answer) as (_, made), futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(made.infer, "m", [("x", X)], 20)
        assert there.wait(10)
        made.close()
        error = request.exception(10)
        go.set()
        assert isinstance(error, TransportError) and (error.kind, error.retry) == ("cancelled", False)
        with pytest.raises(TransportError, match="closed on this side"):
            made.infer("m", [("x", X)], 20)


def test_closing_ends_requests_on_a_connection_that_was_replaced() -> None:
    go = threading.Event()

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        if data.endswith(b"slow"):
            go.wait(20)
        return mirror(data, context)

    slow = [("x", np.frombuffer(b"slow", np.uint8))]
    with serving(answer) as (_, made), futures.ThreadPoolExecutor(1) as pool:
        made.infer("m", [("x", X)], 10)
        request = pool.submit(made.infer, "m", slow, 20)
        with pytest.raises(TransportError, match="did not answer"):
            made.infer("m", slow, 0.2)
        made.infer("m", [("x", X)], 10)
        made.close()
        error = request.exception(10)
        go.set()
        assert isinstance(error, TransportError) and error.kind == "cancelled"


def test_a_token_goes_to_the_server_and_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    path = tmp_path / "token"
    path.write_text(TOKEN)

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, str(list(context.invocation_metadata())))

    with serving(answer, Security(token_file=str(path))) as (handler, made):
        for token in (TOKEN, TOKEN + "-renewed"):
            path.write_text(token)
            with pytest.raises(TransportError, match=r"Bearer \[token\]") as raised:
                made.infer("m", [("x", X)], 10)
            assert handler.metadata[-1]["authorization"] == f"Bearer {token}"
            shown = "".join(traceback.format_exception(raised.value))
            assert TOKEN not in f"{raised.value!r} {made!r} {shown}"
    assert TOKEN not in caplog.text


def test_what_cannot_be_sent() -> None:
    made = open_transport("127.0.0.1:9")
    for array, word in ((np.array(["a"]), "nothing was sent.* dtype <U1"), (np.zeros(1 << 24, np.float32), "larger")):
        with pytest.raises(TransportError, match=word) as raised:
            made.infer("m", [("x", array)], 5)
        assert (raised.value.kind, raised.value.retry) == ("refused", False)
    with pytest.raises(TransportError, match="within 0 s"):
        made.infer("m", [("x", X)], 0)


def test_large_messages_pass() -> None:
    large = np.zeros(40 << 20, np.uint8)
    refused = pytest.raises(TransportError, match="larger than max")  # that server keeps gRPC's own limit of 4 MB
    with serving() as (_, made), refused:
        made.infer("m", [("x", large)], 20)
    taken = pytest.raises(TransportError, match="damaged")  # an answer of 40 MB is taken whole, and then read
    with serving(lambda *_: b"\x32" + bytes([0x80, 0x80, 0x80, 0x14]) + large.tobytes()) as (_, made), taken:
        made.infer("m", [("x", X)], 20)
