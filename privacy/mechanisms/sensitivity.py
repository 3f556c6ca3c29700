"""What the cloud partition's answer is sensitive to, in the activation's coordinates, and how the activation spreads.

The cost of a small disturbance d at an activation a is, to second order, half of d^T F d with F the Fisher information
of the answer there: J^T (diag(p) - p p^T) J, J being the logits' Jacobian and p the answer's probabilities. A random
combination of the logits whose covariance is that middle matrix gives with one gradient one row R, and the mean of
R^T R estimates the mean of F. The probabilities are softened: of sure answers they make nearly nothing, so that few
rows would decide. The activations are noisy ones, as those are what the cloud partition will meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..bench import Bench
from ..cloud import Cloud

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
TEMPERATURE = 4.0
"""What logits are divided by. A trained network is so sure of most items that their gradients would hardly count."""


class Spread(NamedTuple):
    """Mean [n] and covariance [n, n] of activations, float64."""

    mean: Doubles
    covariance: Doubles


def spread_of(values: torch.Tensor) -> Spread:
    """Of flat activations [items, n]."""
    wide = values.double()
    mean = wide.mean(0)
    wide = wide - mean
    covariance = wide.T @ wide / max(1, len(wide) - 1)
    return Spread(mean.numpy(), covariance.numpy())


def rows_at(cloud: Cloud, points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rows [items, n] at flat activations [items, n], each of another combination of the logits."""
    given = points.clone().requires_grad_(True)
    logits = cloud.logits(given)
    with torch.no_grad():
        shares = torch.softmax(logits / TEMPERATURE, 1)
        drawn = shares.sqrt() * torch.randn(logits.shape, generator=generator)
        combination = drawn - shares * drawn.sum(1, keepdim=True)
    (gradient,) = torch.autograd.grad((logits * combination).sum(), given)
    return gradient


class Points:
    """Some training items at the cut: their activations, and what the cloud partition makes of them under noise.

    `wanted` is the accuracy on them that a mechanism may fall to. `kept` says where their activations were kept.
    """

    def __init__(self, cloud: Cloud, values: torch.Tensor, labels: torch.Tensor, seed: int, chunk: int) -> None:
        self.values, self.labels = values, labels
        self.generator = torch.Generator().manual_seed(seed)
        self._cloud, self._chunk = cloud, chunk
        self.wanted, self.kept = 0.0, ""

    def rows(self, noisy: torch.Tensor) -> Iterator[torch.Tensor]:
        """`rows_at` these activations, in pieces."""
        for piece in noisy.split(self._chunk):
            yield rows_at(self._cloud, piece, self.generator)

    def accuracy(self, noisy: torch.Tensor) -> float:
        """The share of right answers for the items with these activations."""
        with torch.no_grad():
            right = [self._cloud.logits(piece).argmax(1) for piece in noisy.split(self._chunk)]
        return float((torch.cat(right) == self.labels).double().mean())


def points_of(bench: Bench, images: int) -> Points:
    """Of a bench's training items without the hold-out."""
    rows, chosen = bench.training(images), bench.sample(images)
    values = torch.cat([piece for _, piece in rows.chunks(bench.edge.chunk)])
    labels = torch.from_numpy(bench.labels[chosen])
    made = Points(bench.cloud, values, labels, bench.settings.seed, bench.edge.chunk)
    made.wanted = made.accuracy(values) - bench.settings.max_accuracy_loss / 100
    made.kept = rows.place
    return made
