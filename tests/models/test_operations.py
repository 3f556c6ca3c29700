"""What each operation costs, against counts by loops over tiny shapes and against torch's own counter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgecut.models.exporting import export
from edgecut.models.graph import ModelGraph
from edgecut.models.load import load_model
from edgecut.models.operations import operation
from edgecut.models.work import Operation

Build = Callable[..., ModelGraph]
node = helper.make_node
Shape = tuple[int, ...]


def of(kind: str, shapes: dict[str, Shape], out: dict[str, Shape], *fixed: str, **attributes: Any) -> Operation:
    """The operation of one node between values of these shapes, `fixed` ones of which are weights."""
    made = operation(node(kind, list(shapes), list(out), **attributes), {**shapes, **out}.get, set(fixed))
    assert made is not None
    return made


def multiply_adds(source: Shape, weight: Shape, out: Shape, groups: int) -> int:
    """Of a convolution, by loops: each value of the result, each channel of its group, each place of the window."""
    count = 0
    per_group = source[1] // groups
    outputs_per_group = out[1] // groups
    for channel, *_ in itertools.product(range(out[1]), *(range(size) for size in out[2:])):
        group = channel // outputs_per_group
        for _from in range(group * per_group, (group + 1) * per_group):
            for _ in itertools.product(*(range(size) for size in weight[2:])):
                count += 1
    return count


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(3, 6), st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=3),
)
def test_convolutions(groups: int, inputs: int, outputs: int, spatial: list[tuple[int, int, int]]) -> None:
    """In one, two and three dimensions, grouped, depthwise and transposed, as torch makes them."""
    kernel, stride = tuple(k for _, k, _ in spatial), tuple(s for _, _, s in spatial)
    source = (1, groups * inputs, *(size for size, _, _ in spatial))
    rank = len(spatial)
    for transposed in (False, True):
        kinds = (
            (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
            if transposed
            else (
                nn.Conv1d,
                nn.Conv2d,
                nn.Conv3d,
            )
        )
        layer: Any = kinds[rank - 1](source[1], groups * outputs, kernel, stride=stride, groups=groups)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            out = tuple(layer(torch.zeros(source)).shape)
        weight = tuple(layer.weight.shape)
        made = of(
            "ConvTranspose" if transposed else "Conv",
            {"x": source, "w": weight, "b": (out[1],)},
            {"y": out},
            "w",
            "b",
            group=groups,
            kernel_shape=kernel,
            strides=stride,
        )
        if not transposed:
            assert made.flops == 2 * multiply_adds(source, weight, out, groups)
        assert made.flops == counter.get_total_flops()
        assert (made.in_channels, made.out_channels, made.groups) == (source[1], out[1], groups)
        depthwise = groups > 1 and inputs == outputs == 1 and not transposed
        assert made.kind == ("depthwise_conv" if depthwise else "conv")
        for pair, sizes in ((made.kernel, kernel), (made.stride, stride), (made.input_hw, source[2:])):
            assert pair is not None
            assert math.prod(pair) == math.prod(sizes)
            assert pair[1] == sizes[-1]
            assert rank != 1 or pair[0] == 1
        assert made.parameters == sum(value.numel() for value in layer.parameters())
        assert (made.input_elements, made.output_elements) == (math.prod(source), math.prod(out))
        assert made.bytes(3, 2) == 2 * (3 * (math.prod(source) + math.prod(out)) + made.parameters)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_products(lead: list[int], rows: int, inner: int, columns: int, data: st.DataObject) -> None:
    """Weights on the right, on the left, or on neither side."""
    fixed = data.draw(st.sampled_from([None, "a", "b"]))
    a: Shape = (rows, inner) if fixed == "a" else (*lead, rows, inner)
    b: Shape = (inner, columns) if fixed == "b" or (lead and data.draw(st.booleans())) else (*lead, inner, columns)
    out = tuple(np.matmul(np.zeros(a), np.zeros(b)).shape)
    made = of("MatMul", {"a": a, "b": b}, {"y": out}, *([fixed] if fixed else []))
    count = sum(inner for _ in itertools.product(*(range(size) for size in out)))
    assert made.flops == 2 * count
    assert made.kind == ("linear" if fixed else "matmul")
    assert made.in_channels == inner
    assert made.out_channels == (rows if fixed == "a" else columns)
    assert made.flops == 2 * made.in_channels * made.out_channels * made.rows
    assert made.parameters == (math.prod({"a": a, "b": b}[fixed]) if fixed else 0)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(trans_a: int, trans_b: int) -> None:
    a, b = ((3, 5), (5, 7))
    shapes = {"a": a[::-1] if trans_a else a, "b": b[::-1] if trans_b else b, "c": (7,)}
    made = of("Gemm", shapes, {"y": (3, 7)}, "b", "c", transA=trans_a, transB=trans_b)
    assert (made.flops, made.in_channels, made.out_channels, made.rows) == (2 * 3 * 5 * 7, 5, 7, 3)
    assert made.parameters == 5 * 7 + 7


def test_integer_products_have_their_weights_elsewhere() -> None:
    scalars = dict.fromkeys(("as", "az", "bs", "bz", "ys", "yz"), ())
    shapes: dict[str, Shape] = {"a": (2, 3), "as": (), "az": (), "b": (3, 4), **scalars}
    order = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    made = of("QLinearMatMul", {name: shapes[name] for name in order}, {"y": (2, 4)}, "b", *scalars)
    assert (made.kind, made.flops, made.rows) == ("linear", 2 * 2 * 3 * 4, 2)
    convolution = {**shapes, "a": (1, 2, 4, 4), "b": (5, 2, 3, 3)}
    made = of("QLinearConv", {name: convolution[name] for name in order}, {"y": (1, 5, 2, 2)}, "b", *scalars)
    assert (made.kind, made.flops) == ("conv", 2 * 5 * 2 * 2 * 2 * 9)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(kind: str, gates: int, directions: int, layout: int) -> None:
    """By a loop over directions, steps, gates and hidden values; also where only the last state is asked for."""
    steps, features, hidden = 5, 3, 2
    count = 0
    for _ in itertools.product(range(directions), range(steps), range(gates), range(hidden)):
        count += features + hidden
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((directions, gates * hidden, features)).astype(np.float32),
        "r": generator.standard_normal((directions, gates * hidden, hidden)).astype(np.float32),
    }
    direction = "bidirectional" if directions == 2 else "forward"
    shape = (1, steps, features) if layout else (steps, 1, features)
    for outputs in (["q"], ["", "h"]):
        recurrent = node(kind, ["x", "w", "r"], outputs, hidden_size=hidden, direction=direction, layout=layout)
        given = {"x": shape, "q": (1,), "h": (1,), **{name: value.shape for name, value in weights.items()}}
        made = operation(recurrent, given.get, set(weights))
        assert made is not None
        assert (made.kind, made.flops, made.rows) == ("recurrent", 2 * count, steps)
        assert (made.in_channels, made.out_channels) == (features, directions * hidden)
        assert made.parameters == directions * gates * hidden * (features + hidden)


@pytest.mark.parametrize("heads_of_keys", [4, 2])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("earlier", [0, 6])
def test_attention(build: Build, heads_of_keys: int, flat: bool, earlier: int) -> None:
    """ONNX's own operator: every query with every key and value of its head, by a loop; wider values, shared keys."""
    heads, queries, keys, width, value_width = 4, 3, 5, 2, 3
    count = 0
    for _ in itertools.product(range(heads), range(queries), range(earlier + keys)):
        count += width + value_width
    shapes: dict[str, list[Any]] = {
        "q": ["n", queries, heads * width] if flat else ["n", heads, queries, width],
        "k": ["n", keys, heads_of_keys * width] if flat else ["n", heads_of_keys, keys, width],
        "v": ["n", keys, heads_of_keys * value_width] if flat else ["n", heads_of_keys, keys, value_width],
    }
    outputs = {"y": ["n", queries, heads * value_width] if flat else ["n", heads, queries, value_width]}
    names, made_names = ["q", "k", "v"], ["y"]
    if earlier:
        shapes["pk"] = ["n", heads_of_keys, earlier, width]
        shapes["pv"] = ["n", heads_of_keys, earlier, value_width]
        names, made_names = [*names, "", "pk", "pv"], ["y", "k2", "v2"]
    split = {"q_num_heads": heads, "kv_num_heads": heads_of_keys} if flat else {}
    attention = node("Attention", names, made_names, **split)
    graph = build([attention], inputs=shapes, outputs=outputs, opset=23)
    (layer,) = graph.layers()
    (work,) = layer.work
    assert (work.kind, work.flops, work.rows) == ("matmul", 2 * count, queries)
    assert layer.flops == 2 * count
    assert work.parameters == 0


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(1, 3, 4), (1, 4, 5)]),
        ("bhqd, bhkd -> bhqk", [(1, 2, 3, 4), (1, 2, 5, 4)]),
        ("bi,oi", [(1, 3), (4, 3)]),
        ("bii->bi", [(1, 3, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[Shape]) -> None:
    """Every combination of the indices is a multiply-add."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    count = sum(1 for _ in itertools.product(*(range(size) for size in sizes.values())))
    out = tuple(np.einsum(equation, *(np.zeros(shape) for shape in shapes)).shape)
    made = of("Einsum", {f"x{i}": shape for i, shape in enumerate(shapes)}, {"y": out}, equation=equation)
    assert (made.kind, made.flops) == ("matmul", 2 * count)


def test_einsum_with_dots_is_no_product() -> None:
    made = of("Einsum", {"a": (1, 2, 3), "b": (3, 4)}, {"y": (1, 2, 4)}, equation="...i,ij->...j")
    assert made.kind == "elementwise"


@pytest.mark.parametrize(
    ("kind", "pool"), [("MaxPool", "maxpool"), ("AveragePool", "avgpool"), ("GlobalAveragePool", "avgpool")]
)
def test_pools(kind: str, pool: str) -> None:
    whole = kind.startswith("Global")
    attributes = {} if whole else {"kernel_shape": [2, 3], "strides": [2, 1]}
    out = (1, 3, 1, 1) if whole else (1, 3, 2, 4)
    made = of(kind, {"x": (1, 3, 4, 6)}, {"y": out}, **attributes)
    assert made.kind == pool
    assert made.flops == (3 * 4 * 6 if whole else 3 * 2 * 4 * 2 * 3)
    assert made.kernel == ((4, 6) if whole else (2, 3))
    assert made.stride == ((1, 1) if whole else (2, 1))
    assert (made.input_hw, made.in_channels, made.out_channels) == ((4, 6), 3, 3)


def test_what_is_no_arithmetic() -> None:
    x = {"x": (1, 6)}
    assert of("Transpose", x, {"y": (6, 1)}).flops == of("Concat", x, {"y": (1, 6)}).flops == 0
    table = of("Gather", {"t": (9, 4), "x": (1, 6)}, {"y": (1, 6, 4)}, "t")
    assert (table.kind, table.flops, table.parameters, table.output_elements) == ("embedding", 0, 36, 24)
    assert of("Softmax", x, {"y": (1, 6)}).kind == "softmax"
    norm = of("BatchNormalization", {"x": (1, 3, 4, 4), "s": (3,), "b": (3,)}, {"y": (1, 3, 4, 4)}, "s", "b")
    assert (norm.kind, norm.flops, norm.parameters, norm.in_channels) == ("batchnorm", 96, 6, 3)
    assert operation(node("Reshape", ["x", "s"], ["y"]), {"x": (1, 6), "y": (6,)}.get, {"s"}) is None
    assert operation(node("Relu", ["w"], ["y"]), {"w": (6,), "y": (6,)}.get, {"w"}) is None  # done once, before
    assert operation(node("Relu", ["x"], ["y"]), {}.get, set()) is None


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_a_fixed_batch_counts_per_item(build: Build, batch: int) -> None:
    """The same counts whatever batch a model was exported for."""
    generator = np.random.default_rng(0)
    weights = {
        "c": generator.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "w": generator.standard_normal((5, 5)).astype(np.float32),
        "l": generator.standard_normal((1, 12, 25)).astype(np.float32),
        "r": generator.standard_normal((1, 12, 3)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "c"], ["a"], pads=[1, 1, 1, 1]),
        node("MatMul", ["a", "w"], ["b"]),
        node("MatMul", ["b", "a"], ["d"]),
        node("Reshape", ["d", "flat"], ["e"]),
        node("Transpose", ["e"], ["f"], perm=[1, 0, 2]),
        node("LSTM", ["f", "l", "r"], ["", "y"], hidden_size=3),
    ]

    def counts(first: int | str) -> list[dict[str, Any]]:
        graph = build(
            nodes,
            {**weights, "flat": np.array([0, 4, 25])},
            inputs={"x": [first, 2, 5, 5]},
            outputs={"y": [first, 1, 3]} if first == 1 else {"y": [1, first, 3]},
        )
        return [item.model_dump() for layer in graph.layers() for item in layer.work]

    expected = counts(1)
    assert [item["kind"] for item in expected] == ["conv", "linear", "matmul", "movement", "recurrent"]
    assert [item["flops"] for item in expected] == [
        2 * 4 * 25 * 2 * 9,
        2 * 4 * 25 * 5,
        2 * 4 * 25 * 5,
        0,
        2 * 4 * 12 * (25 + 3),
    ]
    if batch > 1:
        nodes.append(node("Transpose", ["z"], ["y"], perm=[1, 0, 2]))
        nodes[-2].output[1] = "z"
        graph = build(
            nodes,
            {**weights, "flat": np.array([0, 4, 25])},
            inputs={"x": [batch, 2, 5, 5]},
            outputs={"y": [batch, 1, 3]},
        )
        found = [item.model_dump() for layer in graph.layers() for item in layer.work]
        assert found[:-1] == expected


class Branches(nn.Module):
    """Of everything a little: grouped, depthwise, dilated and transposed convolutions, and torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2)
        self.row = nn.Conv1d(6, 8, 5, stride=5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.up(self.grouped(torch.relu(self.depthwise(self.stem(x)))))
        sequence = self.row(maps.flatten(2)).transpose(1, 2)
        mixed, _ = self.attention(sequence, sequence, sequence)  # weights are asked for: no fused kernel
        return self.head(mixed.mean(1))


@pytest.mark.deep
def test_a_network_against_torchs_counter(tmp_path: Any) -> None:
    torch.manual_seed(0)
    network = Branches().eval()
    name = export(tmp_path, network, "branches", [torch.randn(2, 3, 10, 10)])
    spec = load_model(str(tmp_path / name.removeprefix("sha256:") / "model.onnx")).spec
    network.train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 3, 10, 10))
    assert spec.batch is None
    assert sum(layer.flops for layer in spec.layers) == counter.get_total_flops()
    convolutions = [item for layer in spec.layers for item in layer.work if "conv" in item.kind]
    assert [(item.kind, item.groups, item.kernel, item.stride) for item in convolutions] == [
        ("conv", 1, (3, 3), (2, 2)),
        ("depthwise_conv", 8, (3, 3), (1, 1)),
        ("conv", 4, (3, 3), (1, 1)),
        ("conv", 2, (2, 2), (2, 2)),
        ("conv", 1, (1, 5), (1, 5)),
    ]


def test_kinds_of_inputs_are_told_apart(build: Build) -> None:
    """A layer's own figures count products and convolutions alone; its work, everything."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Softmax", ["b"], ["y"])]
    (layer,) = build(nodes, {"w": np.ones((4, 4), np.float32)}, kind=TensorProto.FLOAT).layers()
    assert layer.flops == 32
    assert [(item.operator, item.kind, item.flops) for item in layer.work] == [
        ("MatMul", "linear", 32),
        ("Relu", "elementwise", 4),
        ("Softmax", "softmax", 20),
    ]
    assert layer.size_bytes == 4 * (4 + 4 + 16 + 4 + 4 + 4 + 4)
