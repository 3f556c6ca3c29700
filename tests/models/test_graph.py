"""Layers, figures and cuts of LeNet-5 against counts by hand, and the graphs that are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecut.errors import ModelError
from edgecut.models.graph import ModelGraph, _short, set_metadata
from edgecut.models.load import Model
from edgecut.models.spec import ModelSpec, PixelFormat, cut_names

Build = Callable[..., ModelGraph]
node = helper.make_node


def test_lenet_layers_by_hand(lenet: Model) -> None:
    """Outputs x weights x 2; the shapes follow LeCun's C1, S2, C3, S4, C5, F6 and output."""
    spec = lenet.spec
    assert [layer.name for layer in spec.layers] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert [layer.kind for layer in spec.layers] == ["Conv", "Conv", "Conv", "Gemm", "Gemm"]
    assert [layer.output.shape for layer in spec.layers] == [(6, 14, 14), (16, 5, 5), (120,), (84,), (10,)]
    assert [layer.parameters for layer in spec.layers] == [
        6 * 25 + 6,
        16 * 6 * 25 + 16,
        120 * 16 * 25 + 120,
        120 * 84 + 84,
        84 * 10 + 10,
    ]
    assert spec.parameters == 61_706
    assert [layer.flops for layer in spec.layers] == [
        2 * 6 * 28 * 28 * 25,
        2 * 16 * 10 * 10 * 6 * 25,
        2 * 120 * 16 * 25,
        2 * 120 * 84,
        2 * 84 * 10,
    ]
    assert (spec.input.shape, spec.output.shape, spec.output.size_bytes) == ((1, 32, 32), (10,), 40)


def test_lenet_cuts(lenet: Model) -> None:
    cuts = lenet.spec.cuts
    assert {cut.name: cut.elements for cut in cuts} == {"conv1": 1176, "conv2": 400, "conv3": 120, "fc1": 84}
    assert [cut.size_bytes for cut in cuts] == [4704, 1600, 480, 336]
    assert [cut.depth for cut in cuts] == [1, 2, 3, 4]
    assert all(cut.aligned for cut in cuts)


def test_any_cut_adds_and_keeps_the_rest(lenet: Model) -> None:
    some, every = lenet.spec.cuts, lenet.graph.spec(any_cut=True).cuts
    assert set(some) < set(every)
    assert [cut for cut in every if cut.aligned] == list(some)
    assert len(every) == len(lenet.graph.nodes) - 1  # a chain: after every node but the last
    names = cut_names(every)
    assert len(set(names)) == len(names)
    assert all(cut.depth >= 1 and lenet.spec.input not in cut.tensors for cut in every)
    assert all(t.name != lenet.spec.output.name for cut in every for t in cut.tensors)


def test_what_comes_before_the_first_compute_layer_is_no_cut(build: Build, square: np.ndarray) -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Relu", ["b"], ["y"])]
    graph = build(nodes, {"w": square})
    assert list(graph.cuts()) == []
    assert [[t.name for t in cut.tensors] for cut in graph.cuts(any_cut=True)] == [["b"]]


def test_raw_input_never_crosses(build: Build, square: np.ndarray) -> None:
    """The input is added again after the second layer, so that only behind it nothing raw is needed."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("MatMul", ["a", "w"], ["b"], name="two"),
        node("Add", ["b", "x"], ["c"]),
        node("MatMul", ["c", "w"], ["y"], name="three"),
    ]
    assert [(c.name, [t.name for t in c.tensors]) for c in build(nodes, {"w": square}).cuts()] == [("two", ["c"])]


def test_cut_names_are_unique(build: Build, square: np.ndarray) -> None:
    """A layer called like another layer's tensor; a result that nobody uses; one weight for two layers."""
    nodes = [
        node("MatMul", ["x", "w"], ["b"], name="a"),
        node("Relu", ["x"], ["unused"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "w"], ["d"], name="a/b"),
        node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "fc.weight"], ["f"]),
        node("MatMul", ["f", "fc.weight"], ["y"]),
    ]
    graph = build(nodes, {"w": square, "fc.weight": square})
    every = list(graph.cuts(any_cut=True))
    assert cut_names(every) == ["a/b#2", "a", "a/b/d", "a/b", "fc"]
    assert [layer.name for layer in graph.layers()] == ["a", "a/b", "fc", "fc#2"]
    assert [cut for cut in every if cut.aligned] == list(graph.cuts())


def test_constants_do_not_cross(build: Build, square: np.ndarray) -> None:
    """What is computed from weights alone is made again by the cloud half, not sent, whatever its first dimension."""
    nodes = [
        node("Neg", ["w"], ["negative"]),
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("MatMul", ["a", "negative"], ["y"], name="two"),
    ]
    (cut,) = build(nodes, {"w": square}).cuts()
    assert [t.name for t in cut.tensors] == ["a"]


def test_values_without_the_batch_first_do_not_cross(build: Build, square: np.ndarray) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("ReduceMean", ["a", "axes"], ["mean"], keepdims=1),  # [1, 4], of all items of the batch
        node("Add", ["a", "mean"], ["b"]),
        node("MatMul", ["b", "w"], ["y"], name="two"),
    ]
    graph = build(nodes, {"w": square, "axes": np.array([0])})
    assert [[t.name for t in cut.tensors] for cut in graph.cuts(any_cut=True)] == [["a"], ["b"]]


def test_a_vector_as_weight(build: Build) -> None:
    graph = build([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones(4, np.float32)}, outputs={"y": ["batch"]})
    assert next(graph.layers()).flops == 2 * 4


def if_node() -> onnx.NodeProto:
    branch = helper.make_graph(
        [node("Identity", ["a"], ["t"])], "b", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    )
    return node("If", ["yes"], ["y"], name="gate", then_branch=branch, else_branch=branch)


def test_refusals(build: Build, square: np.ndarray) -> None:
    product = node("MatMul", ["x", "w"], ["y"])
    weights = {"w": square}
    with pytest.raises(ModelError, match=r"control flow \(If at 'gate'\)"):
        build([node("MatMul", ["x", "w"], ["a"]), if_node()], {**weights, "yes": np.array(True)})
    with pytest.raises(ModelError, match="no compute layer"):
        build([node("Relu", ["x"], ["y"])])
    with pytest.raises(ModelError, match=r"takes uint8 \('x'\); edgecut takes float32, int32, int64"):
        cast = node("Cast", ["x"], ["a"], to=TensorProto.FLOAT)
        build([cast, node("MatMul", ["a", "w"], ["y"])], weights, kind=TensorProto.UINT8)
    with pytest.raises(ModelError, match="not a consistent ONNX graph"):
        build([product, node("Relu", ["y"], ["z"], domain="of.somebody")], weights)


def test_pixel_format_travels_with_the_file(build: Build, square: np.ndarray) -> None:
    graph = build([node("MatMul", ["x", "w"], ["y"])], {"w": square})
    assert graph.spec().pixels is None
    pixels = PixelFormat(scale=(0.5, 0.25, 2.0), offset=(0.0, 1.0, -1.0), photograph=True)
    set_metadata(graph.proto, "hand", pixels)
    assert graph.spec().pixels == pixels
    graph.proto.metadata_props[1].value = "{}"
    with pytest.raises(ModelError, match=r"'edgecut.pixels'.*scale: Field required"):
        graph.spec()


def test_unknown_cut_names_the_known(lenet: Model) -> None:
    with pytest.raises(ModelError, match=r"'conv9', did you mean 'conv\d'; known: conv1, conv2, conv3, fc1"):
        lenet.spec.cut("conv9")
    assert ModelSpec.model_validate_json(lenet.spec.model_dump_json()) == lenet.spec


@pytest.mark.parametrize(
    ("name", "operator", "short"),
    [
        ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0/conv1"),
        ("/conv1/Conv", "Conv", "conv1"),
        ("node_conv2d", "Conv", "node_conv2d"),
        ("/a/b/a.b/MatMul", "MatMul", "a/b/a.b"),
        ("", "Gemm", ""),
    ],
)
def test_layer_names_without_what_repeats(name: str, operator: str, short: str) -> None:
    assert _short(name, operator) == short
