"""Every set of layers of random graphs: which can be an edge partition, what crosses, and what the halves compute.

The oracle here knows nodes alone: an edge partition is legal where no node of the cloud feeds one of the edge, the raw
input and what is made of it alone stay, every output is made in the cloud, and something is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecut.errors import ModelError
from edgecut.models.cuts import WEIGHT_BYTES, cut_of, edge_memory_bytes, legal
from edgecut.models.graph import COMPUTE, ModelGraph
from edgecut.models.load import load_model
from edgecut.models.spec import CutSpec, ModelSpec
from edgecut.models.split import check_halves, check_split, halves, reference_runs

SIDE = 2
MOST_LAYERS = 14
Shape = tuple[int, ...]


class Dag:
    """Nodes added one by one to values of shape [batch, c] or [batch, c, 2, 2], which any later node may take."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.generator = np.random.default_rng(seed)
        self.values: list[tuple[str, Shape]] = [("x", shape)]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scaled = self.generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        self.weights.append(numpy_helper.from_array(scaled.astype(np.float32), name))
        return name

    def add(self, kind: str, inputs: Iterable[str], shape: Shape, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes))
        self.values.append((name, shape))
        return name

    def compute(self, name: str, shape: Shape, width: int) -> str:
        if len(shape) == 1:
            return self.add("Gemm", [name, self.weight(width, shape[0]), self.weight(width)], (width,), transB=1)
        weight = self.weight(width, shape[0], 3, 3)
        return self.add("Conv", [name, weight], (width, *shape[1:]), pads=[1, 1, 1, 1])

    def step(self, kind: str, back: int, other: int, width: int) -> None:
        name, shape = self.values[-1 - back % len(self.values)]
        partners = [value for value, same in self.values if same == shape]
        partner = partners[other % len(partners)]
        if kind == "Compute":
            self.compute(name, shape, width)
        elif kind == "Add":
            self.add("Add", [name, partner], shape)
        elif kind == "Concat":
            self.add("Concat", [name, partner], (2 * shape[0], *shape[1:]), axis=1)
        elif kind == "MaxPool" and len(shape) == 3:
            self.add("MaxPool", [name], shape, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif kind == "ReduceMax" and len(shape) == 3:  # smaller than what it is made of
            self.add("GlobalMaxPool", [name], (shape[0], 1, 1))
        else:
            self.add("Relu", [name], shape)

    def finish(self) -> ModelGraph:
        """Add up all that nobody used, each behind a product of its own."""
        ends = []
        used = {value for node in self.nodes for value in node.input}
        for name, shape in [(n, s) for n, s in self.values if n not in used]:
            flat = self.add("Flatten", [name], (int(np.prod(shape)),)) if len(shape) > 1 else name
            ends.append(self.compute(flat, (int(np.prod(shape)),), 3))
        for end in ends[1:]:
            ends[0] = self.add("Add", [ends[0], end], (3,))
        return self.graph(ends[0], 3)

    def graph(self, output: str, width: int) -> ModelGraph:
        graph = helper.make_graph(
            self.nodes,
            "dag",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *self.values[0][1]])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
            self.weights,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        return ModelGraph(proto, "dag", "sha256:" + "0" * 64)


@st.composite
def dags(draw: st.DrawFn) -> ModelGraph:
    dag = Dag(draw(st.integers(0, 2**32)), draw(st.sampled_from([(3,), (2, SIDE, SIDE)])))
    kinds = st.sampled_from(["Compute", "Compute", "Add", "Concat", "MaxPool", "Relu", "ReduceMax"])
    steps = st.tuples(kinds, st.integers(0, 3), st.integers(0, 9), st.integers(1, 3))
    for kind, back, other, width in draw(st.lists(steps, min_size=3, max_size=16)):
        dag.step(kind, back, other, width)
    graph = dag.finish()
    assume(len(graph.compute) <= MOST_LAYERS)
    return graph


def subsets(count: int) -> Iterator[tuple[int, ...]]:
    for size in range(count + 1):
        yield from itertools.combinations(range(count), size)


class Oracle:
    """The nodes of a graph with single outputs and a single input `x`, and which belong to which layer."""

    def __init__(self, graph: ModelGraph) -> None:
        self.nodes, self.owners = graph.nodes, graph.owners
        self.weights = set(graph.initializers)
        self.output = graph.outputs[0].name
        self.makers = {node.output[0]: node for node in self.nodes}
        self.raw = {"x"}
        for node in self.nodes:
            if node.op_type not in COMPUTE and self.raw.issuperset(self.given(node)):
                self.raw.add(node.output[0])

    def given(self, node: onnx.NodeProto) -> list[str]:
        return [value for value in node.input if value not in self.weights]

    def sent(self, layers: Iterable[int]) -> list[str] | None:
        """What crosses where these layers run on the edge; None where they cannot."""
        edge = set(layers)
        here = [node.output[0] for node, owner in zip(self.nodes, self.owners, strict=True) if owner in edge]
        there = [node for node, owner in zip(self.nodes, self.owners, strict=True) if owner not in edge]
        needed = {value for node in there for value in self.given(node)}
        flows_back = any(
            value not in here and value != "x"
            for node, owner in zip(self.nodes, self.owners, strict=True)
            if owner in edge
            for value in self.given(node)
        )
        if flows_back or needed & self.raw or self.output in here:
            return None
        cross = needed.intersection(here)

        def anew(value: str) -> bool:
            node = self.makers.get(value)
            if node is None or node.op_type in COMPUTE or value in self.raw:
                return False
            return all(given in cross or anew(given) for given in self.given(node))

        return [value for value in here if value in cross and not anew(value)] or None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(dags())
def test_legal_is_what_the_oracle_says(graph: ModelGraph) -> None:
    spec, oracle, names = graph.spec(), Oracle(graph), set()
    assert spec.graph is not None
    for layers in subsets(len(spec.layers)):
        expected = oracle.sent(layers)
        assert legal(spec.graph, layers) == (expected is not None), layers
        if expected is None:
            with pytest.raises(ModelError, match="cannot be cut"):
                cut_of(spec, layers)
            continue
        cut = cut_of(spec, layers)
        assert sorted(tensor.name for tensor in cut.tensors) == sorted(expected)
        assert cut.on_edge == layers and cut.depth == len(layers) and cut.aligned
        assert cut.name not in names
        names.add(cut.name)
        assert edge_memory_bytes(spec, cut) == memory(graph, spec, cut)
    prefixes = [range(depth) for depth in range(1, len(spec.layers))]
    assert [cut.on_edge for cut in spec.cuts] == [tuple(p) for p in prefixes if oracle.sent(p) is not None]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(dags())
def test_a_node_is_in_the_latest_layer_it_needs_or_in_the_only_one_that_needs_it(graph: ModelGraph) -> None:
    made = {node.output[0]: owner for node, owner in zip(graph.nodes, graph.owners, strict=True)}
    for index, (node, owner) in enumerate(zip(graph.nodes, graph.owners, strict=True)):
        latest = max((made.get(value, 0) for value in node.input), default=0)
        if index in graph.compute:
            assert graph.compute[owner] == index
            assert latest <= owner
        elif owner != latest:
            assert owner > latest
            assert {made[n.output[0]] for n in graph.nodes if node.output[0] in n.input} == {owner}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(dags(), st.randoms(use_true_random=False))
def test_both_halves_are_the_whole_at_every_legal_cut(graph: ModelGraph, random: Any) -> None:
    spec = graph.spec()
    assert spec.graph is not None
    sets = [layers for layers in subsets(len(spec.layers)) if legal(spec.graph, layers)]
    runs = reference_runs(graph.whole().SerializeToString(), "dag")
    for layers in sets if len(sets) <= 24 else random.sample(sets, 24):
        check_pair(graph, cut_of(spec, layers), runs)


def check_pair(graph: ModelGraph, cut: CutSpec, runs: Any) -> None:
    edge, cloud = halves(graph, cut)
    owners = {node.output[0]: owner for node, owner in zip(graph.nodes, graph.owners, strict=True)}
    sides = [{v for node in half.graph.node if node.op_type in COMPUTE for v in node.output} for half in (edge, cloud)]
    assert {owners[value] for value in sides[0]} <= set(cut.on_edge)
    assert not {owners[value] for value in sides[1]} & set(cut.on_edge)
    assert "x" not in {value for node in cloud.graph.node for value in node.input}
    assert [value.name for value in edge.graph.output] == [tensor.name for tensor in cut.tensors]
    check_halves(runs, edge.SerializeToString(), cloud.SerializeToString(), cut.name)
    assert graph.check_cut(cut) == cut


def memory(graph: ModelGraph, spec: ModelSpec, cut: CutSpec) -> int:
    """Weights, and the most bytes alive at a node of the edge, all of its layers' nodes run one layer after another.

    Forms of the raw input that are needed are there from the start; what crosses stays to the end.
    """
    edge = set(cut.on_edge)
    order = sorted((owner, index) for index, owner in enumerate(graph.owners) if owner in edge)
    nodes = [graph.nodes[index] for _, index in order]
    sent = {tensor.name for tensor in cut.tensors}
    alive_from: dict[str, int] = {}
    alive_to: dict[str, int] = {}
    owner_of = {node.output[0]: owner for node, owner in zip(graph.nodes, graph.owners, strict=True)}
    needed_later = {
        value for n, owner in zip(graph.nodes, graph.owners, strict=True) for value in n.input
        if value in owner_of and owner_of[value] != owner
    }  # fmt: skip
    ends = {owner: max(step for step, (layer, _) in enumerate(order) if layer == owner) for owner in edge}
    everybody = {value for node in graph.nodes for value in node.input}
    for value in graph.untouched & everybody:
        alive_from[value] = 0
    for step, node in enumerate(nodes):
        value = node.output[0]
        if value not in graph.untouched:
            alive_from[value] = step
            # A tensor for another layer is kept until its own is done.
            alive_to[value] = ends[owner_of[value]] if value in needed_later else step
        for given_value in node.input:
            if given_value in alive_from:
                # A layer's inputs are there until all of it has run.
                other = given_value in graph.untouched or owner_of[given_value] != owner_of[value]
                end = ends[owner_of[value]] if other else step
                alive_to[given_value] = max(alive_to.get(given_value, 0), end)
    alive_to.update((value, len(nodes)) for value in sent)
    size = {value: graph.tensors[value].size_bytes for value in alive_from}
    most = max(
        sum(size[v] for v in alive_from if alive_from[v] <= step <= alive_to.get(v, -1)) for step in range(len(nodes))
    )
    used = {value for node in nodes for value in node.input if value in graph.initializers}
    weights = sum(int(np.prod(graph.initializers[value].dims)) for value in used)
    return WEIGHT_BYTES * weights + max(most, cut.size_bytes)


def inception() -> ModelGraph:
    """A product, three branches of it (one pooled first), joined, and a residual sum behind: 7 layers."""
    dag = Dag(0, (2, SIDE, SIDE))
    stem = dag.add("Relu", [dag.compute("x", (2, SIDE, SIDE), 3)], (3, SIDE, SIDE))
    pooled = dag.add("MaxPool", [stem], (3, SIDE, SIDE), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    parts = [dag.compute(value, (3, SIDE, SIDE), 2) for value in (stem, stem, pooled)]
    joined = dag.add("Concat", parts, (6, SIDE, SIDE), axis=1)
    inner = dag.add("Relu", [dag.compute(joined, (6, SIDE, SIDE), 6)], (6, SIDE, SIDE))
    total = dag.add("Add", [dag.compute(inner, (6, SIDE, SIDE), 6), joined], (6, SIDE, SIDE))
    flat = dag.add("Flatten", [total], (6 * SIDE * SIDE,))
    return dag.graph(dag.compute(flat, (6 * SIDE * SIDE,), 3), 3)


def test_an_inception_module_by_hand() -> None:
    """What is pooled for a branch is not sent beside what it is pooled from."""
    graph = inception()
    spec = graph.spec()
    assert [[t.name for t in cut.tensors] for cut in spec.cuts] == [
        ["v1"],
        ["v1", "v3"],
        ["v1", "v3", "v4"],
        ["v6"],
        ["v6", "v8"],
        ["v11"],
    ]
    assert cut_of(spec, (0, 1)) == spec.cuts[1]
    second = cut_of(spec, (0, 2))
    assert [tensor.name for tensor in second.tensors] == ["v1", "v4"]
    assert (second.name, second.layers, second.depth) == (f"{{{spec.layers[2].name}}}", (0, 2), 2)
    assert spec.graph is not None
    # The join belongs to the last branch, and needs the others.
    assert not any(legal(spec.graph, layers) for layers in ((0, 3), (0, 1, 3), (1,), (), range(7)))


def test_tampered_cuts_are_refused() -> None:
    graph = inception()
    spec = graph.spec()
    good = cut_of(spec, (0, 2))
    assert graph.check_cut(good) == good
    raw = spec.input
    for change in (
        {"tensors": good.tensors[:-1]},
        {"tensors": (*good.tensors, raw)},
        {"tensors": (raw,)},
        {"tensors": good.tensors[::-1]},
        {"tensors": tuple(t.model_copy(update={"shape": (1,)}) for t in good.tensors)},
        *({"layers": layers} for layers in ((0, 1), (0, 1, 2), (2,), (), (0, 2, 6), (0, 2, 99), (0, 2, -1), (2, 0))),
        {"layers": (0, 0, 2)},
        {"layers": None},
        {"depth": 3},
        {"aligned": False},
        {"name": "another"},
    ):
        with pytest.raises(ModelError):
            graph.check_cut(good.model_copy(update=change))
    listed = spec.cuts[2]
    with pytest.raises(ModelError, match="profile and plan it again"):
        graph.check_cut(listed.model_copy(update={"tensors": (raw,)}))


def closed(spec: ModelSpec, wanted: Iterable[str]) -> tuple[int, ...]:
    """The layers called `wanted` and all that they need."""
    assert spec.graph is not None
    places = {place for place, layer in enumerate(spec.layers) if layer.name in wanted} | set(spec.graph.first)
    before = -1
    while before != len(places):
        before = len(places)
        for value in spec.graph.values:
            if value.layer is not None and places.intersection(value.consumers):
                places.add(value.layer)
    return tuple(sorted(places))


@pytest.mark.parametrize(
    ("network", "ends", "elements"),
    [
        # Two of four branches of a module, beside the module's input, which feeds the other two.
        ("googlenet", ["inception3a.branch1.conv", "inception3a.branch3.conv"], 28 * 28 * (192 + 64 + 32)),
        ("resnet18", ["layer2.0.conv1"], 64 * 56 * 56 + 128 * 28 * 28),  # in a block, and what passes by it
        ("transformer_encoder", ["layers.1.attention.query", "layers.1.attention.value"], 3 * 128 * 128),
    ],
)
def test_a_cut_inside_a_block_of_a_real_network(network: str, ends: list[str], elements: int) -> None:
    model = load_model(network)
    assert set(ends) <= {layer.name for layer in model.spec.layers}
    cut = model.graph.check_cut(cut_of(model.spec, closed(model.spec, ends)))
    assert (cut.layers is None) == (network == "resnet18")
    assert cut.elements == elements
    edge, cloud = halves(model.graph, cut)
    check_split(model.path, edge.SerializeToString(), cloud.SerializeToString(), cut.name)


def test_what_chance_has_a_part_in_is_never_made_anew() -> None:
    """Made in both halves it would be two different tensors."""
    dag = Dag(0, (3,))
    first = dag.compute("x", (3,), 3)
    chance = dag.add("RandomNormalLike", [first], (3,))
    second = dag.add("Add", [dag.compute(first, (3,), 3), chance], (3,))
    graph = dag.graph(dag.compute(second, (3,), 3), 3)
    assert [[tensor.name for tensor in cut.tensors] for cut in graph.cuts()] == [[first, chance], [second]]


def test_a_dense_block_sends_each_result_once() -> None:
    """Every product takes all results so far, joined: what is joined of them is not sent beside them."""
    dag = Dag(0, (3,))
    results = [dag.compute("x", (3,), 2)]
    for _ in range(3):
        taken = results[0]
        if len(results) > 1:
            taken = dag.add("Concat", results, (2 * len(results),), axis=1)
        results.append(dag.add("Relu", [dag.compute(taken, (2 * len(results),), 2)], (2,)))
    joined = dag.add("Concat", results, (8,), axis=1)
    graph = dag.graph(dag.compute(joined, (8,), 3), 3)
    spec = graph.spec()
    assert [cut.elements for cut in spec.cuts] == [2, 4, 6, 8]
    runs = reference_runs(graph.whole().SerializeToString(), "dense")
    for cut in spec.cuts:
        check_pair(graph, cut, runs)
