"""How long it takes to find the cheapest cuts of a network, and how that grows with its layers and branches.

Networks of the catalogue, on predicted devices (a TX2 and a Titan Xp), and made-up ones of 100 to 1,000 layers: a chain
of residual blocks, inception modules and dense blocks, and thirty parallel branches, the kind with the most cuts. The
baseline, in the first of the same turns, is to enumerate all cuts and sort them by cost; `cuts` is None where there are
more than `MOST`. `plan` is the whole of `edgecut plan`, for medians; `branching` finds the K best by minimum cuts, up
to `MOST_BRANCHED` layers. Seconds are the median of the turns, `spread_s` the 10th and the 90th percentile.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import write_result

from edgecut.models.load import load_model
from edgecut.models.spec import LayerGraph, LayerSpec, ModelSpec, TensorSpec, Value
from edgecut.partitioner.candidates import additive_weights, candidates
from edgecut.partitioner.choose import plan
from edgecut.partitioner.link import PRESETS
from edgecut.partitioner.mincut import cost_of, enumerate_cuts, k_best, min_cut
from edgecut.profiler.predicted import predict_profile
from edgecut.profiler.profile import Profile

NETWORKS = ("lenet5", "alexnet", "resnet18", "googlenet", "resnet50", "mobilenet_v2")
EDGE, CLOUD = "jetson-tx2:maxn", "titan-xp"
SIZES = (100, 300, 1000)
BRANCHES = 30
MOST = 20_000
K = 8
TURNS, BASELINE_TURNS = 9, 3
MOST_BRANCHED = 300


class Builder:
    """Layers added one after the other, each with the layers it takes its input from."""

    def __init__(self) -> None:
        self.needs: list[list[int]] = [[]]

    def layer(self, *needs: int) -> int:
        """A new layer that needs these."""
        self.needs.append(list(needs))
        return len(self.needs) - 1

    def residual(self, start: int) -> int:
        """Two layers, and a third that takes the second's output and the block's input."""
        return self.layer(self.layer(self.layer(start)), start)

    def inception(self, start: int) -> int:
        """Four branches of one or two layers, joined by the next layer."""
        ends = [self.layer(start), *(self.layer(self.layer(start)) for _ in range(3))]
        return self.layer(*ends)

    def dense(self, start: int) -> int:
        """Six layers, each of which takes the outputs of all before it."""
        made = [start]
        for _ in range(6):
            made.append(self.layer(*made))
        return made[-1]

    def graph(self, seed: int = 0) -> LayerGraph:
        """The network with tensors of random sizes."""
        pick = random.Random(seed)
        takers: list[list[int]] = [[] for _ in self.needs]
        for place, needs in enumerate(self.needs):
            for need in needs:
                takers[need].append(place)
        values = [Value(tensor=tensor("input", 150_528), layer=None, consumers=(0,), sendable=False)]
        for place, taken in enumerate(takers[:-1]):
            size = int(10 ** pick.uniform(3, 5.5))
            values.append(Value(tensor=tensor(f"v{place}", size), layer=place, consumers=tuple(taken), sendable=True))
        return LayerGraph(values=tuple(values), first=(0,), last=(len(takers) - 1,))


def tensor(name: str, elements: int) -> TensorSpec:
    """A float32 vector."""
    return TensorSpec(name=name, dtype="float32", shape=(elements,))


def blocks(count: int) -> LayerGraph:
    """Residual, inception and dense blocks in turn, up to about `count` layers."""
    made, end = Builder(), 0
    for block in itertools.cycle((made.residual, made.inception, made.dense)):
        if len(made.needs) >= count - 8:
            made.layer(end)
            return made.graph()
        end = block(end)
    raise AssertionError


def branches(count: int) -> LayerGraph:
    """Thirty chains between a first and a last layer."""
    made = Builder()
    ends = [0] * BRANCHES
    while len(made.needs) < count - BRANCHES:
        ends = [made.layer(end) for end in ends]
    made.layer(*ends)
    return made.graph()


def synthetic(graph: LayerGraph, seed: int) -> tuple[Profile, Profile]:
    """Profiles of a network without weights: any profile's form, with random layer times."""
    pick = random.Random(seed)
    small = load_model("lenet5").spec
    count = max(graph.last) + 1
    layers = tuple(
        LayerSpec(name=f"l{place}", kind="Conv", operators=(), output=tensor("", 1), parameters=0, work=())
        for place in range(count)
    )
    spec = ModelSpec(
        name="synthetic", digest="", inputs=small.inputs, outputs=small.outputs, layers=layers, cuts=(), graph=graph
    )
    found = []
    for device, scale in ((EDGE, 1e-3), (CLOUD, 5e-5)):
        form = predict_profile(small, device, runtime=None, precision="float32")
        timed = tuple(
            form.layers[0].model_copy(update={"name": layer.name, "latency_s": scale * pick.uniform(0.1, 2)})
            for layer in layers
        )
        total = sum(layer.latency_s or 0.0 for layer in timed)
        whole = form.whole.model_copy(update={"median_s": total})
        found.append(form.model_copy(update={"model": spec, "layers": timed, "cuts": (), "whole": whole}))
    return found[0], found[1]


def measured(edge: Profile, cloud: Profile) -> dict[str, Any]:
    """All ways to find cuts, in turns."""
    graph, link = edge.model.graph, PRESETS["wifi"]
    assert graph is not None
    weights = additive_weights(edge, cloud, link)
    every = enumerate_cuts(graph, MOST)

    def exhaustive() -> list[float]:
        return sorted(cost_of(graph, weights, layers) for layers in enumerate_cuts(graph, MOST) or ())[:K]

    ways: dict[str, Callable[[], Any]] = {
        "min_cut": lambda: min_cut(graph, weights),
        "k_best": lambda: k_best(graph, weights, K),
        "candidates": lambda: candidates(edge, cloud, link, k=K),
        "plan": lambda: plan(edge, cloud, link=link),
    }
    if len(edge.layers) <= MOST_BRANCHED:
        ways["branching"] = lambda: k_best(graph, weights, K, limit=0)
    if every is not None:
        ways["exhaustive"] = exhaustive
        best = [cost for cost, _ in k_best(graph, weights, K)]
        np.testing.assert_allclose(best, exhaustive(), rtol=1e-12, err_msg="the two ways disagree")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name, way in ways.items():
            if name == "exhaustive" and turn >= BASELINE_TURNS:
                continue
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {
        "layers": len(edge.layers),
        "values": len(graph.values),
        "cuts": None if every is None else len(every),
        "median_s": {name: float(np.median(taken)) for name, taken in seconds.items()},
        "spread_s": {name: np.percentile(taken, [10, 90]).tolist() for name, taken in seconds.items()},
    }


def main() -> None:
    """Measure the networks named, or all of them."""
    result: dict[str, Any] = {}
    for name in sys.argv[1:] or NETWORKS:
        spec = load_model(name).spec
        # Nothing timed: the profiles' own cuts would only be left out again.
        pair = [predict_profile(spec, device, runtime=None, precision="float32") for device in (EDGE, CLOUD)]
        edge, cloud = (profile.model_copy(update={"cuts": ()}) for profile in pair)
        result[name] = measured(edge, cloud)
        print(name, result[name]["median_s"], flush=True)
    for size in () if sys.argv[1:] else SIZES:
        for kind, build in (("blocks", blocks), ("branches", branches)):
            result[f"{kind}-{size}"] = measured(*synthetic(build(size), size))
            print(kind, size, result[f"{kind}-{size}"]["median_s"], flush=True)
    write_result(
        "planning",
        {"k": K, "turns": TURNS, "baseline_turns": BASELINE_TURNS, "most_enumerated": MOST, "networks": result},
    )


if __name__ == "__main__":
    main()
