"""The client against everything that is not the right server: one sentence each, and never a wait without end."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecut.agent import caller
from edgecut.agent.transport import Security
from edgecut.errors import ServerError
from edgecut.models.spec import TensorSpec
from edgecut.runtime import oip
from edgecut.runtime.client import CloudClient
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.repository import write_model
from edgecut.runtime.server import CloudServer
from edgecut.runtime.tensors import append

INPUT = TensorSpec(name="view", dtype="float32", shape=(120,))
OUTPUT = TensorSpec(name="logits", dtype="float32", shape=(10,))
X = np.zeros((1, 120), np.float32)


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


class Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self.request.recv(4096):
                pass


class Closing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.close()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Threaded(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextlib.contextmanager
def speaking(handler: Any) -> Iterator[str]:
    with Threaded(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{made.server_address[1]}"
        made.shutdown()


@contextlib.contextmanager
def foreign(infer: Any = None, metadata: Any = None) -> Iterator[str]:
    """A gRPC server with at most two of the protocol's calls, answering with given messages."""
    made = grpc.server(futures.ThreadPoolExecutor(2))
    calls = {}
    for method in oip.methods():
        answer = {"ModelInfer": infer, "ModelMetadata": metadata}.get(method.name)
        if answer is not None:
            calls[method.name] = grpc.unary_unary_rpc_method_handler(
                lambda request, context, answer=answer: answer,
                method.request.FromString,
                method.response.SerializeToString,
            )
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(oip.SERVICE, calls),))
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        made.stop(0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "CONNECT_S", 1.0)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("handler", [Echo, Silent, Closing, Quiet], ids=["echo", "silent", "closing", "http"])
def test_a_server_of_another_protocol(handler: Any, bundle_folder: Path) -> None:
    start = time.monotonic()
    with speaking(handler) as address, pytest.raises(ServerError, match="Open Inference Protocol") as raised:
        EdgeSession(bundle_folder, address, timeout_s=1.0)
    assert time.monotonic() - start < 20
    assert address in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.usefixtures("soon")
def test_nobody_there(bundle_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ServerError, match=rf"no server .* 127.0.0.1:{port} \(Connection refused\); start"):
        EdgeSession(bundle_folder, f"127.0.0.1:{port}")
    with pytest.raises(ServerError, match="no server"):
        EdgeSession(bundle_folder, "no-such-host.invalid:8001", security=Security(allow_plaintext=True))
    assert time.monotonic() - start < 20


def test_a_grpc_server_without_the_service(bundle_folder: Path) -> None:
    with foreign() as address:
        with pytest.raises(ServerError, match="does not speak the Open Inference Protocol; start edgecut serve"):
            EdgeSession(bundle_folder, address)
        with CloudClient(address) as made, pytest.raises(ServerError, match="does not speak"):
            made.infer("lenet5", [("view", X)])


def relu_model(root: Path, name: str, size: int, value: str = "view", kind: int = TensorProto.FLOAT) -> Path:
    spec = (kind, ["batch", size])
    graph = helper.make_graph(
        [helper.make_node("Relu", [value], ["logits"])],
        "g",
        [helper.make_tensor_value_info(value, *spec)],
        [helper.make_tensor_value_info("logits", *spec)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    typed = "TYPE_FP32" if kind == TensorProto.FLOAT else "TYPE_FP64"
    return write_model(root, name, made.SerializeToString(), [(value, typed, [size])], [("logits", typed, [size])])


@pytest.mark.parametrize(
    ("name", "size", "value", "kind", "words"),
    [
        ("other", 120, "view", TensorProto.FLOAT, r"no model 'lenet5' here; there is \['other'\]"),
        ("lenet5", 100, "view", TensorProto.FLOAT, r"another model as 'lenet5': its inputs are .*100.*view float32"),
        ("lenet5", 120, "x", TensorProto.FLOAT, "another model as 'lenet5': its inputs are .*view float32"),
        ("lenet5", 120, "view", TensorProto.DOUBLE, "another model as 'lenet5': its inputs are .*FP64"),
        (
            "lenet5",
            120,
            "view",
            TensorProto.FLOAT,
            r"another model as 'lenet5': its outputs are .*logits float32 \[10\]",
        ),
    ],
)
def test_another_model_is_noticed_before_anything_is_sent(
    name: str, size: int, value: str, kind: int, words: str, bundle_folder: Path, tmp_path: Path
) -> None:
    relu_model(tmp_path, name, size, value, kind)
    with CloudServer(tmp_path) as made, pytest.raises(ServerError, match=words) as raised:
        EdgeSession(bundle_folder, made.address)
    assert made.address in str(raised.value)


def metadata(**_: Any) -> Any:
    made = oip.message("ModelMetadataResponse")(name="lenet5")
    made.inputs.add(name="view", datatype="FP32", shape=[-1, 120])
    made.outputs.add(name="logits", datatype="FP32", shape=[-1, 10])
    return made


def answer(array: Any = None, name: str = "logits", raw: bytes | None = None) -> Any:
    made = oip.message("ModelInferResponse")(model_name="lenet5")
    if array is not None:
        append(made.outputs, made.raw_output_contents, name, array)
    if raw is not None:
        made.raw_output_contents[:] = [raw]
    return made


GOOD = np.arange(10, dtype=np.float32)[None]
ANSWERS: dict[str, tuple[Any, str]] = {
    "nothing": (answer(), "is not float32"),
    "another name": (answer(GOOD, "probabilities"), "called 'logits'"),
    "another shape": (answer(GOOD[:, :9]), r"is not float32 \[1, 10\]"),
    "another batch": (answer(np.repeat(GOOD, 2, axis=0)), r"is not float32 \[1, 10\]"),
    "another dtype": (answer(GOOD.astype(np.float64)), "is not float32"),
    "truncated": (answer(GOOD, raw=GOOD.tobytes()[:-1]), "damaged answer .*needs 40 bytes.*got 39"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_was_not_asked_for(what: str, bundle_folder: Path) -> None:
    message, words = ANSWERS[what]
    x = np.zeros((1, 1, 32, 32), np.float32)
    with foreign(message, metadata()) as address, EdgeSession(bundle_folder, address) as session:
        with pytest.raises(ServerError, match=words) as raised:
            session.infer(x)
        assert "\n" not in str(raised.value)


def test_the_right_answer_of_a_foreign_server_is_taken(bundle_folder: Path) -> None:
    with foreign(answer(GOOD), metadata()) as address, EdgeSession(bundle_folder, address) as session:
        np.testing.assert_array_equal(session.infer(np.zeros((1, 1, 32, 32), np.float32)), GOOD)


def test_what_the_server_refuses_is_passed_on(server: str) -> None:
    with CloudClient(server) as made:
        made.check_model("lenet5", (INPUT,), (OUTPUT,))
        assert made.infer("lenet5", [("view", X)])["logits"].shape == (1, 10)
        for tensors in ([("view", X[:, :5])], [("view", X * np.nan)], [("x", X)]):
            with pytest.raises(ServerError, match=f"{server} refused the request: model 'lenet5'"):
                made.infer("lenet5", tensors)


@pytest.mark.parametrize(
    "address", ["", "localhost", ":8001", "localhost:", "localhost:0", "localhost:65536", "localhost:x", "a:-1"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ServerError, match="is not an address; give HOST:PORT"):
        CloudClient(address)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_must_be_one(timeout_s: float) -> None:
    with pytest.raises(ServerError, match="give a positive number of seconds"):
        CloudClient("127.0.0.1:1", timeout_s)
