"""Nodes that a runtime fused, renamed or put in, told apart by name; and what ONNX Runtime really makes of LeNet-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.graph import ModelGraph
from edgecut.models.load import Model
from edgecut.profiler.layer_times import layer_times


def chain(*names: tuple[str, str, str]) -> ModelGraph:
    """Linear layers in a row, each (name of the product, of its activation, of the activation's tensor)."""
    nodes, weights, value = [], [], "x"
    for number, (product, activation, made) in enumerate(names):
        weights.append(numpy_helper.from_array(np.eye(4, dtype=np.float32) * (number + 1), f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"{made}_in"], product))
        nodes.append(helper.make_node("Relu", [f"{made}_in"], [made], activation))
        value = made
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return ModelGraph(proto, "chain", "sha256:" + "0" * 64)


GRAPH = chain(("conv1", "relu1", "t1"), ("conv10", "relu10", "t10"), ("/b.0/conv", "/b.0/relu", "/b.0/out"))
FIRST, TENTH, LAST = (layer.name for layer in GRAPH.layers())


def owner(*nodes: str) -> str:
    """The layer that the last of some nodes is counted to."""
    weights = [(node, float(1 << i)) for i, node in enumerate(nodes)]
    (found,) = [name for name, total in layer_times(GRAPH, weights).items() if int(total) >> (len(nodes) - 1) & 1]
    return found


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("conv1", FIRST),
        ("relu10", TENTH),
        ("/b.0/conv", LAST),
        ("t10", TENTH),  # named after the tensor it makes
        ("fused conv10", TENTH),
        ("fused conv1", FIRST),
        ("conv1_nchwc", FIRST),
        ("conv10_nchwc", TENTH),
        ("conv1 + relu1", FIRST),
        ("/b.0/conv + /b.0/relu", LAST),
        ("/b.0/conv_nchwc", LAST),
        ("t1/MatMulActivationFusion", FIRST),
        ("{ForeignNode[conv10...relu10]}", TENTH),
    ],
)
def test_names(node: str, layer: str) -> None:
    for before in ("conv1", "conv10", "/b.0/conv"):
        assert owner(before, node) == layer
    assert owner(node) == layer


@pytest.mark.parametrize(
    "node", ["reorder", "ReorderOutput_7", "conv", "conv100", "xconv1", "a.conv1", "relu", "", "1"]
)
def test_what_nobody_knows_goes_to_the_layer_before(node: str) -> None:
    assert owner("conv1", node) == FIRST
    assert owner("conv10", node) == TENTH
    assert owner("conv10", node, node) == TENTH
    assert owner(node) == FIRST  # nothing came before


def test_times_add_up() -> None:
    """Nothing is lost or counted twice, whatever the names."""
    nodes = [("conv1", 1.0), ("reorder", 0.5), ("fused conv10", 2.0), ("?", 0.25), ("t10", 4.0)]
    assert layer_times(GRAPH, nodes) == {FIRST: 1.5, TENTH: 6.25}
    assert layer_times(GRAPH, []) == {}


def test_owners_in_the_optimised_graph(lenet: Model, tmp_path: Path) -> None:
    """Whatever ONNX Runtime fused or put in: layers come in their order, each with its own product."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(lenet.path), options, providers=["CPUExecutionProvider"])
    nodes = list(onnx.load(tmp_path / "optimised.onnx").graph.node)
    totals = layer_times(lenet.graph, [(node.name, float(1 << i)) for i, node in enumerate(nodes)])
    owners = [[name for name, total in totals.items() if int(total) >> i & 1] for i in range(len(nodes))]
    assert all(len(found) == 1 for found in owners)
    names = [found[0] for found in owners]
    products = [n for n, node in zip(names, nodes, strict=True) if "Conv" in node.op_type or "Gemm" in node.op_type]
    assert products == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert names == sorted(names, key=products.index)
    pools = [name for name, node in zip(names, nodes, strict=True) if "Pool" in node.op_type]
    assert pools == ["conv1", "conv2"]
