"""A classifier of the private labels, which equation 5's third term works against.

It has the cloud partition's shape with the last layer replaced, starts from its weights, is trained on clean
activations, and is then frozen. How badly it does under noise says nothing of an attacker who trains on noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.nn import functional

from ..errors import DataError
from ..models.data import PrivateLabels
from ..models.spec import CutSpec
from .activations import Rows
from .cloud import tensors_of
from .reshaped import reshaped

BATCH = 64
ITEMS_SHOWN = 96_000
MOST_EPOCHS = 30
RATE = 1e-3
HIDDEN = 256
"""Values between the two layers where the partition does not end in a product."""


def classes_of(private: PrivateLabels) -> int:
    """How many classes the private task has. Raises DataError where there is nothing to tell apart."""
    if len(np.unique(private.train)) < 2:
        raise DataError(f"all private labels '{private.name}' are the same, so nothing can be told from them")
    return int(max(private.train.max(), private.test.max())) + 1


def train_private(
    suffix: fx.GraphModule,
    cut: CutSpec,
    rows: Rows,
    labels: npt.NDArray[np.int64],
    classes: int,
    seed: int,
    tell: Callable[[float, float], None],
) -> torch.nn.Module:
    """The frozen classifier, from clean activations `rows` [N, n]; `tell(share, accuracy of the batch)`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    made = reshaped(suffix, [tensor.shape for tensor in cut.tensors], classes) or _TwoLayers(cut, classes)
    targets = torch.from_numpy(labels)
    optimiser = torch.optim.Adam(made.parameters(), lr=RATE, foreach=False)
    steps = max(1, min(ITEMS_SHOWN, MOST_EPOCHS * rows.count) // BATCH)
    for step in range(steps):
        chosen = torch.randint(rows.count, (BATCH,), generator=generator)
        logits = made(*tensors_of(rows.take(chosen), cut))
        loss = functional.cross_entropy(logits, targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 25 == 0:
            tell(step / steps, float((logits.argmax(1) == targets[chosen]).float().mean()))
    return made.requires_grad_(False)


class _TwoLayers(torch.nn.Module):
    def __init__(self, cut: CutSpec, classes: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(cut.elements, HIDDEN)
        self.last = torch.nn.Linear(HIDDEN, classes)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        flat = torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)
        found: torch.Tensor = self.last(torch.relu(self.first(flat)))
        return found
