"""NumPy arrays as tensors of the Open Inference Protocol, and back with every claim of the sender checked.

Raw contents are little-endian and row-major, one bytes field for each tensor. A shape is a tuple of sizes; in a
`TensorSpec` -1 stands for any size. Datatypes are the protocol's names (FP32, not TYPE_FP32 and not float32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artefacts import Record
from ..errors import EdgecutError

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The typed field of each datatype, for senders that do not send raw contents. FP16 has none.
_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
MAX_RANK = 16
MAX_ELEMENTS = 1 << 40


class TensorError(EdgecutError):
    """A tensor on the wire contradicts itself, or a value has no place on the wire."""


class TensorSpec(Record):
    """What a model says of one input or output; -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"

    def fits(self, array: Array) -> bool:
        """Whether the array has the datatype and a shape that is allowed here."""
        shape = array.shape
        return (
            array.dtype == DTYPES[self.datatype]
            and len(shape) == len(self.shape)
            and all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))
        )


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a NumPy dtype of either byte order. Raises TensorError where it has none."""
    name = _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise TensorError(f"dtype {dtype} cannot be sent; send one of {', '.join(sorted(DTYPES))}")
    return name


def encode(name: str, array: Array) -> tuple[dict[str, Any], bytes]:
    """A tensor message's name, datatype and shape, and its raw contents. Raises TensorError for a foreign dtype."""
    datatype = datatype_of(array.dtype)
    raw = array.astype(DTYPES[datatype], copy=False).tobytes()
    return {"name": name, "datatype": datatype, "shape": array.shape}, raw


def append(tensors: Any, raw_contents: Any, name: str, array: Array) -> None:
    """Append an array to a request's (inputs, raw_input_contents) or a response's (outputs, raw_output_contents)."""
    fields, raw = encode(name, array)
    tensors.add(**fields)
    raw_contents.append(raw)


def decode(tensor: Any, raw: bytes | None) -> Array:
    """The array of one tensor message.

    Args:
        tensor: An InferInputTensor or InferOutputTensor.
        raw: Its raw contents, or None where the elements are in `tensor.contents`.

    Returns:
        A read-only array of the stated datatype and shape; it shares the memory of `raw`.

    Raises:
        TensorError: datatype unknown, a size negative or absurd, or the contents are not what the shape needs.
    """
    if raw is not None:
        return from_bytes(tensor.name, tensor.datatype, tensor.shape, raw)
    shape = tuple(tensor.shape)
    dtype, count = claims(tensor.name, tensor.datatype, shape)
    return _typed(tensor, dtype, shape, count)


def from_bytes(name: str, datatype: str, sizes: Sequence[int], raw: bytes | memoryview) -> Array:
    """The read-only array of raw contents, sharing their memory. Raises TensorError as `decode`."""
    shape = tuple(sizes)
    dtype, count = claims(name, datatype, shape)
    if len(raw) != count * dtype.itemsize:
        raise TensorError(
            f"tensor '{name}' needs {count * dtype.itemsize} bytes for {datatype} {list(shape)}, got {len(raw)}"
        )
    flat = np.frombuffer(raw, dtype) if raw else _read_only(np.empty(0, dtype))
    if datatype == "BOOL" and raw and flat.view(np.uint8).max() > 1:
        raise TensorError(f"tensor '{name}' is BOOL but has bytes other than 0 and 1")
    if not flat.flags.aligned:  # behind a header of any length; runtimes want whole words
        flat = _read_only(flat.copy())
    return flat.reshape(shape)


def claims(name: str, datatype: str, sizes: Sequence[int]) -> tuple[np.dtype[Any], int]:
    """The dtype and number of elements that a sender states. Raises TensorError where they cannot be."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise TensorError(f"tensor '{name}' has datatype '{datatype}', known are {', '.join(sorted(DTYPES))}")
    return dtype, _count(name, tuple(sizes))


def decode_all(tensors: Sequence[Any], raw_contents: Sequence[bytes]) -> dict[str, Array]:
    """The arrays of a request or a response by name, in their order.

    Raises TensorError as `decode`, and where a name comes twice, raw and typed contents are mixed, or there is not
    one raw content for each tensor.
    """
    if not raw_contents:
        pieces: Sequence[bytes | None] = [None] * len(tensors)
    elif len(raw_contents) == len(tensors):
        pieces = raw_contents
    else:
        raise TensorError(f"{len(tensors)} tensors came with {len(raw_contents)} raw contents, one for each is needed")
    arrays: dict[str, Array] = {}
    for tensor, raw in zip(tensors, pieces, strict=True):
        if tensor.name in arrays:
            raise TensorError(f"tensor '{tensor.name}' comes twice")
        if (
            raw is not None and tensor.HasField("contents") and tensor.contents.ListFields()
        ):  # MLServer sends both, one empty
            raise TensorError(f"tensor '{tensor.name}' has both raw and typed contents, send one of them")
        arrays[tensor.name] = decode(tensor, raw)
    return arrays


def check(arrays: Mapping[str, Array], specs: Mapping[str, TensorSpec], *, max_batch_size: int, finite: bool) -> None:
    """Hold decoded inputs against what a model needs.

    `max_batch_size` bounds the first size, 0 leaves it free; `finite` refuses NaN and infinity. Raises TensorError
    with the input, what it must be and what it is.
    """
    if arrays.keys() != specs.keys():
        raise TensorError(f"the inputs {sorted(specs)} are needed, got {sorted(arrays)[:16]}")
    for name, array in arrays.items():
        spec = specs[name]
        if not spec.fits(array):
            raise TensorError(f"input '{name}' needs {spec}, got {datatype_of(array.dtype)} {list(array.shape)}")
        if array.size == 0:
            raise TensorError(f"input '{name}' needs at least one element, got {list(array.shape)}")
        if 0 < max_batch_size < array.shape[0]:
            raise TensorError(f"input '{name}' needs a batch of at most {max_batch_size}, got {array.shape[0]}")
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TensorError(f"input '{name}' needs finite values, got NaN or infinity")


def _count(name: str, shape: tuple[int, ...]) -> int:
    """Elements of a shape. Sizes come from the wire, so a size of 0 must not hide an absurd one beside it."""
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise TensorError(f"tensor '{name}' has shape {list(shape)[: MAX_RANK + 1]}, sizes must be 0 or more and few")
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise TensorError(f"tensor '{name}' has shape {list(shape)}, more than {MAX_ELEMENTS} elements")
    return math.prod(shape)


def _typed(tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> Array:
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise TensorError(f"tensor '{tensor.name}' is {tensor.datatype}, which travels as raw contents only")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise TensorError(
            f"tensor '{tensor.name}' needs {count} values in {field} for {list(shape)}, or as many raw bytes, "
            f"got {len(values)}"
        )
    for other, _ in tensor.contents.ListFields():
        if other.name != field:
            raise TensorError(f"tensor '{tensor.name}' is {tensor.datatype} but has values in {other.name}")
    try:
        return _read_only(np.array(values, dtype)).reshape(shape)
    except OverflowError:
        raise TensorError(f"tensor '{tensor.name}' has values that do not fit {tensor.datatype}") from None


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array
