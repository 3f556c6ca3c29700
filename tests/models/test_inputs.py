"""Several inputs and outputs, whole numbers, and batches and dimensions in every spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecut.errors import ModelError
from edgecut.models.graph import ModelGraph
from edgecut.models.spec import ModelSpec
from edgecut.models.split import check_halves, check_split, halves, reference_runs

Build = Callable[..., ModelGraph]
EveryCut = Callable[..., list[tuple[str, ...]]]
node = helper.make_node


def weights(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """`w0`, `w1`, ... of these shapes."""
    generator = np.random.default_rng(1)
    return {f"w{i}": generator.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}


def two_towers(build: Build, outputs: dict[str, list[Any]] | None = None) -> ModelGraph:
    """`x` and `z` through a layer each, then together through two."""
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], name="left"),
        node("MatMul", ["z", "w1"], ["b"], name="right"),
        node("Add", ["a", "b"], ["c"]),
        node("MatMul", ["c", "w2"], ["d"], name="both"),
        node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "w3"], ["y"], name="last"),
        node("Softmax", ["y"], ["p"]),
    ]
    return build(
        nodes,
        weights((4, 5), (3, 5), (5, 6), (6, 2)),
        inputs={"x": ["batch", 4], "z": ["batch", 3]},
        outputs=outputs or {"p": ["batch", 2]},
    )


def test_several_inputs_and_outputs(build: Build, every_cut: EveryCut) -> None:
    graph = two_towers(build, {"p": ["batch", 2], "y": ["batch", 2]})
    spec = graph.spec()
    assert [(t.name, t.shape) for t in spec.inputs] == [("x", (4,)), ("z", (3,))]
    assert [(t.name, t.shape) for t in spec.outputs] == [("p", (2,)), ("y", (2,))]
    # Behind the first layer the raw `z` would have to cross.
    assert every_cut(graph) == [("c",), ("e",)]
    assert every_cut(graph, any_cut=True) == [("a", "b"), ("c",), ("d",), ("e",)]
    with pytest.raises(ModelError, match=r"has 2 inputs \(x, z\); it can be profiled and planned, but this step takes"):
        _ = spec.input
    with pytest.raises(ModelError, match=r"has 2 outputs \(p, y\)"):
        _ = spec.output
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


def test_an_early_output_ends_the_cuts(build: Build, every_cut: EveryCut) -> None:
    """What the edge half has answered cannot come from the cloud half."""
    assert every_cut(two_towers(build, {"p": ["batch", 2], "e": ["batch", 6]})) == [("c",)]


def test_the_outputs_are_all_compared(build: Build) -> None:
    graph = two_towers(build, {"p": ["batch", 2], "y": ["batch", 2]})
    runs = reference_runs(graph.whole().SerializeToString(), "m", graph.inputs)
    edge, cloud = halves(graph, next(graph.cuts()))
    assert check_halves(runs, edge.SerializeToString(), cloud.SerializeToString(), "m") < 1e-4
    # A softmax does not see what all its inputs have in common: only `y` tells.
    product = cloud.graph.node[-2]
    product.output[0] = "without"
    cloud.graph.node.insert(len(cloud.graph.node) - 1, node("Add", ["without", "one"], ["y"]))
    cloud.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.0), "one"))
    with pytest.raises(ModelError, match="halves of m differ from the whole model by 1"):
        check_halves(runs, edge.SerializeToString(), cloud.SerializeToString(), "m")


@pytest.mark.parametrize("kind", ["ArgMax", "Greater"])
def test_outputs_that_are_no_floats(build: Build, every_cut: EveryCut, kind: str) -> None:
    """Whole numbers and truth values, of which NumPy would not take the difference."""
    dtype = {"ArgMax": TensorProto.INT64, "Greater": TensorProto.BOOL}[kind]
    last = node("ArgMax", ["b"], ["y"], axis=1, keepdims=1) if kind == "ArgMax" else node("Greater", ["b", "b2"], ["y"])
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("MatMul", ["a", "w1"], ["b"]),
        node("Neg", ["b"], ["b2"]),
        last,
    ]
    width = {"ArgMax": 1, "Greater": 4}[kind]
    graph = build(nodes, weights((4, 4), (4, 4)), outputs={"y": ["n", width]}, kinds={"y": dtype})
    assert every_cut(graph) == [("a",)]
    edge, cloud = (half.SerializeToString() for half in halves(graph, next(graph.cuts())))
    whole = graph.whole()
    assert check_split(whole.SerializeToString(), edge, cloud, "m") == 0.0
    weight = next(tensor for tensor in whole.graph.initializer if tensor.name == "w1")
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), "w1"))
    with pytest.raises(ModelError, match="differ from the whole model"):
        check_split(whole.SerializeToString(), edge, cloud, "m")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_token_ids_are_bounded_by_their_table(build: Build, every_cut: EveryCut, kind: int, axis: int) -> None:
    """Two tables are looked up with the same ids: the smaller one bounds them. The embedding is no activation yet."""
    transposed = [] if axis == 0 else [node("Transpose", ["e0"], ["e"], perm=[1, 2, 0])]
    nodes = [
        node("Gather", ["w0", "ids"], ["e" if axis == 0 else "e0"], axis=axis),
        *transposed,
        node("Gather", ["w1", "ids"], ["f"]),
        node("Add", ["e", "f"], ["g"]),
        node("MatMul", ["g", "w2"], ["h"]),
        node("MatMul", ["h", "w3"], ["y"]),
    ]
    table = (11, 4) if axis == 0 else (4, 11)
    graph = build(
        nodes,
        weights(table, (7, 4), (4, 3), (3, 2)),
        inputs={"ids": ["batch", 5]},
        outputs={"y": ["batch", 5, 2]},
        kind=kind,
    )
    (ids,) = graph.inputs
    assert (ids.dtype, ids.shape, ids.below) == ({6: "int32", 7: "int64"}[kind], (5,), 7)
    assert every_cut(graph, any_cut=True) == [("h",)]


def test_an_input_that_the_cloud_does_not_need(build: Build, every_cut: EveryCut) -> None:
    """And one that nobody needs: both are inputs of the edge half alone."""
    nodes = [node("MatMul", ["x", "w0"], ["a"]), node("Add", ["a", "z"], ["b"]), node("MatMul", ["b", "w1"], ["y"])]
    inputs = {"x": ["n", 4], "z": ["n", 4], "spare": ["n", 2]}
    graph = build(nodes, weights((4, 4), (4, 4)), inputs=inputs)
    assert every_cut(graph) == [("b",)]
    edge, cloud = halves(graph, next(graph.cuts()))
    assert [value.name for value in edge.graph.input] == ["x", "z", "spare"]
    assert [value.name for value in cloud.graph.input] == ["b"]
    check_split(graph.whole().SerializeToString(), edge.SerializeToString(), cloud.SerializeToString(), "m")


@pytest.mark.parametrize("form", ["Identity", "Flatten", "Mul", "Relu"])
def test_the_input_in_another_form_never_crosses(build: Build, every_cut: EveryCut, form: str) -> None:
    """Before any compute layer it is the raw input still, however it is scaled or folded."""
    more = ["two"] if form == "Mul" else []
    nodes = [
        node(form, ["x", *more], ["disguised"]),
        node("MatMul", ["x", "w0"], ["a"], name="one"),
        node("MatMul", ["a", "w0"], ["b"], name="two"),
        node("Add", ["b", "disguised"], ["c"]),
        node("MatMul", ["c", "w0"], ["y"], name="three"),
    ]
    graph = build(nodes, {**weights((4, 4)), "two": np.float32([2.0])})
    assert every_cut(graph, any_cut=True) == [("c",)]


def test_a_product_of_weights_is_no_layer(build: Build, every_cut: EveryCut) -> None:
    """Otherwise the input would cross with no layer before it but one that never saw it."""
    nodes = [
        node("MatMul", ["w0", "w1"], ["k"]),
        node("Relu", ["x"], ["a"]),
        node("MatMul", ["a", "k"], ["b"], name="first"),
        node("MatMul", ["b", "k"], ["y"], name="second"),
    ]
    graph = build(nodes, weights((4, 4), (4, 4)))
    assert [layer.name for layer in graph.layers()] == ["first", "second"]
    assert every_cut(graph, any_cut=True) == [("b",)]


def chain(build: Build, *, inputs: dict[str, list[Any]], **more: Any) -> ModelGraph:
    nodes = [
        node("Add", ["x", "z"], ["s"]),
        node("MatMul", ["s", "w0"], ["a"]),
        node("MatMul", ["a", "w1"], ["y"]),
    ]
    return build(nodes, weights((4, 4), (4, 4)), inputs=inputs, outputs={"y": [None, None, 4]}, **more)


def both(first: list[Any], second: list[Any] | None = None) -> dict[str, list[Any]]:
    return {"x": first, "z": second or first}


@pytest.mark.parametrize(
    ("inputs", "sizes", "batch"),
    [
        (both(["batch", 3, 4]), None, None),
        (both(["n", 3, 4], ["m", 3, 4]), None, None),  # two names for one batch
        (both([None, 3, 4], ["m", 3, 4]), None, None),  # no name
        (both([-1, 3, 4]), None, None),  # as some exporters write it
        (both([1, 3, 4]), None, 1),
        (both([5, 3, 4]), None, 5),
        (both(["batch", "length", 4]), {"length": 3}, None),
        (both(["batch", "length", 4]), {"length": 3, "batch": 2}, 2),
        (both(["n", "l", "w"]), {"l": 3, "w": 4}, None),
    ],
    ids=str,
)
def test_batches(build: Build, every_cut: EveryCut, inputs: Any, sizes: Any, batch: int | None) -> None:
    graph = chain(build, inputs=inputs, sizes=sizes)
    spec = graph.spec()
    assert spec.batch == batch
    assert [tensor.shape for tensor in (*spec.inputs, *spec.outputs)] == [(3, 4)] * 3
    assert every_cut(graph, batches=(1, 3) if batch is None else (batch, batch)) == [("a",)]
    for layer in spec.layers:
        assert (layer.flops, layer.parameters, layer.output.shape) == (2 * 3 * 4 * 4, 16, (3, 4))
        assert [item.rows for item in layer.work if item.kind == "linear"] == [3]
    edge, cloud = halves(graph, next(graph.cuts()))
    for value in (*edge.graph.input, *edge.graph.output, *cloud.graph.input, *cloud.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        assert (first.dim_value or first.dim_param) == (batch or "batch")


@pytest.mark.parametrize(
    ("inputs", "sizes", "said"),
    [
        (both(["batch", "length", 4]), None, r"input 'x' leaves length open.*fix a named one with --dim NAME=SIZE"),
        (both(["batch", None, 4]), None, r"input 'x' leaves \? open"),
        (both(["n", "n", 4]), None, r"input 'x' leaves n open"),
        (both(["n", 3, 4], ["n", "l", "w"]), None, r"input 'z' leaves l, w open"),
        (both(["n", 3, 4], [1, 3, 4]), None, r"different batch dimensions \(open, 1\); export it with one for all"),
        (both(["batch", "length", 4]), {"lenght": 3}, r"no dimension 'lenght' to fix.*named dimensions: batch, length"),
        (both([1, 3, 4]), {"n": 3}, r"no dimension 'n' to fix.*named dimensions: none"),
        (both(["batch", "length", 4]), {"length": 0}, r"dimension 'length' of model hand cannot be 0"),
    ],
)
def test_refused_shapes(build: Build, inputs: Any, sizes: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        chain(build, inputs=inputs, sizes=sizes)
    assert "\n" not in str(caught.value)


def test_an_input_without_a_shape(build: Build) -> None:
    proto = chain(build, inputs=both(["n", 3, 4])).proto
    proto.graph.input[1].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'z' has no shape: it has no static shape after its batch dimension"):
        ModelGraph(proto, "hand", "")
