"""Every cut of random graphs: what crosses within layers, by a brute-force count, and the halves against the whole.

What crosses between layers is in test_any_cut.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.graph import COMPUTE, ModelGraph
from edgecut.models.spec import CutSpec
from edgecut.models.split import check_split, halves

SIDE = 3


class Dag:
    """Nodes added one by one to values of shape [batch, c] or [batch, c, 3, 3]."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.generator = np.random.default_rng(seed)
        self.values: list[tuple[str, tuple[int, ...]]] = [("x", shape)]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(self.generator.standard_normal(shape).astype(np.float32), name))
        return name

    def add(self, kind: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node_{name}", **attributes))
        self.values.append((name, shape))

    def step(self, choice: int, pick: int, width: int) -> None:
        name, shape = self.values[pick % len(self.values)]
        if choice == 0:
            self.add("Relu", [name], shape)
        elif choice == 1:
            partners = [other for other, same in self.values if same == shape]
            self.add("Add", [name, partners[width % len(partners)]], shape)
        elif choice == 2 and len(shape) == 1:
            self.add("Gemm", [name, self.weight(width, shape[0]), self.weight(width)], (width,), transB=1)
        elif len(shape) == 1:
            self.add("MatMul", [name, self.weight(shape[0], width)], (width,))
        elif choice == 2:
            weight = self.weight(width, shape[0], 3, 3)
            self.add("Conv", [name, weight], (width, SIDE, SIDE), pads=[1, 1, 1, 1])
        else:
            self.add("Flatten", [name], (shape[0] * SIDE * SIDE,))

    def finish(self) -> ModelGraph:
        """Bring all that nobody used to three values each, and add them up."""
        used = {value for node in self.nodes for value in node.input}
        for name, shape in [(n, s) for n, s in self.values if n not in used]:
            last = name, shape
            if len(shape) > 1:
                self.add("Flatten", [name], (shape[0] * SIDE * SIDE,))
                last = self.values[-1]
            self.add("Gemm", [last[0], self.weight(last[1][0], 3), self.weight(3)], (3,))
        ends = [n for n, s in self.values if n not in {v for node in self.nodes for v in node.input}]
        while len(ends) > 1:
            self.add("Add", [ends.pop(), ends.pop()], (3,))
            ends.append(self.values[-1][0])
        shape = self.values[0][1]
        graph = helper.make_graph(
            self.nodes,
            "dag",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info(ends[0], TensorProto.FLOAT, ["n", 3])],
            self.weights,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        return ModelGraph(proto, "dag", "sha256:" + "0" * 64)


@st.composite
def dags(draw: st.DrawFn) -> ModelGraph:
    dag = Dag(draw(st.integers(0, 2**32)), draw(st.sampled_from([(4,), (2, SIDE, SIDE)])))
    steps = st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(2, 5))
    for choice, pick, width in draw(st.lists(steps, min_size=2, max_size=9)):
        dag.step(choice, pick, width)
    return dag.finish()


def within_layers(graph: ModelGraph) -> set[tuple[str, ...]]:
    """What is made before a position and needed at or after it, for all positions but those before a compute node.

    Less those where a value would cross that no compute layer has touched.
    """
    nodes = list(graph.proto.graph.node)
    raw = {"x"}
    for node in nodes:
        if node.op_type not in COMPUTE and raw.issuperset(node.input):
            raw.add(node.output[0])
    compute = [i for i, node in enumerate(nodes) if node.op_type in COMPUTE]
    found = set()
    for position in set(range(compute[0] + 1, len(nodes))) - set(compute):
        later = [value for node in nodes[position:] for value in node.input]
        crossing = tuple(node.output[0] for node in nodes[:position] if node.output[0] in later)
        if "x" not in later and not raw & set(crossing):
            found.add(crossing)
    return found


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, feed)
    return outputs


def check_cut(graph: ModelGraph, cut: CutSpec, x: np.ndarray) -> None:
    edge, cloud = halves(graph, cut)
    crossing = [tensor.name for tensor in cut.tensors]
    assert [value.name for value in edge.graph.input] == ["x"]
    assert [value.name for value in edge.graph.output] == [value.name for value in cloud.graph.input] == crossing
    assert "x" not in {value for node in cloud.graph.node for value in node.input}
    made = [{value for node in half.graph.node for value in node.output} for half in (edge, cloud)]
    # What both make is made anew in the cloud, of what crosses, and no compute layer is.
    both = [node for node in cloud.graph.node if node.output[0] in made[0]]
    assert not any(node.op_type in COMPUTE for node in both)
    assert not (made[1] - made[0]) & {value for node in edge.graph.node for value in node.input}
    assert any(node.op_type in COMPUTE for node in edge.graph.node)
    activations = run(edge, {"x": x})
    for tensor, value in zip(cut.tensors, activations, strict=True):
        assert value.shape == (len(x), *tensor.shape)
        assert value.nbytes == len(x) * tensor.size_bytes
    whole = run(graph.proto, {"x": x})[0]
    got = run(cloud, dict(zip(crossing, activations, strict=True)))[0]
    np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(whole).max())))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(dags(), st.integers(1, 4), st.booleans())
def test_every_cut_of_any_graph(graph: ModelGraph, batch: int, any_cut: bool) -> None:
    cuts = list(graph.cuts(any_cut=any_cut))
    crossing = {aligned: {tuple(t.name for t in c.tensors) for c in cuts if c.aligned == aligned} for aligned in (0, 1)}
    assert crossing[False] == (within_layers(graph) - crossing[True] if any_cut else set())
    assert [cut for cut in cuts if cut.aligned] == list(graph.cuts())
    assert len({cut.name for cut in cuts}) == len(cuts)
    assert [cut.depth for cut in cuts] == sorted(cut.depth for cut in cuts)
    x = np.random.default_rng(batch).standard_normal((batch, *graph.inputs[0].shape)).astype(np.float32)
    for cut in cuts:
        check_cut(graph, cut, x)


def test_residual_graph_sends_several_tensors() -> None:
    """Dense connections: behind the third product all three results are still needed."""
    dag = Dag(0, (4,))
    for product in range(3):
        dag.add("MatMul", [dag.values[-1][0], dag.weight(4, 4)], (4,))
        dag.add("Relu", [f"v{2 * product}"], (4,))
    dag.add("MatMul", ["v5", dag.weight(4, 4)], (4,))
    dag.add("Add", ["v6", "v1"], (4,))
    dag.add("Add", ["v7", "v3"], (4,))
    graph = dag.finish()
    cuts = list(graph.cuts())
    assert [[t.name for t in cut.tensors] for cut in cuts] == [["v1"], ["v1", "v3"], ["v1", "v3", "v5"], ["v8"]]
    assert [cut.elements for cut in cuts] == [4, 8, 12, 4]
    for cut in cuts:
        check_cut(graph, cut, np.ones((2, 4), np.float32))
        edge, cloud = halves(graph, cut)
        whole = graph.whole().SerializeToString()
        check_split(whole, edge.SerializeToString(), cloud.SerializeToString(), cut.name)
