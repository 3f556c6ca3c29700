"""An ONNX model as a graph of layers: what it computes, what each layer makes, and where it may be cut.

A layer is a compute node (Conv, Gemm, MatMul, recurrent, attention) with what follows it up to the next one. A cut
is the list of tensors that cross from a prefix of the node order to the rest; data never flows back. The raw input
never crosses, and at least one compute layer stays on the edge (DESIGN section 3, Shredder section 3).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference
from pydantic import ValidationError

from ..artefacts import first_fault
from ..errors import ModelError
from .spec import CutSpec, LayerSpec, ModelSpec, PixelFormat, TensorSpec

COMPUTE = {
    "Attention",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Einsum",
    "GRU",
    "Gemm",
    "LSTM",
    "MatMul",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
}
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
PIXELS_KEY = "edgecut.pixels"
NAME_KEY = "edgecut.name"


class ModelGraph:
    """A checked ONNX graph with one input and one output, both with the batch first.

    `nodes` are in execution order without constants; `tensors` maps every value to its spec where it is static.
    """

    def __init__(self, proto: onnx.ModelProto, name: str, digest: str) -> None:
        self.name, self.digest = name, digest
        self.proto = _inferred(proto, name)
        graph = self.proto.graph
        _refuse_external(graph, name)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        constants = [node for node in graph.node if node.op_type == "Constant"]
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.constants = set(self.initializers) | {node.output[0] for node in constants}
        for node in self.nodes:
            if all(value in self.constants for value in node.input if value) and node.op_type not in RANDOM:
                self.constants.update(node.output)
        self._refuse_control_flow()
        self.tensors = dict(_static_values(graph))
        self.unbatched = _unbatched(graph)
        inputs = [value.name for value in graph.input if value.name not in self.initializers]
        self.input = self._only(inputs, "input")
        if self.input.dtype != "float32":
            raise ModelError(f"model {name} takes {self.input.dtype} ('{self.input.name}'); edgecut needs float32")
        self.output = self._only([value.name for value in graph.output], "output")
        self.compute = [i for i, node in enumerate(self.nodes) if node.op_type in COMPUTE]
        if not self.compute:
            raise ModelError(f"model {name} has no compute layer (Conv, Gemm, MatMul, ...), so it cannot be cut")

    def _only(self, names: list[str], what: str) -> TensorSpec:
        if len(names) != 1:
            raise ModelError(f"model {self.name} has {len(names)} {what}s ({', '.join(names)}); edgecut needs one")
        spec = self.tensors.get(names[0])
        if spec is None:
            raise ModelError(
                f"model {self.name}'s {what} '{names[0]}' has no static shape after its batch dimension; "
                "export it again with fixed sizes"
            )
        return spec

    def _refuse_control_flow(self) -> None:
        for node in self.nodes:
            if node.op_type in CONTROL_FLOW:
                raise ModelError(
                    f"model {self.name} has control flow ({node.op_type} at '{node.name}'), which cannot be cut; "
                    "export it without branches or loops"
                )

    def spec(self, *, any_cut: bool = False) -> ModelSpec:
        """The model as a value. `any_cut` adds the cuts that do not end right before a compute layer."""
        return ModelSpec(
            name=self.name,
            digest=self.digest,
            input=self.input,
            output=self.output,
            layers=tuple(self.layers()),
            cuts=tuple(self.cuts(any_cut=any_cut)),
            pixels=_pixels(self.proto, self.name),
        )

    def layer_name(self, index: int) -> str:
        """A layer's name: its weights' stem where they have one (`conv1.weight`), else its node's or tensor's."""
        node = self.nodes[index]
        for value in node.input:
            if value in self.initializers and value.endswith((".weight", "_weight")):
                return value[: -len(".weight")]
        return _short(node.name, node.op_type) or str(node.output[0])

    def layer_of_node(self, index: int) -> int:
        """The layer (counted from 0) that the node at `index` belongs to."""
        return max(0, sum(1 for start in self.compute if start <= index) - 1)

    def layers(self) -> Iterator[LayerSpec]:
        """All layers in execution order; nodes before the first compute node belong to the first layer."""
        bounds = [0, *self.compute[1:], len(self.nodes)]
        names: set[str] = set()
        for number, start in enumerate(self.compute):
            members = self.nodes[bounds[number] : bounds[number + 1]]
            name = self.layer_name(start)
            while name in names:
                name += "'"
            names.add(name)
            last = members[-1].output[0]
            weights = {v for node in members for v in node.input if v in self.initializers}
            yield LayerSpec(
                name=name,
                kind=self.nodes[start].op_type,
                operators=tuple(node.op_type for node in members),
                output=self.tensors.get(last) or TensorSpec(name=last, dtype="float32", shape=()),
                parameters=sum(self._parameters(value) for value in weights),
                flops=sum(self.flops(node) for node in members),
            )

    def _parameters(self, value: str) -> int:
        tensor = self.initializers[value]
        floating = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
        return int(np.prod(tensor.dims)) if floating else 0

    def flops(self, node: onnx.NodeProto) -> int:
        """Floating-point operations of a node per item of the batch; 0 for what is not a compute node."""
        out = self.tensors.get(node.output[0])
        weight = next((self.initializers[v] for v in node.input[1:2] if v in self.initializers), None)
        if out is None or weight is None or node.op_type not in COMPUTE:
            return 0
        if node.op_type == "Conv":
            return 2 * out.elements * int(np.prod(weight.dims[1:]))
        if node.op_type == "Gemm":
            return 2 * int(np.prod(weight.dims))
        if node.op_type == "MatMul":
            return 2 * out.elements * int(weight.dims[-2:][0])
        return 0

    def cuts(self, *, any_cut: bool = False) -> Iterator[CutSpec]:
        """Legal cuts from shallow to deep: before every compute node but the first (or, with `any_cut`, any node)."""
        layer_names = [layer.name for layer in self.layers()]
        seen: set[tuple[str, ...]] = set()
        names = set(layer_names)
        starts = range(self.compute[0] + 1, len(self.nodes)) if any_cut else self.compute[1:]
        for position in starts:
            crossing = self.crossing(position)
            if crossing is None or tuple(t.name for t in crossing) in seen:
                continue
            seen.add(tuple(t.name for t in crossing))
            depth = sum(1 for start in self.compute if start < position)
            aligned = position in self.compute
            stem = layer_names[depth - 1]
            name = stem if aligned else f"{stem}/{crossing[-1].name}"
            while not aligned and name in names:
                name += "'"
            names.add(name)
            yield CutSpec(name=name, depth=depth, tensors=crossing, aligned=aligned)

    def crossing(self, position: int) -> tuple[TensorSpec, ...] | None:
        """The tensors that the nodes from `position` on need from those before it; None where no cut is legal.

        Not legal: the raw input or the model's output would have to cross, or a tensor that is no float32 of
        static size with the batch first. What depends on no input does not cross: either half makes it for itself.
        """
        made = [v for node in self.nodes[:position] for v in node.output if v and v not in self.constants]
        needed = {value for node in self.nodes[position:] for value in node.input}
        if self.input.name in needed or self.output.name in made:
            return None
        crossing = [None if v in self.unbatched else self.tensors.get(v) for v in made if v in needed]
        if not crossing:
            return None
        specs = tuple(spec for spec in crossing if spec is not None and spec.dtype == "float32")
        return specs if len(specs) == len(crossing) else None


def _inferred(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # onnx raises several unrelated types here
        raise ModelError(f"model {name} is not a consistent ONNX graph: {str(error).splitlines()[0][:200]}") from None


def _static_values(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorSpec]]:
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        if not sizes or any(not size for size in sizes[1:]):
            continue
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        yield value.name, TensorSpec(name=value.name, dtype=dtype, shape=tuple(int(s or 0) for s in sizes[1:]))


def _unbatched(graph: onnx.GraphProto) -> set[str]:
    """Values whose first dimension is known not to be the batch: fixed, where the inputs' is not."""
    if any(value.type.tensor_type.shape.dim[:1] and _fixed_first(value) for value in graph.input):
        return set()
    return {value.name for value in graph.value_info if _fixed_first(value)}


def _fixed_first(value: onnx.ValueInfoProto) -> bool:
    sizes = value.type.tensor_type.shape.dim
    return bool(sizes) and sizes[0].HasField("dim_value")


def _refuse_external(graph: onnx.GraphProto, name: str) -> None:
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"model {name} keeps its weights in another file ('{tensor.name}'); save it as one file (onnx.save)"
            )


def _short(name: str, operator: str) -> str:
    """A node's path without its operator and without folders that the next one repeats.

    `/layer1/layer1.0/conv1/Conv`, as torch's older exporter writes it, becomes `layer1.0/conv1`.
    """
    parts = [part for part in name.removesuffix(f"/{operator}").split("/") if part]
    kept = [part for part, after in itertools.pairwise([*parts, ""]) if not after.startswith(f"{part}.")]
    return "/".join(kept)


def _pixels(proto: onnx.ModelProto, name: str) -> PixelFormat | None:
    for entry in proto.metadata_props:
        if entry.key == PIXELS_KEY:
            try:
                return PixelFormat.model_validate_json(entry.value)
            except ValidationError as error:
                raise ModelError(
                    f"model {name} says in '{PIXELS_KEY}' how pixels become its input, but not in a usable way "
                    f"({first_fault(error)}); export it again"
                ) from None
    return None


def set_metadata(proto: onnx.ModelProto, name: str, pixels: PixelFormat) -> None:
    """Record a model's name and pixel format in the ONNX file itself, so that they travel with it."""
    values: dict[str, Any] = {NAME_KEY: name, PIXELS_KEY: json.dumps(pixels.model_dump())}
    helper.set_model_props(proto, {key: str(value) for key, value in values.items()})
