"""The fixed linear map between an activation and what is sent of it, where a mechanism sends something else.

    sent     = forward(a)      on the edge, before the noise: centred, in another basis, some coordinates, shrunk
    restored = restore(sent)   in the cloud: back to the activation's shape, what was not sent at its centre

Both are public and the same for every request; all that is secret is the noise. In bundles they are part of the models
(`models/attach.py`), and nothing here runs; learning and auditing call the functions below.

    coordinates = basis(a - centre)[index]                  basis: one orthonormal matrix for an axis, or none
    sent        = forward @ coordinates                     forward [r, K], or [K] for a diagonal, and then r = K
    restored    = centre + inverse basis(coordinates')      coordinates'[index] = backward @ sent, 0 elsewhere
"""

from typing import Any, Dict, NoReturn, Optional, Sequence, Tuple

import numpy as np

__all__ = ["LinearMap", "MapError"]


class MapError(ValueError):
    """A map is not what it must be; the message says what, in one sentence."""


class LinearMap:
    """A map from n values to r. Immutable.

    shape -- the n values as a tensor, without the batch; () of a tensor's own shape, or (n,) for several together.
    centre -- float32 [n], taken off before and put back behind.
    axes -- for each axis of the shape an orthonormal float32 [d, d] matrix whose rows are the basis, or None.
    index -- int32 [K], ascending: which coordinates are used, numbered row-major in `shape`.
    forward, backward -- float32 [r, K] and [K, r], or [K] and [K] for diagonals.

    Raises MapError where these do not fit, or a value is not finite.
    """

    __slots__ = ("axes", "backward", "centre", "forward", "index", "shape")

    shape: Tuple[int, ...]
    centre: np.ndarray
    axes: Tuple[Optional[np.ndarray], ...]
    index: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def __init__(
        self,
        shape: Sequence[int],
        centre: Any,
        axes: Sequence[Any],
        index: Any,
        forward: Any,
        backward: Any,
    ) -> None:
        put = object.__setattr__
        put(self, "shape", tuple(int(size) for size in shape))
        put(self, "centre", _floats("centre", centre))
        put(self, "axes", tuple(None if axis is None else _floats("a basis", axis) for axis in axes))
        put(self, "index", _indices(index))
        put(self, "forward", _floats("forward", forward))
        put(self, "backward", _floats("backward", backward))
        self._check()

    def _check(self) -> None:
        kept = len(self.index)
        if not self.shape or any(size < 1 for size in self.shape) or self.centre.shape != (self.n,):
            raise MapError("the map's centre does not have one value for each element of its shape")
        if len(self.axes) != len(self.shape):
            raise MapError("the map does not have one basis, or none, for each axis of its shape")
        for size, axis in zip(self.shape, self.axes):
            if axis is not None:
                if axis.shape != (size, size):
                    raise MapError("a basis of the map does not have its axis's size")
                with np.errstate(over="ignore", invalid="ignore"):
                    products = axis @ axis.T
                if not np.allclose(products, np.eye(size), atol=1e-3):
                    raise MapError("a basis of the map is not orthonormal")
        if kept < 1 or self.index[0] < 0 or self.index[-1] >= self.n:
            raise MapError("the map's index is empty or beyond its elements")
        if (self.index[1:] <= self.index[:-1]).any():
            raise MapError("the map's index does not ascend")
        diagonal = self.forward.shape == self.backward.shape == (kept,)
        matrix = self.forward.ndim == 2 and self.forward.shape[1] == kept
        if not diagonal and not (matrix and self.backward.shape == self.forward.shape[::-1]):
            raise MapError("the map's forward and backward parts do not fit its index and each other")

    @property
    def n(self) -> int:
        """Values of the activation."""
        result = 1
        for size in self.shape:
            result *= size
        return result

    @property
    def values(self) -> int:
        """r: the values sent."""
        return int(self.forward.shape[0])

    def sent(self, activations: np.ndarray) -> np.ndarray:
        """What is sent, before the noise: float32 [items, r] for flat activations [items, n]."""
        turned = (np.asarray(activations, np.float32) - self.centre).reshape((-1, *self.shape))
        for place, axis in enumerate(self.axes):
            if axis is not None:
                turned = _along(turned, axis, place + 1)
        kept = turned.reshape(len(turned), -1)[:, self.index]
        made: np.ndarray = kept * self.forward if self.forward.ndim == 1 else kept @ self.forward.T
        return np.ascontiguousarray(made, np.float32)

    def restored(self, sent: np.ndarray) -> np.ndarray:
        """What the cloud partition takes: float32 [items, n] for values sent [items, r]."""
        values = np.asarray(sent, np.float32)
        kept = values * self.backward if self.backward.ndim == 1 else values @ self.backward.T
        whole = np.zeros((len(values), self.n), np.float32)
        whole[:, self.index] = kept
        turned = whole.reshape((-1, *self.shape))
        for place, axis in enumerate(self.axes):
            if axis is not None:
                turned = _along(turned, axis.T, place + 1)
        made: np.ndarray = turned.reshape(len(values), -1) + self.centre
        return np.ascontiguousarray(made, np.float32)

    def members(self) -> Dict[str, np.ndarray]:
        """The arrays, one-dimensional, as a file holds them; `described` says their shapes."""
        bases = [axis.reshape(-1) for axis in self.axes if axis is not None]
        return {
            "centre": self.centre.astype("<f4"),
            "axes": np.concatenate(bases).astype("<f4") if bases else np.zeros(0, "<f4"),
            "index": self.index.astype("<i4"),
            "forward": self.forward.reshape(-1).astype("<f4"),
            "backward": self.backward.reshape(-1).astype("<f4"),
        }

    def described(self) -> Dict[str, Any]:
        """What a file's header says of the map: JSON."""
        return {
            "shape": list(self.shape),
            "axes": [axis is not None for axis in self.axes],
            "values": self.values,
            "matrix": self.forward.ndim == 2,
        }

    @classmethod
    def of(cls, described: Any, members: Dict[str, np.ndarray]) -> "LinearMap":
        """From `described` and `members`, both out of a file. Raises MapError."""
        try:
            shape, values = [_whole(size) for size in described["shape"]], _whole(described["values"])
            turned, matrix = described["axes"], described["matrix"]
            if set(described) != {"shape", "axes", "values", "matrix"} or len(turned) != len(shape):
                raise MapError("the map's description is not one")
            sizes = [size * size if one is True else 0 for size, one in zip(shape, turned)]
            if sum(sizes) != len(members["axes"]):
                raise MapError("the map's bases are more or fewer values than its shape says")
            parts = np.split(members["axes"], np.cumsum(sizes)[:-1])
            axes = [part.reshape(size, size) if len(part) else None for size, part in zip(shape, parts)]
            kept = len(members["index"])
            forward, backward = members["forward"], members["backward"]
            if matrix is True:
                forward, backward = forward.reshape(values, kept), backward.reshape(kept, values)
            return cls(shape, members["centre"], axes, members["index"], forward, backward)
        except MapError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise MapError("the map's description is not one ({})".format(error)) from None

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("a LinearMap cannot be changed; make a new one")

    def __repr__(self) -> str:
        return "LinearMap(shape={}, values={})".format(self.shape, self.values)


def _along(values: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """matrix @ values along one axis."""
    made: np.ndarray = np.moveaxis(np.moveaxis(values, axis, -1) @ matrix.T, -1, axis)
    return made


def _floats(what: str, values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise MapError("{} of the map holds a value that is not finite".format(what))
    return _frozen(array)


def _indices(values: Any) -> np.ndarray:
    given = np.asarray(values)
    array = given.astype(np.int32)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not (array == given).all():
        raise MapError("the map's index is no list of whole numbers below 2^31")
    return _frozen(array)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise MapError("the map's description holds no positive whole number where one belongs")
    return int(value)
