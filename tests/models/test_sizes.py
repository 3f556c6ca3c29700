"""Sizes taken from the batch never cross: the cloud half takes them from what it is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgecut.models.exporting import export
from edgecut.models.graph import ModelGraph
from edgecut.models.load import load_model
from edgecut.models.split import halves

Build = Callable[..., ModelGraph]
EveryCut = Callable[..., list[tuple[str, ...]]]
node = helper.make_node


def weights(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(2)
    return {f"w{i}": (0.5 * generator.standard_normal(shape)).astype(np.float32) for i, shape in enumerate(shapes)}


def whole_numbers(**values: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.int64) for name, value in values.items()}


def products(*between: onnx.NodeProto) -> list[onnx.NodeProto]:
    """`x` [batch, 4, 3] through a product to `a`, then what is given, from `b` through two products to `y`."""
    return [
        node("MatMul", ["x", "w0"], ["a"], name="one"),
        *between,
        node("MatMul", ["b", "w1"], ["c"], name="two"),
        node("MatMul", ["c", "w2"], ["y"], name="three"),
    ]


def flattened(given_shape: list[onnx.NodeProto], of: str) -> list[onnx.NodeProto]:
    """Reshape `a` to [batch, 12] by the batch that `given_shape` reads from the shape `s`, taken of `of`."""
    return [node("Shape", [of], ["s"]), *given_shape, node("Reshape", ["a", "target"], ["b"])]


GATHERED = [
    node("Gather", ["s", "zero"], ["n"], axis=0),
    node("Concat", ["n", "rest"], ["target"], axis=0),
]
SLICED = [
    node("Slice", ["s", "zero", "one"], ["n"]),
    node("Concat", ["n", "rest"], ["target"], axis=0),
]
SCALAR = [
    node("Gather", ["s", "first"], ["n0"], axis=0),
    node("Unsqueeze", ["n0", "zero"], ["n"]),
    node("Concat", ["n", "rest"], ["target"], axis=0),
]
MULTIPLIED = [
    *(node("Gather", ["s", place], [to]) for place, to in (("zero", "n"), ("one", "h"), ("two", "w"))),
    node("Mul", ["h", "w"], ["hw"]),
    node("Concat", ["n", "hw"], ["target"], axis=0),
]
NUMBERS = {
    **whole_numbers(zero=[0], one=[1], two=[2], rest=[12]),
    "first": np.array(0, np.int64),
}


@pytest.mark.parametrize("of", ["x", "a"])
@pytest.mark.parametrize("how", [GATHERED, SLICED, SCALAR, MULTIPLIED], ids=["gather", "slice", "scalar", "product"])
@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_a_shape_for_a_reshape(
    build: Build, every_cut: EveryCut, how: list[onnx.NodeProto], of: str, batch: int | str
) -> None:
    graph = build(
        products(*flattened(how, of)),
        {**weights((3, 3), (12, 5), (5, 2)), **NUMBERS},
        inputs={"x": [batch, 4, 3]},
        outputs={"y": [batch, 2]},
    )
    batches = (1, 3) if batch == "batch" else (batch, batch)
    assert every_cut(graph, batches=batches) == [("b",), ("c",)]
    # Between the shape and its use nothing but the product's result crosses.
    assert every_cut(graph, batches=batches, any_cut=True) == [("a",), ("b",), ("c",)]


def test_the_shape_before_the_first_layer(build: Build, every_cut: EveryCut) -> None:
    """As torch exports `x.shape[0]`: read from the input first of all, used behind the last cut."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("MatMul", ["x", "w0"], ["a"]),
        node("MatMul", ["a", "w1"], ["b"]),
        node("Concat", ["s", "rest"], ["target"], axis=0),
        node("Reshape", ["b", "target"], ["c"]),
        node("MatMul", ["c", "w2"], ["y"]),
    ]
    numbers = whole_numbers(rest=[20])
    graph = build(
        nodes,
        {**weights((3, 3), (3, 5), (20, 2)), **numbers},
        inputs={"x": ["n", 4, 3]},
        outputs={"y": ["n", 2]},
    )
    assert every_cut(graph, any_cut=True) == [("a",), ("b",), ("c",)]
    for cut in graph.cuts(any_cut=True):
        edge, cloud = halves(graph, cut)
        shapes = [[n.input[0] for n in half.graph.node if n.op_type == "Shape"] for half in (edge, cloud)]
        reshaped = cut.tensors[0].name == "c"
        assert shapes == ([["x"], []] if reshaped else [[], [cut.tensors[0].name]])


@settings(max_examples=40, deadline=None)
@given(st.integers(-4, 4) | st.none(), st.integers(-4, 4) | st.none())
def test_parts_of_shapes(start: int | None, end: int | None) -> None:
    """`start` and `end` as Python slices do, whatever they are: what is computed from them is added up at the end."""
    from onnxruntime import InferenceSession

    bounds = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("Shape", ["x"], ["s"], **bounds),
        node("ReduceSum", ["s"], ["total"], keepdims=0),
        node("Cast", ["total"], ["number"], to=TensorProto.FLOAT),
        node("MatMul", ["a", "w1"], ["b"]),
        node("Add", ["b", "number"], ["y"]),
    ]
    values = {name: numpy_helper.from_array(value, name) for name, value in weights((3, 3), (3, 2)).items()}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 2])],
        list(values.values()),
    )
    graph = ModelGraph(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "parts", "")
    (cut,) = graph.cuts()
    assert [tensor.name for tensor in cut.tensors] == ["a"]
    edge, cloud = (InferenceSession(half.SerializeToString()) for half in halves(graph, cut))
    w0, w1 = (value.astype(np.float64) for value in weights((3, 3), (3, 2)).values())
    for batch in (1, 4):
        x = np.random.default_rng(batch).standard_normal((batch, 5, 3)).astype(np.float32)
        expected = x @ w0 @ w1 + sum([batch, 5, 3][slice(start, end)])
        got = cloud.run(None, {"a": edge.run(None, {"x": x})[0]})[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_expand_by_a_shape(build: Build, every_cut: EveryCut) -> None:
    """A row of weights is made as high as the batch; it never crosses, whichever side of the cut it is made on."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Expand", ["row", "s"], ["rows"]),
        node("MatMul", ["x", "w0"], ["a"]),
        node("MatMul", ["a", "w1"], ["b"]),
        node("Add", ["b", "rows"], ["c"]),
        node("MatMul", ["c", "w1"], ["y"]),
    ]
    row = {"row": np.random.default_rng(5).standard_normal((1, 1, 4)).astype(np.float32)}
    shapes: dict[str, dict[str, list[Any]]] = {"inputs": {"x": ["n", 2, 4]}, "outputs": {"y": ["n", 2, 4]}}
    graph = build(nodes, {**weights((4, 4), (4, 4)), **row}, **shapes)
    assert every_cut(graph, any_cut=True) == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize("of", ["x", "a"])
def test_initial_states_of_a_recurrent_layer(build: Build, every_cut: EveryCut, of: str) -> None:
    """Zeros of the batch's size, made by ConstantOfShape: for the second layer the cloud half makes them itself."""
    states = [
        node("Shape", [of], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["one", "n", "hidden"], ["state"], axis=0),
        node("ConstantOfShape", ["state"], ["h0"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.25])),
    ]
    layers = [
        node("Transpose", ["a"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w1", "w2", "", "", "h0", "h0"], ["q", "", ""], hidden_size=3, name="first"),
        node("Squeeze", ["q", "one"], ["r"]),
        node("Transpose", ["r"], ["u"], perm=[1, 0, 2]),
        node("Relu", ["u"], ["v"]),
        node("Transpose", ["v"], ["v2"], perm=[1, 0, 2]),
        node("LSTM", ["v2", "w3", "w2", "", "", "h0", "h0"], ["", "k", ""], hidden_size=3, name="second"),
        node("Squeeze", ["k", "zero"], ["l"]),
        node("MatMul", ["l", "w4"], ["y"], name="last"),
    ]
    first = node("MatMul", ["x", "w0"], ["a"])
    nodes = [*states, first, *layers] if of == "x" else [first, *states, *layers]
    graph = build(
        nodes,
        {**weights((4, 4), (1, 12, 4), (1, 12, 3), (1, 12, 3), (3, 2)), **whole_numbers(zero=[0], one=[1], hidden=[3])},
        inputs={"x": ["n", 5, 4]},
        outputs={"y": ["n", 2]},
    )
    crossing = every_cut(graph, any_cut=True)
    assert {value for names in crossing for value in names} == {"a", "u", "v", "l"}
    assert [layer.name for layer in graph.layers()][1:3] == ["first", "second"]
    assert [item.flops for layer in graph.layers() for item in layer.work if item.kind == "recurrent"] == [
        2 * 5 * 12 * (4 + 3),
        2 * 5 * 12 * (3 + 3),
    ]


class Encoder(nn.Module):
    """Torch's own transformer layers behind a convolution, with a class token as high as the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        sequence = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1)
        return self.head(self.layers(sequence)[:, 0])


def test_a_transformer_from_torch(tmp_path: Path, every_cut: EveryCut) -> None:
    torch.manual_seed(3)
    network = Encoder().eval()
    name = export(tmp_path, network, "encoder", [torch.randn(2, 1, 8, 8)])
    model = load_model(str(tmp_path / name.removeprefix("sha256:") / "model.onnx"))
    assert model.spec.batch is None
    assert model.spec.input.shape == (1, 8, 8)
    assert len(every_cut(model.graph, any_cut=True)) > len(model.spec.cuts) == 6
    # What attention takes has the batch second, so the cloud turns what is sent.
    assert [tensor.name for tensor in model.spec.cuts[0].tensors] == ["cat"]
    # What each product costs, by torch's own count.
    network.train()  # where no layer is fused
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(torch.randn(1, 1, 8, 8))
    counted = counter.get_total_flops()
    assert sum(layer.flops for layer in model.spec.layers) == counted
