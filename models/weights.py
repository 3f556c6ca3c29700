"""A model's weights apart from its graph, so that reading, inferring and cutting a graph never copies them.

`take` leaves a skeleton: the graph with every large tensor marked as stored elsewhere. `embed` puts the bytes back,
`refer` points a skeleton (or a part of it) at one shared file that `write` made. Any number of sub-models can thereby
use the same file, and models of more than 2 GB, which no single ONNX file can hold, are handled like any other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError

LARGE_BYTES = 1024
"""Tensors from this size on live beside the graph."""
KEPT = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)
"""What stays in the graph whatever its size: shape inference reads it."""
PACKED_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(TensorProto, name)
}
"""Types of which several values share a byte; older packages of onnx do not know all."""
ALIGNMENT = 4096
"""Where a tensor starts in a file of weights: a page, so that runtimes can map it."""
CHUNK_BYTES = 16 * 1024 * 1024
MAX_PROTO_BYTES = 2 * 1024**3 - 1


@dataclass(frozen=True)
class Slice:
    """Bytes of a tensor in a file of weights."""

    path: Path
    offset: int
    length: int


@dataclass
class Weights:
    """The large tensors' bytes by name: in memory, or as slices of files."""

    sources: dict[str, bytes | Slice] = field(default_factory=dict)

    def size_bytes(self, names: Iterator[str] | set[str]) -> int:
        """The sum of some tensors' sizes; names without a large tensor count 0."""
        found = (self.sources.get(name, b"") for name in names)
        return sum(source.length if isinstance(source, Slice) else len(source) for source in found)

    def embed(self, skeleton: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of `skeleton` with its weights inside. Raises ModelError where they do not fit into one ONNX file."""
        size = self.size_bytes({tensor.name for tensor in skeleton.graph.initializer})
        if size + skeleton.ByteSize() > MAX_PROTO_BYTES:
            raise ModelError(
                f"a partition holds {size / 1e9:.1f} GB of weights, and one ONNX file holds at most 2 GB; profile and "
                "plan this model, or choose a smaller one to deploy"
            )
        copy = onnx.ModelProto()
        copy.CopyFrom(skeleton)
        for tensor in copy.graph.initializer:
            if tensor.name in self.sources:
                _unmark(tensor)
                tensor.raw_data = b"".join(self.read(tensor.name))
        return copy

    def read(self, name: str) -> Iterator[bytes]:
        """A tensor's bytes in pieces. Raises ModelError where its file has become shorter."""
        source = self.sources[name]
        if isinstance(source, bytes):
            yield source
        else:
            yield from _read(source)

    def write(self, path: Path) -> dict[str, tuple[int, int]]:
        """Write all tensors to one file; returns (offset, length) by name, offsets aligned to pages."""
        layout: dict[str, tuple[int, int]] = {}
        with open(path, "wb") as file:
            for name in self.sources:
                file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
                start = file.tell()
                for piece in self.read(name):
                    file.write(piece)
                layout[name] = (start, file.tell() - start)
        return layout


def refer(skeleton: onnx.ModelProto, file: str, layout: dict[str, tuple[int, int]]) -> onnx.ModelProto:
    """A copy of `skeleton` whose large tensors lie in `file`, a name relative to the model's own folder."""
    copy = onnx.ModelProto()
    copy.CopyFrom(skeleton)
    for tensor in copy.graph.initializer:
        if tensor.name in layout:
            offset, length = layout[tensor.name]
            _mark(tensor, location=file, offset=str(offset), length=str(length))
    return copy


def take(proto: onnx.ModelProto, folder: Path | None) -> Weights:
    """Move the large tensors of `proto` out of it, and constants' values into its initialisers; changes `proto`.

    `folder` is where files of weights are looked for, None where there can be none. Raises ModelError for a file
    outside it, a missing one, and one that is too short.
    """
    _lift_constants(proto.graph)
    weights = Weights()
    for tensor in proto.graph.initializer:
        kept = tensor.data_type in KEPT or _size(tensor) < LARGE_BYTES
        if tensor.data_location == TensorProto.EXTERNAL:
            place = _external(tensor, folder)
            _unmark(tensor)
            if kept:
                tensor.raw_data = b"".join(_read(place))
                continue
            weights.sources[tensor.name] = place
        elif kept:
            continue
        else:
            weights.sources[tensor.name] = _raw(tensor)
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
        _mark(tensor, location="-")
    return weights


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Constants that hold a tensor become initialisers, which is what they are."""
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None or node.domain not in ("", "ai.onnx"):
            kept.append(node)
        else:
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _size(tensor: TensorProto) -> int:
    """A tensor's bytes; several small values share one. Raises ModelError for a type or a size that cannot be."""
    count = math.prod(tensor.dims)
    try:
        bits = PACKED_BITS.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        bits = 0
    if not bits or count < 0:
        raise ModelError(
            f"the model's tensor '{tensor.name}' has the type {tensor.data_type} and the shape {list(tensor.dims)}, "
            "which cannot be; the file is damaged or newer than the onnx package"
        )
    return -(-count * bits // 8)


def _raw(tensor: TensorProto) -> bytes:
    """A tensor's bytes as ONNX files keep them. Raises ModelError where they are fewer or more than its shape says."""
    try:
        raw = bytes(tensor.raw_data)
        if not tensor.HasField("raw_data"):
            raw = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    except ValueError:  # as many values as its shape says, or not
        raw = b""
    if len(raw) != _size(tensor):
        raise ModelError(f"the model's tensor '{tensor.name}' does not have the values its shape says; it is damaged")
    return raw


def _mark(tensor: TensorProto, **where: str) -> None:
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)


def _unmark(tensor: TensorProto) -> None:
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def _external(tensor: TensorProto, folder: Path | None) -> Slice:
    """Where a tensor's bytes lie, once it is sure that they lie in the model's own folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(f"the model keeps '{tensor.name}' in the file '{location}', and here only one file is given")
    if "\0" in location:  # which no path can have
        location = ""
    base, path = folder.resolve(), (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(base):
        raise ModelError(
            f"the model keeps '{tensor.name}' in '{location}', which is outside its own folder; keep its files together"
        )
    if not path.is_file():
        raise ModelError(f"the model's file of weights {path} is missing; put it beside the .onnx file")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or _size(tensor))
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length != _size(tensor) or offset + length > path.stat().st_size:
        raise ModelError(
            f"'{tensor.name}' does not lie in {path} as the model says (offset {entries.get('offset', 0)}, length "
            f"{entries.get('length', 'unsaid')}); the file is damaged or of another model"
        )
    return Slice(path, offset, length)


def _read(source: Slice) -> Iterator[bytes]:
    left = source.length
    with open(source.path, "rb") as file:
        file.seek(source.offset)
        while left:
            piece = file.read(min(left, CHUNK_BYTES))
            if not piece:
                raise ModelError(f"the file of weights {source.path} became shorter while it was read")
            left -= len(piece)
            yield piece
