"""Requests no client should send, to a server in a process of its own: a status and one sentence each, over both ports.

The server runs with its default limits, so the largest of them are refused for their size alone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from edgecut.runtime import oip, tensors
from edgecut.runtime.repository import write_model

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.deep

SIZE = 12
X = np.linspace(-1, 1, 2 * SIZE, dtype=np.float32).reshape(2, SIZE)
RAW = X.tobytes()
# What a second round of the whole battery may add: one message of the largest size that is taken.
GROWTH_BYTES = 64 << 20
Serving = Callable[..., contextlib.AbstractContextManager[Any]]


class Running(NamedTuple):
    """A server: its process, host:port of gRPC, and (host, port) of REST."""

    process: psutil.Process
    address: str
    rest: tuple[str, int]


@pytest.fixture(scope="module")
def running(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIZE]) for name in "xyz"]
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    made = helper.make_model(
        helper.make_graph(nodes, "net", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 18)]
    )
    made.ir_version = 10
    onnx.checker.check_model(made)
    specs = [(name, "TYPE_FP32", [SIZE]) for name in "xyz"]
    write_model(folder, "net", made.SerializeToString(), specs[:1], specs[1:])
    with serving(folder) as (process, address):
        host, _, port = process.stdout.readline().strip().rpartition("http://")[2].rpartition(":")
        yield Running(psutil.Process(process.pid), address, (host, int(port)))
        assert process.poll() is None


def message(**fields: Any) -> bytes:
    """A ModelInferRequest with one input; `raw` is a list of raw contents, everything else a field of the tensor."""
    given = {"model": "net", "version": "", "name": "x", "datatype": "FP32", "shape": X.shape, "raw": [RAW], **fields}
    made = oip.message("ModelInferRequest")(model_name=given["model"], model_version=given["version"])
    made.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
    made.raw_input_contents.extend(given["raw"])
    for name in given.get("outputs", ()):
        made.outputs.add(name=name)
    if "parameter" in given:
        made.inputs[0].parameters[given["parameter"]].string_param = "region"
    if "contents" in given:
        made.inputs[0].contents.fp32_contents.extend(given["contents"])
    for _ in range(given.get("again", 0)):
        made.inputs.append(made.inputs[0])
    return made.SerializeToString()


def body(**fields: Any) -> tuple[str, dict[str, str], bytes]:
    """The same request over REST: its path, headers and body."""
    given = {"model": "net", "version": "", "name": "x", "datatype": "FP32", "shape": X.shape, "raw": [RAW], **fields}
    raw = b"".join(given["raw"])
    tensor: dict[str, Any] = {"name": given["name"], "datatype": given["datatype"], "shape": list(given["shape"])}
    if given["raw"]:
        tensor["parameters"] = {"binary_data_size": given.get("size", len(raw))}
    if "parameter" in given:
        tensor["parameters"] = {given["parameter"]: "region"}
    if "contents" in given:
        tensor["data"] = given["contents"]
    asked: dict[str, Any] = {"inputs": [tensor] * (1 + given.get("again", 0))}
    if "outputs" in given:
        asked["outputs"] = [{"name": name} for name in given["outputs"]]
    header = json.dumps(asked).encode()
    path = f"/v2/models/{given['model']}" + (f"/versions/{given['version']}" if given["version"] else "") + "/infer"
    return path, {"Inference-Header-Content-Length": str(len(header))}, header + raw


NAN = np.where(X > 0, np.nan, X).tobytes()
# Of each: the fields that are wrong, gRPC's status, and a word of the sentence.
BATTERY: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown model": ({"model": "other"}, "NOT_FOUND", "other"),
    "unknown version": ({"version": "7"}, "NOT_FOUND", "version"),
    "unknown input": ({"name": "w"}, "INVALID_ARGUMENT", "'x'"),
    "unknown output": ({"outputs": ["w"]}, "INVALID_ARGUMENT", "outputs"),
    "an output twice": ({"outputs": ["y", "y"]}, "INVALID_ARGUMENT", "outputs"),
    "wrong size": ({"shape": [4, 6]}, "INVALID_ARGUMENT", r"\[4, 6\]"),
    "wrong rank": ({"shape": [24]}, "INVALID_ARGUMENT", r"\[24\]"),
    "wrong datatype": ({"datatype": "INT32"}, "INVALID_ARGUMENT", "INT32"),
    "unknown datatype": ({"datatype": "FP31"}, "INVALID_ARGUMENT", "FP31"),
    "strings": ({"datatype": "BYTES"}, "INVALID_ARGUMENT", "BYTES"),
    "negative sizes": ({"shape": [-2, -SIZE]}, "INVALID_ARGUMENT", "size"),
    "2^62 rows": ({"shape": [2**62, SIZE]}, "INVALID_ARGUMENT", "element"),
    "sizes that overflow": ({"shape": [2**32, 2**32]}, "INVALID_ARGUMENT", "element"),
    "40 sizes": ({"shape": [1] * 40}, "INVALID_ARGUMENT", "size"),
    "no elements": ({"shape": [0, SIZE], "raw": [b""]}, "INVALID_ARGUMENT", "element"),
    "short contents": ({"raw": [RAW[:-1]]}, "INVALID_ARGUMENT", "96"),
    "long contents": ({"raw": [RAW + b"\0"]}, "INVALID_ARGUMENT", "96"),
    "missing contents": ({"raw": []}, "INVALID_ARGUMENT", ""),
    "contents twice": ({"contents": X.reshape(-1).tolist()}, "INVALID_ARGUMENT", "both|binary"),
    "an input twice": ({"again": 1, "raw": [RAW, RAW], "size": len(RAW)}, "INVALID_ARGUMENT", "twice"),
    "shared memory": ({"parameter": "shared_memory_region"}, "INVALID_ARGUMENT", "shared_memory_region"),
    "NaN": ({"raw": [NAN]}, "INVALID_ARGUMENT", "finite"),
    "5 MB for 96 bytes": ({"raw": [bytes(5_000_000)]}, "INVALID_ARGUMENT", "96"),
    "70 MB": ({"shape": [70_000_000 // 48, SIZE], "raw": [bytes(69_999_984)]}, "RESOURCE_EXHAUSTED", "larger"),
}
REST = {"INVALID_ARGUMENT": {400}, "NOT_FOUND": {404}, "RESOURCE_EXHAUSTED": {413, 503}}
NO_MESSAGES = {
    "ones": b"\xff" * 40,
    "a cut string": b"\x0a\x7fshort",
    "group ends": b"\x2c" * 60,
    "nested groups": b"\x2b" * 5000,
    "a long number": b"\x08" + b"\xff" * 30,
    "a page": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
    "half of a request": message()[: len(message()) // 2],
}
NO_JSON = {
    "nothing": b"",
    "garbage": bytes(range(256)),
    "a list": b"[1, 2]",
    "a number": b"7",
    "no inputs": b"{}",
    "inputs of text": b'{"inputs": "x"}',
    "an input of null": b'{"inputs": [null]}',
    "NaN for a size": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [NaN], "data": []}]}',
    "a size of text": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": ["2"], "data": []}]}',
    "text for numbers": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 12], "data": "abc"}]}',
    "objects for numbers": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [{}]}]}',
    "deep": b'{"inputs": ' + b"[" * 100_000,
    "a great number": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [' + b"9" * 10_000 + b"]}]}",
}


def sentence(text: str) -> None:
    """One line, of readable length, without a word of Python."""
    assert 10 < len(text) < 1200 and "\n" not in text, text
    assert not any(word in text for word in ("Traceback", "Error(", 'File "', "object at 0x", "NoneType")), text


def refused(stub: Any, data: bytes) -> tuple[str, str]:
    """Status and sentence of a refusal over gRPC."""
    with pytest.raises(grpc.RpcError) as caught:
        stub(data, timeout=60)
    return caught.value.code().name, caught.value.details()


@pytest.fixture
def infer(running: Running) -> Iterator[Any]:
    with grpc.insecure_channel(running.address) as channel:
        yield channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


@pytest.fixture(autouse=True)
def still_right(running: Running) -> Iterator[None]:
    """After each test the server answers a good request, over both ports."""
    yield
    with grpc.insecure_channel(running.address) as channel:
        answer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message(), timeout=60)
    made = oip.message("ModelInferResponse").FromString(answer)
    np.testing.assert_array_equal(tensors.decode_all(made.outputs, made.raw_output_contents)["z"], -X)
    status, told = post(running, *body())
    assert status == 200 and len(json.loads(told.partition(b"]}]}")[0] + b"]}]}")["outputs"]) == 2


def post(running: Running, path: str, headers: dict[str, str], data: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*running.rest, timeout=60)
    try:
        connection.request("POST", path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("name", BATTERY)
def test_a_malformed_request_over_grpc(name: str, infer: Any) -> None:
    fields, status, word = BATTERY[name]
    got, text = refused(infer, message(**fields))
    assert got == status, text
    sentence(text)
    assert re.search(word, text)


@pytest.mark.parametrize("name", BATTERY)
def test_a_malformed_request_over_rest(name: str, running: Running) -> None:
    fields, status, word = BATTERY[name]
    path, headers, data = body(**fields)
    if len(data) > 60_000_000:
        got, told = send_until_answered(running, path, len(data))
    else:
        got, told = post(running, path, headers, data)
    text = json.loads(told)["error"]
    assert got in REST[status], text
    sentence(text)
    assert re.search(word, text)


def test_extra_contents_over_both(infer: Any, running: Running) -> None:
    status, text = refused(infer, message(raw=[RAW, RAW]))
    assert status == "INVALID_ARGUMENT" and "raw contents" in text
    path, headers, data = body()
    got, told = post(running, path, headers, data + RAW)
    assert got == 400
    sentence(json.loads(told)["error"])


@pytest.mark.parametrize("size", [100_000_000, 300_000_000])
def test_far_too_much_is_refused_by_its_size(size: int, infer: Any, running: Running) -> None:
    before = running.process.memory_info().rss
    status, text = refused(infer, b"\x3a" + bytes(size))
    assert status == "RESOURCE_EXHAUSTED" and "larger" in text
    got, told = send_until_answered(running, body()[0], size)
    assert got == 413
    sentence(json.loads(told)["error"])
    assert running.process.memory_info().rss - before < GROWTH_BYTES


def send_until_answered(running: Running, path: str, size: int) -> tuple[int, bytes]:
    """A body of `size` zeros, as much of it as the server takes before it answers."""
    with socket.create_connection(running.rest, timeout=60) as end:
        end.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        piece = bytes(1 << 16)
        while size > 0 and not select.select([end], [], [], 0)[0]:
            try:
                size -= end.send(piece[:size])
            except (BrokenPipeError, ConnectionResetError):
                break
        answer = http.client.HTTPResponse(end)
        answer.begin()
        return answer.status, answer.read()


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_bytes_that_are_no_message(name: str, infer: Any) -> None:
    status, text = refused(infer, NO_MESSAGES[name])
    assert status == "INVALID_ARGUMENT"
    sentence(text)


@pytest.mark.parametrize("name", NO_JSON)
def test_bodies_that_are_no_request(name: str, running: Running) -> None:
    status, told = post(running, body()[0], {}, NO_JSON[name])
    assert status == 400
    sentence(json.loads(told)["error"])


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999", "", "0x10", "12, 12", str(10**6)])
def test_a_wrong_length_of_the_header(length: str, running: Running) -> None:
    path, _, data = body()
    status, told = post(running, path, {"Inference-Header-Content-Length": length}, data)
    assert status == 400
    sentence(json.loads(told)["error"])


def test_memory_stays_flat_over_the_battery(infer: Any, running: Running) -> None:
    def once() -> int:
        for fields, *_ in BATTERY.values():
            refused(infer, message(**fields))
            path, headers, data = body(**fields)
            if len(data) < 60_000_000:
                post(running, path, headers, data)
        time.sleep(0.2)
        return int(running.process.memory_info().rss)

    first = once()
    assert once() - first < GROWTH_BYTES
