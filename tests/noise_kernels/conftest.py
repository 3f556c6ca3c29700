"""What several tests of the noise need: a collection to sample from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgecut.noise_kernels.collection import NoiseCollection

MODEL = "sha256:" + "0123456789abcdef" * 4


def _collection(n: int, distributions: int = 3, **changes: Any) -> NoiseCollection:
    """A valid collection of one tensor; its values depend on n and distributions alone. `changes` replaces fields."""
    rng = np.random.default_rng([n, distributions])
    fields: dict[str, Any] = {
        "loc": rng.normal(size=distributions),
        "scale": rng.uniform(0.5, 2, size=distributions),
        "orders": np.argsort(rng.random((distributions, n)), axis=1),
        "tensors": [("relu_1", (n,))],
        "model_digest": MODEL,
        "cut": "after relu_1",
    }
    return NoiseCollection(**{**fields, **changes})


@pytest.fixture
def make_collection() -> Callable[..., NoiseCollection]:
    return _collection
