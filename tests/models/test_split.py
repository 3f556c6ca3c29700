"""Halves that tell nothing but the computation, the uint8 form, and the check that refuses wrong halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgecut.errors import ModelError
from edgecut.models.graph import ModelGraph, set_metadata
from edgecut.models.load import Model
from edgecut.models.session import open_session
from edgecut.models.spec import PixelFormat
from edgecut.models.split import check_halves, check_split, halves, reference_runs, with_uint8_input

Build = Callable[..., ModelGraph]
node = helper.make_node
SECRET = "/home/somebody/plan.py, line 7"


def three_layers(build: Build, square: np.ndarray) -> ModelGraph:
    """A model with documentation wherever ONNX has room for it."""
    constant = node("Constant", [], ["k"], value=numpy_helper.from_array(square, "k"))
    products = [node("MatMul", pair, [out]) for pair, out in ((["x", "w"], "a"), (["a", "k"], "b"), (["b", "v"], "y"))]
    graph = build([constant, *products], {"w": square, "v": square})
    return ModelGraph(documented(graph.proto), graph.name, graph.digest)


def documented(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.doc_string = proto.producer_name = proto.domain = proto.graph.doc_string = proto.graph.name = SECRET
    proto.metadata_props.add(key="plan", value=SECRET)
    parts: list[Any] = [*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.value_info]
    for part in parts:
        part.doc_string = SECRET
        part.metadata_props.add(key="namespace", value=SECRET)
    for attribute in [a for n in proto.graph.node for a in n.attribute]:
        attribute.doc_string = attribute.t.doc_string = SECRET
    return proto


def test_nothing_but_the_computation_is_left(build: Build, square: np.ndarray) -> None:
    graph = three_layers(build, square)
    assert graph.whole().SerializeToString().count(SECRET.encode()) > 15
    for cut in graph.cuts():
        for half in halves(graph, cut):
            assert b"somebody" not in half.SerializeToString()
            onnx.checker.check_model(half, full_check=True)


def test_lenet_cloud_half_tells_nothing_of_us(lenet: Model) -> None:
    whole = lenet.read()
    assert b"edgecut" in whole
    for cut in lenet.spec.cuts:
        edge, cloud = (half.SerializeToString() for half in halves(lenet.graph, cut))
        assert check_split(whole, edge, cloud, cut.name) < 1e-4
        for word in (b"edgecut", b"pkg.torch", b"stack_trace", b'File "', b".py", b"/home", b"noise", b"plan"):
            assert word not in cloud
        assert b"conv1.weight" not in cloud
        assert b"fc2.weight" not in edge


@pytest.mark.parametrize("channels", [1, 3])
def test_uint8_form_equals_scaling_in_numpy(build: Build, channels: int) -> None:
    generator = np.random.default_rng(channels)
    pixels = PixelFormat(scale=(1 / 255, 1 / 100, 0.5)[:channels], offset=(-0.5, 0.25, 3.0)[:channels])
    weight = generator.standard_normal((2, channels, 3, 3)).astype(np.float32)
    shapes = {"inputs": {"x": ["n", channels, 3, 3]}, "outputs": {"y": ["n", 2, 1, 1]}}
    graph = build([node("Conv", ["x", "w"], ["y"])], {"w": weight}, **shapes)
    with pytest.raises(ModelError, match="does not say how pixels become its input"):
        with_uint8_input(graph)
    set_metadata(graph.proto, "hand", pixels)
    images = generator.integers(0, 256, (5, channels, 3, 3), np.uint8)
    scale, offset = (np.reshape(v, (-1, 1, 1)) for v in (pixels.scale, pixels.offset))
    expected = np.einsum("nchw,kchw->nk", images.astype(np.float64) * scale + offset, weight.astype(np.float64))
    got = open_session(with_uint8_input(graph).SerializeToString()).run(None, {"pixels": images})[0]
    np.testing.assert_allclose(got[:, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


def changed(cloud: onnx.ModelProto, value: float) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(cloud)
    weight = copy.graph.initializer[0]
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = value
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return copy.SerializeToString()


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_wrong_half_is_refused(build: Build, square: np.ndarray, value: float) -> None:
    graph = three_layers(build, square)
    edge, cloud = halves(graph, next(iter(graph.cuts())))
    whole = graph.whole().SerializeToString()
    check_split(whole, edge.SerializeToString(), cloud.SerializeToString(), "m at a")
    with pytest.raises(ModelError, match=r"halves of m at a differ from the whole model by .*do not deploy"):
        check_split(whole, edge.SerializeToString(), changed(cloud, value), "m at a")


def test_half_of_another_shape_or_place_is_refused(build: Build, square: np.ndarray) -> None:
    graph = three_layers(build, square)
    (edge, cloud), (_, later) = (halves(graph, cut) for cut in list(graph.cuts())[:2])
    whole = graph.whole().SerializeToString()
    with pytest.raises(ModelError, match="the cloud half of m does not run"):
        check_split(whole, edge.SerializeToString(), later.SerializeToString(), "m")
    node_ = cloud.graph.node[-1]
    cloud.graph.node.append(node("ReduceMean", [node_.output[0], "axes"], ["y"], keepdims=1))
    node_.output[0] = cloud.graph.node[-1].input[0] = "wide"
    cloud.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    cloud.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    with pytest.raises(ModelError, match=r"give \(1, 1\) for \(1, 4\)"):
        check_split(whole, edge.SerializeToString(), cloud.SerializeToString(), "m")


def test_a_model_whose_values_are_not_finite_can_be_split(build: Build, square: np.ndarray) -> None:
    """Square roots of negative numbers: NaN in the same places is no difference."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Sqrt", ["a"], ["b"]), node("MatMul", ["b", "one"], ["y"])]
    graph = build(nodes, {"w": square, "one": np.eye(4, dtype=np.float32)})
    edge, cloud = (half.SerializeToString() for half in halves(graph, next(iter(graph.cuts()))))
    assert check_split(graph.whole().SerializeToString(), edge, cloud, "m") == 0.0


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_is_checked_alone(build: Build, square: np.ndarray, batch: int) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    graph = build(nodes, {"w": square}, inputs={"x": [batch, 4]}, outputs={"y": [batch, 4]})
    assert graph.spec().batch == batch
    edge, cloud = (half.SerializeToString() for half in halves(graph, next(iter(graph.cuts()))))
    runs = reference_runs(graph.whole().SerializeToString(), "m")
    assert [len(feed["x"]) for feed, _ in runs] == [batch]
    assert check_halves(runs, edge, cloud, "m") < 1e-4


def test_a_batch_that_does_not_run_is_said(build: Build, square: np.ndarray) -> None:
    """A model that says its batch is open, and has 1 in a reshape."""
    last = [node("Reshape", ["a", "shape"], ["b"]), node("MatMul", ["b", "w"], ["y"])]
    graph = build([node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])], {"w": square})
    proto = graph.whole()
    del proto.graph.node[1:]
    proto.graph.node.extend(last)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "shape"))
    with pytest.raises(ModelError, match="the whole model of m does not run on a batch of 3; export it with a dynamic"):
        reference_runs(proto.SerializeToString(), "m")
