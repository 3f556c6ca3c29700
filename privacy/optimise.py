"""Gradient descent on many noise tensors at once, on cached activations: the same loop for both recipes.

What descends is `values` [D, n]: for the paper's recipe the noise itself, for the sampled one the latent that ranks
the elements (see `order`). A descent can be stopped anywhere and gone on with; it then ends in the very same numbers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import EdgecutError
from .activations import Rows
from .cloud import Cloud, bytes_per_item
from .objective import decayed, growth_loss, task_loss
from .order import FIRST_SCALE, place, sorted_laplace, steered
from .settings import Settings
from .snapshot import Arrays, WorkFolder

TELL_EVERY = 25
SNAPSHOT_EVERY_S = 3.0
GROUP_BYTES = 1 << 30
WARM_UP = 0.3
START_DIVISOR, END_DIVISOR = 25.0, 1e5


@dataclass(frozen=True)
class Task:
    """A frozen classifier behind the cut, its head's results for the training items, and their labels."""

    cloud: Cloud
    rows: Rows
    labels: torch.Tensor


@dataclass(frozen=True)
class Aim:
    """What all descents of a run share. `wanted` is the accuracy that the scale is steered to, None for a fixed one.

    `deviation` is the activation's standard deviation.
    """

    settings: Settings
    public: Task
    private: Task | None
    deviation: float
    wanted: float | None


@dataclass(frozen=True)
class Descended:
    """What a group of tensors came to: `values` float32 [D, n] and the scale in deviations that was steered to."""

    values: npt.NDArray[np.float32]
    scale: float


class Descent:
    """`count` tensors on their way down; `step` is the number of steps taken."""

    def __init__(self, aim: Aim, elements: int, count: int, group: int) -> None:
        self.aim, self.count, self.step, self.accuracy = aim, count, 0, 0.0
        seed = hashlib.sha256(f"{aim.settings.seed} {group}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "little") >> 1)
        self.scale = FIRST_SCALE if aim.settings.scale is None else aim.settings.scale
        start = torch.empty(count, elements).exponential_(generator=self.generator)
        start *= 2 * torch.randint(0, 2, start.shape, generator=self.generator) - 1
        if self._learns_values:
            start *= self.scale * aim.deviation
        self.values = start.requires_grad_(True)
        # One tensor after the other, on this thread: the fused kind starts others, for twenty times the time.
        self.optimiser = torch.optim.Adam([self.values], lr=aim.settings.learning_rate, foreach=False, fused=False)

    @property
    def _learns_values(self) -> bool:
        return self.aim.settings.equation is not None

    def advance(self) -> None:
        """One step, every tensor on a batch of its own."""
        aim, used = self.aim, self.aim.settings
        rows = torch.randint(aim.public.rows.count, (self.count * used.batch,), generator=self.generator)
        if self._learns_values:
            noise = self.values
        else:
            samples = sorted_laplace(self.count, self.values.shape[1], self.generator)
            noise = self.scale * aim.deviation * place(samples, self.values)
        logits = self._logits(aim.public, rows, noise)
        labels = aim.public.labels[rows]
        loss = task_loss(logits, labels, used.batch)
        if aim.private is not None:
            private = self._logits(aim.private, rows, noise)
            loss = loss - used.gamma * task_loss(private, aim.private.labels[rows], used.batch)
        if used.equation is not None and used.alpha is not None and used.decay_steps is not None:
            loss = loss + growth_loss(noise, used.equation, decayed(used.alpha, self.step, used.decay_steps))
        else:
            self.optimiser.param_groups[0]["lr"] = one_cycle(self.step, used.steps, used.learning_rate)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self.accuracy = float((logits.detach().argmax(1) == labels).sum()) / len(labels)
        if aim.wanted is not None:
            self.scale = steered(self.scale, self.accuracy, aim.wanted)

    def _logits(self, task: Task, rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        heads = task.rows.take(rows).unflatten(0, (self.count, -1))
        return task.cloud.rest((heads + task.cloud.of_noise(noise)[:, None]).flatten(0, 1))

    def state(self) -> Arrays:
        """Everything that the steps to come depend on."""
        moments = self.optimiser.state.get(self.values, {})
        kept = {name: moments[name].numpy() for name in ("exp_avg", "exp_avg_sq") if name in moments}
        return {
            "values": self.values.detach().numpy(),
            "step": np.array(self.step),
            "scale": np.array(self.scale),
            "generator": self.generator.get_state().numpy(),
            **kept,
        }

    def restore(self, state: Arrays) -> None:
        """Go on from such a state."""
        with torch.no_grad():
            self.values.copy_(torch.from_numpy(state["values"]))
        self.step, self.scale = int(state["step"]), float(state["scale"])
        self.generator.set_state(torch.from_numpy(state["generator"]))
        if "exp_avg" in state:
            moments = {name: torch.from_numpy(state[name]) for name in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[self.values] = {"step": torch.tensor(float(self.step)), **moments}


def one_cycle(step: int, steps: int, peak: float) -> float:
    """The learning rate: up to `peak` in the first part of the steps, then down to nearly nothing, along cosines."""
    top = max(1.0, WARM_UP * steps)
    if step < top:
        return peak / START_DIVISOR + (peak - peak / START_DIVISOR) * (1 - math.cos(math.pi * step / top)) / 2
    end = peak / END_DIVISOR
    return end + (peak - end) * (1 + math.cos(math.pi * (step - top) / max(1.0, steps - top))) / 2


def group_sizes(tasks: list[Task], settings: Settings) -> list[int]:
    """How many tensors are learned at once, group by group, so that a step's own memory stays bounded."""
    one = 2 * settings.batch * sum(bytes_per_item(task.cloud) for task in tasks)
    most = max(1, min(settings.distributions, GROUP_BYTES // one))
    groups = -(-settings.distributions // most)
    return [settings.distributions // groups + (g < settings.distributions % groups) for g in range(groups)]


def descend(
    aim: Aim,
    elements: int,
    count: int,
    group: int,
    folder: WorkFolder | None,
    tell: Callable[[int, float, float], None],
) -> Descended:
    """One group's descent, from where the folder's snapshot left it. `tell(step, accuracy, scale)`."""
    done = f"group-{group}"
    found = folder.load(done) if folder is not None else None
    if found is None:
        descent = Descent(aim, elements, count, group)
        before = folder.load(f"{done}-snapshot") if folder is not None else None
        if before is not None:
            descent.restore(before)
        saved = time.monotonic()
        while descent.step < aim.settings.steps:
            descent.advance()
            if descent.step % TELL_EVERY == 0 or descent.step == aim.settings.steps:
                tell(descent.step, descent.accuracy, descent.scale)
                _check(descent)
            if folder is not None and time.monotonic() - saved > SNAPSHOT_EVERY_S:
                folder.save(f"{done}-snapshot", descent.state())
                saved = time.monotonic()
        found = descent.state()
        if folder is not None:
            folder.save(done, found)
            folder.drop(f"{done}-snapshot")
    return Descended(found["values"], float(found["scale"]))


def _check(descent: Descent) -> None:
    if not torch.isfinite(descent.values).all():
        raise EdgecutError(
            "learning left the finite numbers; lower --alpha or --learning-rate, or check the data and the model"
        )
