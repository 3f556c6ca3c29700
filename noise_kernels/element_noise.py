"""Noise that is independent for each value, mixed by a matrix or not: every mechanism but Shredder's collection.

    noise = loc + mixing @ (scale * u)        u: standard Laplace (variance 2) or standard normal, one for each value

`laplace` has one scale for all values, `cloak` a mean and a scale for each, `gaussian` a matrix, `channel` a scale for
each coordinate that its map sends, and `none` scales of 0. How u follows from a key and a nonce is in `elements`.

The file is an `.npz` (see `storage`) with the members header (uint8: UTF-8 JSON), loc, scale, mixing, and the map's
centre, axes, forward, backward (float32) and index (int32); what is not there is empty. The header holds format,
version, mechanism, law, place, cut, tensors, model_digest, values, mixed, map and the digest over all that.
"""

import math
import re
from typing import Any, Callable, Dict, NoReturn, Optional, Sequence, Tuple

import numpy as np

from .collection import CollectionError, Tensors, _size, _tensors, _text
from .linear_map import LinearMap, MapError
from .storage import contents_digest, file_bytes, read_json, read_members

__all__ = ["LAWS", "MAPPED", "MECHANISMS", "PLACES", "ElementNoise"]

MECHANISMS = ("laplace", "cloak", "gaussian", "channel", "none")
LAWS = ("laplace", "normal")
PLACES = ("cut", "input")
FORMAT, VERSION = "edgecut-mechanism", 1
MAPPED = "sent_values"
"""The name of the one tensor that crosses where a map stands before the noise."""
MAX_BYTES = 256 << 20
_MAX_VALUE = 1e30
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_FLOATS = ("axes", "backward", "centre", "forward", "loc", "mixing", "scale")
_DTYPES = dict([("header", "|u1"), ("index", "<i4")] + [(name, "<f4") for name in _FLOATS])
_FIELDS = {
    "format",
    "version",
    "mechanism",
    "law",
    "place",
    "cut",
    "tensors",
    "model_digest",
    "values",
    "mixed",
    "map",
    "digest",
}


class ElementNoise:
    """Noise for the `values` values that are sent. Immutable; equal when the contents are.

    mechanism -- one of MECHANISMS. law -- one of LAWS, that of u.
    loc, scale -- float32 [values], read-only, in units of what is sent; scale is 0 or more.
    mixing -- float32 [values, values], or None.
    tensors -- ((name, shape without the batch), ...): what it was fitted to, the cut's tensors or the model's input.
    place -- "cut", or "input": added before the edge partition, whose output is sent as it is.
    map -- what is done to the activation before the noise, or None. At the input it follows the noise, there and back,
        so that what is not kept is constant.
    model_digest, cut -- as a NoiseCollection has them.

    Raises CollectionError where these do not fit each other or a value is not finite.
    """

    __slots__ = (
        "_prepared",
        "cut",
        "law",
        "loc",
        "map",
        "mechanism",
        "mixing",
        "model_digest",
        "place",
        "scale",
        "tensors",
    )

    mechanism: str
    law: str
    loc: np.ndarray
    scale: np.ndarray
    mixing: Optional[np.ndarray]
    tensors: Tensors
    model_digest: str
    cut: str
    place: str
    map: Optional[LinearMap]
    _prepared: Any  # the compiled sampler's tables, as a collection has them

    def __init__(
        self,
        mechanism: str,
        law: str,
        loc: Any,
        scale: Any,
        tensors: Sequence[Tuple[str, Sequence[int]]],
        model_digest: str,
        cut: str,
        mixing: Any = None,
        place: str = "cut",
        map: Optional[LinearMap] = None,
    ) -> None:
        put = object.__setattr__
        put(self, "mechanism", _one_of("mechanism", mechanism, MECHANISMS))
        put(self, "law", _one_of("law", law, LAWS))
        put(self, "place", _one_of("place", place, PLACES))
        put(self, "loc", _values("loc", loc))
        put(self, "scale", _values("scale", scale))
        put(self, "mixing", None if mixing is None else _values("mixing", mixing))
        put(self, "tensors", _tensors(tensors))
        put(self, "model_digest", _text("model_digest", model_digest))
        put(self, "cut", _text("cut", cut))
        put(self, "map", map)
        put(self, "_prepared", None)
        self._check()

    def _check(self) -> None:
        if self.loc.ndim != 1 or self.loc.size < 1 or self.loc.shape != self.scale.shape:
            raise CollectionError("loc and scale do not have one value each for each value sent; fit the noise again")
        if not (self.scale >= 0).all():
            raise CollectionError("scale[{}] is negative; fit it again".format(int(np.argmin(self.scale >= 0))))
        if self.mixing is not None and self.mixing.shape != (self.values, self.values):
            raise CollectionError("mixing is no square matrix over the values sent; fit the noise again")
        if self.mixing is not None:
            together = np.abs(self.mixing.astype(np.float64)) @ self.scale.astype(np.float64)
            if not (together <= _MAX_VALUE).all():
                raise CollectionError("mixing and scale together go beyond 1e30; fit the noise again")
        mapped = self.map.values if self.map is not None and self.place == "cut" else self.n
        if (self.map is not None and self.map.n != self.n) or mapped != self.values:
            raise CollectionError(
                "the noise is for {} values, but the tensors of cut {!a} give {}; fit it for this cut".format(
                    self.values, self.cut, mapped
                )
            )
        if _DIGEST.fullmatch(self.model_digest) is None:
            raise CollectionError("model_digest is not 'sha256:' and 64 lower-case hex digits; give the model's digest")

    @property
    def n(self) -> int:
        """Elements of `tensors`, all together."""
        return sum(_size(shape) for _, shape in self.tensors)

    @property
    def values(self) -> int:
        """Values that the noise is added to, for one item."""
        return int(self.loc.size)

    @property
    def carriers(self) -> Tensors:
        """The tensors that the noise is added to: `tensors`, or the one that the map makes of them."""
        if self.map is None or self.place == "input":
            return self.tensors
        return ((MAPPED, (self.values,)),)

    @property
    def entropy_nats(self) -> float:
        """The exact differential entropy of the noise, -inf without any: what who has this file still cannot know."""
        if not (self.scale > 0).all():
            return -math.inf
        scale = self.scale.astype(np.float64)
        standard = math.log(2 * math.e) if self.law == "laplace" else 0.5 * math.log(2 * math.pi * math.e)
        each = standard + np.log(scale)
        volume = 0.0 if self.mixing is None else float(np.linalg.slogdet(self.mixing.astype(np.float64))[1])
        return float(each.sum()) + volume

    @property
    def footprint_bytes(self) -> int:
        """Bytes that the edge keeps for the noise; the map, which is part of the model, is not counted."""
        return int(self.loc.nbytes + self.scale.nbytes + (0 if self.mixing is None else self.mixing.nbytes))

    def deployed(self) -> "ElementNoise":
        """As an edge side has it: for the tensors that the edge partition gives, the map being part of that."""
        if self.map is None:
            return self
        place, carriers = self.place, self.carriers
        return ElementNoise(
            self.mechanism, self.law, self.loc, self.scale, carriers, self.model_digest, self.cut, self.mixing, place
        )

    @property
    def digest(self) -> str:
        """What the file holds as its digest."""
        return contents_digest(*self._contents())

    def to_bytes(self) -> bytes:
        """The file; the same noise always gives the same bytes."""
        return file_bytes(*self._contents())

    def _contents(self) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
        header = {
            "format": FORMAT,
            "version": VERSION,
            "mechanism": self.mechanism,
            "law": self.law,
            "place": self.place,
            "cut": self.cut,
            "tensors": [{"name": name, "shape": list(shape)} for name, shape in self.tensors],
            "model_digest": self.model_digest,
            "values": self.values,
            "mixed": self.mixing is not None,
            "map": None if self.map is None else self.map.described(),
        }
        empty = np.zeros(0, "<f4")
        members = {"centre": empty, "axes": empty, "index": np.zeros(0, "<i4"), "forward": empty, "backward": empty}
        if self.map is not None:
            members = self.map.members()
        members["loc"], members["scale"] = self.loc.astype("<f4"), self.scale.astype("<f4")
        members["mixing"] = empty if self.mixing is None else self.mixing.reshape(-1).astype("<f4")
        return header, members

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "ElementNoise":
        """The noise whose file is `data`; `where` names it in messages. Raises CollectionError for anything else."""
        try:
            members = read_members(data, _DTYPES, MAX_BYTES)
            header = read_json(members.pop("header").tobytes(), FORMAT, VERSION, _FIELDS)
            digest = header.pop("digest")
            if digest != contents_digest(header, members):
                raise ValueError("its digest does not match its contents")
            values, mixed = header["values"], header["mixed"]
            if type(values) is not int or type(mixed) is not bool:
                raise ValueError("its values are no whole number, or mixed is neither true nor false")
            described = header["map"]
            made = cls(
                header["mechanism"],
                header["law"],
                members["loc"],
                members["scale"],
                [(tensor["name"], tensor["shape"]) for tensor in header["tensors"]],
                header["model_digest"],
                header["cut"],
                members["mixing"].reshape(values, values) if mixed else None,
                header["place"],
                None if described is None else LinearMap.of(described, members),
            )
            if made.values != values:
                raise ValueError("it is for {} values, and its header says {}".format(made.values, values))
            # Nothing unused, and nothing said in another form: what was read is what would be written.
            if made.digest != digest:
                raise ValueError("it holds more than its header says")
            return made
        except (CollectionError, MapError) as error:
            raise CollectionError("{}: {}".format(where, error)) from error
        except (ValueError, RecursionError) as error:
            raise CollectionError("{} is no noise file: {}; get the file anew".format(where, error)) from error

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("noise cannot be changed; make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("noise cannot be changed; make a new one")

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, ElementNoise) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> Tuple[Callable[..., "ElementNoise"], Tuple[bytes, str]]:
        return ElementNoise.from_bytes, (self.to_bytes(), "the copy")

    def __repr__(self) -> str:
        return "ElementNoise({!r}, cut={!r}, values={})".format(self.mechanism, self.cut, self.values)


def _one_of(what: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise CollectionError("{!a} is no {} of noise; known: {}".format(value, what, ", ".join(known)))
    return str(value)


def _values(name: str, values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float32)
    if not (np.abs(array) <= _MAX_VALUE).all():
        raise CollectionError("{} holds a value that is not finite or beyond 1e30; fit it again".format(name))
    array.setflags(write=False)
    return array
