"""Training one attacker on noisy messages under fresh noise in every pass, with a learning curve on items held out.

The number of steps follows from the effort and from the network's work a step, so that a large partition cannot take
hours. The weights kept are those that did best on the items held out. An attacker that had not converged is said so:
more training might have found more, and its figure is a lower bound of what can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ...errors import DataError
from ..audited import Curve
from ..observations import Floats, Integers
from .effort import Effort
from .messages import Messages

RATE = 2e-3
CHECKS = 12
TOLERANCE, ERROR_TOLERANCE = 0.02, 0.05
"""Converged: the last third of the curve betters what was before it by less (of an error, by less of itself), and the
effort's limit of work left it half of the steps or more. As the rate falls to 0, every curve ends flat."""
PROBED = 4
LEAST_BATCH, LEAST_HELD = 32, 200

Tell = Callable[[str, float], None]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Goal:
    """`targets` of the training part's items, the loss, and whether `measure` is to become large or small."""

    targets: torch.Tensor
    loss: Loss
    measure: Loss
    better: Literal["more", "less"]


def trained(
    network: torch.nn.Module, messages: Messages, goal: Goal, effort: Effort, name: str, tell: Tell | None = None
) -> Curve:
    """Train in place, and leave the weights that did best on the items held out."""
    seed = messages.seen.seed
    fit, held = _parted(messages.seen.train.count, effort, seed)
    steps, batch_size = _extent(network, messages.take("train", held[:PROBED], "held out"), goal, held, effort)
    whole = 2 * steps * batch_size >= effort.steps * effort.batch
    batch_size = min(batch_size, len(fit))
    # Checks shall not take longer than what they check.
    held = np.sort(held[: max(LEAST_HELD, steps * batch_size // (4 * CHECKS))])
    held_messages, held_targets = messages.take("train", held, "held out"), goal.targets[torch.from_numpy(held)]
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE, foreach=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=RATE, total_steps=steps)
    checks = {round(steps * (i + 1) / CHECKS) for i in range(CHECKS)}
    places: list[int] = []
    curve: list[float] = []
    best: dict[str, torch.Tensor] = {}
    sign = 1 if goal.better == "more" else -1
    for step, (rows, batch) in enumerate(_batches(messages, fit, batch_size, steps, seed), 1):
        network.train()
        loss = goal.loss(network(batch), goal.targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in checks:
            reached = float(goal.measure(answers(network, held_messages), held_targets))
            if not curve or sign * reached > max(sign * value for value in curve):
                best = {key: value.clone() for key, value in network.state_dict().items()}
            places.append(step)
            curve.append(reached)
            if tell is not None:
                tell(f"{name}: {reached:.4f} after {step} steps", step / steps)
    network.load_state_dict(best)
    return Curve(steps=tuple(places), held_out=tuple(curve), converged=whole and _converged(curve, goal.better))


def answers(network: torch.nn.Module, messages: Floats, at_once: int = 500) -> torch.Tensor:
    """What the network makes of messages, without training it."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(piece) for piece in torch.from_numpy(messages).split(at_once)])


def parameters_of(network: torch.nn.Module) -> int:
    """Weights that are trained."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _parted(count: int, effort: Effort, seed: int) -> tuple[Integers, Integers]:
    order = np.random.default_rng(seed).permutation(count)
    if count < 2:
        raise DataError("one training item is too few for an attacker; give at least 2")
    held = min(effort.held_out, max(1, count // 10))
    return order[held : held + effort.items], order[:held]


def _batches(
    messages: Messages, rows: Integers, batch: int, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    done = 0
    for items, drawn in messages.passes(rows, "fit", seed, batch):
        for start in range(0, len(items) - batch + 1, batch):
            if done == steps:
                return
            piece = slice(start, start + batch)
            yield torch.from_numpy(items[piece]), torch.from_numpy(drawn[piece])
            done += 1


def _extent(network: torch.nn.Module, messages: Floats, goal: Goal, rows: Integers, effort: Effort) -> tuple[int, int]:
    """Steps, and items in each: fewer items first where the work is more than the effort allows, then fewer steps."""
    few = torch.from_numpy(messages)
    with FlopCounterMode(display=False) as counter:
        goal.loss(network(few), goal.targets[torch.from_numpy(rows[: len(few)])]).backward()
    network.zero_grad()
    items = effort.most_flops * len(few) / max(counter.get_total_flops(), 1)
    batch = int(max(LEAST_BATCH, min(effort.batch, items / effort.least)))
    return int(max(effort.least, min(effort.steps, items / batch))), batch


def _converged(curve: list[float], better: Literal["more", "less"]) -> bool:
    before, last = curve[: -len(curve) // 3], curve[-len(curve) // 3 :]
    if better == "more":
        return max(last) - max(before) < TOLERANCE
    return min(before) - min(last) < ERROR_TOLERANCE * min(before)
