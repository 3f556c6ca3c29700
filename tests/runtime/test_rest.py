"""The REST port: a client that is not ours, JSON and binary both ways, and every malformed request in one sentence."""

from __future__ import annotations

import http.client
import json
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.runtime import rest_tensors
from edgecut.runtime.server import CloudServer

pytest.importorskip("onnxruntime")
SIZE = 12
X = np.linspace(-1, 1, 2 * SIZE, dtype=np.float32).reshape(2, SIZE)
MAX_BYTES = 1 << 20


@pytest.fixture(scope="module")
def server(small_models: Path) -> Iterator[CloudServer]:
    with CloudServer(small_models, rest_port=0, max_message_bytes=MAX_BYTES) as running:
        yield running


@pytest.fixture
def connection(server: CloudServer) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
    yield made
    made.close()


Answer = tuple[int, Any]


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(content) if is_json and content else content


def infer(connection: http.client.HTTPConnection, body: Any, model: str = "net", **headers: str) -> Answer:
    return ask(connection, "POST", f"/v2/models/{model}/infer", body, **headers)


def tensor(**changes: Any) -> dict[str, Any]:
    made = {"name": "x", "datatype": "FP32", "shape": [2, SIZE], "data": X.ravel().tolist(), **changes}
    return {name: value for name, value in made.items() if value is not None}


def test_a_foreign_client_finds_what_is_served(server: CloudServer) -> None:
    triton = pytest.importorskip("tritonclient.http")
    with triton.InferenceServerClient(f"{server.host}:{server.rest_port}") as client:
        assert client.is_server_live() and client.is_server_ready()
        metadata = client.get_server_metadata()
        assert metadata["name"] == "edgecut" and metadata["extensions"] == ["binary_tensor_data"]
        assert client.is_model_ready("net") and client.is_model_ready("net", "1")
        assert not client.is_model_ready("net", "2") and not client.is_model_ready("nothing")
        shape = [-1, SIZE]
        assert client.get_model_metadata("net") == {
            "name": "net",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": shape}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": shape} for name in ("y", "z")],
        }
        with pytest.raises(Exception, match="no model 'nothing' here"):
            client.get_model_metadata("nothing")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("version", ["", "1"])
def test_a_foreign_client_gets_its_answer(
    server: CloudServer, binary_in: bool, binary_out: bool | None, version: str
) -> None:
    triton = pytest.importorskip("tritonclient.http")
    with triton.InferenceServerClient(f"{server.host}:{server.rest_port}") as client:
        x = triton.InferInput("x", [2, SIZE], "FP32")
        x.set_data_from_numpy(X, binary_data=binary_in)
        names = ["z", "y"]
        wanted = None
        if binary_out is not None:
            wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
        answer = client.infer("net", [x], version, outputs=wanted, request_id="seven")
        np.testing.assert_array_equal(answer.as_numpy("z"), -X)
        np.testing.assert_array_equal(answer.as_numpy("y"), np.maximum(X, 0))
        response = answer.get_response()
        assert (response["id"], response["model_version"]) == ("seven", "1")
        assert [output["name"] for output in response["outputs"]] == (["y", "z"] if wanted is None else names)


KINDS: dict[str, tuple[str, str]] = {
    "b": ("BOOL", "?"),
    "h": ("FP16", "<f2"),
    "f": ("FP32", "<f4"),
    "d": ("FP64", "<f8"),
    "c": ("INT8", "i1"),
    "u": ("UINT8", "u1"),
    "q": ("INT64", "<i8"),
    "Q": ("UINT64", "<u8"),
}


@settings(max_examples=25, deadline=None)
@given(data=st.data(), binary_in=st.booleans(), binary_out=st.booleans(), spaces=st.integers(0, 8))
def test_every_datatype_goes_through_in_json_and_in_binary(
    server: CloudServer, data: st.DataObject, binary_in: bool, binary_out: bool, spaces: int
) -> None:
    """`spaces` lengthen the JSON, so that what follows it lies at any address."""
    inputs, raw, arrays = [], b"", {}
    for name, (datatype, dtype) in KINDS.items():
        of = np.dtype(dtype)
        width = of.itemsize * 8
        values: st.SearchStrategy[Any] = st.booleans()
        if of.kind == "f":
            values = st.floats(width=width, allow_nan=False, allow_infinity=False)
        elif of.kind in "iu":
            values = st.integers(int(np.iinfo(of).min), int(np.iinfo(of).max))
        array = arrays[name] = np.array(data.draw(st.lists(values, min_size=1, max_size=5)), of)
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary_in:
            one["parameters"] = {"binary_data_size": array.nbytes}
            raw += array.tobytes()
        else:
            one["data"] = array.tolist()
        inputs.append(one)
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary_out}}).encode() + b" " * spaces
    body = memoryview(bytearray(header + raw)).toreadonly()
    asked = rest_tensors.read("kinds", "", str(len(header)), body)
    for name, array in arrays.items():
        np.testing.assert_array_equal(asked.request.inputs[name], array)
        assert asked.request.inputs[name].flags.aligned and not asked.request.inputs[name].flags.writeable
    connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
    connection.request(
        "POST", "/v2/models/kinds/infer", header + raw, {"Inference-Header-Content-Length": str(len(header))}
    )
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    length = int(response.headers.get("Inference-Header-Content-Length", len(content)))
    assert (length < len(content)) == binary_out
    at = length
    for output in json.loads(content[:length])["outputs"]:
        dtype = np.dtype(KINDS[output["name"][:-1]][1])
        if binary_out:
            size = output["parameters"]["binary_data_size"]
            got = np.frombuffer(content[at : at + size], dtype)
            at += size
        else:
            got = np.array(output["data"], dtype)
        np.testing.assert_array_equal(got, arrays[output["name"][:-1]])
    assert at == len(content)
    connection.close()


def test_nested_data_and_the_connection_stays(connection: http.client.HTTPConnection) -> None:
    status, answer = infer(connection, {"inputs": [tensor(data=X.tolist())]})
    assert status == 200 and answer["outputs"][1]["data"] == (-X).ravel().tolist()
    before = connection.sock
    assert infer(connection, {"inputs": [tensor(shape=[7])]})[0] == 400
    assert infer(connection, {"inputs": [tensor()]})[0] == 200
    assert ask(connection, "GET", "/nothing")[0] == 404
    assert ask(connection, "GET", "/v2/health/live")[0] == 200
    assert connection.sock is before


def wanting(name: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": [tensor()], "outputs": [{"name": name, "parameters": parameters}]}


BINARY = {"binary_data_size": X.nbytes}
MALFORMED: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "no JSON"),
    "empty": (b"", 400, "no JSON"),
    "no object": ([1], 400, "no JSON object"),
    "deep": (b"[" * 100_000, 400, "no JSON"),
    "foreign bytes": (b"\xff\xfe" * 50, 400, "no JSON"),
    "endless number": (b'{"inputs": ' + b"1" * 5000 + b"}", 400, "no JSON"),
    "no inputs": ({}, 400, "'x'"),
    "inputs no list": ({"inputs": {"x": 1}}, 400, "no list"),
    "unknown input": ({"inputs": [tensor(name="w")]}, 400, "'x'"),
    "no name": ({"inputs": [tensor(name=None)]}, 400, "no name"),
    "name twice": ({"inputs": [tensor(), tensor()]}, 400, "twice"),
    "no datatype": ({"inputs": [tensor(datatype=None)]}, 400, "needs a datatype"),
    "wrong datatype": ({"inputs": [tensor(datatype="FP64")]}, 400, "got FP64"),
    "strings": ({"inputs": [tensor(datatype="BYTES", data=["a"])]}, 400, "BYTES"),
    "wrong size": ({"inputs": [tensor(shape=[4, 6])]}, 400, r"needs FP32 \[-1, 12\], got FP32 \[4, 6\]"),
    "wrong rank": ({"inputs": [tensor(shape=[24])]}, 400, r"\[24\]"),
    "negative sizes": ({"inputs": [tensor(shape=[-2, -12])]}, 400, "sizes"),
    "absurd sizes": ({"inputs": [tensor(shape=[2**62, 12])]}, 400, "elements"),
    "more absurd sizes": ({"inputs": [tensor(shape=[10**30])]}, 400, "elements"),
    "sizes no numbers": ({"inputs": [tensor(shape=[True, 12.5])]}, 400, "whole numbers"),
    "too few values": ({"inputs": [tensor(data=[1.0])]}, 400, "24 values"),
    "no values": ({"inputs": [tensor(data=None)]}, 400, "24 values"),
    "uneven values": ({"inputs": [tensor(data=[[1.0], [2.0, 3.0]])]}, 400, "evenly"),
    "words": ({"inputs": [tensor(data=["1"] * 24)]}, 400, "others"),
    "nothing": ({"inputs": [tensor(data=[None] * 24)]}, 400, "others"),
    "fractions": (
        {"inputs": [{"name": "i", "datatype": "INT64", "shape": [2], "data": [0, 1.5]}]},
        400,
        "others",
    ),
    "too large a number": (
        {"inputs": [{"name": "i", "datatype": "INT64", "shape": [2], "data": [0, 2**64]}]},
        400,
        "do not fit",
    ),
    "a larger one": ({"inputs": [{"name": "i", "datatype": "UINT8", "shape": [1], "data": [256]}]}, 400, "do not fit"),
    "truths": ({"inputs": [tensor(data=[True] * 24)]}, 400, "others"),
    "objects": ({"inputs": [tensor(data=[{}] * 24)]}, 400, "others"),
    "NaN": (json.dumps({"inputs": [tensor(data=[float("nan")] * 24)]}).encode(), 400, "finite"),
    "overflow": ({"inputs": [tensor(data=[1e300] * 24)]}, 400, "finite"),
    "both": ({"inputs": [tensor(parameters=BINARY)]}, 400, "both"),
    "binary not there": ({"inputs": [tensor(data=None, parameters=BINARY)]}, 400, "not there"),
    "binary of no length": ({"inputs": [tensor(data=None, parameters={"binary_data_size": "9"})]}, 400, "not there"),
    "parameters no object": ({"inputs": [tensor(parameters=[1])]}, 400, "no object"),
    "shared memory": ({"inputs": [tensor(parameters={"shared_memory_region": "r"})]}, 400, "shared_memory_region"),
    "unknown output": (wanting("w"), 400, "outputs"),
    "top classes": (wanting("y", classification=3), 400, "classification"),
    "id no string": ({"id": 7, "inputs": [tensor()]}, 400, "id"),
    "timeout no number": ({"parameters": {"timeout": "soon"}, "inputs": [tensor()]}, 400, "timeout"),
    "too large": (b" " * (MAX_BYTES + 1), 413, "larger"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_and_the_server_stays(name: str, server: CloudServer) -> None:
    body, status, words = MALFORMED[name]
    connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
    got, answer = infer(connection, body)
    assert got == status and list(answer) == ["error"] and "\n" not in answer["error"]
    assert re.search(words, answer["error"]), answer
    connection.close()
    connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
    assert infer(connection, {"inputs": [tensor()]})[0] == 200
    connection.close()


@pytest.mark.parametrize(
    ("header", "words"),
    [("-1", "no length"), ("x", "no length"), ("9" * 30, "no length"), ("100000", "has"), ("3", "no JSON")],
)
def test_a_wrong_header_length(header: str, words: str, connection: http.client.HTTPConnection) -> None:
    status, answer = infer(connection, {"inputs": [tensor()]}, Inference_Header_Content_Length=header)
    assert status == 400 and words in answer["error"]


def test_bytes_that_are_too_few_too_many_or_no_truths(connection: http.client.HTTPConnection) -> None:
    def binary(raw: bytes, size: int, **changes: Any) -> Answer:
        one = tensor(data=None, parameters={"binary_data_size": size}, **changes)
        header = json.dumps({"inputs": [one]}).encode()
        return infer(connection, header + raw, Inference_Header_Content_Length=str(len(header)))

    raw = X.tobytes()
    assert binary(raw, len(raw))[0] == 200
    for status, answer in (
        binary(raw[:-1], len(raw) - 1),
        binary(raw, len(raw) - 1),
        binary(raw + b"\0", len(raw)),
        binary(raw[:-1], len(raw)),
        binary(b"\2", 1, datatype="BOOL", shape=[1]),
        binary(raw, -1),
        binary(raw, True),
    ):
        assert status == 400 and list(answer) == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/", 200),
        ("GET", "/v2?x=1", 200),
        ("HEAD", "/v2/health/ready", 200),
        ("POST", "/v2/health/ready", 405),
        ("GET", "/v2/models/net/infer", 405),
        ("DELETE", "/v2/models/net", 405),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/net/versions/9", 404),
        ("POST", "/v2/models/nothing/infer", 404),
        ("POST", "/v2/models/net/versions/9/infer", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/v2/repository/index", 404),
        ("GET", "/", 404),
    ],
)
def test_paths_and_methods(method: str, path: str, status: int, connection: http.client.HTTPConnection) -> None:
    body = {"inputs": [tensor()]} if path.endswith("infer") and method == "POST" else None
    assert ask(connection, method, path, body)[0] == status


def test_compressed_bodies_and_overdue_requests(server: CloudServer, connection: http.client.HTTPConnection) -> None:
    assert infer(connection, {"inputs": [tensor()]}, Content_Encoding="gzip")[0] == 415
    for _ in range(server.admission.workers):
        server.admission.start()
    try:
        status, answer = infer(connection, {"parameters": {"timeout": 20_000}, "inputs": [tensor()]})
    finally:
        for _ in range(server.admission.workers):
            server.admission.finish()
    assert status == 504 and "deadline" in answer["error"]


def test_what_json_cannot_say_is_said_in_binary_only(small_models: Path) -> None:
    with CloudServer(small_models, rest_port=0, allow_nonfinite=True) as server:
        connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
        body = json.dumps({"inputs": [tensor(data=[float("nan")] * 24)]}).encode()
        status, answer = infer(connection, body)
        assert status == 400 and "binary" in answer["error"]
        asked = body[:-1] + b', "parameters": {"binary_data_output": true}}'
        status, answer = infer(connection, asked)
        assert status == 200 and answer.endswith(struct.pack("<f", -np.nan) * 24)
        connection.close()


def test_a_full_server_says_so_on_both_ports(small_models: Path) -> None:
    grpc = pytest.importorskip("grpc")
    from edgecut.runtime import oip, tensors

    request = oip.message("ModelInferRequest")(model_name="net")
    tensors.append(request.inputs, request.raw_input_contents, "x", X)
    with (
        CloudServer(small_models, rest_port=0, workers=1, queue=1) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
        server.admission.start()
        held = [oip.Stub(channel).ModelInfer.future(request, timeout=30) for _ in range(2)]
        end = threading.Event()
        while server.admission.held < 2:
            end.wait(0.001)
        status, answer = infer(connection, {"inputs": [tensor()]})
        assert status == 503 and "full" in answer["error"]
        with pytest.raises(grpc.RpcError, match="full") as raised:
            oip.Stub(channel).ModelInfer(request, timeout=20)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # What watches the server is answered all the same.
        assert ask(connection, "GET", "/v2/health/live")[0] == 200
        assert oip.Stub(channel).ServerLive(oip.message("ServerLiveRequest")(), timeout=20).live
        server.admission.finish()
        assert all(len(future.result().outputs) == 2 for future in held)
        assert infer(connection, {"inputs": [tensor()]})[0] == 200
        connection.close()


def test_memory_that_runs_out_is_said_and_survived(small_models: Path) -> None:
    class Hungry:
        def __init__(self, model: Any) -> None:
            from edgecut.models.session import open_session

            self.session = open_session(model)
            self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs
            self.hungry = True

        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            if self.hungry and "x" in feeds:
                self.hungry = False
                raise MemoryError
            return self.session.run(names, feeds)

    with CloudServer(small_models, rest_port=0, make_session=Hungry) as server:
        connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
        status, answer = infer(connection, {"inputs": [tensor()]})
        assert status == 503 and "memory" in answer["error"]
        assert infer(connection, {"inputs": [tensor()]})[0] == 200
        connection.close()
