"""What the tests of the server share: small models in a repository, and requests to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from edgecut.runtime.repository import CONFIG, write_model

SIZE = 12


def _model(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    def values(given: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, *spec) for name, spec in given.items()]

    graph = helper.make_graph(nodes, "test", values(inputs), values(outputs))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: `net` (y = relu(x), z = -x, float32 [batch, 12]), `pick` (rows of a table by number, fails beyond
    the table and then quotes the number), `kinds` (echoes one tensor of each of several datatypes)."""
    root = tmp_path_factory.mktemp("small_models")
    spec = (TensorProto.FLOAT, ["batch", SIZE])
    net = _model(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        {"x": spec},
        {"y": spec, "z": spec},
    )
    dims = [("x", "TYPE_FP32", [SIZE])], [("y", "TYPE_FP32", [SIZE]), ("z", "TYPE_FP32", [SIZE])]
    write_model(root, "net", net, *dims)
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 2], range(8))
    pick = _model(
        [
            helper.make_node("Constant", [], ["rows"], value=table),
            helper.make_node("Gather", ["rows", "i"], ["y"]),
        ],
        {"i": (TensorProto.INT64, ["batch"])},
        {"y": (TensorProto.FLOAT, ["batch", 2])},
    )
    (write_model(root, "pick", pick, [("i", "TYPE_INT64", [])], [("y", "TYPE_FP32", [2])]) / CONFIG).write_text(
        'backend: "onnxruntime"'
    )
    kinds = {
        "b": TensorProto.BOOL,
        "h": TensorProto.FLOAT16,
        "f": TensorProto.FLOAT,
        "d": TensorProto.DOUBLE,
        "c": TensorProto.INT8,
        "u": TensorProto.UINT8,
        "q": TensorProto.INT64,
        "Q": TensorProto.UINT64,
    }
    echo = _model(
        [helper.make_node("Identity", [name], [f"{name}_"]) for name in kinds],
        {name: (kind, ["n"]) for name, kind in kinds.items()},
        {f"{name}_": (kind, ["n"]) for name, kind in kinds.items()},
    )
    folder = root / "kinds" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(echo)
    (root / "kinds" / CONFIG).write_text('backend: "onnxruntime"')
    return root
