"""What the tests share: one trained LeNet-5, and every artefact made from it once, small but real.

Under EDGECUT_REQUIRE_ALL=1 a skip fails, unless its reason says that there is no GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in the background, and children would inherit that no Ctrl-C reaches them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # What a test looks for in the temporary folder must not be another worker's.
    tempfile.tempdir = tempfile.mkdtemp(prefix=f"tests-{worker}-")
    os.environ["TMPDIR"] = tempfile.tempdir
# Kept between runs beside the checkout; set before anything of edgecut looks for its cache.
os.environ["EDGECUT_CACHE"] = str(Path(__file__).resolve().parents[1] / ".cache" / "tests")

from edgecut.models.load import Model, load_model, models_folder
from edgecut.models.spec import PixelFormat
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


NodeRuntime = Callable[[bytes | str | Path, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def node_runtime() -> NodeRuntime:
    """`node_runtime(model, feed)`: all outputs of a model (bytes or a path) under ONNX Runtime 1.11, a Jetson TX2's."""
    spec = importlib.util.spec_from_file_location("onnxruntime_node", Path(__file__).parent / "onnxruntime_node.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.missing():
        pytest.skip(module.missing())
    module.package()
    run: NodeRuntime = module.run
    return run


class Residual(NamedTuple):
    """A small residual network: its file, its plan at a cut of two tensors, and its data."""

    model: Model
    planned: Plan
    data: Path


def quadrants(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright quadrant of four, which is the label."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    x = generator.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    for i, label in enumerate(labels):
        x[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
    return x, labels.astype(np.int64)


def network() -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.three, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 4)

        def forward(self, x: Any) -> Any:
            a = torch.relu(self.one(x))
            b = torch.relu(self.two(a))
            return self.last((self.three(b) + a).flatten(1))

    torch.manual_seed(0)
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = (torch.from_numpy(part) for part in quadrants(0, 512))
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="session")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Residual:
    """Exported the way named networks are, into the tests' cache."""
    torch = pytest.importorskip("torch")
    from edgecut.models.exporting import export

    folder = tmp_path_factory.mktemp("residual")
    pixels = PixelFormat(scale=(1.0,), offset=(0.0,))
    name = export(models_folder(), network(), "residual", [torch.zeros(2, 1, 8, 8)], pixels)
    path = models_folder() / name.removeprefix("sha256:") / "model.onnx"
    model = load_model(str(path))
    measured = profile(str(path), threads=1, max_seconds=0.5, pause_s=0.0)
    cut = next(cut.name for cut in model.spec.cuts if len(cut.tensors) == 2)
    planned = plan(measured, measured, link="wifi").model_copy(update={"choice": cut})
    x, y = quadrants(1, 600)
    np.savez(folder / "data.npz", x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
    return Residual(model, planned, folder / "data.npz")
