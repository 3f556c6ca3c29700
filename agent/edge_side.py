"""The edge side of a bundle, read into memory: each byte is checked as it is read, and only these bytes are used.

A file that is changed after the check is never opened again, so nobody can swap one in between. Refused are missing,
altered, additional and linked files, paths that leave the folder, sizes beyond any model's, and a manifest that does
not parse, however it is nested. The digests find damage, not a forger: `expect_id` pins a side.

edgecut itself writes the manifest (`runtime/manifest.py`); this reads it with the standard library, on a device.
"""

import hashlib
import json
import os
import re
import stat
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from .backends import BackendError

KIND, VERSION = "edge-side", 2
MANIFEST, EDGE_MODEL, NOISE = "manifest.json", "edge.onnx", "noise.npz"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILE_BYTES = 2 * 1024 * 1024 * 1024
MAX_FILES, MAX_TEXT, MAX_RANK, MAX_SIZE, MAX_DEPTH = 1000, 1000, 16, 1 << 31, 16
AGAIN = "get the bundle again, or write it again with edgecut bundle"
_PIECE = 1 << 20
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SEAL = re.compile(rb'"seal":\s*"sha256:([0-9a-f]{64})"')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")


class SideError(BackendError):
    """An edge side is incomplete, altered or unsafe to read; the message is one sentence for a person."""


class Tensor(NamedTuple):
    """One tensor: `shape` without the batch; whole numbers of an input are below `below`, where that is known."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    below: Optional[int]


class Pixels(NamedTuple):
    """How bytes become the input: pixel * scale + offset, per channel or one for all."""

    scale: Tuple[float, ...]
    offset: Tuple[float, ...]


class Target(NamedTuple):
    """What the models were made for; `batch` is None for any, or 1, and then callers loop."""

    name: str
    runtime: str
    precision: str
    batch: Optional[int]


class Engine(NamedTuple):
    """An engine that was built ahead for GPUs of these compute capabilities, such as "8.6"."""

    file: str
    runtime: str
    compute_capabilities: Tuple[str, ...]
    version: str


class Stored(NamedTuple):
    """One file of the side."""

    path: str
    size_bytes: int
    digest: str


class Description(NamedTuple):
    """What a manifest says: takes `input`, sends `cut` to the model called `model_name`, expects `answer`."""

    model_name: str
    input: Tensor
    pixels: Optional[Pixels]
    cut: Tuple[Tensor, ...]
    answer: Tensor
    mechanism: str
    target: Target
    fallback: Optional[str]
    engines: Tuple[Engine, ...]
    files: Tuple[Stored, ...]


class EdgeSide(NamedTuple):
    """A side whose files are all as its manifest says. `files` holds those that were wanted, `id` is its digest."""

    folder: str
    id: str
    description: Description
    files: Mapping[str, bytes]


Wanted = Callable[[Description], Iterable[str]]


def model_and_noise(description: Description) -> Iterable[str]:
    """What every session needs."""
    return (EDGE_MODEL, NOISE)


def read_edge_side(folder: str, wanted: Wanted = model_and_noise, expect_id: Optional[str] = None) -> EdgeSide:
    """Read and check a side; the files that `wanted` names are kept. Raises SideError with the first fault."""
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SideError("there is no bundle folder {} ({}); check the path".format(folder, error.strerror)) from None
    try:
        return _read(folder, root, wanted, expect_id)
    except OSError as error:
        raise SideError("{} cannot be read ({}); check its permissions".format(folder, error.strerror)) from None
    finally:
        os.close(root)


def _read(folder: str, root: int, wanted: Wanted, expect_id: Optional[str]) -> EdgeSide:
    where = os.path.join(folder, MANIFEST)
    text = _manifest_bytes(where, root)
    found = "sha256:" + hashlib.sha256(text).hexdigest()
    if expect_id is not None and found != expect_id:
        raise SideError("{} has the id {}, but {} was expected; {}".format(folder, found, expect_id, AGAIN))
    description = parse(text, where)
    keep = set(wanted(description))
    listed = {stored.path for stored in description.files}
    for name in sorted(keep - listed):
        raise SideError("there is no file {} in its manifest; {}".format(os.path.join(folder, name), AGAIN))
    files = {}  # type: Dict[str, bytes]
    for stored in description.files:
        data = _checked(folder, root, stored, stored.path in keep)
        if stored.path in keep:
            files[stored.path] = data
    for path in _present(folder, root):
        if path not in listed and path != MANIFEST:
            raise SideError("{} is not in the manifest; remove it, or {}".format(os.path.join(folder, path), AGAIN))
    return EdgeSide(folder, found, description, files)


def _manifest_bytes(where: str, root: int) -> bytes:
    opened = _open(where, root, MANIFEST)
    with os.fdopen(opened, "rb") as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise SideError("{} has more than {} bytes; {}".format(where, MAX_MANIFEST_BYTES, AGAIN))
    return text


def _open(where: str, root: int, path: str) -> int:
    """A descriptor of a plain file below `root`, with no link on the way. The caller closes it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    folders, here = path.split("/")[:-1], root
    try:
        for name in folders:
            deeper = os.open(name, flags | os.O_DIRECTORY, dir_fd=here)
            if here != root:
                os.close(here)
            here = deeper
        # A pipe in a file's place would make an ordinary open wait for its writer.
        opened = os.open(path.split("/")[-1], flags | os.O_NONBLOCK, dir_fd=here)
    except FileNotFoundError:
        raise SideError("{} is missing; {}".format(where, AGAIN)) from None
    except OSError as error:
        if _is_link(root, path):
            raise SideError(
                "{} is or lies behind a link, which a bundle may not hold; {}".format(where, AGAIN)
            ) from None
        raise SideError("{} cannot be read ({}); check its permissions".format(where, error.strerror)) from None
    finally:
        if here != root:
            os.close(here)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise SideError("{} is no plain file; {}".format(where, AGAIN))
    return opened


def _is_link(root: int, path: str) -> bool:
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        try:
            if stat.S_ISLNK(os.lstat("/".join(parts[:count]), dir_fd=root).st_mode):
                return True
        except OSError:
            return False
    return False


def _checked(folder: str, root: int, stored: Stored, keep: bool) -> bytes:
    """A file's bytes where they are to be kept, and none else; as its manifest says in either case."""
    where = os.path.join(folder, stored.path)
    sha, kept, size = hashlib.sha256(), [], 0  # type: Any, List[bytes], int
    with os.fdopen(_open(where, root, stored.path), "rb", buffering=0) as file:
        there = os.fstat(file.fileno()).st_size
        if there == stored.size_bytes:
            # One byte more than it should have, so that a file that grows is noticed.
            while size <= stored.size_bytes:
                piece = file.read(min(_PIECE, stored.size_bytes + 1 - size))
                if not piece:
                    break
                sha.update(piece)
                size += len(piece)
                if keep:
                    kept.append(piece)
            there = size
    if there != stored.size_bytes:
        raise SideError("{} has {} bytes where its manifest says {}; {}".format(where, there, stored.size_bytes, AGAIN))
    if "sha256:" + sha.hexdigest() != stored.digest:
        raise SideError("{} was altered, its digest is not the manifest's; {}".format(where, AGAIN))
    return b"".join(kept)


def _present(folder: str, root: int) -> List[str]:
    """Every file and link below `root`, by relative path."""
    found = []
    for here, folders, files, descriptor in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        if here.count("/") > MAX_DEPTH:
            raise SideError("{} holds folders in folders without end; {}".format(folder, AGAIN))
        links = [name for name in folders if stat.S_ISLNK(os.lstat(name, dir_fd=descriptor).st_mode)]
        found += [os.path.normpath(os.path.join(here, name)) for name in [*files, *links]]
    return sorted(found)


class _Fault(ValueError):
    """What is wrong in a manifest, and where."""


def parse(text: bytes, where: str) -> Description:
    """A manifest's contents. Raises SideError naming the first thing that is wrong with it."""
    try:
        values = json.loads(text.decode("utf-8"), parse_int=_whole, parse_constant=_no_constant)
        if not isinstance(values, dict):
            raise _Fault("no object")
        if values.get("kind") != KIND:
            raise SideError("{} is not an edge side's manifest; give the bundle's folder edge".format(where))
        if values.get("version") != VERSION:
            raise SideError(
                "{} has format version {}, and this reads {}; write the bundle again, or take the agent that is in "
                "it".format(where, ascii(values.get("version"))[:20], VERSION)
            )
        _check_seal(text, where, values)
        return _description(values)
    except SideError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        what = error if isinstance(error, _Fault) else "it is not JSON"
        raise SideError("{} is not usable ({}); {}".format(where, what, AGAIN)) from None


def _check_seal(text: bytes, where: str, values: Dict[str, Any]) -> None:
    """Whether the text is the one whose digest it holds, with zeros in that digest's place; a text may hold none."""
    if values.get("seal") is None:
        return
    found = list(_SEAL.finditer(text))
    if len(found) == 1:
        start, end = found[0].span(1)
        zeroed = text[:start] + b"0" * 64 + text[end:]
        if hashlib.sha256(zeroed).hexdigest().encode() == text[start:end]:
            return
    raise SideError("{} was altered, it does not have the digest that it holds; {}".format(where, AGAIN))


def _whole(digits: str) -> int:
    """Not `int`, which takes forever for the many digits that no size has."""
    if len(digits) > 20:
        raise _Fault("a number of {} digits".format(len(digits)))
    return int(digits)


def _no_constant(name: str) -> float:
    raise _Fault("{} is no number".format(name))


_NEEDED = ("kind", "version", "model_name", "input", "pixels", "cut", "answer", "mechanism", "files")
_OPTIONAL = ("target", "fallback", "engines", "seal")


def _description(values: Dict[str, Any]) -> Description:
    _fields("the manifest", values, _NEEDED, _OPTIONAL)
    files = tuple(_stored(each) for each in _list("files", values["files"], MAX_FILES))
    paths = [stored.path for stored in files]  # type: List[str]
    if len(set(paths)) != len(paths):
        raise _Fault("a file is listed twice")
    cut = tuple(_tensor("cut", each) for each in _list("cut", values["cut"], MAX_FILES))
    if not cut or len({tensor.name for tensor in cut}) != len(cut):
        raise _Fault("the cut has no tensor, or two of one name")
    if any(tensor.dtype != "float32" for tensor in cut):
        raise _Fault("a tensor of the cut is not float32")
    fallback = values.get("fallback")
    engines = tuple(_engine(each) for each in _list("engines", values.get("engines", []), MAX_FILES))
    for name in [engine.file for engine in engines] + ([] if fallback is None else [_text("fallback", fallback)]):
        if name not in paths:
            raise _Fault("{} is not among its files".format(ascii(name)[:100]))
    return Description(
        model_name=_text("model_name", values["model_name"]),
        input=_tensor("input", values["input"]),
        pixels=None if values["pixels"] is None else _pixels(values["pixels"]),
        cut=cut,
        answer=_tensor("answer", values["answer"]),
        mechanism=_text("mechanism", values["mechanism"]),
        target=_target(values.get("target", {})),
        fallback=fallback,
        engines=engines,
        files=files,
    )


def _fields(what: str, values: Any, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    if not isinstance(values, dict):
        raise _Fault("{} is no object".format(what))
    found, known = set(values), set(needed)
    for problem, names in (("lacks", known - found), ("has the unknown field", found - known - set(optional))):
        if names:
            raise _Fault("{} {} {}".format(what, problem, ascii(sorted(names)[0])[:100]))


def _list(what: str, values: Any, most: int) -> List[Any]:
    if not isinstance(values, list) or len(values) > most:
        raise _Fault("{} is no list of at most {}".format(what, most))
    return values


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise _Fault("{} is no name".format(what))
    return value


def _number(what: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _Fault("{} is no whole number from {} to {}".format(what, least, most))
    return value


def _tensor(what: str, values: Any) -> Tensor:
    _fields(what, values, ("name", "dtype", "shape"), ("below",))
    shape = tuple(_number(what + ".shape", size, 1, MAX_SIZE) for size in _list(what, values["shape"], MAX_RANK))
    if values["dtype"] not in _DTYPES:
        raise _Fault("{}.dtype is none of {}".format(what, ", ".join(_DTYPES)))
    bytes_each = np.dtype(values["dtype"]).itemsize
    for size in shape:
        bytes_each *= size
    if bytes_each > MAX_FILE_BYTES:
        raise _Fault("{} has more than {} bytes".format(what, MAX_FILE_BYTES))
    below = values.get("below")
    if below is not None:
        below = _number(what + ".below", below, 1, 1 << 62)
    return Tensor(_text(what + ".name", values["name"]), values["dtype"], shape, below)


def _pixels(values: Any) -> Pixels:
    _fields("pixels", values, ("scale", "offset"), ("photograph",))
    scale, offset = (
        tuple(_real("pixels", value) for value in _list("pixels", values[name], MAX_TEXT))
        for name in ("scale", "offset")
    )
    if not scale or len(scale) != len(offset):
        raise _Fault("pixels have {} scales and {} offsets".format(len(scale), len(offset)))
    return Pixels(scale, offset)


def _real(what: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e30:
        raise _Fault("{} hold something else than numbers".format(what))
    return float(value)


def _target(values: Any) -> Target:
    known = ("name", "runtime", "opset", "ir_version", "precision", "batch")
    _fields("target", values, (), known)
    if values.get("batch") not in (None, 1) or isinstance(values.get("batch"), (bool, float)):
        raise _Fault("target.batch is {}, where 1 or null can be run".format(ascii(values["batch"])[:20]))
    return Target(
        name=_text("target.name", values.get("name", "cpu")),
        runtime=_text("target.runtime", values.get("runtime", "onnxruntime-cpu")),
        precision=_text("target.precision", values.get("precision", "float32")),
        batch=values.get("batch"),
    )


def _engine(values: Any) -> Engine:
    _fields("an engine", values, ("file", "runtime", "compute_capabilities", "version"))
    capabilities = _list("compute_capabilities", values["compute_capabilities"], MAX_FILES)
    return Engine(
        file=_text("an engine's file", values["file"]),
        runtime=_text("an engine's runtime", values["runtime"]),
        compute_capabilities=tuple(_text("a compute capability", each) for each in capabilities),
        version=_text("an engine's version", values["version"]),
    )


def _stored(values: Any) -> Stored:
    _fields("a file", values, ("path", "size_bytes", "digest"))
    path = values["path"]
    if not isinstance(path, str) or len(path) > MAX_TEXT or not _SAFE.fullmatch(path) or ".." in path.split("/"):
        raise SideError("the manifest names the unsafe path {}; do not use this bundle".format(ascii(path)[:100]))
    if not isinstance(values["digest"], str) or not _DIGEST.fullmatch(values["digest"]):
        raise _Fault("{} has no digest".format(path))
    return Stored(path, _number(path, values["size_bytes"], 0, MAX_FILE_BYTES), values["digest"])
