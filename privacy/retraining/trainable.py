"""An ONNX network whose weights can be trained: a torch function of its input and its weights, and the way back.

What is trained are the weights and offsets of products, convolutions and normalisations, and tables that are looked up
in. Running means of normalisations, and numbers that a graph computes with, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import fx

from ...artefacts import digest
from ...errors import ModelError
from ...models.from_onnx import convert
from ...models.graph import ModelGraph
from ...models.session import open_session, random_feed
from ...models.spec import CutSpec
from ...models.split import partitions, whole

WEIGHTS = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "Gather": (0,),
}
"""The places of inputs that are trained where they are stored in the file."""
TOLERANCE = 1e-4


@dataclass
class Network:
    """`weights` by name, free; of the graph's `parameters`, so many are on the `edge`."""

    graph: ModelGraph
    cut: CutSpec
    weights: dict[str, torch.Tensor]
    parameters: int
    edge: int
    _module: fx.GraphModule

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [batch, classes], and the cut's activations, flat [batch, n]."""
        logits, *sent = self._module(inputs, *self.weights.values())
        return logits, torch.cat([part.flatten(1) for part in sent], dim=1)


def network(graph: ModelGraph, cut: CutSpec) -> Network:
    """The network as it is stored, ready to be trained. Raises ModelError where torch cannot run it."""
    spec = graph.spec()
    if len(spec.inputs) != 1:
        raise ModelError(f"{graph.name} has {len(spec.inputs)} inputs, and only networks with one can be retrained")
    _ = spec.output  # of several outputs none is the logits
    proto = graph.weights.embed(whole(graph))
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    names = trained_names(proto)
    if not names:
        raise ModelError(f"{graph.name} stores no weights that can be trained; export it again in float32")
    weights = {name: torch.from_numpy(np.array(numpy_helper.to_array(stored[name]))) for name in names}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.graph.input.extend(_value(name, tuple(weights[name].shape)) for name in names)
    proto.graph.output.extend(_value(tensor.name, (1, *tensor.shape)) for tensor in cut.tensors)
    return Network(
        graph=graph,
        cut=cut,
        weights={name: value.requires_grad_(True) for name, value in weights.items()},
        parameters=sum(layer.parameters for layer in spec.layers),
        edge=_before(graph, cut, weights),
        _module=convert(proto, graph.name),
    )


def trained_names(proto: onnx.ModelProto) -> list[str]:
    """The stored float32 tensors that are trained, in the order in which they are needed."""
    stored = {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    found: dict[str, None] = {}
    products: set[str] = set()
    for node in proto.graph.node:
        places: tuple[int, ...] = WEIGHTS.get(node.op_type, ())
        if node.op_type == "MatMul":
            products.update(node.output)
        elif node.op_type == "Add" and products & set(node.input):  # a product's offset
            places = (0, 1)
        found.update({node.input[i]: None for i in places if i < len(node.input) and node.input[i] in stored})
    return list(found)


def _before(graph: ModelGraph, cut: CutSpec, weights: Mapping[str, torch.Tensor]) -> int:
    edge = {tensor.name for tensor in partitions(graph, cut)[0].graph.initializer}
    return sum(value.numel() for name, value in weights.items() if name in edge)


def _value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def retrained(made: Network) -> tuple[bytes, float]:
    """The ONNX file with the present weights, and the largest difference of its logits from torch's.

    Raises ModelError where the two differ by more than rounding does.
    """
    proto = made.graph.whole()
    for tensor in proto.graph.initializer:
        if tensor.name in made.weights:
            value = made.weights[tensor.name].detach().numpy()
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    raw: bytes = proto.SerializeToString(deterministic=True)
    session = open_session(raw)
    feed = random_feed(session, 3, inputs=made.graph.inputs)
    expected = session.run(None, feed)[0]
    with torch.no_grad():
        got = made(torch.from_numpy(feed[made.graph.inputs[0].name]))[0].numpy()
    difference = float(np.abs(got - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(f"the retrained {made.graph.name} and its torch form differ by {difference:.3g}; not written")
    return raw, difference


def opened(raw: bytes, name: str) -> ModelGraph:
    """A model's bytes as a graph."""
    return ModelGraph(onnx.load_model_from_string(raw), name, digest(raw))
