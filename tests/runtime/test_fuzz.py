"""13,000 requests with accidents, to a server in a process of its own: a right answer or a refusal in a sentence each.

What is right is worked out here, with protobuf or json and NumPy. The accidents come from a generator with a seed, so a
request that is answered wrong can be made again: its number is in the failure.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import grpc
import numpy as np
import onnx
import psutil
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from edgecut.runtime import oip
from edgecut.runtime.repository import write_model

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.deep

THREADS = 4
# Requests over gRPC, over REST, and bytes that may not even be HTTP; with a quarter of each the server is warm.
GRPC, REST, HTTP = 10_000, 2_400, 600
GROWTH_BYTES = 40 << 20
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
SIZES = {"FP32": 4, "FP64": 8, "BOOL": 1, "INT64": 8, "INT8": 1, "UINT16": 2, "FP16": 2}
NUMPY = {"FP32": "<f4", "FP64": "<f8", "BOOL": "?"}
# Of each model: inputs (datatype, fixed sizes), and the output each is turned into.
MODELS: dict[str, dict[str, tuple[str, tuple[int, ...], str]]] = {
    "net": {"x": ("FP32", (12,), "y")},
    "pair": {"a": ("FP64", (3,), "p"), "b": ("BOOL", (), "q")},
}
ODD_SIZES = (-1, 0, 1, 2, 3, 12, 2**31, 2**32, 2**62, -(2**63))
REQUEST, RESPONSE = oip.message("ModelInferRequest"), oip.message("ModelInferResponse")
Serving = Callable[..., contextlib.AbstractContextManager[Any]]


class Running(NamedTuple):
    """A server: its process, host:port of gRPC, and (host, port) of REST."""

    process: psutil.Process
    address: str
    rest: tuple[str, int]


@pytest.fixture(scope="module")
def running(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    types = {"FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BOOL": TensorProto.BOOL}
    for name, tensors in MODELS.items():
        nodes, inputs, outputs = [], [], []
        for given, (datatype, fixed, made) in tensors.items():
            nodes.append(helper.make_node("Not" if datatype == "BOOL" else "Neg", [given], [made]))
            shape = [f"rows of {given}", *fixed]
            inputs.append(helper.make_tensor_value_info(given, types[datatype], shape))
            outputs.append(helper.make_tensor_value_info(made, types[datatype], shape))
        graph = helper.make_graph(nodes, name, inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        sides: list[list[Any]] = [[], []]
        for given, (datatype, fixed, made) in tensors.items():
            for side, tensor in zip(sides, (given, made), strict=True):
                side.append((tensor, f"TYPE_{datatype}", list(fixed)))
        write_model(folder, name, model.SerializeToString(), *sides)
    with serving(folder) as (process, address):
        host, _, port = process.stdout.readline().strip().rpartition("http://")[2].rpartition(":")
        yield Running(psutil.Process(process.pid), address, (host, int(port)))
        assert process.poll() is None


class Tensor(NamedTuple):
    """An input as it is sent: its elements as bytes, or as values where they travel typed."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes


class Asked(NamedTuple):
    """A request before it is written down."""

    model: str
    version: str
    id: str
    tensors: list[Tensor]
    outputs: list[str]
    typed: bool


def good(random: Random) -> Asked:
    """A request that is answered."""
    model = random.choice(list(MODELS))
    made = []
    for name, (datatype, fixed, _) in MODELS[model].items():
        shape = [random.randint(1, 5), *fixed]
        count = int(np.prod(shape))
        values = [random.randint(0, 1) if datatype == "BOOL" else random.gauss(0, 9) for _ in range(count)]
        made.append(Tensor(name, datatype, shape, np.array(values, NUMPY[datatype]).tobytes()))
    random.shuffle(made)
    outputs = [tensor[2] for tensor in MODELS[model].values() if random.random() < 0.3]
    return Asked(model, random.choice(["", "1"]), random.choice(["", "seven"]), made, outputs, random.random() < 0.3)


def hurt(random: Random, asked: Asked) -> Asked:
    """The request with one thing changed."""
    i = random.randrange(len(asked.tensors)) if asked.tensors else 0
    what = random.choice(
        ["model", "version", "id", "outputs", "drop", "twice", "name", "datatype", "shape", "raw", "nan"]
    )
    names = ["", "x", "a", "b", "y", "net", "pair", "1", "01", "-1", "\0", "../net", "é" * 40, "x" * 5000]
    if what in ("model", "version", "id"):
        return asked._replace(**{what: random.choice(names)})
    if what == "outputs":
        return asked._replace(outputs=[*asked.outputs, random.choice(names)])
    tensors = list(asked.tensors)
    if not tensors:
        return asked
    one = tensors[i]
    if what == "drop":
        del tensors[i]
    elif what == "twice":
        tensors.append(one)
    else:
        changed: Any = {
            "name": lambda: random.choice(names),
            "datatype": lambda: random.choice([*SIZES, "BYTES", "BF16", "", "fp32"]),
            "shape": lambda: [
                random.choice(ODD_SIZES) if random.random() < 0.4 else size
                for size in one.shape + [1] * random.choice([0, 0, 1, 20])
            ],
            "raw": lambda: random.choice(
                [one.raw[:-1], one.raw + b"\1", b"", one.raw * 2, random.randbytes(len(one.raw))]
            ),
            "nan": lambda: one.raw[:-8] + struct.pack("<d", random.choice([np.nan, np.inf])),
        }[what]()
        tensors[i] = one._replace(**{"raw" if what == "nan" else what: changed})
    return asked._replace(tensors=tensors)


def scratched(random: Random, data: bytes) -> bytes:
    """The bytes after one accident."""
    at = random.randrange(len(data) + 1)
    piece = random.randbytes(random.choice([1, 1, 2, 9]))
    other = random.randrange(len(data) + 1)
    return random.choice(
        [
            data[:at],
            data[:at] + piece + data[at:],
            data[:at] + piece + data[at + len(piece) :],
            data[:at] + data[at + random.randint(1, 8) :],
            data[:at] + data[min(at, other) : max(at, other)] + data[at:],
            data + data,
        ]
    )


def as_message(random: Random, asked: Asked) -> bytes:
    made = REQUEST(model_name=asked.model, model_version=asked.version, id=asked.id)
    fields = {"FP32": "fp32_contents", "FP64": "fp64_contents", "BOOL": "bool_contents"}
    for tensor in asked.tensors:
        made.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if asked.typed and tensor.datatype in fields and len(tensor.raw) % SIZES[tensor.datatype] == 0:
            values = np.frombuffer(tensor.raw, NUMPY[tensor.datatype]).tolist()
            getattr(made.inputs[-1].contents, fields[tensor.datatype]).extend(values)
        else:
            made.raw_input_contents.append(tensor.raw)
    for name in asked.outputs:
        made.outputs.add(name=name)
    if random.random() < 0.1:
        made.parameters[random.choice(["timeout", "priority", "x"])].int64_param = random.choice([0, 10**9])
    if random.random() < 0.05 and len(made.inputs):
        made.inputs[0].parameters[random.choice(["shared_memory_region", "y"])].string_param = "r"
    return made.SerializeToString()


def expected(model: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model makes of its inputs."""
    return {
        made: ~inputs[name] if datatype == "BOOL" else -inputs[name]
        for name, (datatype, _, made) in MODELS[model].items()
    }


def check_message(data: bytes, answer: bytes) -> None:
    """Hold an answer against what protobuf reads in the request."""
    request, response = REQUEST.FromString(data), RESPONSE.FromString(answer)
    inputs = {}
    for i, tensor in enumerate(request.inputs):
        dtype = NUMPY[tensor.datatype]
        if request.raw_input_contents:
            flat = np.frombuffer(request.raw_input_contents[i], dtype)
        else:
            (_, values), *none = tensor.contents.ListFields()
            assert not none
            flat = np.array(values, dtype)
        inputs[tensor.name] = flat.reshape(tensor.shape)
    assert len(inputs) == len(request.inputs)
    right = expected(request.model_name, inputs)
    wanted = [output.name for output in request.outputs] or [made for _, _, made in MODELS[request.model_name].values()]
    assert [output.name for output in response.outputs] == wanted
    assert (response.model_name, response.model_version, response.id) == (request.model_name, "1", request.id)
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        array = right[output.name]
        assert tuple(output.shape) == array.shape and raw == array.tobytes()
        assert array.dtype == bool or np.isfinite(array).all()


def sentence(text: str) -> None:
    """One line, of readable length, without a word of Python."""
    assert 10 < len(text) < 1200 and "\n" not in text, text
    assert not any(word in text for word in ("Traceback", "Error(", 'File "', "object at 0x", "NoneType")), text


def over_grpc(numbers: range, running: Running) -> tuple[int, int]:
    """Send requests by their numbers; how many were answered and how many refused."""
    answered = refused = 0
    with grpc.insecure_channel(running.address) as channel:
        calls = {method.name: channel.unary_unary(method.path) for method in oip.methods()}
        for number in numbers:
            random = Random(number)
            asked = good(random)
            for _ in range(random.choice([0, 1, 1, 2])):
                asked = hurt(random, asked)
            data = as_message(random, asked)
            for _ in range(random.choice([0, 0, 1, 3])):
                data = scratched(random, data)
            name = "ModelInfer" if random.random() < 0.95 else random.choice(list(calls))
            try:
                answer = calls[name](data, timeout=60)
                if name == "ModelInfer":
                    check_message(data, answer)
                answered += 1
            except grpc.RpcError as error:
                # A timeout that is a parameter may be hit by an accident; a server that hangs says nothing of waiting.
                late = error.code().name == "DEADLINE_EXCEEDED" and "waited" in error.details()
                assert late or error.code().name in REFUSALS, (number, error.code(), error.details())
                sentence(error.details())
                refused += 1
            except (AssertionError, DecodeError, KeyError, ValueError) as error:
                raise AssertionError(f"gRPC request {number} was answered wrong: {error!r}") from error
    return answered, refused


def as_body(random: Random, asked: Asked) -> tuple[str, dict[str, str], bytes]:
    tensors, raws = [], []
    for tensor in asked.tensors:
        made: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if asked.typed and tensor.datatype in NUMPY and len(tensor.raw) % SIZES[tensor.datatype] == 0:
            values = np.frombuffer(tensor.raw, NUMPY[tensor.datatype])
            made["data"] = values.tolist()
        else:
            made["parameters"] = {"binary_data_size": len(tensor.raw)}
            raws.append(tensor.raw)
        tensors.append(made)
    whole: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    if asked.id:
        whole["id"] = asked.id
    if asked.outputs:
        whole["outputs"] = [{"name": name} for name in asked.outputs]
    header = json.dumps(whole).encode()
    if random.random() < 0.3:
        header = scratched(random, header)
    version = f"/versions/{asked.version}" if asked.version.isalnum() and asked.version.isascii() else ""
    model = asked.model if asked.model.isalnum() and asked.model.isascii() else "%00"
    length = len(header) if random.random() < 0.95 else random.choice([0, -1, len(header) + 1, 10**9])
    return (
        f"/v2/models/{model}{version}/infer",
        {"Inference-Header-Content-Length": str(length)},
        header + b"".join(raws),
    )


def check_body(path: str, length: int, data: bytes, answer_length: int, answer: bytes) -> None:
    """Hold an answer against what json reads in the request."""
    asked, told = json.loads(data[:length]), json.loads(answer[:answer_length])
    at = length
    inputs = {}
    for tensor in asked["inputs"]:
        dtype = np.dtype(NUMPY[tensor["datatype"]])
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = np.array(tensor["data"], dtype).reshape(-1)
        else:
            flat, at = np.frombuffer(data[at : at + size], dtype), at + size
        inputs[tensor["name"]] = flat.reshape(tensor["shape"])
    assert at == len(data) and len(inputs) == len(asked["inputs"])
    right = expected(path.split("/")[3], inputs)
    names = [output["name"] for output in asked.get("outputs", [])]
    assert [output["name"] for output in told["outputs"]] == (names or list(right))
    at = answer_length
    for output in told["outputs"]:
        array = right[output["name"]]
        assert output["shape"] == list(array.shape)
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            assert np.array_equal(np.array(output["data"], array.dtype), array.reshape(-1))
        else:
            assert answer[at : at + size] == array.tobytes()
            at += size
    assert at == len(answer)


def over_rest(numbers: range, running: Running) -> tuple[int, int]:
    """As `over_grpc`, over one connection for as long as the server keeps it."""
    answered = refused = 0
    connection = http.client.HTTPConnection(*running.rest, timeout=60)
    for number in numbers:
        random = Random(number)
        asked = good(random)
        for _ in range(random.choice([0, 1, 1, 2])):
            asked = hurt(random, asked)
        path, headers, data = as_body(random, asked)
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        body = response.read()
        if response.status == 200:
            length = int(response.headers.get("Inference-Header-Content-Length", len(body)))
            try:
                check_body(path, int(headers["Inference-Header-Content-Length"]), data, length, body)
            except (AssertionError, KeyError, ValueError, TypeError) as error:
                raise AssertionError(f"REST request {number} was answered wrong: {error!r}") from error
            answered += 1
        else:
            assert response.status in (400, 404, 413), (number, response.status, body)
            sentence(json.loads(body)["error"])
            refused += 1
    connection.close()
    return answered, refused


def over_http(numbers: range, running: Running) -> tuple[int, int]:
    """Whole HTTP requests with accidents anywhere; how many connections were answered and how many only closed."""
    answered = closed = 0
    for number in numbers:
        random = Random(number)
        path, headers, data = as_body(random, good(random))
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
        request = (
            "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + data
        )
        for _ in range(random.choice([1, 1, 2, 5])):
            request = scratched(random, request)
        with socket.create_connection(running.rest, timeout=60) as end:
            got = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                end.sendall(request)
                end.shutdown(socket.SHUT_WR)
                while piece := end.recv(1 << 16):
                    got += piece
        assert not got or got.startswith(b"HTTP/1."), (number, got[:100])
        assert b"Traceback" not in got, (number, got)
        answered, closed = answered + bool(got), closed + (not got)
    return answered, closed


def in_threads(work: Callable[[range, Running], tuple[int, int]], numbers: range, running: Running) -> tuple[int, int]:
    """The sums of `work` over parts of the numbers; its first failure, if there is one."""
    counts: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def run(part: range) -> None:
        try:
            counts.append(work(part, running))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(numbers[i::THREADS],)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    first, second = (sum(count[i] for count in counts) for i in (0, 1))
    return first, second


@pytest.mark.parametrize(("work", "count"), [(over_grpc, GRPC), (over_rest, REST), (over_http, HTTP)])
def test_a_right_answer_or_a_refusal_each_and_memory_stays_flat(
    work: Callable[[range, Running], tuple[int, int]], count: int, running: Running
) -> None:
    first, second = in_threads(work, range(count // 4), running)
    warm = running.process.memory_info().rss
    files = running.process.num_fds()
    others = in_threads(work, range(count // 4, count), running)
    assert first + second + sum(others) == count
    # Both must come about, else this proves nothing.
    assert first + others[0] > count // 10 and second + others[1] > (0 if work is over_http else count // 10)
    assert running.process.memory_info().rss - warm < GROWTH_BYTES
    assert running.process.num_fds() - files < 2 * THREADS
