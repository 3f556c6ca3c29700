"""A cloud half so small that everything about it can be computed by hand: one product, W x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from edgecut.privacy.activations import Rows  # noqa: E402 - needs torch
from edgecut.privacy.cloud import Cloud  # noqa: E402
from edgecut.privacy.optimise import Aim, Descent, Task  # noqa: E402
from edgecut.privacy.settings import Settings  # noqa: E402

DEVIATION = 0.7


@dataclass
class Linear:
    """Activations [N, n], and weights [n, classes] and labels of two tasks; `descent` is of what learning takes."""

    activations: np.ndarray
    weights: tuple[np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]

    def task(self, which: int = 0, hoisted: bool = True, factor: float = 1.0) -> Task:
        weights = torch.from_numpy(self.weights[which]) * factor
        made, kept = (self.activations @ weights.numpy(), weights) if hoisted else (self.activations, None)
        cloud = (
            Cloud(lambda flat: flat @ kept + 5, lambda head: head - 5, made.shape[1], hoisted=True)
            if kept is not None
            else Cloud(lambda flat: flat, lambda flat: flat @ weights, made.shape[1], hoisted=False)
        )
        kept_rows = (made + 5 if hoisted else made).astype(np.float32)
        rows = Rows(len(made), made.shape[1], "memory", lambda wanted: kept_rows[wanted])
        return Task(cloud, rows, torch.from_numpy(self.labels[which]))

    def descent(self, settings: Settings, private: bool = False, wanted: float | None = None, **how: Any) -> Descent:
        task = self.task(1, **how) if private else None
        aim = Aim(settings, self.task(0, **how), task, DEVIATION, wanted)
        return Descent(aim, self.activations.shape[1], settings.distributions, 0)


@pytest.fixture(scope="session")
def linear() -> Linear:
    generator = np.random.default_rng(5)
    activations = generator.standard_normal((40, 7)).astype(np.float32)
    weights = tuple(generator.standard_normal((7, classes)).astype(np.float32) for classes in (4, 3))
    labels = tuple(generator.integers(0, classes, 40) for classes in (4, 3))
    return Linear(activations, weights, labels)  # type: ignore[arg-type]
