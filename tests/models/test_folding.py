"""Constants that a graph computes are computed once; the model stays the same and gains the cuts that they hid."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.folding import LARGEST, LARGEST_FLOAT, fold
from edgecut.models.graph import ModelGraph


def constant(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def padded() -> onnx.ModelProto:
    """Two convolutions with a Pad between them whose pads are computed as torch's older exporter has it."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.standard_normal((3, 3, 3, 3)).astype(np.float32), f"w{i}") for i in (1, 2)
    ]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "first"),
        node("ConstantOfShape", ["four"], ["zeros"], value=constant("value", 0)),
        node("Concat", ["pads", "zeros"], ["eight"], axis=0),
        node("Reshape", ["eight", "pairs"], ["pairwise"]),
        node("Slice", ["pairwise", "from", "to", "axis", "back"], ["reversed"]),
        node("Transpose", ["reversed"], ["turned"], perm=[1, 0]),
        node("Reshape", ["turned", "flat"], ["both"]),
        node("Cast", ["both"], ["amounts"], to=TensorProto.INT64),
        node("Pad", ["a", "amounts"], ["b"], "pad"),
        node("Conv", ["b", "w2"], ["y"], "second"),
    ]
    constants = [
        *weights,
        constant("four", 4),
        constant("pads", 1, 2, 0, 1),
        constant("pairs", -1, 2),
        constant("from", -1),
        constant("to", -9999),
        constant("axis", 0),
        constant("back", -1),
        constant("flat", -1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, None, None])
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_the_model_computes_the_same_with_its_pads_folded() -> None:
    proto, x = padded(), np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    before = run(proto, x)
    fold(proto, ())
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Pad", "Conv"]
    amounts = next(tensor for tensor in proto.graph.initializer if tensor.name == "amounts")
    assert numpy_helper.to_array(amounts).tolist() == [0, 0, 0, 1, 0, 0, 1, 2]
    np.testing.assert_array_equal(run(proto, x), before)


def test_a_cut_behind_computed_pads_is_found() -> None:
    graph = ModelGraph(padded(), "padded", "sha256:" + "0" * 64)
    assert [(cut.name, cut.tensors[0].shape) for cut in graph.cuts()] == [("first", (3, 7, 9))]


@pytest.mark.parametrize("left", [set(), {"Add"}])
def test_what_is_to_stay_or_large_or_unknown_stays(left: set[str]) -> None:
    node = helper.make_node
    nodes = [
        node("Add", ["one", "one"], ["two"]),
        node("ConstantOfShape", ["many"], ["large"]),
        node("Add", ["two", "weights"], ["three"]),
        node("DequantizeLinear", ["quantised", "step"], ["dequantised"]),
        node("DequantizeLinear", ["step8", "step"], ["few"]),
        node("Unheard", ["one"], ["four"], domain="of.ours"),
    ]
    weights = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL  # as a skeleton has it: its values are elsewhere
    outputs = [onnx.ValueInfoProto(name=name) for name in ("two", "large", "three", "four", "dequantised", "few")]
    constants = [
        constant("one", 1),
        constant("many", LARGEST + 1),
        weights,
        numpy_helper.from_array(np.ones(LARGEST_FLOAT + 1, np.int8), "quantised"),
        numpy_helper.from_array(np.ones(LARGEST_FLOAT, np.int8), "step8"),
        numpy_helper.from_array(np.float32(0.5), "step"),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [], outputs, constants))
    fold(proto, left)
    kept = ["large", "three", "dequantised", "four"]
    assert [n.output[0] for n in proto.graph.node] == (["two"] if left else []) + kept
