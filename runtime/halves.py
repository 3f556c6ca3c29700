"""The halves of a bundle as they are stored, in ONNX Runtime: what checks them and measures accuracy through them.

Also measured through them are the steps of an int8 wire: on items of the training part, since accuracy is measured on
the unseen ones, and after noise, since that is what is rounded. That noise protects nothing and comes from a key that
anyone may know, so that the same bundle comes out each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..models.data import DataSet, to_input
from ..models.quantise import best_step
from ..models.session import open_session
from ..models.spec import ModelSpec
from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.sampler import sample
from .accuracy import NoiseAccuracy, count_correct, items_at_once
from .protect import Protector

Arrays = list[npt.NDArray[Any]]
CALIBRATED = 512
"""Items, or as many as have this many values at the cut together:"""
CALIBRATED_VALUES = 1 << 24


class Half:
    """A stored half; it takes any number of items, whichever batch its file is fixed to."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        self._session = open_session(model, threads)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self.names = [value.name for value in self._session.get_outputs()]
        size = self._session.get_inputs()[0].shape[0]
        self._batch = size if isinstance(size, int) else None

    def __call__(self, arrays: Arrays) -> Arrays:
        """Its outputs [items, ...] for its inputs [items, ...]."""
        if self._batch is None or len(arrays[0]) == self._batch:
            return self._run(arrays)
        pieces = [self._piece(arrays, start) for start in range(0, len(arrays[0]), self._batch)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _piece(self, arrays: Arrays, start: int) -> Arrays:
        """One batch from `start` on; the last one is filled up with its last item."""
        assert self._batch is not None
        items = [array[start : start + self._batch] for array in arrays]
        count = len(items[0])
        filled = [np.concatenate([item, np.repeat(item[-1:], self._batch - count, axis=0)]) for item in items]
        return [value[:count] for value in self._run(filled)]

    def _run(self, arrays: Arrays) -> Arrays:
        values: Arrays = self._session.run(self.names, dict(zip(self._inputs, arrays, strict=True)))
        return values


def accuracy_through(
    edge: bytes,
    cloud: bytes,
    protector: Protector,
    spec: ModelSpec,
    unseen: DataSet,
    draws: int,
    told: Callable[[float], None],
    served: bytes | None = None,
) -> NoiseAccuracy:
    """Accuracy of the halves without noise, and with `draws` draws of fresh noise on each unseen item.

    `served` is the cloud half that takes what the protector gives, where that is not float32. Raises ModelError where
    an activation is not finite.
    """
    first, second = Half(edge), Half(cloud)
    answering = second if served is None else Half(served)
    clean = noisy = 0
    chunk = items_at_once(spec)
    for start in range(0, len(unseen.x_test), chunk):
        part = slice(start, start + chunk)
        activations, labels = first([to_input(unseen.x_test[part], spec)]), unseen.y_test[part]
        check_finite(activations, spec.name)
        clean += count_correct(second(activations)[0], labels)
        for _ in range(draws):
            noisy += count_correct(answering(protector.add(activations))[0], labels)
        told(min(1.0, (start + chunk) / len(unseen.x_test)))
    return NoiseAccuracy.of(unseen.name, clean, noisy, len(unseen.x_test), draws)


def wire_steps(edge: bytes, collection: NoiseCollection, spec: ModelSpec, data: DataSet) -> tuple[float, ...]:
    """The step of each tensor of the cut, of least mean squared error on noisy activations of the training part.

    Raises ModelError where an activation is not finite.
    """
    count = max(1, min(CALIBRATED, CALIBRATED_VALUES // collection.n, len(data.x_train)))
    items = np.linspace(0, len(data.x_train) - 1, count).astype(np.intp)
    first, chunk, rows = Half(edge), items_at_once(spec), []
    for start in range(0, count, chunk):
        activations = first([to_input(data.x_train[items[start : start + chunk]], spec)])
        check_finite(activations, spec.name)
        rows.append(np.concatenate([array.reshape(len(array), -1) for array in activations], axis=1))
    sums = np.concatenate(rows)
    for place, row in enumerate(sums):
        row += sample(collection, bytes(32), place.to_bytes(12, "little"))
    ends = np.cumsum([int(np.prod(shape)) for _, shape in collection.tensors])
    return tuple(best_step(part) for part in np.split(sums, ends[:-1], axis=1))


def check_finite(activations: Arrays, name: str) -> None:
    """Raise ModelError where what would be sent is NaN or infinite, as where float16 overflows."""
    if not all(np.isfinite(activation).all() for activation in activations):
        raise ModelError(
            f"the edge half of {name} gives NaN or infinite values at the cut; if it is in float16, bundle it with "
            "--precision float32"
        )
