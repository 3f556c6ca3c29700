"""What is known of every value's shape, by inferring the graph at two batch sizes and comparing.

A value whose first dimension follows the batch, and only that one, may be cut; one that does not change with the
batch depends on the model alone. Exporters write sizes as formulas (`8*batch`), which no reader can trust; inference
at a given batch turns them into numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, shape_inference

from ..errors import ModelError
from .spec import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """`at_one` has the values' shapes at batch 1, or the model's fixed batch; `batched` those with the batch first.

    `batch` is the fixed batch of a model that has one, None for a dynamic one.
    """

    at_one: dict[str, Shape]
    batched: dict[str, TensorSpec]
    batch: int | None


def fix_dimensions(proto: onnx.ModelProto, sizes: Mapping[str, int], name: str) -> None:
    """Give named dimensions their sizes, in place. Raises ModelError for a name that no input has."""
    named = {dim.dim_param for value in proto.graph.input for dim in value.type.tensor_type.shape.dim if dim.dim_param}
    for wanted, size in sizes.items():
        if wanted not in named:
            known = ", ".join(sorted(named)) or "none"
            raise ModelError(f"model {name} has no dimension '{wanted}' to fix; its inputs' named dimensions: {known}")
        if size < 1:
            raise ModelError(f"dimension '{wanted}' of model {name} cannot be {size}; give a size of at least 1")
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]


def read_shapes(proto: onnx.ModelProto, inputs: list[onnx.ValueInfoProto], name: str) -> Shapes:
    """Infer all shapes of a skeleton. Raises ModelError for an inconsistent graph and for inputs of unknown size."""
    fixed = _fixed_batch(inputs, name)
    if fixed is not None:
        shapes, dtypes = _inferred(proto, inputs, None, name)
        batched = {v: _spec(v, dtypes[v], s[1:]) for v, s in shapes.items() if s[:1] == (fixed,)}
        return Shapes(shapes, batched, fixed)
    one, dtypes = _inferred(proto, inputs, 1, name)
    two, _ = _inferred(proto, inputs, 2, name)
    batched = {v: _spec(v, dtypes[v], s[1:]) for v, s in one.items() if s[:1] == (1,) and two.get(v) == (2, *s[1:])}
    return Shapes(one, batched, None)


def _spec(name: str, dtype: str, shape: Shape) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _fixed_batch(inputs: list[onnx.ValueInfoProto], name: str) -> int | None:
    """The first dimension that all inputs fix; None where it is left open."""
    sizes = set()
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        open_sizes = [dim.dim_param or "?" for dim in dims[1:] if dim.dim_value < 1]
        if not dims or open_sizes:
            left = f" leaves {', '.join(open_sizes)} open" if open_sizes else " has no shape"
            raise ModelError(
                f"model {name}'s input '{value.name}'{left}: it has no static shape after its batch dimension; "
                "export it again with fixed sizes, or fix a named one with --dim NAME=SIZE"
            )
        sizes.add(dims[0].dim_value if dims[0].dim_value > 0 else None)  # some exporters write -1
    if len(sizes) > 1:
        known = ", ".join(str(size or "open") for size in sorted(sizes, key=lambda s: s or 0))
        raise ModelError(f"model {name}'s inputs have different batch dimensions ({known}); export it with one for all")
    return next(iter(sizes), None)


def _inferred(
    proto: onnx.ModelProto, inputs: list[onnx.ValueInfoProto], batch: int | None, name: str
) -> tuple[dict[str, Shape], dict[str, str]]:
    """Static shapes and dtypes of all values at a batch."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if batch is not None:
        symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in inputs} - {""}
        chosen = {value.name for value in inputs}
        for value in [*copy.graph.input, *copy.graph.output, *copy.graph.value_info]:
            for place, dim in enumerate(value.type.tensor_type.shape.dim):
                if dim.dim_param in symbols or (place == 0 and value.name in chosen):
                    dim.dim_value = batch
    try:
        known = shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception as error:  # onnx raises several unrelated types here
        raise ModelError(f"model {name} is not a consistent ONNX graph: {str(error).splitlines()[0][:200]}") from None
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    for tensor, kind in _tensor_types(known):
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[tensor] = tuple(dim.dim_value for dim in dims)
            dtypes[tensor] = _dtype(kind.elem_type)
    return shapes, dtypes


def _tensor_types(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TypeProto.Tensor]]:
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.type.HasField("tensor_type"):
            yield value.name, value.type.tensor_type


def _dtype(element: int) -> str:
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element)).name
    except KeyError:
        return f"type {element}"
