"""The noise of bundles and of their accuracy: `agent/protect.py`, with edgecut's own errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..agent import protect
from ..errors import BundleError

Activations = list[npt.NDArray[np.float32]]


class Protector(protect.Protector):
    """A mechanism's noise with a stream of randomness of its own; any number of threads."""

    @classmethod
    def load(cls, data: bytes, where: str, steps: Sequence[float] | None = None, sticky: bytes | None = None) -> Self:
        """From a noise file's bytes. Raises BundleError naming `where`."""
        try:
            return cls(protect.Protector.load(data, where).noise, steps, sticky)
        except protect.NoiseError as error:
            raise BundleError(str(error)) from None


def noisy_answer(edge: Any, cloud: Any, protector: Protector | None, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Logits [batch, classes] through two ONNX Runtime sessions, with noise in between, or before, where given."""
    names, source = [value.name for value in edge.get_outputs()], edge.get_inputs()[0].name

    def first(arrays: list[Any]) -> list[Any]:
        made: list[Any] = edge.run(names, {source: arrays[0]})
        return made

    sent = first([inputs]) if protector is None else protector.sent(inputs, first)
    answer: npt.NDArray[Any] = cloud.run(None, dict(zip(names, sent, strict=True)))[0]
    return answer
