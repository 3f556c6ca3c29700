"""The server against a client that is not ours, against malformed requests, and when it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecut.errors import BundleError, DeviceError, ModelError, ServerError
from edgecut.models.session import open_session
from edgecut.runtime import oip, tensors
from edgecut.runtime.repository import CONFIG, write_model
from edgecut.runtime.server import CloudServer

pytest.importorskip("onnxruntime")
triton = pytest.importorskip("tritonclient.grpc")
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

MAX_BYTES = 1 << 20
SIZE = 12
X = np.linspace(-1, 1, 2 * SIZE, dtype=np.float32).reshape(2, SIZE)


def model_bytes(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    """An ONNX file; inputs and outputs are name: (element type, shape)."""

    def values(given: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, *spec) for name, spec in given.items()]

    graph = helper.make_graph(nodes, "test", values(inputs), values(outputs))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def scaled(*, minus: bool = False) -> bytes:
    """y = relu(x) and z = -x for x float32 [batch, SIZE]; `minus` swaps them, to tell versions apart."""
    names = ["z", "y"] if minus else ["y", "z"]
    nodes = [helper.make_node("Relu", ["x"], [names[0]]), helper.make_node("Neg", ["x"], [names[1]])]
    spec = (TensorProto.FLOAT, ["batch", SIZE])
    return model_bytes(nodes, {"x": spec}, {"y": spec, "z": spec})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    dims = [("x", "TYPE_FP32", [SIZE])], [("y", "TYPE_FP32", [SIZE]), ("z", "TYPE_FP32", [SIZE])]
    write_model(folder, "net", scaled(minus=True), *dims, version=1)
    write_model(folder, "net", scaled(), *dims, version=3)
    add = model_bytes(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        {"a": (TensorProto.INT64, ["n", "k"]), "b": (TensorProto.INT64, ["n", "m"])},
        {"sum": (TensorProto.INT64, ["n", "s"])},
    )
    write_model(
        folder, "add", add, [("a", "TYPE_INT64", [-1]), ("b", "TYPE_INT64", [-1])], [("sum", "TYPE_INT64", [-1])]
    )
    batched = write_model(folder, "batched", scaled(), *dims)
    (batched / CONFIG).write_text('backend: "onnxruntime" max_batch_size: 2')
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[CloudServer]:
    with CloudServer(root, workers=4, max_message_bytes=MAX_BYTES) as running:
        yield running


@pytest.fixture
def channel(server: CloudServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as made:
        yield made


@pytest.fixture
def client(server: CloudServer) -> Iterator[Any]:
    made = triton.InferenceServerClient(server.address)
    yield made
    made.close()


def triton_input(name: str, array: Any, datatype: str = "FP32") -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def request(array: Any = X, name: str = "x", model: str = "net", **fields: Any) -> Any:
    made = oip.message("ModelInferRequest")(model_name=model, **fields)
    tensors.append(made.inputs, made.raw_input_contents, name, array)
    return made


def test_a_foreign_client_finds_what_is_served(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata().name == "edgecut"
    assert client.is_model_ready("net") and client.is_model_ready("net", "1")
    assert not client.is_model_ready("net", "2") and not client.is_model_ready("nothing")
    metadata = client.get_model_metadata("net", as_json=True)
    shape = ["-1", str(SIZE)]
    assert metadata == {
        "name": "net",
        "versions": ["1", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": shape}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": shape} for name in ("y", "z")],
    }
    with pytest.raises(InferenceServerException, match="nothing"):
        client.get_model_metadata("nothing")


@pytest.mark.parametrize(("version", "sign"), [("", 1), ("3", 1), ("1", -1)])
def test_a_foreign_client_gets_its_answer(client: Any, version: str, sign: int) -> None:
    answer = client.infer("net", [triton_input("x", X)], version, request_id="seven")
    positive, negative = ("y", "z") if sign == 1 else ("z", "y")
    np.testing.assert_array_equal(answer.as_numpy(positive), np.maximum(X, 0))
    np.testing.assert_array_equal(answer.as_numpy(negative), -X)
    response = answer.get_response()
    assert (response.id, response.model_version) == ("seven", version or "3")


def test_only_the_outputs_asked_for_come_in_their_order(client: Any) -> None:
    for names in (["z"], ["z", "y"]):
        outputs = [triton.InferRequestedOutput(name) for name in names]
        response = client.infer("net", [triton_input("x", X)], outputs=outputs).get_response()
        assert [output.name for output in response.outputs] == names
        assert len(response.raw_output_contents) == len(names)


def test_inputs_are_taken_by_name_not_by_place(client: Any) -> None:
    a, b = np.array([[5, 6]]), np.array([[1]])
    answer = client.infer("add", [triton_input("b", b, "INT64"), triton_input("a", a, "INT64")])
    np.testing.assert_array_equal(answer.as_numpy("sum"), [[6, 7]])


def test_typed_contents_and_futures_are_served(channel: grpc.Channel) -> None:
    stub = oip.Stub(channel)
    made = oip.message("ModelInferRequest")(model_name="net")
    made.inputs.add(name="x", datatype="FP32", shape=[1, SIZE], contents={"fp32_contents": [2.0] * SIZE})
    waiting = [stub.ModelInfer.future(made, timeout=20) for _ in range(8)]
    for future in waiting:
        response = future.result()
        arrays = tensors.decode_all(response.outputs, response.raw_output_contents)
        np.testing.assert_array_equal(arrays["y"], np.full((1, SIZE), 2, np.float32))


def changed(**tensor: Any) -> Any:
    """A good request whose one input has other fields."""
    made = request()
    for name, value in tensor.items():
        if name == "shape":
            made.inputs[0].shape[:] = value
        elif name == "raw":
            made.raw_input_contents[:] = value
        else:
            setattr(made.inputs[0], name, value)
    return made


def asking(name: str, parameter: str = "") -> Any:
    made = request()
    output = made.outputs.add(name=name)
    if parameter:
        output.parameters[parameter].int64_param = 3
    return made


NAN, INFINITE = X.copy(), X.copy()
NAN[1, 3], INFINITE[0, 0] = np.nan, -np.inf

MALFORMED: dict[str, tuple[Any, str, str]] = {
    "unknown model": (request(model="nothing"), "NOT_FOUND", "nothing"),
    "no model": (request(model=""), "NOT_FOUND", "model"),
    "unknown version": (request(model_version="2"), "NOT_FOUND", "version"),
    "odd version": (request(model_version="03"), "NOT_FOUND", "version"),
    "unknown input": (request(name="w"), "INVALID_ARGUMENT", "'x'"),
    "no input": (oip.message("ModelInferRequest")(model_name="net"), "INVALID_ARGUMENT", "'x'"),
    "wrong size": (request(X[:, :5]), "INVALID_ARGUMENT", r"'net'.*'x' needs FP32 \[-1, 12\], got FP32 \[2, 5\]"),
    "wrong rank": (request(X[0]), "INVALID_ARGUMENT", r"\[12\]"),
    "wrong datatype": (request(X.astype(np.float64)), "INVALID_ARGUMENT", "got FP64"),
    "mislabelled datatype": (changed(datatype="FP64"), "INVALID_ARGUMENT", "bytes"),
    "strings": (changed(datatype="BYTES"), "INVALID_ARGUMENT", "BYTES"),
    "negative sizes": (changed(shape=[-2, -SIZE]), "INVALID_ARGUMENT", "sizes"),
    "any size": (changed(shape=[-1, SIZE]), "INVALID_ARGUMENT", "sizes"),
    "absurd sizes": (changed(shape=[2**62, SIZE]), "INVALID_ARGUMENT", "elements"),
    "overflowing sizes": (changed(shape=[2**32, 2**32]), "INVALID_ARGUMENT", "elements"),
    "no elements": (request(X[:0]), "INVALID_ARGUMENT", "at least one"),
    "short contents": (changed(raw=[X.tobytes()[:-1]]), "INVALID_ARGUMENT", "96 bytes"),
    "empty contents": (changed(raw=[b""]), "INVALID_ARGUMENT", "96 bytes"),
    "missing contents": (changed(raw=[]), "INVALID_ARGUMENT", "values"),
    "extra contents": (changed(raw=[X.tobytes()] * 2), "INVALID_ARGUMENT", "raw contents"),
    "NaN": (request(NAN), "INVALID_ARGUMENT", "finite"),
    "infinity": (request(INFINITE), "INVALID_ARGUMENT", "finite"),
    "unknown output": (asking("w"), "INVALID_ARGUMENT", "outputs"),
    "top classes": (asking("y", "classification"), "INVALID_ARGUMENT", "classification"),
    "shared memory": (asking("y", "shared_memory_region"), "INVALID_ARGUMENT", "shared_memory_region"),
    "too large a batch": (request(np.zeros((3, SIZE), np.float32), model="batched"), "INVALID_ARGUMENT", "at most 2"),
    "too large": (request(np.zeros((MAX_BYTES // 4, SIZE), np.float32)), "RESOURCE_EXHAUSTED", "larger"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_and_the_server_stays(name: str, channel: grpc.Channel) -> None:
    made, status, sentence = MALFORMED[name]
    stub = oip.Stub(channel)
    with pytest.raises(grpc.RpcError, match=sentence) as caught:
        stub.ModelInfer(made, timeout=20)
    assert caught.value.code() is getattr(grpc.StatusCode, status)
    assert len(stub.ModelInfer(request(), timeout=20).outputs) == 2


@pytest.mark.parametrize("junk", [b"\xff" * 40, b"\x0a\x7fshort", b"\x08\x01" * 9 + b"\x07", b"GET / HTTP/1.1\r\n\r\n"])
def test_junk_bytes_are_refused_and_the_server_stays(junk: bytes, channel: grpc.Channel) -> None:
    for method in oip.methods():
        call: Any = channel.unary_unary(method.path)
        with pytest.raises(grpc.RpcError) as caught:
            call(junk, timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert oip.Stub(channel).ServerReady(oip.message("ServerReadyRequest")(), timeout=20).ready


def test_junk_connections_leave_the_server_up(server: CloudServer, channel: grpc.Channel) -> None:
    with socket.create_connection((server.host, server.port)) as end:
        end.sendall(b"\0" * 4096)
    with socket.create_connection((server.host, server.port)):
        pass
    assert oip.Stub(channel).ModelInfer(request(), timeout=20).outputs


def test_a_failing_inference_tells_nothing_of_the_payload(channel: grpc.Channel) -> None:
    made = oip.message("ModelInferRequest")(model_name="add")
    for name, array in (("a", np.full((1, 2), 31337)), ("b", np.full((1, 3), 31337))):
        tensors.append(made.inputs, made.raw_input_contents, name, array)
    with pytest.raises(grpc.RpcError, match="'add' failed") as caught:
        oip.Stub(channel).ModelInfer(made, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "31337" not in str(caught.value.details())


def test_non_finite_inputs_pass_where_allowed(root: Path) -> None:
    with CloudServer(root, allow_nonfinite=True) as running, grpc.insecure_channel(running.address) as channel:
        response = oip.Stub(channel).ModelInfer(request(NAN), timeout=20)
        got = tensors.decode_all(response.outputs, response.raw_output_contents)["z"]
        np.testing.assert_array_equal(got, -NAN)


def test_a_taken_or_foreign_address_is_one_sentence(root: Path, server: CloudServer) -> None:
    for host, port in (("127.0.0.1", server.port), ("203.0.113.7", 0), ("no.such.invalid", 0), ("127.0.0.1", 99999)):
        with pytest.raises(ServerError, match="cannot listen"):
            CloudServer(root, host, port).start()
    with pytest.raises(ServerError, match="already"):
        server.start()


def test_an_unusable_repository_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no model"):
        CloudServer(tmp_path).start()
    with pytest.raises(BundleError, match="nowhere"):
        CloudServer(tmp_path / "nowhere").start()


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut short", "string input", "other sizes", "other names"])
def test_an_unusable_model_is_one_sentence(damage: str, tmp_path: Path) -> None:
    data, size, name = scaled(), SIZE, "x"
    if damage == "string input":
        spec = (TensorProto.STRING, ["n"])
        data = model_bytes([helper.make_node("Identity", ["x"], ["y"])], {"x": spec}, {"y": spec})
    elif damage == "other sizes":
        size = SIZE + 1
    elif damage == "other names":
        name = "w"
    else:
        data = {"empty": b"", "garbage": b"\x01" * 99, "cut short": data[: len(data) // 2]}[damage]
    write_model(tmp_path, "net", data, [(name, "TYPE_FP32", [size])], [("y", "TYPE_FP32", [SIZE])])
    with pytest.raises((ModelError, BundleError), match="net") as caught:
        CloudServer(tmp_path).start()
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_the_remedy_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"edgecut\[cpu\]"):
        CloudServer(root).start()


SLOW = """
import os, sys, time
from edgecut.models.session import open_session
from edgecut.runtime.server import CloudServer, serve

class Slow:
    def __init__(self, model):
        self.session = open_session(model)
        self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs

    def run(self, names, feeds):
        sys.stdout.write("running\\n")  # in one piece, whatever the other threads write
        sys.stdout.flush()
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
        return self.session.run(names, feeds)

serve(CloudServer(sys.argv[1], workers=4, make_session=Slow, rest_port=0))
"""


@contextlib.contextmanager
def slow_process(root: Path, gate: Path) -> Iterator[tuple[Any, str]]:
    """A server whose inferences end once the file `gate` is there, and its address."""
    command = [sys.executable, "-c", SLOW, str(root), str(gate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("serving add, batched, net on grpc://127.0.0.1:"), line
            process.rest_url = process.stdout.readline().split()[-1]
            yield process, line.split("//")[1].strip()
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_held_requests_finish(number: signal.Signals, root: Path, tmp_path: Path) -> None:
    with slow_process(root, tmp_path / "gate") as (process, address), grpc.insecure_channel(address) as channel:
        stub = oip.Stub(channel)
        # More than there are workers: those that wait for one are held too.
        held = [stub.ModelInfer.future(request(), timeout=20) for _ in range(6)]
        for _ in range(4):
            assert process.stdout.readline() == "running\n"
        wait_for(lambda: "edgecut_requests_in_flight 6\n" in metrics(process.rest_url))
        process.send_signal(number)
        wait_for(lambda: status(f"{process.rest_url}/v2/health/ready") == 503)
        (tmp_path / "gate").touch()
        for future in held:
            assert len(future.result().outputs) == 2
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_a_stop_under_load_answers_or_refuses_every_call(root: Path, tmp_path: Path) -> None:
    codes: list[Any] = []
    (tmp_path / "gate").touch()
    with slow_process(root, tmp_path / "gate") as (process, address), grpc.insecure_channel(address) as channel:
        stub = oip.Stub(channel)

        def load() -> None:
            try:
                while True:
                    stub.ModelInfer(request(), timeout=20)
            except grpc.RpcError as error:
                codes.append(error.code())

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert process.wait(10) == 0
    assert len(codes) == 3 and set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("how", ["end of input", "no models"])
def test_the_child_process_ends_with_its_parent_or_says_why_not(how: str, root: Path, tmp_path: Path) -> None:
    folder = root if how == "end of input" else tmp_path
    command = [sys.executable, "-m", "edgecut.runtime.server", str(folder), "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stdin is not None and process.stderr is not None
        said = process.stdout.readline()
        process.stdin.close()
        assert process.wait(20) == (2 if how == "no models" else 0)
        errors = process.stderr.read().splitlines()
    assert said.startswith("serving ") == (how == "end of input") and len(errors) == (how == "no models")


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_while_it_stops_it_is_alive_but_not_ready_and_takes_nothing_new(root: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with slow_process(root, gate) as (process, address), grpc.insecure_channel(address) as channel:
        stub = oip.Stub(channel)
        held = [stub.ModelInfer.future(request(), timeout=30) for _ in range(12)]
        wait_for(lambda: "edgecut_requests_in_flight 12\n" in metrics(process.rest_url))
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: status(f"{process.rest_url}/v2/health/ready") == 503)
        assert status(f"{process.rest_url}/v2/health/live") == 200
        assert not stub.ServerReady(oip.message("ServerReadyRequest")(), timeout=20).ready
        assert not stub.ModelReady(oip.message("ModelReadyRequest")(name="net"), timeout=20).ready
        with pytest.raises(grpc.RpcError, match="stopping") as caught:
            stub.ModelInfer(request(), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.touch()
        assert all(len(future.result().outputs) == 2 for future in held)
        assert process.wait(10) == 0


@pytest.mark.deep
def test_a_second_signal_ends_it_at_once(root: Path, tmp_path: Path) -> None:
    with slow_process(root, tmp_path / "gate") as (process, address), grpc.insecure_channel(address) as channel:
        held = oip.Stub(channel).ModelInfer.future(request(), timeout=30)
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: status(f"{process.rest_url}/v2/health/ready") == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert held.exception().code() is grpc.StatusCode.UNAVAILABLE


def test_a_request_whose_deadline_passed_in_the_queue_is_never_run(root: Path) -> None:
    runs: list[Any] = []

    class Counting:
        def __init__(self, model: Any) -> None:
            self.session = open_session(model)
            self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs

        def run(self, names: Any, feeds: Any) -> Any:
            runs.append(feeds)
            return self.session.run(names, feeds)

    with (
        CloudServer(root, workers=1, make_session=Counting) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = oip.Stub(channel)
        running.admission.start()
        cancelled = stub.ModelInfer.future(request(), timeout=30)
        wait_for(lambda: running.admission.held == 1)
        overdue = stub.ModelInfer.future(request(), timeout=1)
        assert overdue.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: running.admission.held == 1)
        cancelled.cancel()
        # On the same connection, so it comes in behind the cancelling.
        assert stub.ServerLive(oip.message("ServerLiveRequest")(), timeout=20).live
        running.admission.finish()
        wait_for(lambda: not running.admission.held)
        assert runs == []
        stub.ModelInfer(request(), timeout=20)
        assert len(runs) == 1


def test_several_repositories_and_a_name_that_is_in_two(root: Path, small_models: Path, tmp_path: Path) -> None:
    write_model(
        tmp_path, "other", scaled(), [("x", "TYPE_FP32", [SIZE])], [(name, "TYPE_FP32", [SIZE]) for name in ("y", "z")]
    )
    with CloudServer([root, tmp_path]) as running, grpc.insecure_channel(running.address) as channel:
        assert sorted(running.models) == ["add", "batched", "net", "other"]
        for model in ("net", "other"):
            assert len(oip.Stub(channel).ModelInfer(request(model=model), timeout=20).outputs) == 2
    with pytest.raises(BundleError, match=rf"'net' is in {root} and in {small_models}"):
        CloudServer([root, small_models]).start()


def test_odd_but_legal_messages_are_answered_as_usual_ones_are(channel: grpc.Channel) -> None:
    """What the hand-made codec leaves to protobuf: parameters, and fields it does not know."""
    usual = request()
    unusual = request()
    unusual.parameters["timeout"].int64_param = 20_000_000
    for microseconds in (0, 20_000_000, -1):
        unusual.parameters["timeout"].int64_param = microseconds
        if microseconds >= 0:
            oip.Stub(channel).ModelInfer(unusual, timeout=20)
        else:
            with pytest.raises(grpc.RpcError, match="microseconds"):
                oip.Stub(channel).ModelInfer(unusual, timeout=20)
    unusual.parameters["timeout"].int64_param = 20_000_000
    call: Any = channel.unary_unary(next(one.path for one in oip.methods() if one.name == "ModelInfer"))
    plain = call(usual.SerializeToString(), timeout=20)
    assert call(unusual.SerializeToString(), timeout=20) == plain
    assert call(usual.SerializeToString() + b"\xf8\x07\x01", timeout=20) == plain
    assert call(b"\xf8\x07\x01" + usual.SerializeToString(), timeout=20) == plain
