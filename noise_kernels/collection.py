"""The noise collection: what is kept of the learned noise tensors (Shredder, section 2.5), and its file.

Of every learned tensor a collection keeps the Laplace distribution fitted to its elements (`loc`, `scale`) and the
order of the elements (`orders`), not their values. Noise for a request is n fresh samples of one of the distributions,
put in that distribution's order.

The file is an `.npz` with the members `header` (uint8: UTF-8 JSON), `loc` and `scale` (float32 [D]) and `orders`
(uint8: packed to the bit, see `storage`). The header holds format, version, cut, tensors, model_digest, distributions
(D), n, and `digest`: SHA-256 over the header's other fields and the bytes of the other members. The digest finds
damage; it is no signature.
"""

import math
import operator
import os
import re
from typing import Any, Callable, Dict, NoReturn, Sequence, Tuple, Union

import numpy as np

from .storage import (
    FORMAT,
    VERSION,
    contents_digest,
    file_bytes,
    index_dtype,
    pack_orders,
    packed_bytes,
    read_header,
    read_members,
    unpack_orders,
)

__all__ = ["CollectionError", "NoiseCollection"]

MAX_BYTES = 256 << 20
# No learned value comes near; beyond it loc + scale * sample would no longer be sure to fit float32.
_MAX_VALUE = 1e30

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_DTYPES = {"header": "|u1", "loc": "<f4", "scale": "<f4", "orders": "|u1"}

Tensors = Tuple[Tuple[str, Tuple[int, ...]], ...]


class CollectionError(ValueError):
    """A noise collection, or its file, is not what it must be. The message says what, where, and what to do."""


class NoiseCollection:
    """D learned noise distributions for the n elements of a cut. Immutable; equal when the contents are.

    loc, scale -- float32 [D], read-only: parameters of the Laplace distributions, in units of the activation.
    orders -- [D, n], read-only, uint16 for n <= 65536 or else uint32: orders[d, k] is the element that gets the
        (k+1)-th smallest sample; the indices that sort the learned tensor ascending.
    tensors -- ((name, shape without the batch), ...): the cut's tensors. The n elements are theirs, each tensor
        flattened row-major, one tensor after the other.
    model_digest -- "sha256:<64 hex digits>" of the model that the noise was learned for.
    cut -- name of the cut.

    Raises CollectionError if a value has the wrong type or shape or is not finite, a scale is not positive, an order is
    no permutation, D < 1, n < 2, or the orders take more than 256 MB.
    """

    __slots__ = ("_prepared", "_ranks", "cut", "loc", "model_digest", "orders", "scale", "tensors")

    mechanism = "shredder"
    place = "cut"
    map = None

    loc: np.ndarray
    scale: np.ndarray
    orders: np.ndarray
    tensors: Tensors
    model_digest: str
    cut: str
    _ranks: Union[np.ndarray, None]
    _prepared: Any  # the compiled sampler's tables of this collection (see `native`), or None before its first use

    def __init__(
        self,
        loc: Any,
        scale: Any,
        orders: Any,
        tensors: Sequence[Tuple[str, Sequence[int]]],
        model_digest: str,
        cut: str,
    ) -> None:
        put = object.__setattr__
        put(self, "loc", _parameters("loc", loc))
        put(self, "scale", _parameters("scale", scale))
        put(self, "orders", _orders(orders))
        put(self, "tensors", _tensors(tensors))
        put(self, "model_digest", _text("model_digest", model_digest))
        put(self, "cut", _text("cut", cut))
        put(self, "_ranks", None)
        put(self, "_prepared", None)
        self._check()

    def _check(self) -> None:
        """What takes more than one field to see."""
        if not self.loc.size == self.scale.size == self.distributions:
            raise CollectionError(
                f"there are {self.loc.size} loc, {self.scale.size} scale and {self.distributions} orders; "
                "give one of each for a distribution"
            )
        if not (self.scale > 0).all():
            raise CollectionError(f"scale[{np.argmin(self.scale > 0)}] is not positive; fit it again")
        elements = sum(_size(shape) for _, shape in self.tensors)
        if elements != self.n:
            raise CollectionError(
                f"the orders cover {self.n} elements but the tensors of cut {self.cut!a} have {elements}; "
                "learn the noise for this cut"
            )
        if _DIGEST.fullmatch(self.model_digest) is None:
            raise CollectionError("model_digest is not 'sha256:' and 64 lower-case hex digits; give the model's digest")

    @property
    def distributions(self) -> int:
        """D, the number of distributions."""
        return int(self.orders.shape[0])

    @property
    def n(self) -> int:
        """Elements that the noise covers, of all tensors together."""
        return int(self.orders.shape[1])

    @property
    def values(self) -> int:
        """Values that the noise is added to: n, as this noise knows no map."""
        return self.n

    @property
    def carriers(self) -> Tensors:
        """The tensors that the noise is added to: the cut's own."""
        return self.tensors

    @property
    def entropy_nats(self) -> float:
        """The exact differential entropy of the noise for who has the collection and can tell which distribution it is.

        n (1 + ln 2b) - ln n!: the order is known then, and with it one in n! ways to place the samples. The mean over
        the distributions.
        """
        each = self.n * (1 + np.log(2 * self.scale.astype(np.float64))) - math.lgamma(self.n + 1)
        return float(each.mean())

    def deployed(self) -> "NoiseCollection":
        """As an edge side has it: as it is."""
        return self

    @property
    def ranks(self) -> np.ndarray:
        """The inverse of each order, shape and type of `orders`, read-only: ranks[d, i] is element i's rank, from 0."""
        if self._ranks is None:
            ranks = np.empty_like(self.orders)
            places = np.arange(self.n, dtype=ranks.dtype)
            for rank, order in zip(ranks, self.orders):
                rank[order] = places
            ranks.setflags(write=False)
            object.__setattr__(self, "_ranks", ranks)
            return ranks
        return self._ranks

    @property
    def footprint_bytes(self) -> int:
        """ceil(D * n * ceil(log2 n) / 8): bytes of the packed orders, which is what the paper's Table 3 counts."""
        return packed_bytes(self.distributions, self.n)

    @property
    def digest(self) -> str:
        """What the file holds as its digest: "sha256:<64 hex digits>" over everything in the collection."""
        return contents_digest(*self._contents())

    def to_bytes(self) -> bytes:
        """The collection's file; the same collection always gives the same bytes."""
        return file_bytes(*self._contents())

    def _contents(self) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
        """The header without its digest, and the other members."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "cut": self.cut,
            "tensors": [{"name": name, "shape": list(shape)} for name, shape in self.tensors],
            "model_digest": self.model_digest,
            "distributions": self.distributions,
            "n": self.n,
        }
        members = {"loc": self.loc.astype("<f4"), "scale": self.scale.astype("<f4"), "orders": pack_orders(self.orders)}
        return header, members

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "NoiseCollection":
        """The collection whose file is `data`; `where` names the file in messages.

        Raises CollectionError for whatever is not such a file, undamaged. Runs nothing from it and never unpacks more
        than 256 MB.
        """
        try:
            members = read_members(data, _DTYPES, MAX_BYTES)
            header = read_header(members.pop("header").tobytes())
            if header.pop("digest") != contents_digest(header, members):
                raise ValueError("its digest does not match its contents")
            count, n = header["distributions"], header["n"]
            if count < 1 or n < 2 or count * n * index_dtype(n).itemsize > MAX_BYTES:
                raise ValueError(f"its orders, {count} of {n} elements, are none or more than 256 MB")
            tensors = [(tensor["name"], tensor["shape"]) for tensor in header["tensors"]]
            orders = unpack_orders(members["orders"], count, n)
            return cls(members["loc"], members["scale"], orders, tensors, header["model_digest"], header["cut"])
        except CollectionError as error:
            raise CollectionError(f"{where}: {error}") from error
        except ValueError as error:
            raise CollectionError(f"{where} is no noise file: {error}; get the file anew") from error

    @classmethod
    def load(cls, path: "Union[str, os.PathLike[str]]") -> "NoiseCollection":
        """The collection in the file at `path`. Raises CollectionError as `from_bytes`, and if it cannot be read."""
        where = os.fspath(path)
        try:
            if not os.path.isfile(where):
                raise CollectionError(f"{where} is not a file; give the path of a noise collection")
            with open(where, "rb") as file:
                data = file.read(2 * MAX_BYTES)
        except OSError as error:
            raise CollectionError(f"{where} cannot be read ({error.strerror}); check the path") from error
        return cls.from_bytes(data, where)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("a NoiseCollection cannot be changed; make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a NoiseCollection cannot be changed; make a new one")

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, NoiseCollection) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> Tuple[Callable[..., "NoiseCollection"], Tuple[bytes, str]]:
        return NoiseCollection.from_bytes, (self.to_bytes(), "the copy")

    def __repr__(self) -> str:
        return f"NoiseCollection(cut={self.cut!r}, n={self.n}, distributions={self.distributions})"


def _parameters(name: str, values: Any) -> np.ndarray:
    """A read-only float32 copy of one parameter per distribution."""
    array = _array(name, values)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise CollectionError(f"{name} is not a one-dimensional array of numbers; give one per distribution")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not (np.abs(array) <= _MAX_VALUE).all():  # false for NaN as well
        raise CollectionError(f"{name} holds a value that is not finite or beyond 1e30; fit it again")
    array.setflags(write=False)
    return array


def _orders(values: Any) -> np.ndarray:
    """A read-only copy of the orders, in the type that fits n, each checked to be a permutation."""
    array = _array("orders", values)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise CollectionError("orders is not a two-dimensional array of integers; give one row per distribution")
    count, n = array.shape
    if count < 1 or n < 2:
        raise CollectionError(f"orders has shape ({count}, {n}); give at least 1 row of at least 2 elements")
    if count * n * index_dtype(n).itemsize > MAX_BYTES:
        raise CollectionError("orders take more than 256 MB; keep fewer distributions or cut where less crosses")
    for d, order in enumerate(array):
        if order.min() < 0 or order.max() >= n or (np.bincount(order.astype(np.intp), minlength=n) != 1).any():
            raise CollectionError(f"orders[{d}] is no permutation of 0..{n - 1}; give what argsort gives")
    array = array.astype(index_dtype(n))
    array.setflags(write=False)
    return array


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise CollectionError(f"{name} cannot be read as an array ({error}); give a NumPy array") from error


def _tensors(tensors: Any) -> Tensors:
    try:
        result = tuple((_text("a tensor's name", name), _shape(shape)) for name, shape in tensors)
    except (TypeError, ValueError) as error:
        if isinstance(error, CollectionError):
            raise
        raise CollectionError(f"tensors are not pairs of a name and a shape ({error}); give a list of them") from error
    names = [name for name, _ in result]
    if not names or len(set(names)) != len(names):
        raise CollectionError("tensors are none, or two have one name; give each tensor of the cut once")
    return result


def _shape(shape: Any) -> Tuple[int, ...]:
    if any(isinstance(size, bool) for size in shape):
        raise TypeError("a size is not an integer")
    sizes = tuple(operator.index(size) for size in shape)
    if any(size < 1 for size in sizes):
        raise CollectionError("a tensor's shape has a size below 1; give fixed sizes without the batch")
    return sizes


def _size(shape: Tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise CollectionError(f"{what} is not a non-empty text; give a str without surrogates")
    return value
