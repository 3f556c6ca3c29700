"""A map as nodes of the models gives what `LinearMap` gives, for any shape, bases, choice of coordinates and batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgecut.errors import ModelError
from edgecut.models.downgrade import downgrade
from edgecut.models.spec import TensorSpec
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.runtime.attach import with_input_map, with_map, with_restored
from edgecut.runtime.targets import TENSORRT_8_2, foreign_operators

pytest.importorskip("onnxruntime")
from edgecut.models.session import open_session


def neg(names: list[tuple[str, str]], shapes: list[tuple[int, ...]], batch: Any = "batch") -> onnx.ModelProto:
    """A model that negates each tensor."""
    nodes = [helper.make_node("Neg", [one], [other]) for one, other in names]
    ends = [
        [helper.make_tensor_value_info(pair[side], TensorProto.FLOAT, [batch, *shape]) for pair, shape in pairs]
        for side, pairs in enumerate([list(zip(names, shapes, strict=True))] * 2)
    ]
    graph = helper.make_graph(nodes, "g", *ends)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def specs(names: list[str], shapes: list[tuple[int, ...]]) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in zip(names, shapes, strict=True)]


def some_map(shape: tuple[int, ...], kept: int, values: int | None, bases: int, seed: int) -> LinearMap:
    """`values` None is a diagonal; the bits of `bases` say which axes have one."""
    generator, n = np.random.default_rng(seed), int(np.prod(shape))
    axes = [
        np.linalg.qr(generator.standard_normal((size, size)))[0] if bases >> place & 1 else None
        for place, size in enumerate(shape)
    ]
    index = np.sort(generator.choice(n, min(kept, n), replace=False))
    sizes = (len(index),) if values is None else (values, len(index))
    forward = generator.standard_normal(sizes)
    backward = generator.standard_normal(sizes[::-1])
    return LinearMap(shape, generator.standard_normal(n), axes, index, forward, backward)


def run(model: onnx.ModelProto, feed: dict[str, Any]) -> dict[str, Any]:
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def flat(arrays: list[Any]) -> Any:
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


shapes_of_cuts = st.one_of(
    st.lists(st.integers(1, 5), max_size=3).map(lambda sizes: [tuple(sizes)]),
    st.lists(st.lists(st.integers(1, 4), max_size=2).map(tuple), min_size=2, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    shapes_of_cuts, st.integers(1, 70), st.none() | st.integers(1, 9), st.integers(0, 7), st.integers(0, 99),
    st.sampled_from(["batch", 1]),
)  # fmt: skip
def test_the_models_compute_the_map(
    shapes: list[tuple[int, ...]], kept: int, values: int | None, bases: int, seed: int, batch: str | int
) -> None:
    n = sum(int(np.prod(shape)) for shape in shapes)
    whole = shapes[0] if len(shapes) == 1 and shapes[0] else (n,)
    map = some_map(whole, kept, values, bases, seed)
    generator = np.random.default_rng(seed + 1)
    count = 1 if batch == 1 else 3
    cut = [f"a{place}" for place in range(len(shapes))]
    given = {f"x{place}": generator.standard_normal((count, *shape), np.float32) for place, shape in enumerate(shapes)}
    edge = with_map(neg(list(zip(given, cut, strict=True)), shapes, batch), specs(cut, shapes), map)
    sent = run(edge, given)
    assert list(sent) == ["sent_values"]
    expected = map.sent(flat([-array for array in given.values()]))
    np.testing.assert_allclose(sent["sent_values"], expected, rtol=1e-4, atol=1e-4)

    ends = [f"y{place}" for place in range(len(shapes))]
    cloud = with_restored(neg(list(zip(cut, ends, strict=True)), shapes, batch), specs(cut, shapes), map)
    answers = run(cloud, {"sent_values": expected})
    assert [answers[end].shape for end in ends] == [(count, *shape) for shape in shapes]
    np.testing.assert_allclose(flat([answers[end] for end in ends]), -map.restored(expected), rtol=1e-4, atol=1e-4)

    for made in (edge, cloud):
        old = downgrade(made, opset=13, ir_version=7)
        assert not foreign_operators(old.graph.node, TENSORRT_8_2)
        feed = given if made is edge else {"sent_values": expected}
        for name, value in run(old, feed).items():
            np.testing.assert_allclose(value, run(made, feed)[name], rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), st.integers(1, 30), st.integers(0, 7))
def test_an_input_goes_there_and_back(shape: tuple[int, ...], kept: int, bases: int) -> None:
    map = some_map(shape, kept, None, bases, 5)
    x = np.random.default_rng(6).standard_normal((2, *shape)).astype(np.float32)
    made = run(with_input_map(neg([("x", "y")], [shape]), specs(["x"], [shape])[0], map), {"x": x})
    expected = -map.restored(map.sent(flat([x])))
    np.testing.assert_allclose(flat([made["y"]]), expected, rtol=1e-4, atol=1e-4)


def test_a_map_of_another_size_or_a_taken_name_is_refused() -> None:
    map, model = some_map((4,), 4, None, 0, 0), neg([("x", "a")], [(5,)])
    with pytest.raises(ModelError, match="a map of 4 values does not fit here, since the tensors have 5 elements"):
        with_map(model, specs(["a"], [(5,)]), map)
    whole = [TensorSpec(name="a", dtype="int64", shape=(4,))]
    with pytest.raises(ModelError, match="'a' is not float32"):
        with_restored(model, whole, map)
    with pytest.raises(ModelError, match="called 'sent_values'"):
        with_map(neg([("sent_values", "a")], [(4,)]), specs(["a"], [(4,)]), map)
    # Other names give way.
    busy = with_map(neg([("map/sent", "a")], [(4,)]), specs(["a"], [(4,)]), map)
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(run(busy, {"map/sent": x})["sent_values"], map.sent(-x), rtol=1e-5)
