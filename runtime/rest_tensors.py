"""Inference requests and answers over REST: JSON, or JSON followed by the tensors' bytes.

The binary tensor data extension puts the contents behind the JSON, whose own length is in a header; a tensor then
states `binary_data_size`. An output comes in binary where its request, or the whole request, says so.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..agent.oip_wire import Request
from . import tensors
from .served import invalid, no_foreign, timeout_s
from .tensors import Array, TensorError

LENGTH_HEADER = "inference-header-content-length"
# Numbers in JSON take some ten times their bytes in memory until they are an array.
MAX_JSON_BYTES = 16 << 20
MAX_TENSORS = 1000
# Requests of one client mostly say the same before their bytes, and so do the answers: what is that short is kept.
_KEPT_BYTES = 4096
_KEPT = 128
# Kinds of NumPy that values in JSON may have for each kind that is wanted.
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


class Asked(NamedTuple):
    """A request, and how it wants its answer."""

    request: Request
    binary: frozenset[str]
    all_binary: bool
    timeout_s: float | None


def read(model: str, version: str, header_length: str | None, body: memoryview) -> Asked:
    """A request's body. Raises Refusal with one sentence for whatever is wrong with it."""
    try:
        return _read(model, version, header_length, body)
    except TensorError as error:
        raise invalid(f"model '{model[:100]}': {error}") from None


def _read(model: str, version: str, header_length: str | None, body: memoryview) -> Asked:
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal()) or len(header_length) > 15:
            raise TensorError("Inference-Header-Content-Length is no length")
        length = int(header_length)
        if length > len(body):
            raise TensorError(f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes")
    given = _parse(body[:length], header_length is not None)
    inputs: dict[str, Array] = {}
    at = length
    for tensor in _objects(given, "inputs"):
        name, array, at = _input(model, tensor, body, at)
        if name in inputs:
            raise TensorError(f"tensor '{name[:100]}' comes twice")
        inputs[name] = array
    if at != len(body):
        raise TensorError(f"{len(body) - at} bytes came behind the last tensor")
    parameters = _parameters(given)
    all_binary = parameters.get("binary_data_output") is True
    wanted, binary = [], []
    for output in _objects(given, "outputs"):
        name, own = _name(output), _parameters(output)
        no_foreign(model, "output", name, {key: value for key, value in own.items() if value not in (0, False)})
        wanted.append(name)
        if own.get("binary_data", all_binary) is True:
            binary.append(name)
    request_id = given.get("id", "")
    if not isinstance(request_id, str):
        raise TensorError("the request's id is no string")
    request = Request(model, version, request_id, inputs, tuple(wanted))
    return Asked(request, frozenset(binary), all_binary and not wanted, _timeout_s(parameters))


def write(model: str, version: str, asked: Asked, outputs: Sequence[tuple[str, Array]]) -> tuple[bytes, list[bytes]]:
    """An answer as its JSON and what follows it. Raises Refusal for values that JSON has no words for."""
    described: list[tuple[str, str, tuple[int, ...], int | None]] = []
    values: dict[str, Any] = {}
    parts: list[bytes] = []
    for name, array in outputs:
        size = None
        if asked.all_binary or name in asked.binary:
            _, raw = tensors.encode(name, array)
            size = len(raw)
            parts.append(raw)
        else:
            values[name] = array.ravel().tolist()
        described.append((name, tensors.datatype_of(array.dtype), array.shape, size))
    request_id = asked.request.request_id
    if not values and not request_id:
        return _header(model, version, tuple(described)), parts
    answer = _answer(model, version, described)
    for fields in answer["outputs"]:
        if fields["name"] in values:
            fields["data"] = values[fields["name"]]
    if request_id:
        answer["id"] = request_id
    try:
        return json.dumps(answer, allow_nan=False).encode(), parts
    except ValueError:
        raise invalid(
            f"model '{model}' answers with NaN or infinity, which JSON has not; ask for binary data"
        ) from None


def _answer(
    model: str, version: str, described: Sequence[tuple[str, str, tuple[int, ...], int | None]]
) -> dict[str, Any]:
    """An answer but for its values; a size is that of a binary tensor."""
    outputs: list[dict[str, Any]] = []
    for name, datatype, shape, size in described:
        fields: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
        if size is not None:
            fields["parameters"] = {"binary_data_size": size}
        outputs.append(fields)
    return {"model_name": model, "model_version": version, "outputs": outputs}


@functools.lru_cache(_KEPT)
def _header(model: str, version: str, described: tuple[tuple[str, str, tuple[int, ...], int | None], ...]) -> bytes:
    """The JSON of an answer whose tensors all follow it."""
    return json.dumps(_answer(model, version, described), separators=(",", ":")).encode()


def _parse(data: memoryview, before_bytes: bool) -> dict[str, Any]:
    """The JSON of a request; where the values are bytes behind it, it says the same again and again."""
    if len(data) > MAX_JSON_BYTES:
        raise TensorError(f"the JSON has {len(data)} bytes, {MAX_JSON_BYTES} at most are read; send tensors in binary")
    return _known(bytes(data)) if before_bytes and len(data) <= _KEPT_BYTES else _json(bytes(data))


def _json(data: bytes) -> dict[str, Any]:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):  # what is wrong where would quote what was sent
        raise TensorError("the request is no JSON; is Inference-Header-Content-Length right?") from None
    if not isinstance(given, dict):
        raise TensorError("the request is no JSON object")
    return given


_known = functools.lru_cache(_KEPT)(_json)
"""`_json` for what comes again and again; its result is only read."""


def _objects(given: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = given.get(field, [])
    if not isinstance(found, list) or len(found) > MAX_TENSORS or not all(isinstance(one, dict) for one in found):
        raise TensorError(f"'{field}' is no list of objects, {MAX_TENSORS} at most")
    return found


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    found = given.get("parameters", {})
    if not isinstance(found, dict):
        raise TensorError("'parameters' is no object")
    return found


def _name(given: dict[str, Any]) -> str:
    name = given.get("name")
    if not isinstance(name, str):
        raise TensorError("a tensor has no name")
    return name


def _timeout_s(parameters: dict[str, Any]) -> float | None:
    value = parameters.get("timeout", 0)
    return timeout_s(value if type(value) is int else -1)


def _input(model: str, given: dict[str, Any], body: memoryview, at: int) -> tuple[str, Array, int]:
    """One input's name and array, and where the next one's bytes start."""
    name, parameters = _name(given), _parameters(given)
    no_foreign(model, "input", name, parameters)
    datatype, sizes = given.get("datatype"), given.get("shape")
    if not isinstance(datatype, str) or not isinstance(sizes, list):
        raise TensorError(f"tensor '{name[:100]}' needs a datatype and a shape")
    if not all(type(size) is int for size in sizes):
        raise TensorError(f"tensor '{name[:100]}' has a shape of other than whole numbers")
    size = parameters.get("binary_data_size")
    if size is None:
        return name, _values(name, datatype, sizes, given.get("data")), at
    if "data" in given:
        raise TensorError(f"tensor '{name[:100]}' has both data and binary data, send one of them")
    if type(size) is not int or not 0 <= size <= len(body) - at:
        raise TensorError(f"tensor '{name[:100]}' states a binary_data_size that is not there")
    return name, tensors.from_bytes(name, datatype, sizes, body[at : at + size]), at + size


def _values(name: str, datatype: str, sizes: list[int], data: Any) -> Array:
    """An array of JSON's numbers, flat or nested."""
    dtype, count = tensors.claims(name, datatype, sizes)
    problem = f"tensor '{name[:100]}' needs {count} values of {datatype} as data"
    if not isinstance(data, list):
        raise TensorError(problem)
    try:
        array = np.array(data)
    except (ValueError, OverflowError):  # uneven, or too deep
        raise TensorError(f"{problem}, flat or nested evenly") from None
    if array.size != count:
        raise TensorError(f"{problem}, got {array.size}")
    if dtype.kind in "iu" and array.dtype.kind in "fO":  # NumPy takes 0 beside 2**63 for floats
        array = np.array(data, object)
        if not all(type(value) is int for value in array.flat):
            raise TensorError(f"{problem}, got others")
    elif count and array.dtype.kind not in _KINDS[dtype.kind]:
        raise TensorError(f"{problem}, got others")
    if dtype.kind in "iu" and count:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise TensorError(f"tensor '{name[:100]}' has values that do not fit {datatype}")
    with np.errstate(over="ignore"):  # becomes infinite, which the model's check refuses
        made: Array = array.astype(dtype).reshape(sizes)
    made.flags.writeable = False
    return made
