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
    """A noise collection with a stream of randomness of its own; any number of threads."""

    @classmethod
    def load(cls, data: bytes, where: str, steps: Sequence[float] | None = None) -> Self:
        """From a collection's bytes. Raises BundleError naming `where`."""
        try:
            return cls(protect.Protector.load(data, where).collection, steps)
        except protect.NoiseError as error:
            raise BundleError(str(error)) from None


def noisy_answer(edge: Any, cloud: Any, protector: Protector | None, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Logits [batch, classes] through two ONNX Runtime sessions, with noise in between where given."""
    names = [value.name for value in edge.get_outputs()]
    activations = edge.run(names, {edge.get_inputs()[0].name: inputs})
    if protector is not None:
        activations = protector.add(activations)
    answer: npt.NDArray[Any] = cloud.run(None, dict(zip(names, activations, strict=True)))[0]
    return answer
