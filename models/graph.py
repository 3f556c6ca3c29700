"""An ONNX model as a graph of layers: what it computes, what each layer makes, and where it may be cut.

A layer is a compute node (Conv, Gemm, MatMul, recurrent, attention) with what needs it and no later one. A cut is the
list of tensors that cross from the layers on the edge to the rest; data never flows back. The raw input
never crosses, and at least one compute layer stays on the edge (DESIGN section 3, Shredder section 3). Sizes taken
from the batch do not cross either: the cloud half takes them from what it is sent.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper
from pydantic import ValidationError

from ..artefacts import first_fault
from ..errors import ModelError
from .cuts import crossing, cut_of, legal
from .dependencies import RANDOM, layer_graph, owners
from .folding import fold
from .operations import COMPUTE, attribute, operation
from .shapes import fix_dimensions, read_shapes
from .spec import CutSpec, LayerSpec, ModelSpec, PixelFormat, TensorSpec
from .weights import take

CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
FLOATING = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
INPUT_DTYPES = ("float32", "int32", "int64")
SCOPES_KEY = "pkg.torch.onnx.name_scopes"
PIXELS_KEY = "edgecut.pixels"
NAME_KEY = "edgecut.name"


class ModelGraph:
    """A checked ONNX graph whose inputs and outputs have the batch first.

    `proto` is a skeleton: its large tensors are in `weights` (`whole` puts them back). `nodes` are in execution order
    without constants; `tensors` maps every value that has the batch first to its spec. `folder` is where the model's
    files of weights are, if it has any; `sizes` fixes named dimensions of its inputs. Changes `proto`.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        name: str,
        digest: str,
        folder: Path | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.digest, self.proto = name, digest, proto
        self._refuse_functions()
        if sizes:
            fix_dimensions(proto, sizes, name)
        self.weights = take(proto, folder)
        # A message keeps the memory of what was taken out of it until it goes itself.
        self.proto = proto = onnx.ModelProto.FromString(proto.SerializeToString())
        fold(proto, {*CONTROL_FLOW, *RANDOM})
        graph = proto.graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        constants = [node for node in graph.node if node.op_type == "Constant"]
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.constants = set(self.initializers) | {node.output[0] for node in constants}
        for node in self.nodes:
            if all(value in self.constants for value in node.input if value) and node.op_type not in RANDOM:
                self.constants.update(node.output)
        self._refuse_control_flow()
        inputs = [value for value in graph.input if value.name not in self.initializers]
        shapes = read_shapes(proto, inputs, name)
        self.shapes, self.tensors, self.batch = shapes.at_one, shapes.batched, shapes.batch
        self.inputs = tuple(self._input(value.name) for value in inputs)
        self.outputs = tuple(self._known(value.name, "output") for value in graph.output)
        self.compute = [i for i, node in enumerate(self.nodes) if node.op_type in COMPUTE and not self._constant(node)]
        if not self.compute:
            raise ModelError(f"model {name} has no compute layer (Conv, Gemm, MatMul, ...), so it cannot be cut")
        self.sizes = self._sizes()
        self.untouched = self._untouched()
        self.owners = owners(self)

    def whole(self) -> onnx.ModelProto:
        """The model in one piece, weights included. Raises ModelError where it has more than 2 GB."""
        return self.weights.embed(self.proto)

    def shape_of(self, value: str) -> tuple[int, ...] | None:
        """A value's shape at batch 1; weights included; None where it is not known."""
        tensor = self.initializers.get(value)
        return tuple(tensor.dims) if tensor is not None else self.shapes.get(value)

    def _known(self, value: str, what: str) -> TensorSpec:
        spec = self.tensors.get(value)
        if spec is None:
            raise ModelError(
                f"model {self.name}'s {what} '{value}' has no static shape after its batch dimension; "
                "export it again with fixed sizes"
            )
        return spec

    def _input(self, value: str) -> TensorSpec:
        spec = self._known(value, "input")
        if spec.dtype not in INPUT_DTYPES:
            raise ModelError(
                f"model {self.name} takes {spec.dtype} ('{value}'); edgecut takes {', '.join(INPUT_DTYPES)}"
            )
        rows = [
            dims[attribute(node, "axis", 0)]
            for node in self.nodes
            if node.op_type == "Gather" and node.input[1] == value and (dims := self.shape_of(node.input[0]))
        ]
        return spec.model_copy(update={"below": min(rows)}) if rows else spec

    def _refuse_functions(self) -> None:
        if self.proto.functions:
            named = ", ".join(sorted({function.name for function in self.proto.functions})[:5])
            raise ModelError(
                f"model {self.name} calls functions of its own ({named}); inline them first (onnx.inliner) or export "
                "it again"
            )

    def _refuse_control_flow(self) -> None:
        for node in self.nodes:
            if node.op_type in CONTROL_FLOW:
                raise ModelError(
                    f"model {self.name} has control flow ({node.op_type} at '{node.name}'), which cannot be cut; "
                    "export it without branches or loops"
                )

    def _sizes(self) -> set[str]:
        """Values that depend on the batch's size alone: shapes, and what is computed from shapes and constants."""
        found: set[str] = set()
        for node in self.nodes:
            given = [value for value in node.input if value and value not in self.constants]
            from_shape = node.op_type == "Shape" and given and given[0] in self.tensors
            derived = given and all(value in found for value in given) and node.op_type not in {*RANDOM, *COMPUTE}
            if from_shape or derived:
                found.update(value for value in node.output if value)
        return found

    def _constant(self, node: onnx.NodeProto) -> bool:
        return all(value in self.constants for value in node.output if value)

    def _untouched(self) -> set[str]:
        """The inputs, and what is made from them without any compute layer: the raw input in another form."""
        found = {spec.name for spec in self.inputs}
        compute = set(self.compute)
        for index, node in enumerate(self.nodes):
            given = {value for value in node.input if value and value not in self.constants and value not in self.sizes}
            if index not in compute and given and given <= found:
                found.update(value for value in node.output if value)
        return found - self.sizes

    def spec(self, *, any_cut: bool = False) -> ModelSpec:
        """The model as a value, with a cut after every layer. `any_cut` adds those within layers."""
        bare = ModelSpec(
            name=self.name,
            digest=self.digest,
            inputs=self.inputs,
            outputs=self.outputs,
            layers=tuple(self.layers()),
            cuts=(),
            pixels=_pixels(self.proto, self.name),
            batch=self.batch,
            graph=layer_graph(self),
        )
        return bare.model_copy(update={"cuts": tuple(self._cuts(bare, any_cut))})

    def layer_name(self, index: int) -> str:
        """A layer's name: its weights' stem where they have one (`conv1.weight`), else its module's or node's."""
        node = self.nodes[index]
        for value in node.input:
            if value in self.initializers and value.endswith((".weight", "_weight")):
                return value[: -len(".weight")]
        return _scope(node) or _short(node.name, node.op_type) or next(str(value) for value in node.output if value)

    def layer_of_node(self, index: int) -> int:
        """The layer (counted from 0) that the node at `index` belongs to."""
        return self.owners[index]

    def layers(self) -> Iterator[LayerSpec]:
        """All layers in execution order."""
        groups: list[list[onnx.NodeProto]] = [[] for _ in self.compute]
        for owner, node in zip(self.owners, self.nodes, strict=True):
            groups[owner].append(node)
        names: set[str] = set()
        kept = {value.tensor.name for value in layer_graph(self).values} | {spec.name for spec in self.outputs}
        for start, members in zip(self.compute, groups, strict=True):
            name = _unused(self.layer_name(start), names)
            last = next(value for value in members[-1].output if value)
            weights = {v for node in members for v in node.input if v in self.initializers}
            work = (operation(node, self.shape_of, self.constants, self.batch or 1) for node in members)
            yield LayerSpec(
                name=name,
                kind=self.nodes[start].op_type,
                operators=tuple(node.op_type for node in members),
                output=self.tensors.get(last) or TensorSpec(name=last, dtype="float32", shape=()),
                parameters=sum(self._parameters(value) for value in weights),
                work=tuple(item for item in work if item is not None),
                inner_bytes=self._inner_bytes(members, kept),
            )

    def _inner_bytes(self, members: Sequence[onnx.NodeProto], kept: set[str]) -> int:
        """The most bytes that a layer's own values take at once: each lives from its node to the last that needs it.

        Those in `kept`, which later layers need, live to the layer's end. The raw input's forms are not its own.
        """
        made = {value: step for step, node in enumerate(members) for value in node.output}
        own = {value: step for value, step in made.items() if value in self.tensors and value not in self.untouched}
        ends = dict(own)
        for step, node in enumerate(members):
            ends.update((value, step) for value in node.input if value in own)
        ends.update((value, len(members)) for value in own if value in kept)
        size = {value: self.tensors[value].size_bytes for value in own}
        return max(sum(size[v] for v in own if own[v] <= step <= ends[v]) for step in range(len(members)))

    def _parameters(self, value: str) -> int:
        tensor = self.initializers[value]
        return math.prod(tensor.dims) if tensor.data_type in FLOATING else 0

    def cuts(self, *, any_cut: bool = False) -> Iterator[CutSpec]:
        """Legal cuts after the first layers, from shallow to deep, and, with `any_cut`, within layers too."""
        yield from self.spec(any_cut=any_cut).cuts

    def _cuts(self, spec: ModelSpec, any_cut: bool) -> Iterator[CutSpec]:
        assert spec.graph is not None
        layers = [frozenset(range(depth)) for depth in range(1, len(spec.layers))]
        after = {len(edge): crossing(spec.graph, edge) for edge in layers if legal(spec.graph, edge)}
        aligned = {tuple(tensor.name for tensor in tensors) for tensors in after.values()}
        seen: set[tuple[str, ...]] = set()
        names = {layer.name for layer in spec.layers}
        for position in range(self.compute[0] + 1, len(self.nodes)) if any_cut else self.compute[1:]:
            depth = sum(1 for start in self.compute if start < position)
            whole = position in self.compute
            found = after.get(depth) if whole else self.crossing(position)
            made = tuple(tensor.name for tensor in found or ())
            if found is None or made in seen or (made in aligned and not whole):
                continue
            seen.add(made)
            stem = spec.layers[depth - 1].name
            name = stem if whole else _unused(f"{stem}/{found[-1].name}", names)
            yield CutSpec(name=name, depth=depth, tensors=found, aligned=whole)

    def check_cut(self, cut: CutSpec) -> CutSpec:
        """`cut` itself, where it is a legal one of this graph; a cut from a file may be anything. Raises ModelError."""
        spec = self.spec(any_cut=not cut.aligned)
        if cut.layers is None:
            known = spec.cut(cut.name)
        elif all(0 <= place < len(spec.layers) for place in cut.layers) and list(cut.layers) == sorted(set(cut.layers)):
            known = cut_of(spec, cut.layers)
        else:
            raise ModelError(f"the cut {cut.name} names layers that model {self.name} does not have; plan again")
        if known != cut:
            raise ModelError(
                f"the cut {cut.name} is not one of model {self.name} as it is now; profile and plan it again"
            )
        return cut

    def crossing(self, position: int) -> tuple[TensorSpec, ...] | None:
        """The tensors that the nodes from `position` on need from those before it; None where no cut is legal.

        Not legal: a raw input, in whatever form before the first compute layer, or one of the model's outputs would
        have to cross, or a tensor that is no float32 of static size with the batch first. What depends on no input, or
        on the batch's size alone, does not cross: either half makes it for itself.
        """
        made = [v for node in self.nodes[:position] for v in node.output if v and v not in self.constants]
        after = [node for node in self.nodes[position:] if not self.by_size(node)]
        needed = {value for node in after for value in node.input}
        if needed & self.untouched or {spec.name for spec in self.outputs} & set(made):
            return None
        found = [self.tensors.get(v) for v in made if v in needed and v not in self.sizes]
        if not found:
            return None
        specs = tuple(spec for spec in found if spec is not None and spec.dtype == "float32")
        return specs if len(specs) == len(found) else None

    def by_size(self, node: onnx.NodeProto) -> bool:
        """Whether all that a node makes can be made anew from the size of the batch."""
        return all(value in self.sizes for value in node.output if value)


def _unused(name: str, names: set[str]) -> str:
    """`name`, or with a number behind it where it is taken; taken from then on."""
    made, number = name, 1
    while made in names:
        number += 1
        made = f"{name}#{number}"
    names.add(made)
    return made


def _scope(node: onnx.NodeProto) -> str:
    """The module a node came from, as torch's exporter notes it: the longest name that is a path of modules."""
    for entry in node.metadata_props:
        if entry.key == SCOPES_KEY:
            try:
                scopes = [str(scope) for scope in json.loads(entry.value.replace("'", '"'))]
            except (ValueError, TypeError):
                return ""
            return scopes[-2] if len(scopes) > 1 else ""
    return ""


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


def set_metadata(proto: onnx.ModelProto, name: str, pixels: PixelFormat | None) -> None:
    """Record a model's name and pixel format in the ONNX file itself, so that they travel with it."""
    values: dict[str, Any] = {NAME_KEY: name}
    if pixels is not None:
        values[PIXELS_KEY] = json.dumps(pixels.model_dump())
    helper.set_model_props(proto, {key: str(value) for key, value in values.items()})
