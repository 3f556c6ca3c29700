"""Protobuf's wire format, as much of it as `oip_wire` needs: fields read by a table of what they are, and a few made.

What protobuf itself would refuse is refused. A table names a field's number and what it is: one of the words below, or
a message, which is a table of its own.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from typing import Any, Dict, List, NoReturn, Tuple

import numpy as np

ONE, EIGHT, TEXT, DATA, VARINTS, FLOATS, DOUBLES = range(7)
"""One varint, one fixed64, and of a length: text, where data lies, and packed or single numbers."""
Found = Dict[int, List[Any]]
"""The values of each field that is there, by number."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class WireError(Exception):
    """Bytes that are no such message, a message that contradicts itself, or a value that has no place in one."""


def text_field(tag: bytes, text: str) -> bytes:
    """A field of text, which is left out where it is empty."""
    if not text:
        return b""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise WireError("the name {!r} is no text that can be sent".format(text)) from None
    return tag + varint(len(data)) + data


def varint(value: int) -> bytes:
    """The bytes of a number of 0 or more."""
    if value < 128:
        return bytes((value,))
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def damaged(what: str) -> NoReturn:
    raise WireError("the message is damaged: {}".format(what))


def read_fields(data: bytes, table: Dict[int, Any]) -> Found:
    return _fields(memoryview(data), 0, len(data), table)


def _fields(view: Any, at: int, end: int, table: Dict[int, Any]) -> Found:
    """The values of each field that is there, by number; of fields that are not in the table only the number."""
    found = {}  # type: Found
    while at < end:
        tag = view[at]
        at += 1
        if tag > 127:
            tag, at = _varint(view, at - 1, end, 5)
        number, kind = tag >> 3, tag & 7
        if not 0 < tag < 1 << 32 or not number:
            damaged("a field has no number")
        start, size = at, 0
        if kind == _LENGTH:
            size, start = _varint(view, at, end, 5)
            at = start + size
        elif kind == _VARINT:
            size, at = _varint(view, at, end, 10)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            damaged("a field is of wire type {}".format(kind))
        if at > end:
            damaged("it ends inside a field")
        values = found.setdefault(number, [])
        what = table.get(number)
        if what is not None:
            values += _values(view, start, at, kind, what, size)
    return found


def _values(view: Any, start: int, end: int, kind: int, what: Any, single: int) -> List[Any]:
    """What one occurrence of a known field holds: one value, or many where numbers are packed."""
    if kind == _LENGTH:
        if what is TEXT:
            try:
                return [str(view[start:end], "utf-8")]
            except UnicodeDecodeError:
                damaged("a text is no UTF-8")
        if what is DATA:
            return [(start, end)]
        if isinstance(what, dict):
            return [_fields(view, start, end, what)]
        if what in (FLOATS, DOUBLES):
            width = 4 if what == FLOATS else 8
            if (end - start) % width:
                damaged("packed numbers are cut")
            return [np.frombuffer(view[start:end], "<f{}".format(width))] if end > start else []
        if what is VARINTS:
            return _packed(view, start, end)
    elif kind == _VARINT and what in (ONE, VARINTS):
        return [single]
    elif (kind, what) in ((_FIXED32, FLOATS), (_FIXED64, DOUBLES)):
        return [np.frombuffer(view[start:end], "<f{}".format(end - start))]
    elif (kind, what) == (_FIXED64, EIGHT):
        return [bytes(view[start:end])]
    return damaged("a field is of wire type {}".format(kind))


def _packed(view: Any, at: int, end: int) -> List[int]:
    values = []
    while at < end:
        value, at = _varint(view, at, end, 10)
        values.append(value)
    return values


def _varint(view: Any, at: int, end: int, longest: int) -> Tuple[int, int]:
    """An unsigned varint of at most `longest` bytes, and where it ends."""
    value = shift = 0
    for i in range(at, min(end, at + longest)):
        byte = view[i]
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 1 << (32 if longest == 5 else 64):
                damaged("a number is too large")
            return value, i + 1
        shift += 7
    return damaged("a number does not end")
