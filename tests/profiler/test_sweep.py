"""The plan of a sweep and how it is timed: on a made-up backend whose layer times are known, and once for real."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgecut.agent.backends import Runner, Settings, load_backend
from edgecut.profiler import sweep as sweeping
from edgecut.profiler.chains import MAX_LAYER_FLOPS, MAX_PARAMETERS, chain_feed, chain_model, chain_plan, layer_of_node
from edgecut.profiler.sweep import sweep

PLAN = list(itertools.islice(chain_plan(), 64))
RUN_S = 1e-4


class Fixed(Runner):
    """Says that it took so long, and takes no time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self) -> float:
        return self.seconds

    def close(self) -> None:
        pass


def node_seconds(model: onnx.ModelProto) -> list[tuple[str, float]]:
    """Each node of the k-th layer takes (k + 1) * 10 us, a Relu nothing; the runtime adds a node of its own."""
    nodes = [
        (node.name, 1e-5 * (1 + (layer_of_node(node.name) or 0))) for node in model.graph.node if node.op_type != "Relu"
    ]
    return [*nodes, ("ReorderOutput", 1e-6)]


class Stub:
    """A backend with layer times, which its profiler makes twice as long as they are."""

    def open_runner(self, path: str, feed: dict[str, Any], settings: Settings) -> Fixed:
        model = onnx.load(path)
        empty = [node.op_type for node in model.graph.node] == ["Softmax"]
        return Fixed(RUN_S + (0 if empty else sum(seconds for _, seconds in self.run_nodes(model))))

    def run_nodes(self, model: onnx.ModelProto) -> list[tuple[str, float]]:
        return node_seconds(model)

    def layer_times(self, path: str, feed: dict[str, Any], settings: Settings) -> list[tuple[str, float]]:
        return [(name, 2 * seconds) for name, seconds in node_seconds(onnx.load(path))]


class Plain(Stub):
    """A backend without layer times."""

    layer_times = None

    def run_nodes(self, model: onnx.ModelProto) -> list[tuple[str, float]]:
        return [(name, seconds) for name, seconds in node_seconds(model) if layer_of_node(name) is not None]


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time what the stub says it took."""

    class Samples:
        def __init__(self, seconds: float) -> None:
            self.rounds = [[seconds]]

    class Result:
        def __init__(self, tasks: dict[str, Any]) -> None:
            self.samples = {name: Samples(task()) for name, task in tasks.items()}

    monkeypatch.setattr(sweeping, "measure", lambda tasks, **_: Result(tasks))


def test_plan_is_the_same_from_any_place() -> None:
    assert list(itertools.islice(chain_plan(5), 10)) == PLAN[5:15]


def test_any_first_part_of_the_plan_covers_kinds_and_sizes() -> None:
    for part in (PLAN[:32], PLAN[32:]):
        layers = [layer for chain in part for layer in chain.layers]
        assert {layer.kind for layer in layers} >= {
            "conv",
            "depthwise_conv",
            "linear",
            "maxpool",
            "avgpool",
            "batchnorm",
        }
        convolutions = [layer for layer in layers if layer.kind == "conv"]
        assert {layer.kernel for layer in convolutions} >= {1, 3, 5} and {layer.stride for layer in convolutions} >= {
            1,
            2,
        }
        work = [layer.row(1.0).operation().flops for layer in convolutions]
        assert min(work) < 1e6 and max(work) > 5e8
        assert max(work) <= 1.5 * MAX_LAYER_FLOPS
        assert max(chain.parameters for chain in part) <= 1.3 * MAX_PARAMETERS


def test_models_have_the_layers_they_say() -> None:
    """Shapes by onnx's own inference, independent of the plan's arithmetic."""
    for chain in PLAN[:24]:
        if chain.parameters > 5e6:
            continue
        model = onnx.load_from_string(chain_model(chain))
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        sizes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
        }
        for place, layer in enumerate(chain.layers[:-1]):
            shape = sizes[f"layer{place}_"]
            assert shape[1] == layer.out_channels or layer.kind == "movement"
            if len(shape) == 4:
                assert shape[2] == layer.output_hw
        assert (
            list(chain_feed(chain)["x"].shape)[1:]
            == [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
        )


def test_owners_of_nodes_by_name() -> None:
    names = ["layer3_", "layer12__nchwc", "fused layer4_", "layer5_relu", "ReorderOutput"]
    assert [layer_of_node(name) for name in names] == [3, 12, 4, 5, None]


@pytest.mark.parametrize("backend", [Stub(), Plain()], ids=["layer times", "prefixes"])
def test_layers_sum_to_the_chain_less_a_run(backend: Any, own_clock: None) -> None:
    if isinstance(backend, Plain):
        assert backend.layer_times is None
    made = sweep(backend, Settings(), budget_s=1e-9, pause_s=0.0)
    assert made.run_s == pytest.approx(RUN_S) and not made.interrupted
    assert [chain.index for chain in made.chains] == [0, 1, 2]
    for chain in made.chains:
        layers = PLAN[chain.index].layers
        assert len(chain.rows) == len(layers)
        for place, row in enumerate(chain.rows):
            assert row.kind == layers[place].kind and row.out_channels == layers[place].out_channels
            assert row.latency_s == pytest.approx(1e-5 * (1 + place), rel=1e-6)
        # The node that the runtime added is no layer's.
        added_s = 0.0 if isinstance(backend, Plain) else 1e-6
        assert sum(row.latency_s for row in chain.rows) == pytest.approx(chain.whole_s - RUN_S - added_s)


def test_interruption_keeps_what_was_timed(own_clock: None) -> None:
    told: list[str] = []

    def tell(what: str, share: float) -> None:
        told.append(what)
        if len(told) == 2:
            raise KeyboardInterrupt

    made = sweep(Stub(), Settings(), budget_s=1e9, pause_s=0.0, start=10, progress=tell)
    assert made.interrupted
    assert [chain.index for chain in made.chains] == [10, 11, 12, 13, 14, 15]


def test_chains_too_large_for_memory_are_passed_over(own_clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 4e7

    monkeypatch.setattr(sweeping.psutil, "virtual_memory", Memory)
    made = sweep(Stub(), Settings(), budget_s=1e-9, pause_s=0.0)
    fitting = [chain.index for chain in PLAN if chain.parameters * 4 * 8 <= 4e7][:3]
    assert [chain.index for chain in made.chains] == fitting != [0, 1, 2]


def test_a_real_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group on ONNX Runtime: every row is positive, and layers sum to no more than the chain."""
    monkeypatch.setattr(sweeping, "CHAIN_SECONDS", 0.1)
    monkeypatch.setattr(
        sweeping, "_fits", lambda chain: sum(layer.row(1).operation().flops for layer in chain.layers) < 2e7
    )
    made = sweep(load_backend("onnxruntime-cpu"), Settings(threads=1), budget_s=0.01, pause_s=0.0)
    assert len(made.chains) == 3 and made.run_s > 0
    for chain in made.chains:
        assert chain.rows and all(row.latency_s > 0 for row in chain.rows)
        total = sum(row.latency_s for row in chain.rows)
        # What the runtime puts around the chain belongs to none of its layers.
        assert 0 < total <= max(0.0, chain.whole_s - made.run_s) * (1 + 1e-6)
