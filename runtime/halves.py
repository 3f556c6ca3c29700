"""The halves of a bundle as they are stored, in ONNX Runtime: what checks them and measures accuracy through them.

Also measured through them are the steps of an int8 wire: on items of the training part, since accuracy is measured on
the unseen ones, and under noise, since that is what is rounded. That noise protects nothing and comes from a key that
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
from ..noise_kernels.mechanism import Noise
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
    unmapped: tuple[bytes, bytes] | None = None,
) -> NoiseAccuracy:
    """Accuracy of the halves without noise, and with `draws` draws of fresh noise on each unseen item.

    `served` is the cloud half that takes what the protector gives, where that is not float32. `unmapped` are the halves
    without the mechanism's map, where there is one: without noise means without that, too. Raises ModelError where an
    activation is not finite.
    """
    first, second = Half(edge), Half(cloud)
    bare_first, bare_second = (first, second) if unmapped is None else (Half(half) for half in unmapped)
    answering = second if served is None else Half(served)
    at_input = protector.noise.place == "input"
    clean = noisy = 0
    chunk = items_at_once(spec)
    for start in range(0, len(unseen.x_test), chunk):
        part = slice(start, start + chunk)
        x, labels = to_input(unseen.x_test[part], spec), unseen.y_test[part]
        activations = first([x])
        check_finite(activations, spec.name)
        bare = activations if unmapped is None else bare_first([x])
        clean += count_correct(bare_second(bare)[0], labels)
        for _ in range(draws):
            sent = protector.sent(x, first) if at_input else protector.add(activations)
            noisy += count_correct(answering(sent)[0], labels)
        told(min(1.0, (start + chunk) / len(unseen.x_test)))
    return NoiseAccuracy.of(unseen.name, clean, noisy, len(unseen.x_test), draws)


def wire_steps(edge: bytes, noise: Noise, spec: ModelSpec, data: DataSet) -> tuple[float, ...]:
    """The step of each tensor that is sent, of least mean squared error on noisy values of the training part.

    Raises ModelError where an activation is not finite.
    """
    count = max(1, min(CALIBRATED, CALIBRATED_VALUES // noise.values, len(data.x_train)))
    items = np.linspace(0, len(data.x_train) - 1, count).astype(np.intp)
    first, chunk = Half(edge), items_at_once(spec)
    parts: list[Arrays] = []
    for start in range(0, count, chunk):
        places = range(start, min(start + chunk, count))
        x = to_input(data.x_train[items[places.start : places.stop]], spec)
        sent = first([_noisy([x], noise, places)[0] if noise.place == "input" else x])
        check_finite(sent, spec.name)
        parts.append(sent if noise.place == "input" else _noisy(sent, noise, places))
    return tuple(best_step(np.concatenate(tensor)) for tensor in zip(*parts, strict=True))


def _noisy(carriers: Arrays, noise: Noise, places: range) -> Arrays:
    """Carriers [places, ...] with the noise that those places have."""
    rows = np.stack([sample(noise, bytes(32), place.to_bytes(12, "little")) for place in places])
    ends = np.cumsum([carrier[0].size for carrier in carriers])
    shares = np.split(rows, ends[:-1], axis=1)
    return [carrier + share.reshape(carrier.shape) for carrier, share in zip(carriers, shares, strict=True)]


def check_finite(activations: Arrays, name: str) -> None:
    """Raise ModelError where what would be sent is NaN or infinite, as where float16 overflows."""
    if not all(np.isfinite(activation).all() for activation in activations):
        raise ModelError(
            f"the edge half of {name} gives NaN or infinite values at the cut; if it is in float16, bundle it with "
            "--precision float32"
        )
