"""Learning an order under the samples that will be put in it.

A latent value per element ranks the elements; going forward, a sorted Laplace sample that is fresh at every step is
placed by that rank; going back, the gradient of the noise is taken for the latent's (a straight-through estimate).
What is left in the end is the order alone, which is also all that a collection keeps.

The training's samples come from torch's generator. They are never deployed and hide nothing.
"""

from __future__ import annotations

import torch

GAIN = 1.0
LARGEST_CHANGE = 0.05
FIRST_SCALE = 1.0
"""In deviations; where the search for a scale begins."""


def sorted_laplace(count: int, n: int, generator: torch.Generator) -> torch.Tensor:
    """`count` sorted samples of n standard Laplace variates, float32 [count, n], by Renyi's representation.

    The same as `noise_kernels.reference.sorted_laplace`, with sums in float32 and M from n coin tosses.
    """
    exponentials = torch.empty(count, n).exponential_(generator=generator)
    negatives = torch.randint(0, 2, (count, n), generator=generator).sum(1, keepdim=True)
    place = torch.arange(1, n + 1, dtype=torch.float32)
    below = place <= negatives
    left = torch.where(below, exponentials / place, 0.0).flip(1).cumsum(1).flip(1)
    right = torch.where(below, 0.0, exponentials / (n + 1 - place)).cumsum(1)
    return right - left


def place(samples: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Sorted samples [D, n] where the latent's ranks put them; the gradient goes to the latent unchanged."""
    order = latent.detach().argsort(stable=True, dim=1)
    placed = torch.empty_like(samples).scatter_(1, order, samples)
    return placed + (latent - latent.detach())


def steered(scale: float, accuracy: float, wanted: float) -> float:
    """The next step's scale: larger while the batch was more accurate under noise than wanted, smaller otherwise."""
    change = max(-LARGEST_CHANGE, min(LARGEST_CHANGE, GAIN * (accuracy - wanted)))
    return scale * (1 + change)
