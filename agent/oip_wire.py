"""The messages of the Open Inference Protocol as protobuf bytes, made and read by hand: no protobuf package is needed.

Only what inference needs: a request with its response, and a model's metadata. A message is joined once and read in
place, so a tensor is copied once on its way out, and on its way in only where it does not lie aligned. What is read is
held against every claim of the sender; what protobuf itself would refuse, or read otherwise, is never accepted.
Field numbers are those of `runtime/oip.proto`.

One sender's messages differ in little but their raw contents. The last few layouts are kept, made or read, by what
decides them: a message that equals one outside its raw contents has that one's fields, in a tenth of the time.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .protobuf import (
    DATA,
    DOUBLES,
    EIGHT,
    FLOATS,
    ONE,
    TEXT,
    VARINTS,
    Found,
    WireError,
    read_fields,
    text_field,
    varint,
)

DTYPES = {
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
"""The protocol's datatypes; elements travel row-major and little-endian."""
MAX_RANK = 16
MAX_ELEMENTS = 1 << 40

_NAMES = {dtype.str: name for name, dtype in DTYPES.items()}
_PARAMETERS = {1: TEXT, 2: {1: ONE, 2: ONE, 3: TEXT, 4: EIGHT, 5: ONE}}
_CONTENTS = {1: VARINTS, 2: VARINTS, 3: VARINTS, 4: VARINTS, 5: VARINTS, 6: FLOATS, 7: DOUBLES, 8: DATA}
_TENSOR = {1: TEXT, 2: TEXT, 3: VARINTS, 4: _PARAMETERS, 5: _CONTENTS}
_WANTED = {1: TEXT, 2: _PARAMETERS}
_REQUEST = {1: TEXT, 2: TEXT, 3: TEXT, 4: _PARAMETERS, 5: _TENSOR, 6: _WANTED, 7: DATA}
_RESPONSE = {1: TEXT, 2: TEXT, 3: TEXT, 4: _PARAMETERS, 5: _TENSOR, 6: DATA}
_METADATA_TENSOR = {1: TEXT, 2: TEXT, 3: VARINTS}
_METADATA = {1: TEXT, 2: TEXT, 3: TEXT, 4: _METADATA_TENSOR, 5: _METADATA_TENSOR}
# The field of typed contents a datatype's elements are in; FP16 travels raw only.
_TYPED = {"BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "FP32": 6, "FP64": 7}
_TYPED.update({"UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5})

# Layouts of requests and responses by the length of the message, and what was made by what it was made of.
_KNOWN_REQUESTS = {}  # type: Dict[int, _Layout]
_KNOWN_RESPONSES = {}  # type: Dict[int, _Layout]
_KNOWN_PIECES = {}  # type: Dict[Any, List[bytes]]
_MOST_KEPT, _LARGEST_KEPT = 64, 2048


class Request(NamedTuple):
    """An inference request: read-only arrays by input name, and the outputs asked for (none: all of them)."""

    model: str
    version: str
    request_id: str
    inputs: Dict[str, Any]
    outputs: Tuple[str, ...]


def encode_request(model: str, tensors: Sequence[Tuple[str, Any]], version: str = "", request_id: str = "") -> bytes:
    """A ModelInferRequest with raw contents. Raises WireError for a dtype the protocol has no name for."""
    return _message(model, version, request_id, tensors, b"\x3a")


def encode_response(model: str, version: str, request_id: str, outputs: Sequence[Tuple[str, Any]]) -> bytes:
    """A ModelInferResponse with raw contents. Raises WireError for a dtype the protocol has no name for."""
    return _message(model, version, request_id, outputs, b"\x32")


def encode_name(name: str, version: str = "") -> bytes:
    """A ModelMetadataRequest or a ModelReadyRequest, which are alike."""
    return text_field(b"\x0a", name) + text_field(b"\x12", version)


def decode_response(data: bytes) -> Dict[str, Any]:
    """The arrays of a ModelInferResponse by name, read-only; each shares the memory of `data` where it lies aligned.

    Raises WireError.
    """
    layout = _KNOWN_RESPONSES.get(len(data))
    if layout is not None and layout.fits(data):
        return layout.arrays(data)
    found = read_fields(data, _RESPONSE)
    tensors, raws = found.get(5, []), found.get(6, [])
    if not raws:
        return _by_name(tensors, [_typed(tensor, *_claims(tensor)) for tensor in tensors])
    if len(raws) != len(tensors):
        raise WireError("{} tensors came with {} raw contents".format(len(tensors), len(raws)))
    for tensor in tensors:
        # MLServer sends an empty message of contents beside the raw ones.
        if any(values for contents in tensor.get(5, ()) for values in contents.values()):
            raise WireError("the tensor {!r} has both raw and typed contents".format(_last(tensor, 1)))
    layout = _layout(data, tensors, raws, None)
    arrays = layout.arrays(data)
    _keep(_KNOWN_RESPONSES, len(data), layout, layout.size())
    return arrays


def decode_request(data: bytes) -> Optional[Request]:
    """A ModelInferRequest as clients send it, or None for anything else, be it unusual (typed contents, parameters,
    fields of a later protocol) or damaged: protobuf then has the say."""
    layout = _KNOWN_REQUESTS.get(len(data))
    try:
        if layout is not None and layout.fits(data):
            model, version, request_id, _, outputs = layout.request
            return Request(model, version, request_id, layout.arrays(data), outputs)
        found = read_fields(data, _REQUEST)
        tensors, raws, wanted = found.get(5, []), found.get(7, []), found.get(6, [])
        usual = len(tensors) == len(raws) and found.keys() <= {1, 2, 3, 5, 6, 7}
        if not usual or any(tensor.keys() - {1, 2, 3} for tensor in tensors) or any(one.keys() - {1} for one in wanted):
            return None
        outputs = tuple(_last(one, 1) for one in wanted)
        request = Request(_last(found, 1), _last(found, 2), _last(found, 3), {}, outputs)
        layout = _layout(data, tensors, raws, request)
        request.inputs.update(layout.arrays(data))
        if not request.request_id:  # one that numbers its requests sends no two alike
            _keep(_KNOWN_REQUESTS, len(data), layout._replace(request=request._replace(inputs={})), layout.size())
        return request
    except WireError:
        return None


def decode_metadata(data: bytes) -> Dict[str, Any]:
    """A ModelMetadataResponse: `name`, `versions`, and `inputs` and `outputs` as (name, datatype, shape).

    -1 in a shape is any size. Raises WireError.
    """
    found = read_fields(data, _METADATA)
    made = {"name": _last(found, 1), "versions": found.get(2, [])}  # type: Dict[str, Any]
    for field, number in (("inputs", 4), ("outputs", 5)):
        made[field] = [(_last(one, 1), _last(one, 2), _sizes(one)) for one in found.get(number, [])]
    return made


def _message(model: str, version: str, request_id: str, tensors: Sequence[Tuple[str, Any]], raw_tag: bytes) -> bytes:
    arrays = [np.asarray(array) for _, array in tensors]
    key = (raw_tag, model, version, tuple((name, a.dtype, a.shape) for (name, _), a in zip(tensors, arrays)))
    pieces = _KNOWN_PIECES.get(key) if not request_id else None
    if pieces is None:
        pieces = _pieces(model, version, request_id, key[3], raw_tag)
        if not request_id:
            _keep(_KNOWN_PIECES, key, pieces, len(pieces[0]))
    parts = [pieces[0]]  # type: List[Any]
    for array, piece in zip(arrays, pieces[1:]):
        parts += [piece, np.ascontiguousarray(array, array.dtype.newbyteorder("<"))]
    return b"".join(parts)


def _pieces(model: str, version: str, request_id: str, specs: Any, raw_tag: bytes) -> List[bytes]:
    """What comes before the raw contents, and before each of them."""
    head = [text_field(b"\x0a", model), text_field(b"\x12", version), text_field(b"\x1a", request_id)]
    sizes = []
    for name, dtype, shape in specs:
        datatype = _NAMES.get(dtype.newbyteorder("<").str)
        if datatype is None:
            raise WireError("dtype {} cannot be sent; send one of {}".format(dtype, ", ".join(sorted(DTYPES))))
        numbers = b"".join(map(varint, shape))
        tensor = [text_field(b"\x0a", name), text_field(b"\x12", datatype)]
        if numbers:
            tensor += [b"\x1a", varint(len(numbers)), numbers]
        head += [b"\x2a", varint(sum(map(len, tensor))), *tensor]
        count = 1
        for size in shape:
            count *= size
        sizes.append(raw_tag + varint(count * dtype.itemsize))
    return [b"".join(head), *sizes]


class _Layout(NamedTuple):
    """Where the raw contents of a message lie, what they are, and all the bytes around them."""

    around: List[Tuple[int, int, bytes]]
    tensors: List[Tuple[str, Any, Tuple[int, ...], int, int]]
    request: Any

    def fits(self, data: bytes) -> bool:
        """Whether a message of this length has the same bytes around its raw contents."""
        return all(data[start:end] == piece for start, end, piece in self.around)

    def size(self) -> int:
        return sum(len(piece) for _, _, piece in self.around)

    def arrays(self, data: bytes) -> Dict[str, Any]:
        return {name: _raw(data, name, *rest) for name, *rest in self.tensors}


def _layout(data: bytes, tensors: List[Found], raws: List[Tuple[int, int]], request: Any) -> _Layout:
    """Raises WireError where the tensors contradict themselves or their raw contents' sizes."""
    made = []
    for tensor, (start, end) in zip(tensors, raws):
        name = _last(tensor, 1)
        dtype, shape, count = _claims(tensor)
        if end - start != count * dtype.itemsize:
            raise WireError(
                "the tensor {!r} of shape {} needs {} bytes, got {}".format(
                    name, list(shape), count * dtype.itemsize, end - start
                )
            )
        made.append((name, dtype, shape, count, start))
    _by_name(tensors, made)
    ends = [0] + [end for _, end in raws]
    starts = [start for start, _ in raws] + [len(data)]
    around = [(start, end, bytes(data[start:end])) for start, end in zip(ends, starts)]
    return _Layout(around, made, request)


def _by_name(tensors: List[Found], made: List[Any]) -> Dict[str, Any]:
    named = {_last(tensor, 1): one for tensor, one in zip(tensors, made)}
    if len(named) != len(tensors):
        raise WireError("a tensor comes twice")
    return named


def _keep(known: Dict[Any, Any], key: Any, value: Any, size: int) -> None:
    """Remember what is of no great size. Several threads may do so at once: at worst something is forgotten."""
    if size <= _LARGEST_KEPT:
        if len(known) >= _MOST_KEPT:
            known.clear()
        known[key] = value


def _last(found: Found, number: int) -> str:
    """A single field of text: the last one counts, as in protobuf."""
    values = found.get(number)
    return values[-1] if values else ""


def _sizes(tensor: Found) -> Tuple[int, ...]:
    return tuple(size if size < 1 << 63 else size - (1 << 64) for size in tensor.get(3, ()))


def _claims(tensor: Found) -> Tuple[Any, Tuple[int, ...], int]:
    """A tensor's dtype, shape and number of elements; a size of 0 must not hide an absurd one beside it."""
    name, datatype, shape = _last(tensor, 1), _last(tensor, 2), _sizes(tensor)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise WireError("the tensor {!r} has the datatype {!r}, known are {}".format(name, datatype, ", ".join(DTYPES)))
    count = bound = 1
    for size in shape[: MAX_RANK + 1]:
        count *= size
        bound *= max(size, 1)
    if len(shape) > MAX_RANK or bound > MAX_ELEMENTS or any(size < 0 for size in shape):
        raise WireError("the tensor {!r} has the impossible shape {}".format(name, list(shape[: MAX_RANK + 1])))
    return dtype, shape, count


def _raw(data: bytes, name: str, dtype: Any, shape: Tuple[int, ...], count: int, start: int) -> Any:
    flat = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
    if dtype.kind == "b" and count and flat.view(np.uint8).max() > 1:
        raise WireError("the tensor {!r} is BOOL but has bytes other than 0 and 1".format(name))
    if not flat.flags.aligned:
        flat = flat.copy()
    flat.flags.writeable = False
    return flat.reshape(shape)


def _typed(tensor: Found, dtype: Any, shape: Tuple[int, ...], count: int) -> Any:
    """A tensor whose elements are in its contents, as some servers answer."""
    name, datatype = _last(tensor, 1), _last(tensor, 2)
    messages = tensor.get(5, [])
    contents = messages[0] if messages else {}
    field = _TYPED.get(datatype, 0)
    if len(messages) > 1 or any(
        number != field and values for number, values in contents.items() if number in _CONTENTS
    ):
        raise WireError("the tensor {!r} of {} has contents of another datatype".format(name, datatype))
    values = contents.get(field, [])
    if field >= 6:
        flat = np.concatenate(values) if values else np.empty(0, dtype)
    else:
        flat = _integers(name, dtype, field, values)
    if len(flat) != count or not field:
        raise WireError("the tensor {!r} of {} needs {} elements, got {}".format(name, datatype, count, len(flat)))
    flat.flags.writeable = False
    return flat.reshape(shape)


def _integers(name: str, dtype: Any, field: int, values: List[int]) -> Any:
    """Varints as the datatype's field means them: BOOL, or the low 32 or 64 bits, signed or not."""
    wide = np.array(values, "<u8")
    if field == 1:
        return wide != 0
    whole = {2: "<i4", 3: "<i8", 4: "<u4", 5: "<u8"}.get(field, "<u8")
    meant = (wide & np.uint64(0xFFFFFFFF)).astype("<u4").view(whole) if field in (2, 4) else wide.view(whole)
    flat = meant.astype(dtype)
    if not np.array_equal(flat, meant):
        raise WireError("the tensor {!r} has elements that do not fit its datatype".format(name))
    return flat
