"""What the fault tests share: a bundle whose device side can go on alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned
from edgecut.runtime.bundle import bundle


@pytest.fixture(scope="session")
def fallback_bundle(planned: Plan, learned: tuple[Learned, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made with `--with-local-fallback`."""
    folder = tmp_path_factory.mktemp("faults") / "bundle"
    return bundle(planned, model="lenet5", noise=learned[1], output=folder, local_fallback=True).folder
