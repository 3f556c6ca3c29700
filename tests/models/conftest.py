"""Small ONNX graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.graph import ModelGraph
from edgecut.models.split import halves

Shape = Sequence[int | str]
Build = Callable[..., ModelGraph]


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray] | None = None,
    inputs: Mapping[str, Shape] | None = None,
    outputs: Mapping[str, Shape] | None = None,
    name: str = "hand",
    kind: int = TensorProto.FLOAT,
    kinds: Mapping[str, int] | None = None,
    opset: int = 18,
    sizes: Mapping[str, int] | None = None,
) -> ModelGraph:
    """A graph from `x` [batch, 4] to `y` [batch, 4] unless told otherwise.

    Inputs are of `kind`, outputs float32, but for those that `kinds` names.
    """
    known = {**dict.fromkeys(inputs or ["x"], kind), **(kinds or {})}
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, known[n], s) for n, s in (inputs or {"x": ["batch", 4]}).items()],
        [
            helper.make_tensor_value_info(n, known.get(n, TensorProto.FLOAT), s)
            for n, s in (outputs or {"y": ["batch", 4]}).items()
        ],
        [numpy_helper.from_array(value, n) for n, value in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return ModelGraph(proto, name, "sha256:" + "0" * 64, sizes=sizes)


@pytest.fixture(name="build")
def _build() -> Build:
    return build


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a model by name; inputs that it does not have are left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {n: v for n, v in feed.items() if n in taken}), strict=True))


def every_cut(
    graph: ModelGraph, *, batches: Sequence[int] = (1, 3), any_cut: bool = False, only: Sequence[int] | None = None
) -> list[tuple[str, ...]]:
    """Check every cut of a graph (or `only` some) against the whole, and return the names of what crosses at each.

    Also that nothing crosses that the inputs have no part in: two inputs never make the same.
    """
    cuts = list(graph.cuts(any_cut=any_cut))
    whole = graph.whole()
    for cut in cuts if only is None else [cuts[index] for index in only]:
        edge, cloud = halves(graph, cut)
        for half in (edge, cloud):
            onnx.checker.check_model(half, full_check=True)
        before = None
        for seed, batch in [(0, batches[0]), *enumerate(batches, 1)]:
            feed = random_inputs(graph, batch, seed)
            given = run(edge, feed)
            assert list(given) == [tensor.name for tensor in cut.tensors]
            for tensor in cut.tensors:
                value = given[tensor.name]
                assert (value.dtype.name, value.shape) == ("float32", (batch, *tensor.shape)), (cut.name, tensor.name)
                assert seed != 1 or before is None or not np.array_equal(value, before[tensor.name]), tensor.name
            before = given
            got, expected = run(cloud, given), run(whole, feed)
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                assert got[name].dtype == value.dtype
                np.testing.assert_allclose(
                    got[name], value, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(value).max())), err_msg=cut.name
                )
    return [tuple(tensor.name for tensor in cut.tensors) for cut in cuts]


def random_inputs(graph: ModelGraph, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Values for every input: standard normal, or whole numbers below the input's bound."""
    generator = np.random.default_rng(seed)
    return {
        spec.name: generator.standard_normal((batch, *spec.shape)).astype(np.float32)
        if spec.dtype == "float32"
        else generator.integers(0, spec.below or 2, (batch, *spec.shape)).astype(spec.dtype)
        for spec in graph.inputs
    }


@pytest.fixture(name="every_cut")
def _every_cut() -> Callable[..., list[tuple[str, ...]]]:
    return every_cut


@pytest.fixture(name="run")
def _run() -> Callable[..., dict[str, np.ndarray]]:
    return run


@pytest.fixture
def square() -> np.ndarray:
    """A 4 x 4 weight without symmetry."""
    return np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
