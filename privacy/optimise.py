"""Gradient descent on many noise tensors at once (Shredder, equation 4), on cached activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ..models.spec import CutSpec
from ..models.training import one_thread
from .settings import Settings

TELL_EVERY = 50


@one_thread()
def learn_tensors(
    suffix: Callable[..., torch.Tensor],
    cut: CutSpec,
    activations: npt.NDArray[np.float32],
    labels: npt.NDArray[Any],
    settings: Settings,
    scale: float,
    deviation: float,
    progress: Callable[[float, float], None],
) -> npt.NDArray[np.float32]:
    """Learned tensors float32 [D, n] for activations [N, n] and labels [N].

    Initialised Laplace(0, scale), where 1 is the activations' standard deviation `deviation`; the step size and
    equation 4's sum are in that unit too, so that the settings mean the same for every network. Every tensor sees
    batches of its own. `progress(share, accuracy)` gets the accuracy of the last batches with the learned tensors
    themselves, not with sampled noise.
    """
    torch.manual_seed(settings.seed)
    count, batch = settings.distributions, settings.batch
    cached, targets = torch.from_numpy(activations), torch.from_numpy(labels.astype(np.int64))
    start = torch.distributions.Laplace(0.0, scale).sample((count, activations.shape[1]))
    noise = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([noise], lr=settings.learning_rate)
    for step in range(settings.steps):
        alpha = settings.alpha * 0.1 ** (step // settings.decay_steps)
        rows = torch.randint(len(cached), (count, batch))
        noisy = (cached[rows] + deviation * noise[:, None, :]).flatten(0, 1)
        logits = suffix(*_tensors(noisy, cut))
        wanted = targets[rows].flatten()
        # A sum over tensors of their mean losses: no tensor's step depends on how many others there are.
        cross_entropy = functional.cross_entropy(logits, wanted, reduction="sum") / batch
        loss = cross_entropy - alpha * noise.abs().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % TELL_EVERY == 0 or step == settings.steps - 1:
            progress((step + 1) / settings.steps, float((logits.argmax(1) == wanted).float().mean()))
    return (deviation * noise.detach()).numpy()


def _tensors(flat: torch.Tensor, cut: CutSpec) -> list[torch.Tensor]:
    parts = flat.split([tensor.elements for tensor in cut.tensors], dim=1)
    return [part.unflatten(1, tensor.shape) for part, tensor in zip(parts, cut.tensors, strict=True)]
