"""What several tests of the noise need: a collection to sample from, and the compiled sampler to do it with."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgecut.noise_kernels import native
from edgecut.noise_kernels.building import COMPILERS, build
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


@pytest.fixture(scope="session")
def native_sampler(tmp_path_factory: pytest.TempPathFactory) -> native.Native:
    """The compiled sampler, from the source that is here: an extension built earlier could be from another."""
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip("there is no C compiler")
    before = os.environ.get("EDGECUT_CACHE", "")
    os.environ["EDGECUT_CACHE"] = os.fspath(tmp_path_factory.mktemp("cache"))
    try:
        return native._checked(build(native._source()))
    finally:
        os.environ["EDGECUT_CACHE"] = before


@pytest.fixture(params=["numpy", "c"], scope="session")
def implementation(request: pytest.FixtureRequest) -> str:
    """Each implementation of the sampler; the compiled one is in place while tests ask for it."""
    if request.param == "c":
        native._outcomes[:] = [(request.getfixturevalue("native_sampler"), "")]
    return str(request.param)
