"""What the tests share: one trained LeNet-5, and every artefact made from it once, small but real.

Under EDGECUT_REQUIRE_ALL=1 a skip fails, unless its reason says that there is no GPU.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

# Kept between runs beside the checkout; set before anything of edgecut looks for its cache.
os.environ["EDGECUT_CACHE"] = str(Path(__file__).resolve().parents[1] / ".cache" / "tests")

from edgecut.models.load import Model, load_model
from edgecut.partitioner.choose import plan
from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned, Settings, learn
from edgecut.profiler.profile import PowerModel, Profile
from edgecut.profiler.run import profile
from edgecut.runtime.bundle import bundle
from edgecut.runtime.processes import cloud_server

REQUIRE_ALL = os.environ.get("EDGECUT_REQUIRE_ALL") == "1"
POWER = PowerModel(idle_w=2.0, max_w=8.0, source="a test")
QUICK = Settings(distributions=4, steps=120, scale=0.5, max_accuracy_loss=20.0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a skip into a failure where everything is required."""
    result = yield
    report = result.get_result()
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "no GPU" not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be skipped: {reason}"


@pytest.fixture(scope="session")
def lenet() -> Model:
    """LeNet-5, trained on first use and kept."""
    return load_model("lenet5")


@pytest.fixture(scope="session")
def profiled(lenet: Model) -> Profile:
    """A short but real profile of LeNet-5, with power figures."""
    return profile("lenet5", threads=1, power=POWER, max_seconds=1.0)


@pytest.fixture(scope="session")
def planned(profiled: Profile) -> Plan:
    """A plan of that profile on both sides, over the wifi preset, with the cut forced to conv3 (120 values)."""
    made = plan(profiled, profiled, link="wifi", edge_slowdown=5)
    return made.model_copy(update={"choice": "conv3"})


@pytest.fixture(scope="session")
def learned(planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Learned, Path]:
    """A quickly learned collection and its file."""
    path = tmp_path_factory.mktemp("noise") / "lenet5.noise.npz"
    return learn(planned, model="lenet5", settings=QUICK, output=path), path


@pytest.fixture(scope="session")
def bundle_folder(
    planned: Plan, profiled: Profile, learned: tuple[Learned, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A complete bundle with its profiles; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("bundle")
    sides = [profiled.save(folder / f"{side}.profile.json") for side in ("edge", "cloud")]
    return bundle(planned, model="lenet5", noise=learned[1], output=folder / "bundle", profiles=sides).folder


@pytest.fixture(scope="session")
def server(bundle_folder: Path) -> Iterator[str]:
    """HOST:PORT of a real server process of that bundle's cloud side."""
    with cloud_server(bundle_folder / "cloud" / "model_repository", threads=1) as (host, port):
        yield f"{host}:{port}"


Serving = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]


@contextlib.contextmanager
def _serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-P", "-m", "edgecut", "serve", os.fspath(folder), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), line + process.stderr.read()
            yield process, line.split("grpc://")[1].strip()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def serving() -> Serving:
    """`with serving(FOLDER, *options) as (process, address)`: `edgecut serve` on a free port, killed at the end."""
    return _serving
