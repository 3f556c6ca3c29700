"""What learning minimises: Shredder's equations 3, 4 and 5, summed over tensors that are learned side by side.

    3    cross-entropy + alpha / var(n)
    4    cross-entropy - alpha * sum |n|
    5    either of them - gamma * cross-entropy of the private task

Every term is a sum over tensors, so that no tensor's step depends on how many others there are.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def task_loss(logits: torch.Tensor, labels: torch.Tensor, batch: int) -> torch.Tensor:
    """The sum over tensors of their batches' mean cross-entropy, logits [D * batch, classes]."""
    return functional.cross_entropy(logits, labels, reduction="sum") / batch


def growth_loss(noise: torch.Tensor, equation: int, alpha: float) -> torch.Tensor:
    """What makes noise [D, n] grow: equation 3's or 4's second term."""
    if equation == 3:
        return alpha * (1 / noise.var(1, correction=0)).sum()
    return -alpha * noise.abs().sum()


def decayed(alpha: float, step: int, every: int) -> float:
    """Alpha at a step, a tenth after each `every` steps (section 4.6)."""
    return alpha * 0.1 ** (step // every)
