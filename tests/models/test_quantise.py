"""The step of an int8 wire against a search by brute force, and the cloud partition that takes int8."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgecut.models.quantise as quantising
from edgecut.errors import DataError, ModelError
from edgecut.models.quantise import best_step, rounded, with_int8_inputs

ort = pytest.importorskip("onnxruntime")


def squared_error(values: list[float], step: float) -> float:
    """With Python's own rounding, which is half to even, too."""
    return math.fsum((value - step * max(-128, min(127, round(value / step)))) ** 2 for value in values)


@pytest.mark.parametrize("law", ["normal", "laplace", "uniform", "relu"])
def test_no_step_is_much_better(law: str) -> None:
    generator = np.random.default_rng(1)
    drawn = {
        "normal": lambda: generator.normal(0, 3, 2000),
        "laplace": lambda: generator.laplace(1, 20, 2000),
        "uniform": lambda: generator.uniform(-1, 1, 2000),
        "relu": lambda: np.maximum(generator.normal(0, 1, 2000), 0) + generator.laplace(0, 0.1, 2000),
    }[law]()
    values = drawn.astype(np.float32)
    listed = [float(value) for value in values]
    largest = max(map(abs, listed))
    found = squared_error(listed, best_step(values))
    tried = [squared_error(listed, largest / 127 * share) for share in np.linspace(0.05, 1.2, 60)]
    assert found <= 1.05 * min(tried)
    assert law != "laplace" or best_step(values) < largest / 127, "a long tail is cut off"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
def test_a_step_is_a_positive_float32(values: list[float]) -> None:
    step = best_step(np.array(values, np.float32))
    assert step > 0 and step == float(np.float32(step)) and np.float32(1 / np.float64(step)) < np.inf
    restored = rounded(np.array(values, np.float32), step)
    assert restored.dtype == np.float32 and np.isfinite(restored).all()


def test_only_zeros_and_what_is_not_finite() -> None:
    assert best_step(np.zeros((3, 4), np.float32)) == 1.0
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="not finite"):
            best_step(np.array([1, bad], np.float32))


def test_many_values_are_looked_at_evenly() -> None:
    values = np.zeros(1 << 20, np.float32)
    values[-1000:] = 5.0
    assert best_step(values) == pytest.approx(5 / 127, rel=0.05)


def cloud(batch: Any = "batch", clash: bool = False) -> bytes:
    """y = a @ w + b, from a [4] and b [3]; a's own name is used twice, and `a/float` may be taken already."""
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["a/float" if clash else "m"]),
        helper.make_node("ReduceSum", ["a", "axis"], ["s"], keepdims=1),
        helper.make_node("Add", ["a/float" if clash else "m", "b"], ["n"]),
        helper.make_node("Add", ["n", "s"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, s]) for n, s in (("a", 4), ("b", 3), ("y", 3))]
    stored = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1], np.int64), "axis")]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(made.SerializeToString())


def run(model: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)[0])


@pytest.mark.parametrize("clash", [False, True])
@pytest.mark.parametrize("batch", ["batch", 1])
def test_it_takes_int8_of_the_same_names(batch: Any, clash: bool) -> None:
    steps = {"a": 0.25, "b": 3.0}
    plain = cloud(batch, clash)
    made = with_int8_inputs(plain, steps, "small")
    model = onnx.load_model_from_string(made)
    onnx.checker.check_model(model, full_check=True)
    assert {(value.name, value.type.tensor_type.elem_type) for value in model.graph.input} == {
        ("a", TensorProto.INT8),
        ("b", TensorProto.INT8),
    }
    assert {node.op_type for node in model.graph.node} - {"MatMul", "ReduceSum", "Add"} == {"Cast", "Mul"}
    generator = np.random.default_rng(3)
    rows = 1 if batch == 1 else 5
    sent = {name: generator.integers(-128, 128, (rows, size)).astype(np.int8) for name, size in (("a", 4), ("b", 3))}
    sent["a"][0] = [-128, 127, 0, 1]
    given_floats = {name: levels.astype(np.float32) * np.float32(steps[name]) for name, levels in sent.items()}
    np.testing.assert_allclose(run(made, sent), run(plain, given_floats), rtol=1e-5, atol=1e-4)


def test_another_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the multiplication is by another constant than the one it is checked against."""
    plain, real = cloud(), quantising.numpy_helper.from_array
    monkeypatch.setattr(quantising.numpy_helper, "from_array", lambda array, name: real(array * 2, name))
    with pytest.raises(ModelError, match="the cloud half of small gives other answers for int8"):
        with_int8_inputs(plain, {"a": 0.25, "b": 3.0}, "small")
