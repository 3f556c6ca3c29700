"""The halves as they are stored: any number of items whatever the batch, and accuracy counted item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecut.errors import ModelError
from edgecut.models.data import DataSet
from edgecut.models.spec import ModelSpec, TensorSpec
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.runtime import accuracy
from edgecut.runtime.halves import Half, accuracy_through, wire_steps
from edgecut.runtime.protect import Protector

pytest.importorskip("onnxruntime")
WIDTH = 4
WEIGHTS = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)


def half(operator: str, batch: int | str, given: str, made: str) -> bytes:
    """One operator over [batch, WIDTH]: a product with WEIGHTS, or one of a single input."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, WIDTH]) for name in (given, made)]
    inputs = [given, "w"] if operator == "MatMul" else [given]
    weights = [numpy_helper.from_array(WEIGHTS, "w")] if operator == "MatMul" else []
    graph = helper.make_graph([helper.make_node(operator, inputs, [made])], "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.one_of(st.just("n"), st.integers(1, 4)))
def test_a_half_takes_any_number_of_items(count: int, batch: int | str) -> None:
    x = np.random.default_rng(count).standard_normal((count, WIDTH)).astype(np.float32)
    (got,) = Half(half("MatMul", batch, "x", "y"))([x])
    np.testing.assert_allclose(got, x @ WEIGHTS, rtol=1e-5, atol=1e-6)


def spec() -> ModelSpec:
    tensor = TensorSpec(name="x", dtype="float32", shape=(WIDTH,))
    return ModelSpec(name="m", digest="sha256:" + "0" * 64, inputs=(tensor,), outputs=(tensor,), layers=(), cuts=())


def protector(scale: float) -> Protector:
    return Protector(
        NoiseCollection(
            loc=np.zeros(1, np.float32),
            scale=np.full(1, scale, np.float32),
            orders=np.arange(WIDTH)[None],
            tensors=(("a", (WIDTH,)),),
            model_digest="sha256:" + "0" * 64,
            cut="a",
        )
    )


def data(count: int, wrong: int) -> DataSet:
    x = np.random.default_rng(1).uniform(-1, 1, (count, WIDTH)).astype(np.float32)
    x[:, 0] = 1.0  # so that no item has all logits alike
    labels = (np.maximum(x, 0) @ WEIGHTS).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % WIDTH
    nothing: Any = x[:0]
    return DataSet(name="d", digest="", x_train=nothing, y_train=labels[:0], x_test=x, y_test=labels)


@pytest.mark.parametrize("batches", [("n", "n"), (1, "n"), (1, 1), (3, "n")])
@pytest.mark.parametrize("chunk", [2, 5, 250])
def test_each_item_is_counted_once_and_for_each_draw(
    batches: tuple[int | str, int | str], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "CHUNK", chunk)
    edge, cloud = half("Relu", batches[0], "x", "a"), half("MatMul", batches[1], "a", "y")
    shares: list[float] = []
    made = accuracy_through(edge, cloud, protector(1e-6), spec(), data(23, 5), 3, shares.append)
    assert (made.without.correct, made.without.total) == (18, 23)
    assert (made.with_noise.correct, made.with_noise.total, made.draws) == (54, 69, 3)
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_every_draw_is_fresh() -> None:
    """Noise far above the activations answers by chance, and afresh in each draw: one draw repeated 20 times would
    give 20 equal counts, and so a multiple of 20. Fresh draws do so once in 20 times, hence five rounds."""
    edge, cloud = half("Relu", "n", "x", "a"), half("MatMul", "n", "a", "y")
    rounds = [accuracy_through(edge, cloud, protector(1e4), spec(), data(200, 0), 20, lambda _: None) for _ in range(5)]
    assert all(made.without.value == 1.0 and made.with_noise.value < 0.7 for made in rounds)
    assert any(made.with_noise.correct % 20 for made in rounds)  # all five by chance: once in 3 million


def test_values_that_are_not_finite_are_refused() -> None:
    edge, cloud = half("Log", "n", "x", "a"), half("MatMul", "n", "a", "y")
    with pytest.raises(ModelError, match="half of m gives NaN or infinite values at the cut"):
        accuracy_through(edge, cloud, protector(1.0), spec(), data(9, 0), 1, lambda _: None)


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_steps_are_measured_on_noisy_training_items(batch: int | str) -> None:
    """Neither on the unseen items, which are a thousand times as large here, nor on activations without noise."""
    edge, items = half("Relu", batch, "x", "a"), np.random.default_rng(3).uniform(-1, 1, (40, WIDTH))
    x_train, labels = items.astype(np.float32), np.zeros(40, np.int64)
    given = DataSet(name="d", digest="", x_train=x_train, y_train=labels, x_test=1000 * x_train, y_test=labels)
    (bare,) = wire_steps(edge, protector(1e-6).noise, spec(), given)
    assert bare == pytest.approx(1 / 127, rel=0.1)
    (noisy,) = wire_steps(edge, protector(100.0).noise, spec(), given)
    assert 2 < noisy < 10, "160 Laplace values of scale 100 reach some 500 to 600"
    assert wire_steps(edge, protector(100.0).noise, spec(), given) == (noisy,)
