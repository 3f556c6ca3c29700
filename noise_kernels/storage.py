"""The bytes of a collection's file: its header, orders packed to the bit, an `.npz` written and read strictly.

Packed orders: every index takes ceil(log2 n) bits, lowest bit first; the D orders follow each other as one stream of
bits that fills each byte from its lowest bit; the last byte ends in zeros. That is the paper's Table 3: at D = 20,
n = 9216 takes 14 bits an index, 315.00 KB (KB = 1024 bytes).

Functions here raise ValueError; `collection` says in which file.
"""

import hashlib
import io
import json
import re
import struct
import zipfile
from typing import Any, Dict, Iterator, List, Set, Tuple

import numpy as np

__all__ = [
    "FORMAT",
    "VERSION",
    "contents_digest",
    "file_bytes",
    "header_json",
    "index_bits",
    "index_dtype",
    "pack_orders",
    "packed_bytes",
    "read_header",
    "read_json",
    "read_members",
    "unpack_orders",
    "write_members",
]

FORMAT = "edgecut-noise"
VERSION = 1
_MAX_HEADER_BYTES = 64 << 10
_FIELDS = {"format", "version", "cut", "tensors", "model_digest", "distributions", "n", "digest"}

# Indices packed or unpacked at a time: bounds the memory, and being a multiple of 8, a chunk always ends with a byte.
_CHUNK = 1 << 16

# What a member's .npy header looks like: one-dimensional, of the two types a collection has.
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(rb"\{'descr': '([^']{1,9})', 'fortran_order': False, 'shape': \((\d{1,12}),\), \} *\n")

# Everything zipfile is known to raise on damaged input; a bad CRC is a BadZipFile.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
)


def index_bits(n: int) -> int:
    """ceil(log2 n): the bits of one packed index below n, for n >= 2."""
    return (n - 1).bit_length()


def index_dtype(n: int) -> "np.dtype[np.unsignedinteger]":
    """The type that holds indices below n in memory: uint16 up to n = 65536, else uint32."""
    return np.dtype(np.uint16) if n <= 1 << 16 else np.dtype(np.uint32)


def packed_bytes(distributions: int, n: int) -> int:
    """Bytes of `distributions` packed orders of n indices each."""
    return (distributions * n * index_bits(n) + 7) // 8


def _chunks(count: int, bits: int) -> Iterator[Tuple[slice, slice]]:
    """(which indices, which bytes they pack to), chunk by chunk."""
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        yield slice(start, stop), slice(start * bits // 8, (stop * bits + 7) // 8)


def pack_orders(orders: np.ndarray) -> np.ndarray:
    """Pack orders [D, n] into uint8 [packed_bytes(D, n)]."""
    bits = index_bits(orders.shape[1])
    flat = orders.reshape(-1)
    packed = np.empty(packed_bytes(*orders.shape), dtype=np.uint8)
    for indices, octets in _chunks(flat.size, bits):
        wide = flat[indices].astype("<u4").view(np.uint8).reshape(-1, 4)
        packed[octets] = np.packbits(np.unpackbits(wide, axis=1, bitorder="little")[:, :bits], bitorder="little")
    return packed


def unpack_orders(packed: np.ndarray, distributions: int, n: int) -> np.ndarray:
    """The orders [D, n] (uint16 or uint32, see `index_dtype`) that `pack_orders` packed. Indices may be n or more."""
    bits = index_bits(n)
    if packed.size != packed_bytes(distributions, n):
        raise ValueError(
            f"its packed orders have {packed.size} bytes where {distributions} distributions of {n} elements "
            f"need {packed_bytes(distributions, n)}"
        )
    flat = np.empty(distributions * n, dtype=index_dtype(n))
    width = 8 * flat.itemsize
    for indices, octets in _chunks(flat.size, bits):
        count = indices.stop - indices.start
        wide = np.zeros((count, width), dtype=np.uint8)
        wide[:, :bits] = np.unpackbits(packed[octets], bitorder="little")[: count * bits].reshape(count, bits)
        flat[indices] = np.packbits(wide, axis=1, bitorder="little").reshape(-1).view(f"<u{flat.itemsize}")
    return flat.reshape(distributions, n)


def write_members(members: Dict[str, np.ndarray]) -> bytes:
    """An uncompressed .npz of one-dimensional arrays, as `np.savez` writes it but with nothing left to its version.

    The same arrays give the same bytes: entries carry zip's earliest date, and the .npy headers are of version 1.0.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + ".npy", date_time=(1980, 1, 1, 0, 0, 0)), entry.getvalue())
    return buffer.getvalue()


def file_bytes(header: Dict[str, Any], members: Dict[str, np.ndarray]) -> bytes:
    """The file of a header without its digest, and of the other members; the same contents give the same bytes."""
    whole = dict(header, digest=contents_digest(header, members))
    text = np.frombuffer(header_json(whole), dtype=np.uint8)
    return write_members(dict([("header", text), *sorted(members.items())]))


def read_members(data: bytes, dtypes: Dict[str, str], limit: int) -> Dict[str, np.ndarray]:
    """The members of an .npz, which must be exactly those of `dtypes`, one-dimensional, and of these types.

    The directory is checked before anything is read: only plain, uncompressed members, at most `limit` bytes in all.
    Raises ValueError for anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_directory(archive.infolist(), sorted(name + ".npy" for name in dtypes), limit)
            contents = {name: archive.read(name + ".npy") for name in dtypes}
    except _BadDirectory as error:
        raise ValueError(str(error)) from None
    except _ZIP_ERRORS as error:
        raise ValueError(f"it is damaged or not an .npz file ({error})") from error
    return {name: _read_array(name, contents[name], dtypes[name]) for name in dtypes}


class _BadDirectory(ValueError):
    """The archive can be read, but is not one of ours."""


def _check_directory(entries: List[zipfile.ZipInfo], expected: List[str], limit: int) -> None:
    names = sorted(entry.filename for entry in entries)
    if names != expected:
        raise _BadDirectory(f"it holds the members {_shorten(names)}, where a collection has {', '.join(expected)}")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise _BadDirectory(f"its member {entry.filename} is compressed, where a collection is stored plainly")
    total = sum(entry.file_size for entry in entries)
    if total > limit:
        raise _BadDirectory(f"it unpacks to {total} bytes, more than the {limit} allowed")


def _shorten(names: List[str]) -> str:
    text = ", ".join(ascii(name) for name in names)
    return text if len(text) <= 200 else text[:200] + "..."


def _read_array(name: str, content: bytes, dtype: str) -> np.ndarray:
    """The array of one member.

    Not np.load: that evaluates the header as a Python literal and allocates whatever shape it claims before it looks
    whether the data is there. No pickle is ever read, whatever the header says.
    """
    start = len(_NPY_MAGIC) + 2
    end = start + int.from_bytes(content[start - 2 : start], "little")
    match = _NPY_HEADER.fullmatch(content[start:end])
    if content[: start - 2] != _NPY_MAGIC or match is None:
        raise ValueError(f"its member {name}.npy is not a one-dimensional array in .npy format 1.0")
    found = match.group(1).decode("latin-1")
    if found != dtype:
        raise ValueError(f"its member {name}.npy has type {found!a} where {dtype!a} belongs")
    if len(content) - end != int(match.group(2)) * np.dtype(dtype).itemsize:
        raise ValueError(f"its member {name}.npy is shorter or longer than its header says")
    return np.frombuffer(content, dtype=dtype, offset=end)


def header_json(header: Dict[str, Any]) -> bytes:
    """The header's one and only form: keys sorted, no spaces, ASCII."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")


def contents_digest(header: Dict[str, Any], members: Dict[str, np.ndarray]) -> str:
    """SHA-256, as "sha256:<hex>", of the header without `digest`, then each member's name, length, bytes, by name."""
    sha = hashlib.sha256(header_json(header))
    for name in sorted(members):
        content = members[name].tobytes()
        sha.update(f"\n{name} {len(content)}\n".encode("ascii"))
        sha.update(content)
    return "sha256:" + sha.hexdigest()


def read_header(text: bytes) -> Dict[str, Any]:
    """A collection's header: fields of the right names and types. Raises ValueError."""
    header = read_json(text, FORMAT, VERSION, _FIELDS)
    if any(type(header[name]) is not int for name in ("distributions", "n")):
        raise ValueError("its distributions and n are not integers")
    return header


def read_json(text: bytes, kind: str, version: int, fields: Set[str]) -> Dict[str, Any]:
    """A header of that format and version with exactly these fields, `tensors` among them. Raises ValueError."""
    if len(text) > _MAX_HEADER_BYTES:
        raise ValueError("its header is longer than 64 KB")
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != kind:
        raise ValueError(f"its header does not say format {kind}")
    if type(header.get("version")) is not int or header["version"] != version:
        raise ValueError(f"its format version is {ascii(header.get('version'))[:20]} and this program reads {version}")
    if set(header) != fields:
        raise ValueError(f"its header does not have exactly the fields {', '.join(sorted(fields))}")
    tensors = header["tensors"]
    if not isinstance(tensors, list) or any(not isinstance(t, dict) or set(t) != {"name", "shape"} for t in tensors):
        raise ValueError("its tensors are not a list of names and shapes")
    return header
