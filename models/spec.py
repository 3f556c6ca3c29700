"""What the rest of edgecut needs to know of a model: its tensors, layers and legal cuts, as plain values.

Shapes leave out the batch dimension, which is always the first one. `size_bytes` is per item of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from ..artefacts import Record
from ..errors import ModelError, unknown
from .work import COMPUTE_KINDS, Operation


class TensorSpec(Record):
    """One tensor: `shape` without the batch dimension, `dtype` as NumPy spells it.

    `below` bounds the whole numbers an input may hold, where the graph tells (the rows of an embedding).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    below: int | None = None

    @property
    def elements(self) -> int:
        """Values per item of the batch."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes per item of the batch."""
        return self.elements * np.dtype(self.dtype).itemsize


class LayerSpec(Record):
    """A compute node with what follows it up to the next one, and its work, operation by operation.

    `inner_bytes` is the most that the layer's own values take at once while it runs, beside those of other layers.
    """

    name: str
    kind: str
    operators: tuple[str, ...]
    output: TensorSpec
    parameters: int
    work: tuple[Operation, ...]
    inner_bytes: int = 0

    @property
    def flops(self) -> int:
        """Operations of its products and convolutions, as the literature counts them; a multiply-add is two."""
        return sum(operation.flops for operation in self.work if operation.kind in COMPUTE_KINDS)

    @property
    def size_bytes(self) -> int:
        """Bytes its operations read and write in float32, weights included, each value once."""
        return sum(operation.bytes() for operation in self.work)


class Value(Record):
    """A tensor that one layer makes and others need, by their places in `ModelSpec.layers`.

    `layer` is None for the raw input, in whatever form before the first compute layer. What is not `sendable` (no
    float32 of static size with the batch first) can be needed by no layer of the other side. `made_of` names the values
    that it is made of without any compute layer: where all those cross, it does not, and the cloud makes it anew.
    """

    tensor: TensorSpec
    layer: int | None
    consumers: tuple[int, ...]
    sendable: bool
    made_of: tuple[str, ...] = ()


class LayerGraph(Record):
    """How layers depend on each other: `values` in the order they are made.

    The layers in `first` take the raw input and stay on the edge, those in `last` make an output and stay in the cloud.
    """

    values: tuple[Value, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]


MAX_ELEMENTS = 2**48
"""Values of one tensor that can cross; far more than any memory holds, and whole numbers that a float64 still keeps."""


class CutSpec(Record):
    """The tensors that cross from edge to cloud, with `depth` compute layers on the edge.

    `aligned` says that the cloud partition starts with a compute layer (the paper's rule, section 3). `layers` are the
    places of the edge's layers, None where they are simply the first `depth`.
    """

    name: str
    depth: int
    tensors: tuple[TensorSpec, ...]
    aligned: bool
    layers: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.depth < 0 or (self.layers is not None and len(self.layers) != self.depth):
            raise ValueError(f"cut {self.name} says {self.depth} layers on the edge, which is not what it has")
        if list(self.on_edge) != sorted(set(self.on_edge)) or min(self.on_edge, default=0) < 0:
            raise ValueError(f"the layers of cut {self.name} are not places in ascending order")
        if not self.tensors or any(not 0 < tensor.elements <= MAX_ELEMENTS for tensor in self.tensors):
            raise ValueError(f"cut {self.name} sends no tensors of a size that can be")
        return self

    @property
    def on_edge(self) -> tuple[int, ...]:
        """The places of the layers that the edge runs, in ascending order."""
        return tuple(range(self.depth)) if self.layers is None else self.layers

    @property
    def elements(self) -> int:
        """Values that cross, per item of the batch."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Bytes of activation that cross, per item of the batch, without any message framing."""
        return sum(tensor.size_bytes for tensor in self.tensors)


class PixelFormat(Record):
    """How unsigned bytes become the model's input: `input = pixel * scale + offset`, per channel or one for all."""

    scale: tuple[float, ...] = Field(min_length=1)
    offset: tuple[float, ...] = Field(min_length=1)
    photograph: bool = False

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.scale) != len(self.offset):
            raise ValueError(f"{len(self.scale)} scales but {len(self.offset)} offsets")
        return self


class ModelSpec(Record):
    """A model as a value: identity, tensors, layers in execution order, and legal cuts from shallow to deep.

    `batch` is the batch of a model that was exported with a fixed one. `graph` tells how the layers depend on each
    other; without it, only the listed cuts are known.
    """

    name: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerSpec, ...]
    cuts: tuple[CutSpec, ...]
    pixels: PixelFormat | None = None
    batch: int | None = None
    graph: LayerGraph | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = len(self.layers)
        names = cut_names(self.cuts)
        if len(set(names)) < len(names):
            raise ValueError("two cuts have the same name")
        for value in self.graph.values if self.graph else ():
            made = -1 if value.layer is None else value.layer
            if not all(max(made, -1) < place < count for place in value.consumers) or not -1 <= made < count:
                raise ValueError(f"value {value.tensor.name} goes between layers that are none, or backwards")
            if value.sendable and not 0 < value.tensor.elements <= MAX_ELEMENTS:
                raise ValueError(f"value {value.tensor.name} has a size that cannot be")
        if self.graph and not all(0 <= place < count for place in (*self.graph.first, *self.graph.last)):
            raise ValueError(f"the graph pins a layer that is none of the {count}")
        for cut in self.cuts:
            self._check(cut, count)
        return self

    def _check(self, cut: CutSpec, count: int) -> None:
        here = set(cut.on_edge)
        if max(here, default=-1) >= count:
            raise ValueError(f"cut {cut.name} has a layer that is none of the model's {count}")
        for value in self.graph.values if self.graph else ():
            if value.layer is not None and value.layer not in here and not here.isdisjoint(value.consumers):
                raise ValueError(f"cut {cut.name} has a layer on the edge that needs one in the cloud")

    @property
    def input(self) -> TensorSpec:
        """The only input. Raises ModelError where there are several."""
        return self._only(self.inputs, "input")

    @property
    def output(self) -> TensorSpec:
        """The only output. Raises ModelError where there are several."""
        return self._only(self.outputs, "output")

    def _only(self, tensors: tuple[TensorSpec, ...], what: str) -> TensorSpec:
        if len(tensors) != 1:
            names = ", ".join(tensor.name for tensor in tensors)
            raise ModelError(
                f"model {self.name} has {len(tensors)} {what}s ({names}); it can be profiled and planned, but this "
                "step takes models with one"
            )
        return tensors[0]

    @property
    def parameters(self) -> int:
        """Learned values in all layers."""
        return sum(layer.parameters for layer in self.layers)

    def sides(self, cut: CutSpec) -> tuple[tuple[LayerSpec, ...], tuple[LayerSpec, ...]]:
        """The layers that the edge runs and those that the cloud runs, each in execution order."""
        edge = set(cut.on_edge)
        here = tuple(layer for place, layer in enumerate(self.layers) if place in edge)
        return here, tuple(layer for place, layer in enumerate(self.layers) if place not in edge)

    def cut(self, name: str) -> CutSpec:
        """The cut called `name`. Raises ModelError naming the known ones."""
        for cut in self.cuts:
            if cut.name == name:
                return cut
        raise ModelError(unknown(f"cut of model {self.name}", name, cut_names(self.cuts)))


def cut_names(cuts: Iterable[CutSpec]) -> list[str]:
    """The cuts' names, in order."""
    return [cut.name for cut in cuts]
