"""The manifest of an edge side as the standard library reads it: what it says, or the first thing wrong with it.

edgecut itself writes it (`runtime/manifest.py`); this reads it on a device, however it was damaged or is nested.
"""

import hashlib
import json
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

from .backends import BackendError

KIND, VERSION = "edge-side", 2
MAX_FILE_BYTES = 2 * 1024 * 1024 * 1024
MAX_FILES, MAX_TEXT, MAX_RANK, MAX_SIZE = 1000, 1000, 16, 1 << 31
AGAIN = "get the bundle again, or write it again with edgecut bundle"
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


class Wire(NamedTuple):
    """How the noisy activations travel where it is not float32: int8 in steps, one for each tensor of the cut."""

    dtype: str
    steps: Tuple[float, ...]


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
    """What a manifest says: takes `input`, sends `cut` to the model called `model_name`, expects `answer`.

    `wire` is None where the tensors of the cut travel as the float32 that they are. `sticky` says that the same input
    always gets the same noise.
    """

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
    wire: Optional[Wire] = None
    sticky: bool = False

    @property
    def sent(self) -> Tuple[Tensor, ...]:
        """The tensors of the cut as they travel, and as the cloud's model takes them."""
        if self.wire is None:
            return self.cut
        return tuple(tensor._replace(dtype=self.wire.dtype) for tensor in self.cut)


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
_OPTIONAL = ("target", "fallback", "engines", "wire", "sticky", "seal")
_LEAST_STEP, _MOST_STEP = 1e-37, 1e37  # both they and their inverses are float32


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
        wire=None if values.get("wire") is None else _wire(values["wire"], len(cut)),
        sticky=_truth("sticky", values.get("sticky", False)),
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


def _truth(what: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _Fault("{} is neither true nor false".format(what))
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


def _wire(values: Any, tensors: int) -> Wire:
    _fields("wire", values, ("dtype", "steps"))
    if values["dtype"] != "int8":
        raise _Fault("wire.dtype is {}, where int8 or no wire can be sent".format(ascii(values["dtype"])[:20]))
    steps = tuple(_real("wire.steps", step) for step in _list("wire.steps", values["steps"], MAX_FILES))
    if len(steps) != tensors or not all(_LEAST_STEP <= step <= _MOST_STEP for step in steps):
        raise _Fault("wire.steps are not one positive number for each of {} tensors".format(tensors))
    return Wire(values["dtype"], steps)


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
