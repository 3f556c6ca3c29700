"""A linear autoencoder as ordinary layers of a network: its encoder ends the edge partition, its decoder starts the
cloud's.

It starts as the best linear one there is, the principal components of the cut's activations, scaled so that the mean
squared distance of two items' codes is 2. The new layers are called `bottleneck` and `decoder`, and the cut after the
first of them sends the code alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ...errors import ModelError
from ...models.graph import ModelGraph
from ...models.spec import CutSpec
from ...models.split import partitions

Floats = npt.NDArray[np.float32]
CODE, DECODED = "bottleneck", "decoder"
SUFFIX = "_decoded"


@dataclass(frozen=True)
class Autoencoder:
    """code = activation @ encoder.T + shift; activation = code @ decoder.T + mean."""

    encoder: Floats
    shift: Floats
    decoder: Floats
    mean: Floats


def principal(activations: Floats, values: int) -> Autoencoder:
    """From flat activations [items, n] to at most `values` codes; fewer where the activations have fewer directions."""
    mean = activations.mean(0, dtype=np.float64)
    centred = activations - mean
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    kept = min(values, int((sizes > 1e-6 * max(float(sizes[0]), 1e-30)).sum()))
    if kept == 0:
        raise ModelError("the activation at the cut is the same for every item, so there is nothing to encode")
    scale = float(np.sqrt((sizes[:kept] ** 2).sum() / len(activations)))
    found = directions[:kept]
    encoder = found / scale
    parts = (encoder, -encoder @ mean, found.T * scale, mean)
    return Autoencoder(*(np.ascontiguousarray(part, np.float32) for part in parts))


def inserted(graph: ModelGraph, cut: CutSpec, made: Autoencoder) -> onnx.ModelProto:
    """The model with the autoencoder at a cut of one tensor. Raises ModelError where several cross, or it has one."""
    if len(cut.tensors) != 1:
        raise ModelError(
            f"{len(cut.tensors)} tensors cross after {cut.name}, and the autoencoder takes one; choose another cut"
        )
    tensor = cut.tensors[0]
    proto = graph.whole()
    taken = {tensor.name for tensor in proto.graph.initializer} | {v for n in proto.graph.node for v in n.output}
    if taken & {CODE, DECODED}:
        raise ModelError(f"{graph.name} has a layer called {CODE} or {DECODED} already; retrain the original network")
    cloud = {value for node in partitions(graph, cut)[1].graph.node for value in node.output}
    behind = [node for node in proto.graph.node if set(node.output) & cloud and tensor.name in node.input]
    for node in behind:
        node.input[:] = [f"{tensor.name}{SUFFIX}" if value == tensor.name else value for value in node.input]
    weights: dict[str, npt.NDArray[Any]] = {
        f"{CODE}.weight": made.encoder,
        f"{CODE}.bias": made.shift,
        f"{DECODED}.weight": made.decoder,
        f"{DECODED}.bias": made.mean,
        f"{DECODED}.shape": np.array([-1, *tensor.shape], np.int64),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    _insert(proto, _nodes(tensor.name), behind[0])
    return proto


def _nodes(source: str) -> list[onnx.NodeProto]:
    flat, target = f"{source}_flat", f"{source}{SUFFIX}"
    return [
        helper.make_node("Flatten", [source], [flat], name=flat, axis=1),
        helper.make_node("Gemm", [flat, f"{CODE}.weight", f"{CODE}.bias"], [CODE], name=CODE, transB=1),
        helper.make_node("Gemm", [CODE, f"{DECODED}.weight", f"{DECODED}.bias"], [DECODED], name=DECODED, transB=1),
        helper.make_node("Reshape", [DECODED, f"{DECODED}.shape"], [target], name=target),
    ]


def _insert(proto: onnx.ModelProto, nodes: list[onnx.NodeProto], before: onnx.NodeProto) -> None:
    """Put nodes where the first one that needs them is, which is behind everything that they need."""
    place = next(i for i, node in enumerate(proto.graph.node) if node.output[0] == before.output[0])
    order = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([*order[:place], *nodes, *order[place:]])
