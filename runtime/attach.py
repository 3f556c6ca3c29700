"""A mechanism's linear map as part of the models: `sent` behind the edge partition, `restored` before the rest.

    with_map        edge partition:   input ─▶ cut's tensors ─▶ sent_values [batch, r]
    with_restored   cloud partition:  sent_values [batch, r] ─▶ cut's tensors ─▶ answer
    with_input_map  edge partition:   input ─▶ sent ─▶ restored ─▶ cut's tensors

What they compute is `noise_kernels.linear_map`'s. The operators are Reshape, Concat, Sub, MatMul, Gather, Mul, Add and
Slice, written as they have been since opset 10, so that every target takes them. The map is public and the same for
every request; no draw and no key is in it, though who knows how the activations spread can tell from a channel's how
loud its noise is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from ..models.spec import TensorSpec
from ..noise_kernels.element_noise import MAPPED
from ..noise_kernels.linear_map import LinearMap
from ..noise_kernels.mechanism import Noise

PREFIX = "edgecut.map"
"""What the names of the added nodes' values begin with: not what a model's own weights would."""


def crossing(cut_tensors: Sequence[TensorSpec], noise: Noise) -> tuple[TensorSpec, ...]:
    """The tensors that cross under a mechanism, as float32: the cut's, or the one that its map makes of them."""
    if noise.map is None or noise.place == "input":
        return tuple(cut_tensors)
    return (TensorSpec(name=MAPPED, dtype="float32", shape=(noise.values,)),)


def with_map(edge: onnx.ModelProto, cut_tensors: Sequence[TensorSpec], map: LinearMap) -> onnx.ModelProto:
    """An edge partition that gives what the map makes of its cut's tensors. Raises ModelError where it does not fit."""
    _check_fit(cut_tensors, map)
    made = _copy(edge)
    added = _Added(made)
    added.sent(added.flat([tensor.name for tensor in cut_tensors], cut_tensors), map, added.claim(MAPPED))
    batch = _batch(made.graph.output, cut_tensors[0].name)
    made.graph.node.extend(added.nodes)
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info(MAPPED, TensorProto.FLOAT, [batch, map.values]))
    return made


def with_restored(cloud: onnx.ModelProto, cut_tensors: Sequence[TensorSpec], map: LinearMap) -> onnx.ModelProto:
    """A cloud partition that takes what the map made. Raises ModelError where it does not fit."""
    _check_fit(cut_tensors, map)
    made = _copy(cloud)
    added = _Added(made)
    added.tensors(added.restored(added.claim(MAPPED), map), cut_tensors, [tensor.name for tensor in cut_tensors])
    batch = _batch(made.graph.input, cut_tensors[0].name)
    _put_first(made, added.nodes)
    del made.graph.input[:]
    made.graph.input.append(helper.make_tensor_value_info(MAPPED, TensorProto.FLOAT, [batch, map.values]))
    return made


def with_input_map(edge: onnx.ModelProto, input: TensorSpec, map: LinearMap) -> onnx.ModelProto:
    """An edge partition that first sends its input through the map and back. Raises ModelError where that cannot be."""
    _check_fit([input], map)
    made = _copy(edge)
    added = _Added(made)
    there = added.sent(added.flat([input.name], [input]), map)
    back = added.free("input")
    added.tensors(added.restored(there, map), [input], [back])
    for node in made.graph.node:
        if input.name in node.input:
            node.input[:] = [back if name == input.name else name for name in node.input]
    _put_first(made, added.nodes)
    return made


def _check_fit(tensors: Sequence[TensorSpec], map: LinearMap) -> None:
    elements = sum(tensor.elements for tensor in tensors)
    odd = [tensor.name for tensor in tensors if tensor.dtype != "float32"]
    if elements != map.n or odd:
        what = f"'{odd[0]}' is not float32" if odd else f"the tensors have {elements} elements"
        raise ModelError(f"a map of {map.n} values does not fit here, since {what}; fit the mechanism at this cut")


class _Added:
    """Nodes to be added to a model, with their constants in it at once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._graph, self.nodes = graph, list[onnx.NodeProto]()
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken |= {value.name for value in (*graph.input, *graph.output)}
        self._taken |= {tensor.name for tensor in graph.initializer}

    def claim(self, name: str) -> str:
        """A name that must be free in the model. Raises ModelError where it is not."""
        if name in self._taken:
            raise ModelError(f"a tensor of the model is called '{name}', which is what is sent; rename it")
        self._taken.add(name)
        return name

    def free(self, what: str) -> str:
        """A name that the model does not use."""
        name = f"{PREFIX}/{what}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def flat(self, names: Sequence[str], specs: Sequence[TensorSpec]) -> str:
        """The tensors side by side, [batch, n]."""
        rows = [
            name if len(spec.shape) == 1 else self._reshaped(name, (spec.elements,))
            for name, spec in zip(names, specs, strict=True)
        ]
        return rows[0] if len(rows) == 1 else self._node("Concat", rows, "flat", axis=1)

    def tensors(self, flat: str, specs: Sequence[TensorSpec], names: Sequence[str]) -> None:
        """`flat` as tensors of those shapes again, under those names."""
        start = 0
        for spec, name in zip(specs, names, strict=True):
            end = start + spec.elements
            part = flat
            if len(specs) > 1:
                bounds = [self._constant(what, np.array([at])) for what, at in (("start", start), ("end", end))]
                part = self._node("Slice", [flat, *bounds, self._constant("axis", np.array([1]))], "part")
            self._reshaped(part, spec.shape, name)
            start = end

    def sent(self, flat: str, map: LinearMap, output: str = "") -> str:
        """`LinearMap.sent` of [batch, n]."""
        value = self._node("Sub", [flat, self._constant("centre", map.centre)], "centred")
        value = self._turned(value, map, inverse=False)
        if len(map.index) < map.n:
            value = self._node("Gather", [value, self._constant("index", map.index)], "kept", axis=1)
        if map.forward.ndim == 1:
            return self._node("Mul", [value, self._constant("forward", map.forward)], "sent", output)
        return self._node("MatMul", [value, self._constant("forward", map.forward.T)], "sent", output)

    def restored(self, sent: str, map: LinearMap) -> str:
        """`LinearMap.restored` of [batch, r], as [batch, n]."""
        kept, all_kept = len(map.index), len(map.index) == map.n
        places = np.full(map.n, kept, np.int64)
        places[map.index] = np.arange(kept)
        if map.backward.ndim == 1:
            # A coordinate that was not sent is any one that was, times 0.
            weights = np.append(map.backward, np.float32(0))[places]
            value = sent
            if not all_kept:
                gathered = np.where(places < kept, places, 0)
                value = self._node("Gather", [sent, self._constant("places", gathered)], "spread", axis=1)
            value = self._node("Mul", [value, self._constant("backward", weights)], "whole")
        else:
            # The matrix has a row of zeros more, from which coordinates that were not sent are taken.
            rows = map.backward if all_kept else np.vstack([map.backward, np.zeros((1, map.values), np.float32)])
            value = self._node("MatMul", [sent, self._constant("backward", rows.T)], "whole")
            if not all_kept:
                value = self._node("Gather", [value, self._constant("places", places)], "spread", axis=1)
        value = self._turned(value, map, inverse=True)
        return self._node("Add", [value, self._constant("centre", map.centre)], "restored")

    def _turned(self, value: str, map: LinearMap, inverse: bool) -> str:
        """[batch, n] in the bases of the map's axes, or back from them; axes before the one in turn join the batch."""
        shape: tuple[int, ...] = ()
        for place, basis in enumerate(map.axes):
            if basis is None:
                continue
            matrix = basis.T if inverse else basis
            size, behind = map.shape[place], math.prod(map.shape[place + 1 :])
            wanted = (size,) if behind == 1 else (size, behind)
            if wanted != (shape or (map.n,)):
                value = self._reshaped(value, wanted)
            if behind == 1:
                value = self._node("MatMul", [value, self._constant("basis", matrix.T)], "turned")
            else:
                value = self._node("MatMul", [self._constant("basis", matrix), value], "turned")
            shape = wanted
        return value if shape in ((), (map.n,)) else self._reshaped(value, (map.n,))

    def _reshaped(self, value: str, shape: Sequence[int], output: str = "") -> str:
        return self._node("Reshape", [value, self._constant("shape", np.array([-1, *shape]))], "reshaped", output)

    def _node(self, operator: str, inputs: Sequence[str], what: str, output: str = "", **attributes: Any) -> str:
        made = output or self.free(what)
        self.nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        return made

    def _constant(self, what: str, values: npt.NDArray[Any]) -> str:
        name = self.free(what)
        kind = np.float32 if values.dtype.kind == "f" else np.int64
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _batch(values: Sequence[onnx.ValueInfoProto], name: str) -> str | int:
    """The first dimension of a graph's input or output: a number or a name."""
    first = next(value for value in values if value.name == name).type.tensor_type.shape.dim[0]
    return int(first.dim_value) if first.HasField("dim_value") else str(first.dim_param)


def _put_first(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
