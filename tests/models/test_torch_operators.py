"""Every operator as a torch function gives what ONNX Runtime gives, and its gradient what finite differences give."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecut.errors import ModelError
from edgecut.models.session import open_session

torch = pytest.importorskip("torch")
from edgecut.models.from_onnx import convert  # noqa: E402 - needs torch
from edgecut.models.torch_operators import ACTIVATIONS, ARITHMETIC, OPERATORS  # noqa: E402 - needs torch

Arrays = Mapping[str, np.ndarray]
CALLED: set[str] = set()
"""Operators that some test here has compared."""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(nodes: Sequence[onnx.NodeProto], feed: Arrays, weights: Arrays, opset: int) -> onnx.ModelProto:
    """Nodes that make `y` (and `z`, ...) of inputs whose sizes are all left open."""
    made = list(itertools.chain.from_iterable(node.output for node in nodes))
    outputs = [value for value in made if value in ("y", "z")]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in feed.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agree(
    nodes: onnx.NodeProto | Sequence[onnx.NodeProto],
    feed: Arrays,
    weights: Arrays | None = None,
    opset: int = 18,
    gradient: bool = True,
) -> None:
    """Compare values and dtypes with ONNX Runtime, and the gradient of every float input with finite differences."""
    listed = [nodes] if isinstance(nodes, onnx.NodeProto) else nodes
    proto = model(listed, feed, weights or {}, opset)
    session = open_session(proto.SerializeToString())
    expected = session.run(None, dict(feed))
    network = convert(proto, "hand")
    got = network(*(torch.from_numpy(value) for value in feed.values()))
    for one, right in zip(got if isinstance(got, tuple) else [got], expected, strict=True):
        assert one.numpy().dtype == right.dtype
        np.testing.assert_allclose(one.numpy(), right, rtol=1e-4, atol=1e-5)
    CALLED.update(node.op_type for node in listed)
    if gradient:
        doubled = [torch.from_numpy(value.astype(np.float64)) for value in feed.values() if value.dtype == np.float32]
        rest = [torch.from_numpy(value) for value in feed.values() if value.dtype != np.float32]
        inputs = [x.requires_grad_() for x in doubled]
        assert torch.autograd.gradcheck(lambda *x: network.double()(*x, *rest), inputs, fast_mode=True)


def node(operator: str, inputs: Sequence[str] = ("x",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), ["y"], name="here", **attributes)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


SMOOTH = ["Erf", "Gelu", "HardSwish", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "Relu", "Celu", "Elu"]
SMOOTH += ["LeakyRelu", "HardSigmoid", "Abs", "Cos", "Exp", "Neg", "Sin", "Softmax", "LogSoftmax", "Identity"]


@pytest.mark.parametrize("operator", SMOOTH)
def test_one_input(operator: str) -> None:
    agree(node(operator), {"x": random(2, 3, 4)}, opset=20)


@pytest.mark.parametrize("operator", ["Ceil", "Floor", "Round", "Sign"])
def test_steps(operator: str) -> None:
    x = np.array([[-2.5, -1.5, -0.2, 0, 0.5, 1.5, 2.5]], np.float32)
    agree(node(operator), {"x": x}, gradient=False)


@pytest.mark.parametrize("operator", ["Log", "Reciprocal", "Sqrt"])
def test_of_positive_numbers(operator: str) -> None:
    agree(node(operator), {"x": np.abs(random(2, 5)) + 0.5})


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Celu", {"alpha": 0.7}),
        ("Elu", {"alpha": 0.3}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("Softmax", {"axis": 1}),
        ("LogSoftmax", {"axis": -2}),
    ],
)
def test_attributes(operator: str, attributes: dict[str, Any]) -> None:
    agree(node(operator, **attributes), {"x": random(2, 3, 4)}, opset=20)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 2, -1])
def test_softmax_before_version_13(operator: str, axis: int | None) -> None:
    agree(node(operator, **({} if axis is None else {"axis": axis})), {"x": random(2, 3, 4)}, opset=11)


@pytest.mark.parametrize("operator", ["Add", "Div", "Mul", "Sub", "Max", "Min", "Sum", "Mean", "PRelu"])
def test_two_inputs_broadcast(operator: str) -> None:
    agree(node(operator, ("x", "w")), {"x": random(2, 3, 4), "w": random(3, 1, seed=1)}, opset=16)


@pytest.mark.parametrize("operator", ["Max", "Mean", "Min", "Sum"])
def test_any_number_of_inputs(operator: str) -> None:
    agree(node(operator, ("x",)), {"x": random(2, 3)})
    agree(node(operator, ("x", "v", "w")), {"x": random(2, 3), "v": random(3, seed=1), "w": random(2, 1, seed=2)})


def test_powers_and_remainders() -> None:
    agree(node("Pow", ("x", "w")), {"x": np.abs(random(2, 3)) + 0.1}, {"w": np.array(1.5, np.float32)})
    agree(node("Pow", ("x", "w")), {"x": random(2, 3)}, {"w": whole(2)})
    numbers, divisors = whole(-7, -3, 3, 7, 8), whole(3, -2, 2, -3, 3)
    agree(node("Div", ("x", "w")), {"x": numbers, "w": divisors}, gradient=False)
    agree(node("Mod", ("x", "w")), {"x": numbers, "w": divisors}, gradient=False)
    agree(node("Mod", ("x", "w"), fmod=1), {"x": numbers, "w": divisors}, gradient=False)
    agree(node("Mod", ("x", "w"), fmod=1), {"x": random(5), "w": random(5, seed=1)}, gradient=False)


@pytest.mark.parametrize("operator", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(operator: str) -> None:
    x, w = np.array([1, 2, 3], np.float32), np.array([2, 2, 2], np.float32)
    agree(node(operator, ("x", "w")), {"x": x, "w": w}, gradient=False)


def test_choices() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    agree(node("And", ("x", "w")), {"x": a, "w": b}, gradient=False)
    agree(node("Or", ("x", "w")), {"x": a, "w": b}, gradient=False)
    agree(node("Not"), {"x": a}, gradient=False)
    agree(node("Where", ("c", "x", "w")), {"x": random(2, 4), "w": random(4, seed=1)}, {"c": a})


@pytest.mark.parametrize("bounds", [(None, None), (-0.5, None), (None, 0.5), (-0.5, 0.5)])
def test_clip(bounds: tuple[float | None, float | None]) -> None:
    given = {name: value for name, value in zip(("min", "max"), bounds, strict=True) if value is not None}
    agree(node("Clip", **given), {"x": random(2, 5)}, opset=6 + 1)
    inputs = ["x", *(name if name in given else "" for name in ("min", "max"))]
    agree(node("Clip", inputs), {"x": random(2, 5)}, {name: np.array(v, np.float32) for name, v in given.items()})


windows = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(5, 9), min_size=1, max_size=2),
        "kernel": st.integers(1, 3),
        "stride": st.integers(1, 3),
        "pads": st.lists(st.integers(0, 2), min_size=4, max_size=4),
        "auto_pad": st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
        "dilation": st.integers(1, 2),
    }
)


def placed(case: dict[str, Any], *, dilated: bool = True) -> dict[str, Any]:
    """A window's attributes; automatic margins and spread windows are not asked for together, which few define."""
    rank = len(case["sizes"])
    attributes = {"kernel_shape": [case["kernel"]] * rank, "strides": [case["stride"]] * rank}
    if case["auto_pad"] != "NOTSET":  # ONNX Runtime's pools take no windows that are smaller than a step then
        step = min(case["stride"], case["kernel"])
        return attributes | {"auto_pad": case["auto_pad"], "strides": [step] * rank}
    pads = [min(pad, case["kernel"] - 1) for pad in case["pads"][: 2 * rank]]
    return attributes | {"pads": pads} | ({"dilations": [case["dilation"]] * rank} if dilated else {})


@settings(max_examples=25, deadline=None)
@given(windows, st.sampled_from([(2, 4, 1), (4, 4, 2), (4, 8, 4)]), st.booleans())
def test_convolutions(case: dict[str, Any], channels: tuple[int, int, int], biased: bool) -> None:
    inside, outside, groups = channels
    rank = len(case["sizes"])
    weights = {"w": random(outside, inside // groups, *[case["kernel"]] * rank, seed=1), "b": random(outside, seed=2)}
    conv = node("Conv", ("x", "w", "b") if biased else ("x", "w"), group=groups, **placed(case))
    agree(conv, {"x": random(2, inside, *case["sizes"])}, weights, gradient=False)


@settings(max_examples=40, deadline=None)
@given(windows, st.booleans())
def test_max_pools(case: dict[str, Any], ceiled: bool) -> None:
    attributes = placed(case)
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = int(ceiled)
    agree(node("MaxPool", **attributes), {"x": random(2, 3, *case["sizes"])}, gradient=False)


@settings(max_examples=40, deadline=None)
@given(windows, st.booleans(), st.booleans())
def test_average_pools(case: dict[str, Any], ceiled: bool, counted: bool) -> None:
    attributes = placed(case, dilated=False) | {"count_include_pad": int(counted)}
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = int(ceiled)
    agree(node("AveragePool", **attributes), {"x": random(2, 3, *case["sizes"])}, opset=19, gradient=False)


def test_gradients_of_windows() -> None:
    x = {"x": random(2, 2, 5, 6)}
    square = {"kernel_shape": [2, 3], "strides": [2, 2]}
    agree(
        node("Conv", ("x", "w", "b"), pads=[0, 1, 1, 1], strides=[2, 1]), x, {"w": random(3, 2, 2, 2), "b": random(3)}
    )
    agree(node("MaxPool", ceil_mode=1, pads=[1, 0, 0, 1], **square), x)
    agree(node("AveragePool", ceil_mode=1, pads=[1, 0, 0, 1], **square), x, opset=19)
    for operator in ("GlobalAveragePool", "GlobalMaxPool"):
        agree(node(operator), x)
    agree(node("Conv", ("x", "w")), {"x": random(1, 2, 3, 4, 3)}, {"w": random(2, 2, 2, 2, 2)})


def test_normalisations() -> None:
    x = {"x": random(2, 3, 4)}
    four = {name: np.abs(random(3, seed=seed)) + 0.5 for seed, name in enumerate("sbmv")}
    agree(node("BatchNormalization", ("x", "s", "b", "m", "v"), epsilon=1e-2), x, four)
    agree(node("InstanceNormalization", ("x", "s", "b"), epsilon=1e-2), x, {"s": four["s"], "b": four["b"]})
    last, two = {"s": random(4), "b": random(4, seed=3)}, {"s": random(3, 4), "b": random(3, 4, seed=3)}
    agree(node("LayerNormalization", ("x", "s", "b")), x, last)
    agree(node("LayerNormalization", ("x", "s"), epsilon=1e-2), x, {"s": last["s"]})
    agree(node("LayerNormalization", ("x", "s", "b"), axis=1), x, two)
    for size in (1, 3, 5):
        agree(node("LRN", size=size, alpha=0.5, beta=0.6, bias=2.0), {"x": random(2, 6, 2, 2)})


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(left: int, right: int) -> None:
    x, w = random(*((4, 2) if left else (2, 4))), random(*((3, 4) if right else (4, 3)))
    agree(node("Gemm", ("x", "w"), transA=left, transB=right), {"x": x}, {"w": w})
    for bias in (random(3), random(2, 1), random(1, 3)):
        gemm = node("Gemm", ("x", "w", "b"), transA=left, transB=right, alpha=0.5, beta=2.0)
        agree(gemm, {"x": x}, {"w": w, "b": bias})


def test_products() -> None:
    for left, right in (((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((3,), (3, 4)), ((2, 3), (3,))):
        agree(node("MatMul", ("x", "w")), {"x": random(*left), "w": random(*right, seed=1)})
    agree(node("Einsum", ("x", "w"), equation="bij,bkj->bik"), {"x": random(2, 3, 4), "w": random(2, 5, 4, seed=1)})


REDUCED = ["ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"]


@pytest.mark.parametrize("operator", REDUCED)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
def test_reductions(operator: str, keepdims: int, axes: list[int] | None) -> None:
    x = {"x": random(2, 3, 4)}
    given = {} if axes is None else {"axes": axes}
    agree(node(operator, keepdims=keepdims, **given), x, opset=11)
    inputs = ("x",) if axes is None else ("x", "axes")
    agree(node(operator, inputs, keepdims=keepdims), x, {"axes": whole(*axes)} if axes else {})


def test_a_reduction_over_no_axes() -> None:
    agree(node("ReduceSum", ("x", "axes"), noop_with_empty_axes=1), {"x": random(2, 3)}, {"axes": whole()})
    agree(node("ReduceSum", ("x", "axes")), {"x": random(2, 3)}, {"axes": whole()})


def test_shapes() -> None:
    x = {"x": random(2, 3, 1, 4)}
    for axis in (0, 1, 2, 4, -1):
        agree(node("Flatten", axis=axis), x)
    for shape in ([0, -1], [6, 4], [-1], [0, 0, 2, 2]):
        agree(node("Reshape", ("x", "s")), x, {"s": whole(*shape)})
    agree(node("Reshape", ("x", "s"), allowzero=1), {"x": random(0, 3)}, {"s": whole(3, 0)}, gradient=False)
    agree(node("Transpose"), x)
    agree(node("Transpose", perm=[0, 3, 1, 2]), x)
    agree(node("Squeeze", ("x", "a")), x, {"a": whole(-2)})
    agree(node("Squeeze", axes=[2]), x, opset=11)
    agree(node("Squeeze"), x)
    agree(node("Unsqueeze", ("x", "a")), x, {"a": whole(-1, 0, 2)})
    agree(node("Unsqueeze", axes=[3, 1]), x, opset=11)
    agree(node("Expand", ("x", "s")), x, {"s": whole(5, 1, 1, 3, 1)})
    agree(node("Tile", ("x", "s")), x, {"s": whole(1, 2, 3, 1)})
    agree(node("Concat", ("x", "x"), axis=-1), x)
    agree(node("Dropout", ratio=0.7), x, opset=11)
    agree(node("Dropout", ("x", "r", "t")), x, {"r": np.array(0.7, np.float32), "t": np.array(False)})


bound = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63) + 1]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(bound, bound, st.sampled_from([1, 1, 2, 3, -1, -2])), min_size=1, max_size=3), st.booleans())
def test_slices(cuts: list[tuple[int, int, int]], reverse: bool) -> None:
    # Up to the largest number, backwards: NumPy finds nothing there, ONNX Runtime all; the standard is silent.
    assume(not any(end == 2**63 - 1 and step < 0 for _, end, step in cuts))
    axes = list(range(len(cuts)))[:: -1 if reverse else 1]
    starts, ends, steps = (whole(*part) for part in zip(*cuts, strict=True))
    values = {"s": starts, "e": ends, "a": whole(*axes), "p": steps}
    agree(node("Slice", ("x", "s", "e", "a", "p")), {"x": random(4, 5, 6)}, values, gradient=False)


def test_slices_spelt_otherwise() -> None:
    x = {"x": random(4, 5)}
    agree(node("Slice", starts=[1, -2], ends=[3, 99]), x, opset=9)
    agree(node("Slice", starts=[1], ends=[-1], axes=[1]), x, opset=9)
    agree(node("Slice", ("x", "s", "e", "a", "p")), x, {"s": whole(-1), "e": whole(-9), "a": whole(1), "p": whole(-2)})


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 9), st.integers(2, 3), st.sampled_from([0, 1, -1]))
def test_splits(size: int, parts: int, axis: int) -> None:
    assume((parts - 1) * -(-size // parts) < size)
    shape = [2, 3, 4]
    shape[axis] = size
    outputs = ["y", *(f"o{i}" for i in range(parts - 2)), "z"]
    x = {"x": random(*shape)}
    sizes = whole(*[1] * (parts - 1), size - parts + 1)
    for split, weights, opset in (
        (helper.make_node("Split", ["x"], outputs, axis=axis, num_outputs=parts), {}, 18),
        (helper.make_node("Split", ["x", "s"], outputs, axis=axis), {"s": sizes}, 18),
        (helper.make_node("Split", ["x"], outputs, axis=axis, split=sizes.tolist()), {}, 11),
    ):
        agree(split, x, weights, opset, gradient=False)
    even = {"x": np.concatenate([x["x"]] * parts, axis)}
    agree(helper.make_node("Split", ["x"], outputs, axis=axis), even, {}, 13)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [whole(0, 2, -1), np.array(1), np.array([[0, -2], [1, 1]], np.int32)])
def test_gather(indices: np.ndarray, axis: int) -> None:
    agree(node("Gather", ("x", "i"), axis=axis), {"x": random(3, 4, 3)}, {"i": indices})
    agree(node("Gather", ("w", "i"), axis=axis), {"i": indices}, {"w": random(3, 4, 3)}, gradient=False)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(mode: str) -> None:
    x = {"x": random(2, 3, 4, 4)}
    margins = whole(0, 1, 0, 2, 0, 2, 1, 0)
    agree(node("Pad", ("x", "p"), mode=mode), x, {"p": margins}, opset=19)
    agree(node("Pad", ("x", "p", "", "a"), mode=mode), x, {"p": whole(1, 2, 0, 1), "a": whole(-1, 2)}, opset=19)
    if mode == "constant":
        agree(node("Pad", ("x", "p", "v")), x, {"p": margins, "v": np.array(2.5, np.float32)})
        agree(node("Pad", pads=margins.tolist(), value=2.5), x, opset=9)
        agree(node("Pad", ("x", "p")), x, {"p": whole(0, 0, -1, 1, 0, 0, 2, -2)})


def test_casts_and_sizes() -> None:
    x = {"x": random(2, 3) * 3}
    for kind in (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        agree(node("Cast", to=kind), x, gradient=False)
    agree(node("Cast", to=TensorProto.BOOL), {"x": np.array([0, 0.5, -2], np.float32)}, gradient=False)
    agree(node("Shape"), x, gradient=False)
    agree(node("Shape", start=-1), x, gradient=False)
    agree(node("Shape", end=1), x, gradient=False)
    agree(node("Size"), x, gradient=False)
    fill = helper.make_tensor("", TensorProto.INT64, [1], [7])
    agree(node("ConstantOfShape", value=fill), {"x": whole(2, 3)}, gradient=False)
    agree(node("ConstantOfShape"), {"x": whole(2, 3)}, gradient=False)
    agree(node("Range", ("x", "e", "d")), {"x": np.array(1), "e": np.array(9), "d": np.array(3)}, gradient=False)


def test_sizes_computed_from_the_batch() -> None:
    """As exporters write a flatten: the batch out of the shape, put together with a number."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Constant", [], ["zero"], value_ints=[0]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(whole(-1))),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Reshape", ["x", "wanted"], ["flat"]),
        helper.make_node("Mul", ["flat", "half"], ["y"]),
    ]
    for batch in (1, 3):
        agree(nodes, {"x": random(batch, 2, 2)})


def test_what_depends_on_the_file_alone_is_computed_once() -> None:
    nodes = [helper.make_node("Exp", ["w"], ["e"]), helper.make_node("Neg", ["e"], ["n"]), node("Add", ("x", "n"))]
    agree(nodes, {"x": random(2, 3)}, {"w": random(3)})
    network = convert(model(nodes, {"x": random(2, 3)}, {"w": random(3)}, 18), "hand")
    assert [n.args[0] for n in network.graph.nodes if n.op == "call_function"] == ["Add"]
    np.testing.assert_allclose(next(network.buffers()).numpy(), -np.exp(random(3)), rtol=1e-6)


REFUSED: list[tuple[Any, str]] = [
    (node("NonMaxSuppression", ("x", "x")), r"operator NonMaxSuppression of hand \(node 'here'\)"),
    (helper.make_node("Relu", ["x"], ["y"], name="here", domain="my"), r"operator Relu of hand \(node 'here'\)"),
    (node("Relu", special=1), r"Relu of hand \(node 'here'\) with the attribute 'special'"),
    (node("Conv", ("x", "w"), special=1), r"Conv of hand \(node 'here'\) with the attribute 'special'"),
    (
        [helper.make_node("MaxPool", ["x"], ["a", "b"], kernel_shape=[1]), node("Cast", ("b",), to=1)],
        "needs 'b', which",
    ),
    (helper.make_node("Constant", [], ["y"], name="here", value_string="s"), "through the value_string at 'here'"),
]


@pytest.mark.parametrize(("nodes", "message"), REFUSED)
def test_what_is_not_known_is_refused_by_name(nodes: Any, message: str) -> None:
    listed = nodes if isinstance(nodes, list) else [nodes]
    with pytest.raises(ModelError, match=message) as caught:
        convert(model(listed, {"x": random(2, 3, 4)}, {}, 18), "hand")
    assert "\n" not in str(caught.value)


def test_what_is_known_but_not_in_this_way() -> None:
    x = torch.from_numpy(random(2, 3, 4))
    yes, half = np.array(True), np.array(0.5, np.float32)
    four = {name: np.ones(3, np.float32) for name in "sbmv"}
    for one, weights in (
        (node("Dropout", ("x", "r", "t")), {"r": half, "t": yes}),
        (node("BatchNormalization", ("x", "s", "b", "m", "v"), training_mode=1), four),
        (node("AveragePool", kernel_shape=[2], dilations=[2]), {}),
        (node("Cast", to=TensorProto.UINT16), {}),
    ):
        network = convert(model([one], {"x": random(2, 3, 4)}, weights, 19), "hand")
        with pytest.raises(ModelError, match=f"noise cannot be learned through {one.op_type} at 'here': "):
            network(x)
    with pytest.raises(ModelError, match="hand is of ONNX opset 6, and noise can be learned from 7 on"):
        convert(model([node("Relu")], {"x": random(2, 3)}, {}, 6), "hand")


def test_every_operator_was_compared() -> None:
    """Runs last in this file."""
    assert OPERATORS.keys() == CALLED - {"Constant"}
    assert len(OPERATORS) >= len(ACTIVATIONS) + len(ARITHMETIC) + 40
