"""The two privacy losses at a cut: Scrunch's centre loss, and the contrastive loss on private labels of DPFE."""

from __future__ import annotations

import torch
from torch.nn import functional


class Centres:
    """The mean activation of every class, followed from batch to batch (Wen et al. 2016, equations 3 and 4).

    A centre moves to its items of a batch by `rate` * sum (x - c) / (1 + count): a class that a batch does not have
    stays, and one item alone moves it half as far as many do.
    """

    def __init__(self, start: torch.Tensor, rate: float) -> None:
        self.values, self._rate = start.clone(), rate

    @torch.no_grad()
    def follow(self, activations: torch.Tensor, labels: torch.Tensor) -> None:
        """Move the centres to flat activations [batch, n]."""
        count = torch.zeros(len(self.values)).index_add_(0, labels, torch.ones(len(labels)))
        away = activations - self.values[labels]
        moved = torch.zeros_like(self.values).index_add_(0, labels, away)
        self.values += self._rate * moved / (1 + count)[:, None]

    def loss(self, activations: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Half the squared distance to the own class's centre, in the mean over the batch."""
        return 0.5 * (activations - self.values[labels]).square().sum(1).mean()


def class_means(activations: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """The mean of each class's flat activations, [classes, n]; the overall mean for a class without items."""
    count = torch.zeros(classes).index_add_(0, labels, torch.ones(len(labels)))
    total = torch.zeros(classes, activations.shape[1]).index_add_(0, labels, activations)
    return torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], activations.mean(0))


def contrastive(activations: torch.Tensor, private: torch.Tensor, margin: float) -> torch.Tensor:
    """Over all pairs of a batch: half the squared distance where the private labels differ, and half the square of
    what the distance lacks to `margin` where they are the same.

    So items of one private class are driven apart and those of different ones together, and neighbours at the cut no
    longer share a private label.
    """
    distance = functional.pdist(activations)
    first, second = torch.triu_indices(len(private), len(private), 1)
    same = private[first] == private[second]
    lacking = (margin - distance).clamp(min=0)
    return 0.5 * torch.where(same, lacking, distance).square().mean()
