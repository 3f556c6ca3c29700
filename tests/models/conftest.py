"""Small ONNX graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.graph import ModelGraph

Shape = Sequence[int | str]
Build = Callable[..., ModelGraph]


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray] | None = None,
    inputs: Mapping[str, Shape] | None = None,
    outputs: Mapping[str, Shape] | None = None,
    name: str = "hand",
    kind: int = TensorProto.FLOAT,
) -> ModelGraph:
    """A graph from `x` [batch, 4] to `y` [batch, 4] unless told otherwise."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, kind, s) for n, s in (inputs or {"x": ["batch", 4]}).items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (outputs or {"y": ["batch", 4]}).items()],
        [numpy_helper.from_array(value, n) for n, value in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return ModelGraph(proto, name, "sha256:" + "0" * 64)


@pytest.fixture(name="build")
def _build() -> Build:
    return build


@pytest.fixture
def square() -> np.ndarray:
    """A 4 x 4 weight without symmetry."""
    return np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
