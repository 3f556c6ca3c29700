"""A small residual network with labelled data, cut where two tensors cross."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgecut.models.load import Model, cache_folder, load_model
from edgecut.partitioner.choose import plan
from edgecut.partitioner.plan import Plan
from edgecut.profiler.run import profile

torch = pytest.importorskip("torch")
CUT = 2  # tensors that cross


class Residual(NamedTuple):
    """The network's file, its plan at a cut of two tensors, and its data."""

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
    from edgecut.models.catalogue import Entry
    from edgecut.models.load import export
    from edgecut.models.spec import PixelFormat

    folder = tmp_path_factory.mktemp("residual")
    entry = Entry("a test", "none:none", (1, 8, 8), PixelFormat(scale=(1.0,), offset=(0.0,)), "none", 0.0)
    name = export(network(), entry, "residual").removeprefix("sha256:")
    path = cache_folder() / "models" / name / "model.onnx"
    model = load_model(str(path))
    measured = profile(str(path), threads=1, max_seconds=0.5, pause_s=0.0)
    cut = next(cut.name for cut in model.spec.cuts if len(cut.tensors) == CUT)
    planned = plan(measured, measured, link="wifi").model_copy(update={"choice": cut})
    x, y = quadrants(1, 600)
    np.savez(folder / "data.npz", x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
    return Residual(model, planned, folder / "data.npz")
