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
    """A compute node with what follows it up to the next one, and its work, operation by operation."""

    name: str
    kind: str
    operators: tuple[str, ...]
    output: TensorSpec
    parameters: int
    work: tuple[Operation, ...]

    @property
    def flops(self) -> int:
        """Operations of its products and convolutions, as the literature counts them; a multiply-add is two."""
        return sum(operation.flops for operation in self.work if operation.kind in COMPUTE_KINDS)

    @property
    def size_bytes(self) -> int:
        """Bytes its operations read and write in float32, weights included, each value once."""
        return sum(operation.bytes() for operation in self.work)


class CutSpec(Record):
    """The tensors that cross from edge to cloud, after `depth` compute layers on the edge.

    `aligned` says that the cloud partition starts with a compute layer (the paper's rule, section 3).
    """

    name: str
    depth: int
    tensors: tuple[TensorSpec, ...]
    aligned: bool

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

    `batch` is the batch of a model that was exported with a fixed one.
    """

    name: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerSpec, ...]
    cuts: tuple[CutSpec, ...]
    pixels: PixelFormat | None = None
    batch: int | None = None

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

    def cut(self, name: str) -> CutSpec:
        """The cut called `name`. Raises ModelError naming the known ones."""
        for cut in self.cuts:
            if cut.name == name:
                return cut
        raise ModelError(unknown(f"cut of model {self.name}", name, cut_names(self.cuts)))


def cut_names(cuts: Iterable[CutSpec]) -> list[str]:
    """The cuts' names, in order."""
    return [cut.name for cut in cuts]
