"""Rewriting for old runtimes: every rule gives the same numbers, and what has no rule is named.

The oracle is ONNX Runtime, which runs the model before and after; in the deep tests that of a Jetson TX2 runs it after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgecut.errors import ModelError
from edgecut.models.downgrade import downgrade

Feed = dict[str, np.ndarray]
NodeRuntime = Callable[[Any, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    feed: Mapping[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    *,
    opset: int = 18,
    weights: Mapping[str, np.ndarray] | None = None,
    dynamic: bool = True,
    ir: int = 10,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A graph whose inputs have the types and shapes of `feed`, the first size dynamic unless told otherwise."""

    def shape(value: np.ndarray) -> list[int | str]:
        return ["n", *value.shape[1:]] if dynamic and value.ndim else list(value.shape)

    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), shape(v)) for k, v in feed.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=functions)
    inferred = shape_inference.infer_shapes(proto).graph.output
    del proto.graph.output[:]
    proto.graph.output.extend(inferred)
    return proto


def run(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feed))


def same(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> onnx.ModelProto:
    """Downgrade, check, and compare; the older model."""
    before = proto.SerializeToString(deterministic=True)
    older = downgrade(proto)
    assert proto.SerializeToString(deterministic=True) == before
    assert [(entry.domain, entry.version) for entry in older.opset_import] == [("", 13)]
    assert older.ir_version == 7
    onnx.checker.check_model(older, full_check=True)
    for old, new in zip(run(older, feed), run(proto, feed), strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_allclose(old, new, rtol=tolerance, atol=tolerance)
    return older


def values(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype(dtype)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def operators(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


UNARY = ["Relu", "Identity", "Cos", "Elu", "HardSwish", "Mish", "Softplus", "LeakyRelu", "Sin", "Round", "Softsign"]


@pytest.mark.parametrize("operator", UNARY)
@pytest.mark.parametrize("opset", [18, 22])
def test_elementwise(operator: str, opset: int) -> None:
    feed = {"x": values(3, 4)}
    same(model([helper.make_node(operator, ["x"], ["y"], name="one")], feed, opset=opset), feed)


@pytest.mark.parametrize("approximate", [{}, {"approximate": "none"}, {"approximate": "tanh"}])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gelu(approximate: dict[str, str], dtype: Any) -> None:
    feed = {"x": values(3, 4, dtype=dtype)}
    proto = model([helper.make_node("Gelu", ["x"], ["y"], **approximate)], feed, opset=20)
    older = same(proto, feed, 1e-5 if dtype is np.float32 else 1e-2)
    assert ("Erf" in operators(older)) is (approximate.get("approximate") != "tanh")


@pytest.mark.parametrize("alpha", [{}, {"alpha": 1.7}])
def test_swish(alpha: dict[str, float]) -> None:
    feed = {"x": values(3, 4)}
    # ONNX Runtime computes Swish by its definition in terms of Sigmoid; NumPy is as good an oracle.
    older = downgrade(model([helper.make_node("Swish", ["x"], ["y"], **alpha)], feed, opset=24))
    wanted = feed["x"] / (1 + np.exp(-alpha.get("alpha", 1.0) * feed["x"]))
    np.testing.assert_allclose(run(older, feed)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("shape, allowzero", [((0, -1), 0), ((2, -1), 1), ((-1, 6), 1)])
def test_reshape(shape: tuple[int, ...], allowzero: int) -> None:
    feed = {"x": values(2, 3, 4)}
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=allowzero)
    older = same(model([node], feed, weights={"shape": ints(*shape)}), feed)
    assert not older.graph.node[0].attribute


def test_reshape_by_a_computed_shape() -> None:
    feed = {"x": values(2, 3, 4)}
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1),
    ]
    same(model(nodes, feed, weights={"rest": ints(-1)}), feed)
    with pytest.raises(ModelError, match=r"ai.onnx.Reshape 14: 'allowzero' is set"):
        downgrade(model(nodes, feed, weights={"rest": ints(0)}))


def test_reshape_with_allowzero_and_a_zero_is_refused() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1)
    with pytest.raises(ModelError, match="allowzero"):
        downgrade(model([node], {"x": values(2, 3)}, weights={"shape": ints(0, 3)}))


REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@settings(deadline=None, max_examples=40)
@given(
    what=st.sampled_from(REDUCTIONS),
    axes=st.none() | st.lists(st.integers(0, 3), unique=True, max_size=4),
    negative=st.booleans(),
    keepdims=st.sampled_from([0, 1]),
    opset=st.sampled_from([18, 20]),
    as_node=st.booleans(),
)
def test_reductions(
    what: str, axes: list[int] | None, negative: bool, keepdims: int, opset: int, as_node: bool
) -> None:
    feed = {"x": np.abs(values(2, 3, 1, 4)) + 0.5}
    nodes, weights = [], {}
    inputs = ["x"]
    if axes is not None:
        array = ints(*(axis - 4 if negative else axis for axis in axes))
        inputs.append("axes")
        if as_node:
            nodes.append(helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(array)))
        else:
            weights["axes"] = array
    nodes.append(helper.make_node(f"Reduce{what}", inputs, ["y"], keepdims=keepdims))
    same(model(nodes, feed, opset=opset, weights=weights), feed)


def test_reductions_over_computed_or_no_axes_are_refused() -> None:
    feed = {"x": values(2, 3), "axes": ints(1)}
    with pytest.raises(ModelError, match="'axes' is not a constant in the model file"):
        downgrade(model([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], feed))
    node = helper.make_node("ReduceMax", ["x"], ["y"], noop_with_empty_axes=1)
    with pytest.raises(ModelError, match="noop_with_empty_axes"):
        downgrade(model([node], {"x": values(2, 3)}))


@settings(deadline=None, max_examples=30)
@given(size=st.integers(4, 9), count=st.integers(1, 4), axis=st.sampled_from([1, -1]))
def test_split_by_number(size: int, count: int, axis: int) -> None:
    if size <= -(-size // count) * (count - 1):  # ONNX Runtime refuses an empty last part
        return
    feed = {"x": values(2, size)}
    names = [f"y{i}" for i in range(count)]
    node = helper.make_node("Split", ["x"], names, num_outputs=count, axis=axis)
    same(model([node], feed, names), feed)


def test_split_by_sizes_and_of_a_dynamic_size() -> None:
    feed = {"x": values(2, 7)}
    node = helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1)
    same(model([node], feed, ["a", "b"], weights={"sizes": ints(5, 2)}), feed)
    node = helper.make_node("Split", ["x"], ["a", "b"], num_outputs=2, axis=0)
    with pytest.raises(ModelError, match="dynamic"):
        downgrade(model([node], feed, ["a", "b"]))


@settings(deadline=None, max_examples=30)
@example(start=0, end=0)
@given(start=st.integers(-5, 5), end=st.none() | st.integers(-5, 5))
def test_shape(start: int, end: int | None) -> None:
    feed = {"x": values(2, 3, 4)}
    node = helper.make_node("Shape", ["x"], ["y"], start=start, **({} if end is None else {"end": end}))
    same(model([node], feed), feed)


@settings(deadline=None, max_examples=30)
@given(
    axes=st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda axis: axis % 3),
    mode=st.sampled_from(["constant", "edge", "reflect"]),
    data=st.data(),
)
def test_pad(axes: list[int], mode: str, data: st.DataObject) -> None:
    feed = {"x": values(3, 4, 5)}
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * len(axes), max_size=2 * len(axes)))
    node = helper.make_node("Pad", ["x", "pads", "value", "axes"], ["y"], mode=mode)
    weights = {"pads": ints(*pads), "value": np.float32(1.5).reshape(()), "axes": ints(*axes)}
    same(model([node], feed, weights=weights), feed)


def test_pad_without_axes_or_value() -> None:
    feed = {"x": values(3, 4)}
    same(model([helper.make_node("Pad", ["x", "p"], ["y"])], feed, weights={"p": ints(0, 1, 0, 2)}), feed)
    weights = {"p": ints(1, 2), "axes": ints(1)}
    same(model([helper.make_node("Pad", ["x", "p", "", "axes"], ["y"])], feed, weights=weights), feed)
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode="wrap")
    with pytest.raises(ModelError, match="mode is wrap"):
        downgrade(model([node], feed, opset=19, weights={"p": ints(0, 1, 0, 2)}))


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize(
    "axis, bias, extra", [(-1, True, False), (1, True, True), (-2, False, False), (2, False, True), (0, True, False)]
)
def test_layer_normalization(opset: int, axis: int, bias: bool, extra: bool) -> None:
    feed = {"x": values(2, 3, 4) * 5 + 3}
    shape = feed["x"].shape[axis:]
    weights = {"scale": values(*shape, seed=1), "bias": values(*shape, seed=2)}
    names = ["y", "mean", "inverse"] if extra else ["y"]
    inputs = ["x", "scale", "bias"][: 2 + bias]
    node = helper.make_node("LayerNormalization", inputs, names, axis=axis, epsilon=1e-3, name="ln")
    proto = model([node], feed, names, opset=opset, weights=weights, dynamic=axis != 0)
    older = same(proto, feed)
    assert older.graph.node[-1].name == "ln"


def test_layer_normalization_in_half_precision_computes_in_single() -> None:
    feed = {"x": (values(2, 64) * 100).astype(np.float16)}  # squares overflow float16
    weights = {"scale": values(64, dtype=np.float16, seed=1)}
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y"])
    older = same(model([node], feed, weights=weights), feed, 1e-2)
    assert np.isfinite(run(older, feed)[0]).all()


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset: int) -> None:
    feed = {"x": values(2, 6, 3, 5)}
    count = 3 if opset < 21 else 6
    weights = {"scale": values(count, seed=1), "bias": values(count, seed=2)}
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=3)
    proto = model([node], feed, opset=opset, weights=weights)
    # onnx infers nothing for this operator.
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, ["n", 6, 3, 5]))
    older = downgrade(proto)
    onnx.checker.check_model(older, full_check=True)
    grouped = feed["x"].reshape(2, 3, -1)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    normal = normal.reshape(feed["x"].shape)
    scale, bias = (np.repeat(weights[k], 6 // count).reshape(1, 6, 1, 1) for k in ("scale", "bias"))
    np.testing.assert_allclose(run(older, feed)[0], normal * scale + bias, rtol=1e-4, atol=1e-5)


def test_batch_normalization() -> None:
    feed = {"x": values(2, 3, 4, 4)}
    weights = {name: np.abs(values(3, seed=i)) + 0.1 for i, name in enumerate("sbmv")}
    inputs = ["x", *"sbmv"]
    node = helper.make_node("BatchNormalization", inputs, ["y"], training_mode=0, momentum=0.8, epsilon=1e-3)
    older = same(model([node], feed, weights=weights), feed)
    assert {attribute.name for attribute in older.graph.node[0].attribute} == {"momentum", "epsilon"}
    node = helper.make_node("BatchNormalization", inputs, ["y", "m", "v"], training_mode=1)
    weights["s2"] = weights.pop("s")
    node.input[1] = "s2"
    with pytest.raises(ModelError, match=r"ai.onnx.BatchNormalization 15: 'training_mode' is set"):
        downgrade(model([node], feed, weights=weights))


@settings(deadline=None, max_examples=60)
@given(
    opset=st.sampled_from([12, 18, 19, 22]),
    operator=st.sampled_from(["AveragePool", "MaxPool"]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.integers(2, 4),
    stride=st.integers(1, 6),
    begin=st.integers(0, 1),
    end=st.integers(0, 1),
    ceil_mode=st.sampled_from([0, 1]),
)
def test_pooling(
    opset: int, operator: str, size: tuple[int, int], kernel: int, stride: int, begin: int, end: int, ceil_mode: int
) -> None:
    feed = {"x": values(2, 3, *size)}
    node = helper.make_node(
        operator,
        ["x"],
        ["y"],
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=[begin, begin, end, end],
        ceil_mode=ceil_mode,
    )
    proto = model([node], feed, opset=opset)
    # onnx keeps a late window in the shape that it infers for older versions, unlike the runtime.
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, ["n", 3, "h", "w"]))
    older = same(proto, feed) if opset > 13 else downgrade(proto)
    assert "ceil_mode" not in {a.name for a in older.graph.node[0].attribute if a.i}
    np.testing.assert_allclose(run(older, feed)[0], run(proto, feed)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "operator, attributes, said",
    [
        ("AveragePool", {"dilations": [2, 2]}, "'dilations' is set"),
        ("AveragePool", {"ceil_mode": 1, "count_include_pad": 1, "strides": [2, 2]}, "'count_include_pad'"),
        ("MaxPool", {"ceil_mode": 1, "auto_pad": "SAME_UPPER"}, "'auto_pad'"),
        ("LpPool", {"dilations": [2, 2]}, "'dilations' is set"),
        ("MaxPool", {"ceil_mode": 1}, "dynamic"),
    ],
)
def test_pooling_without_an_older_form_is_refused(operator: str, attributes: dict[str, Any], said: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], kernel_shape=[3, 3], **attributes)
    proto = model([node], {"x": values(2, 3, 8, 8)}, opset=22)
    if said == "dynamic":
        proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    with pytest.raises(ModelError, match=said):
        downgrade(proto)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sized", [False, True])
def test_resize(mode: str, sized: bool) -> None:
    feed = {"x": values(1, 2, 4, 5)}
    inputs = ["x", "", "", "sizes"] if sized else ["x", "", "scales"]
    weights = {"sizes": ints(1, 2, 7, 9)} if sized else {"scales": np.array([1, 1, 2, 1.5], np.float32)}
    node = helper.make_node("Resize", inputs, ["y"], mode=mode, antialias=0, keep_aspect_ratio_policy="stretch")
    same(model([node], feed, opset=19, weights=weights, dynamic=False), feed)
    antialias = helper.make_node("Resize", inputs, ["y"], mode="linear", antialias=1)
    with pytest.raises(ModelError, match=r"ai.onnx.Resize 19: 'antialias' is set"):
        downgrade(model([antialias], feed, opset=19, weights=weights, dynamic=False))


@pytest.mark.parametrize("to", [TensorProto.INT64, TensorProto.FLOAT16, TensorProto.BOOL])
def test_casts(to: int) -> None:
    feed = {"x": values(2, 3), "like": np.zeros(2, helper.tensor_dtype_to_np_dtype(to))}
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=to),
        helper.make_node("CastLike", ["x", "like"], ["b"]),
    ]
    older = same(model(nodes, feed, ["a", "b"], opset=21), feed)
    assert operators(older) == {"Cast"}


def test_how_a_cast_saturates_does_not_matter_without_float8() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32, saturate=0)
    older = downgrade(model([node], {"x": values(2, 3)}, opset=24))
    assert [attribute.name for attribute in older.graph.node[0].attribute] == ["to"]


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), k=st.none() | st.integers(-5, 5), upper=st.sampled_from([0, 1])
)
def test_trilu(rows: int, columns: int, k: int | None, upper: int) -> None:
    feed = {"x": values(2, rows, columns)}
    weights = {} if k is None else {"k": np.array(k, np.int64)}
    node = helper.make_node("Trilu", ["x", *weights], ["y"], upper=upper)
    same(model([node], feed, weights=weights), feed)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("mask", ["", "float", "bool"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(flat: bool, mask: str, causal: int) -> None:
    rng = np.random.default_rng(0)
    shape = (2, 4, 10) if flat else (2, 2, 4, 5)
    feed: Feed = {name: rng.standard_normal(shape).astype(np.float32) for name in "qkv"}
    if mask:
        seen = rng.random((4, 4)) < 0.7
        seen[:, 0] = True
        feed["mask"] = seen if mask == "bool" else rng.standard_normal((4, 4)).astype(np.float32)
    heads = {"q_num_heads": 2, "kv_num_heads": 2} if flat else {}
    node = helper.make_node("Attention", list(feed), ["y"], is_causal=causal, **heads)
    older = downgrade(model([node], feed, opset=23, dynamic=False))
    onnx.checker.check_model(older, full_check=True)
    split = (lambda v: v.reshape(2, 4, 2, 5).transpose(0, 2, 1, 3)) if flat else (lambda v: v)
    q, k, v = (split(feed[name]) for name in "qkv")
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(5)
    if causal:
        scores = np.where(np.tril(np.ones((4, 4), bool)), scores, -np.inf)
    if mask == "bool":
        scores = np.where(feed["mask"], scores, -np.inf)
    elif mask:
        scores = scores + feed["mask"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ v
    wanted = wanted.transpose(0, 2, 1, 3).reshape(2, 4, 10) if flat else wanted
    np.testing.assert_allclose(run(older, feed)[0], wanted, rtol=1e-4, atol=1e-5)


def test_attention_with_fewer_key_heads_is_refused() -> None:
    feed = {"q": values(1, 4, 3, 8), "k": values(1, 2, 3, 8), "v": values(1, 2, 3, 8)}
    with pytest.raises(ModelError, match=r"ai.onnx.Attention 23: .*heads"):
        downgrade(model([helper.make_node("Attention", list(feed), ["y"])], feed, opset=23))


@pytest.mark.parametrize("operator, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent(operator: str, gates: int) -> None:
    feed = {"x": values(5, 2, 3)}
    weights = {"w": values(1, gates * 4, 3, seed=1), "r": values(1, gates * 4, 4, seed=2)}
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=4, layout=0)
    same(model([node], feed, weights=weights, opset=22), feed)
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=4, layout=1)
    with pytest.raises(ModelError, match="'layout' is set"):
        downgrade(model([node], feed, weights=weights, opset=22))


@pytest.mark.parametrize(
    "attributes, mask, said",
    [({"left_window_size": 1}, 4, "window"), ({"softcap": 2.0}, 4, "soft cap"), ({}, 3, "shorter than the keys")],
)
def test_attention_beyond_the_plain_one_is_refused(attributes: dict[str, Any], mask: int, said: str) -> None:
    feed = {name: values(2, 2, 4, 5) for name in "qkv"} | {"mask": values(4, mask)}
    node = helper.make_node("Attention", list(feed), ["y"], **attributes)
    with pytest.raises(ModelError, match=said):
        downgrade(model([node], feed, opset=25, dynamic=False))


def test_every_fault_is_named_at_once() -> None:
    feed = {"x": values(1, 2, 4, 4), "grid": values(1, 4, 4, 2)}
    nodes = [
        helper.make_node("GridSample", ["x", "grid"], ["a"], name="sample"),
        helper.make_node("FusedGelu", ["a"], ["b"], name="fused", domain="com.microsoft"),
        helper.make_node("ReduceMean", ["b", "axes"], ["c"], name="mean"),
        *(helper.make_node("BitwiseNot", ["x"], [f"d{i}"], name=f"not{i}") for i in range(5)),
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16),
    ]
    proto = model(nodes, feed, ["c", "y"], opset=20, domains=["com.microsoft"])
    proto.graph.value_info.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [1]))
    with pytest.raises(ModelError) as caught:
        downgrade(proto)
    text = str(caught.value)
    assert "\n" not in text
    for part in [
        "ai.onnx.GridSample 20: it has no older form here (at 'sample')",
        "com.microsoft.FusedGelu 1: only ONNX's own operators",
        "ai.onnx.BitwiseNot 18: it has no older form here (at 'not0', 'not1', 'not2' and 2 more)",
        "ai.onnx.ReduceMean 18: 'axes' is not a constant",
        "bfloat16",
    ]:
        assert part in text


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4])
def test_new_types_are_refused(kind: int) -> None:
    proto = model([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], {"x": values(2, 3)}, opset=21)
    proto.graph.input[0].type.tensor_type.elem_type = kind
    with pytest.raises(ModelError, match=f"values in {TensorProto.DataType.Name(kind).lower()} "):
        downgrade(proto)


def test_types_an_operator_took_only_later_are_refused() -> None:
    feed = {"x": np.arange(6, dtype=np.int8).reshape(2, 3)}
    proto = model([helper.make_node("Add", ["x", "x"], ["y"])], feed)
    with pytest.raises(ModelError, match=r"ai.onnx.Add 14: it takes no int8 there \('x'\)"):
        downgrade(proto)


def test_control_flow_is_refused_whatever_its_version() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", FLOAT, None)]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    for opset in (14, 18):
        with pytest.raises(ModelError, match=r"ai.onnx.If \d+: control flow"):
            downgrade(model([node], {"x": values(2), "c": np.array(True)}, opset=opset))


def test_opsets_outside_the_known_ones_are_refused() -> None:
    feed = {"x": values(2, 3)}
    with pytest.raises(ModelError, match="has opset 26, and 25 is the newest"):
        downgrade(model([helper.make_node("Relu", ["x"], ["y"])], feed, opset=26))
    with pytest.raises(ModelError, match="says no opset"):
        proto = model([helper.make_node("Relu", ["x"], ["y"])], feed)
        del proto.opset_import[:]
        downgrade(proto)
    with pytest.raises(ValueError, match="13 to 17"):
        downgrade(model([helper.make_node("Relu", ["x"], ["y"])], feed), opset=12)


def test_an_older_model_keeps_its_opset() -> None:
    feed = {"x": values(2, 3)}
    proto = model([helper.make_node("ReduceSum", ["x"], ["y"], axes=[1])], feed, opset=11, ir=9)
    older = downgrade(proto)
    assert older.opset_import[0].version == 11 and older.ir_version == 7
    assert older.graph == proto.graph
    proto.ir_version = 5
    assert downgrade(proto).ir_version == 5


def test_another_target_rewrites_only_what_it_lacks() -> None:
    feed = {"x": values(2, 3)}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("ReduceMean", ["x", "s"], ["y"]),
    ]
    nodes[1].input[1] = "axes"
    proto = model(nodes, feed, ["s", "y"], weights={"axes": ints(1)})
    older = downgrade(proto, opset=15, ir_version=8)
    onnx.checker.check_model(older, full_check=True)
    assert operators(older) == {"Shape", "ReduceMean"} and older.ir_version == 8
    for old, new in zip(run(older, feed), run(proto, feed), strict=True):
        np.testing.assert_array_equal(old, new)


def test_names_stay_and_new_ones_are_unique() -> None:
    feed = {"x": values(2, 3, 4)}
    weights = {"scale": values(4), "y/mean": values(1)}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["y"], name="first"),
        helper.make_node("LayerNormalization", ["y", "scale"], ["z"], name="second"),
        helper.make_node("Add", ["z", "y/mean"], ["out"], name="add"),
    ]
    proto = model(nodes, feed, ["out"], weights=weights)
    proto.graph.value_info.append(helper.make_tensor_value_info("z", FLOAT, ["n", 3, 4]))
    proto.graph.node[2].metadata_props.add(key="from", value="somewhere")
    helper.set_model_props(proto, {"edgecut.name": "kept"})
    older = same(proto, feed)
    made = [name for node in older.graph.node for name in node.output]
    assert len(set(made)) == len(made) and not set(made) & {*weights, "x"}
    named = [node.name for node in older.graph.node]
    assert len(set(named)) == len(named) and {"first", "second", "add"} < set(named)
    assert older.graph.value_info == proto.graph.value_info
    assert older.metadata_props == proto.metadata_props
    assert not any(node.metadata_props for node in older.graph.node)


def test_weights_in_another_file_stay_there() -> None:
    feed = {"x": values(2, 300)}
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("ReduceMax", ["h", "axes"], ["y"])],
        feed,
        weights={"axes": ints(1)},
    )
    weight = proto.graph.initializer.add(name="w", data_type=FLOAT, dims=[300, 300])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "4096"), ("length", "360000")):
        weight.external_data.add(key=key, value=value)
    older = downgrade(proto)
    assert older.graph.initializer == proto.graph.initializer
    axes = proto.graph.initializer[0]
    axes.ClearField("raw_data")
    axes.data_location = TensorProto.EXTERNAL
    axes.external_data.add(key="location", value="weights.bin")
    with pytest.raises(ModelError, match="'axes' is not a constant in the model file"):
        downgrade(proto)


def test_functions_are_inlined() -> None:
    feed = {"x": values(2, 300)}
    body = [helper.make_node("Gelu", ["a"], ["g"]), helper.make_node("Relu", ["g"], ["b"])]
    function = helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Twice", ["h"], ["y"], domain="mine")]
    weights = {"w": values(300, 4)}
    proto = model(nodes, feed, weights=weights, opset=20, domains=["mine"], functions=[function])
    older = same(proto, feed, 1e-4)
    assert not older.functions and older.graph.initializer == proto.graph.initializer
