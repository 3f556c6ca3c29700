"""Cloak's noise: a mean and a scale of its own for every element, learned, and constants for what need not be sent.

Cross-entropy - lambda * sum of log scales falls by gradient descent on frozen halves, under fresh noise each step, as
the talk on Shredder and Cloak has it. Elements that the answer does not need grow loud; where a scale exceeds THRESHOLD
of the element's own deviations the element is replaced by a constant, and the constants are trained on. At the cut the
others alone are sent. At the model's input every element has noise, and those replaced are constant before the edge
part sees them. lambda is steered by the batches' accuracy; the knob multiplies all scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ...errors import EdgecutError, ModelError
from ...models.from_onnx import convert
from ...models.split import halves
from ...noise_kernels.element_noise import ElementNoise
from ...noise_kernels.linear_map import LinearMap
from ..bench import Bench
from ..optimise import one_cycle
from ..settings import FitSettings
from .proposal import Proposal

Floats = npt.NDArray[np.float32]
ITEMS, SAMPLE = 20_000, 1000
QUIETEST, FIRST, LOUDEST = 1e-3, 0.3, 10.0
"""Scales in deviations: the least, where they start, and the most."""
THRESHOLDS = (3.0, 6.0, math.inf)
"""In the element's own deviations, where normal noise leaves 0.08 bits; the next where too much would be replaced."""
TRAINED_ON = 3
"""The constants are trained for one step in so many."""
SEEN, STEERING, LARGEST_CHANGE = 0.05, 0.5, 0.02
TELL_EVERY = 50


@dataclass(frozen=True)
class _Target:
    """What the noise is added to, and what comes of it: `take` gives flat values of items, `logits` the answer."""

    count: int
    shape: tuple[int, ...]
    tensors: list[tuple[str, tuple[int, ...]]]
    labels: torch.Tensor
    take: Callable[[torch.Tensor], torch.Tensor]
    logits: Callable[[torch.Tensor], torch.Tensor]
    kept: str


@dataclass(frozen=True)
class _Noise:
    """In units of the values: `replaced` says which elements are `constants`; the others have a mean and a scale."""

    mean: torch.Tensor
    scale: torch.Tensor
    replaced: torch.Tensor
    constants: torch.Tensor


def propose(bench: Bench, settings: FitSettings) -> Proposal:
    """Means, scales and constants; the knob multiplies the scales."""
    target = _at_input(bench) if settings.place == "input" else _at_cut(bench)
    generator = torch.Generator().manual_seed(settings.seed)
    sample = torch.randperm(target.count, generator=generator)[:SAMPLE]
    values, labels = target.take(sample), target.labels[sample]
    own = torch.stack([values.mean(0), values.std(0, correction=0)])
    unit = float(values.std(correction=0))
    bench.stages.start("learning")
    descent = _Descent(bench, settings, target, own, unit, generator)
    wanted = descent.accuracy(values, labels, None) - settings.max_accuracy_loss / 100
    mean, scale = descent.scales(wanted)
    for threshold in THRESHOLDS:
        replaced = scale > threshold * own[1]
        replaced[scale.div(own[1] + 1e-12).argmin()] = False  # a message needs a value
        made = descent.constants(_Noise(mean, scale, replaced, own[0].clone()))
        quiet = _Noise(made.mean, torch.zeros_like(scale), replaced, made.constants)
        if descent.accuracy(values, labels, quiet) >= wanted:
            break
    return _proposal(bench, settings, target, made, own.numpy(), unit)


def _proposal(bench: Bench, settings: FitSettings, target: _Target, made: _Noise, own: Floats, unit: float) -> Proposal:
    at_input = settings.place == "input"
    index = np.flatnonzero(~made.replaced.numpy())
    mean, scale = made.mean.numpy().astype(np.float64), made.scale.numpy().astype(np.float64)
    spread = np.maximum(own[1].astype(np.float64), 1e-6 * unit)[index]
    centre = np.where(made.replaced.numpy(), made.constants.numpy(), 0.0 if at_input else own[0])
    if at_input:
        ones = np.ones(len(index))
        map = LinearMap(target.shape, centre, (None,) * len(target.shape), index, ones, ones)
        loc, widths = mean, scale
    else:
        map = LinearMap(target.shape, centre, (None,) * len(target.shape), index, 1 / spread, spread)
        loc, widths = mean[index] / spread, scale[index] / spread

    def noise(knob: float) -> ElementNoise:
        return ElementNoise(
            "cloak",
            str(settings.law),
            loc,
            knob * widths,
            target.tensors,
            bench.model.spec.digest,
            bench.cut.name,
            place=str(settings.place),
            map=map,
        )

    def bits(knob: float) -> float:
        return float(np.log2(1 + (spread / (knob * scale[index])) ** 2).sum() / 2)

    return Proposal(
        noise=noise,
        name="scale",
        meaning="what the learned scales are multiplied by",
        deviation=unit,
        start=1.0,
        bits=bits if settings.law == "normal" else None,
        learnable=2 * len(mean),
        notes=(f"{len(mean) - len(index):,} of {len(mean):,} elements are replaced by constants",),
        kept=target.kept,
    )


class _Descent:
    """The two descents: on means and scales, and then on means and constants."""

    def __init__(
        self,
        bench: Bench,
        settings: FitSettings,
        target: _Target,
        own: torch.Tensor,
        unit: float,
        generator: torch.Generator,
    ) -> None:
        assert settings.steps and settings.batch and settings.learning_rate
        self.steps, self.batch, self.rate = settings.steps, settings.batch, settings.learning_rate
        self.bench, self.law, self.target, self.own, self.unit = bench, settings.law, target, own, unit
        self.generator = generator

    def scales(self, wanted: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and scales, lambda steered to the accuracy that is wanted."""
        n = self.own.shape[1]
        mean, logs = torch.zeros(n, requires_grad=True), torch.full((n,), math.log(FIRST), requires_grad=True)
        weight, seen = 0.1 / n, wanted

        def loss(step: int, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            nonlocal weight, seen
            bounded = logs.clamp(math.log(QUIETEST), math.log(LOUDEST))
            noisy = values + self.unit * (mean + bounded.exp() * self._standard(values.shape))
            logits = self.target.logits(noisy)
            seen += SEEN * (float((logits.detach().argmax(1) == labels).float().mean()) - seen)
            weight *= math.exp(max(-LARGEST_CHANGE, min(LARGEST_CHANGE, STEERING * (seen - wanted))))
            if step % TELL_EVERY == 0:
                self.bench.stages.tell(f"learning scales, accuracy {seen:.1%}", step / self.steps)
            return functional.cross_entropy(logits, labels) - weight * bounded.sum()

        self._descend([mean, logs], loss, self.steps)
        bounded = logs.detach().clamp(math.log(QUIETEST), math.log(LOUDEST))
        return self.unit * mean.detach(), self.unit * bounded.exp()

    def constants(self, start: _Noise) -> _Noise:
        """Means and constants trained on, what is replaced and the scales as they are."""
        shift = torch.zeros(2, self.own.shape[1], requires_grad=True)

        def at(change: torch.Tensor) -> _Noise:
            mean, constants = start.mean + self.unit * change[0], start.constants + self.unit * change[1]
            return _Noise(mean, start.scale, start.replaced, constants)

        def loss(_: int, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(self.target.logits(self._noisy(values, at(shift))), labels)

        self._descend([shift], loss, max(1, self.steps // TRAINED_ON))
        return at(shift.detach())

    def accuracy(self, values: torch.Tensor, labels: torch.Tensor, noise: _Noise | None) -> float:
        """The share of right answers, without noise for None."""
        right = 0
        with torch.no_grad():
            for some, wanted in zip(
                values.split(self.bench.edge.chunk), labels.split(self.bench.edge.chunk), strict=True
            ):
                noisy = some if noise is None else self._noisy(some, noise)
                right += int((self.target.logits(noisy).argmax(1) == wanted).sum())
        return right / len(labels)

    def _noisy(self, values: torch.Tensor, noise: _Noise) -> torch.Tensor:
        noisy = values + noise.mean + noise.scale * self._standard(values.shape)
        return torch.where(noise.replaced, noise.constants, noisy)

    def _standard(self, shape: Any) -> torch.Tensor:
        if self.law == "normal":
            return torch.randn(shape, generator=self.generator)
        magnitudes = torch.empty(shape).exponential_(generator=self.generator)
        return magnitudes * (2 * torch.randint(0, 2, shape, generator=self.generator) - 1)

    def _descend(
        self,
        parameters: list[torch.Tensor],
        loss: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
        steps: int,
    ) -> None:
        optimiser = torch.optim.Adam(parameters, lr=self.rate, foreach=False, fused=False)
        for step in range(steps):
            rows = torch.randint(self.target.count, (self.batch,), generator=self.generator)
            cost = loss(step, self.target.take(rows), self.target.labels[rows])
            optimiser.param_groups[0]["lr"] = one_cycle(step, steps, self.rate)
            optimiser.zero_grad()
            cost.backward()
            optimiser.step()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
            raise EdgecutError("learning left the finite numbers; lower --learning-rate, or check the data")


def _at_cut(bench: Bench) -> _Target:
    rows = bench.training(ITEMS)
    cut = bench.cut
    return _Target(
        count=rows.count,
        shape=cut.tensors[0].shape if len(cut.tensors) == 1 else (cut.elements,),
        tensors=[(tensor.name, tensor.shape) for tensor in cut.tensors],
        labels=torch.from_numpy(bench.labels[bench.sample(ITEMS)]),
        take=rows.take,
        logits=bench.cloud.logits,
        kept=rows.place,
    )


def _at_input(bench: Bench) -> _Target:
    """Through both halves. Raises ModelError where the input is no float32, to which noise cannot be added."""
    given, chosen = bench.model.spec.input, bench.sample(ITEMS)
    if given.dtype != "float32":
        raise ModelError(
            f"{bench.model.spec.name} takes {given.dtype}, to which no noise can be added; put it at the cut (--at cut)"
        )
    edge = convert(halves(bench.model.graph, bench.cut)[0], bench.model.spec.name).requires_grad_(False)

    def logits(flat: torch.Tensor) -> torch.Tensor:
        made = edge(flat.unflatten(1, given.shape))
        parts = made if isinstance(made, tuple | list) else (made,)
        return bench.cloud.logits(torch.cat([part.flatten(1) for part in parts], 1))

    return _Target(
        count=len(chosen),
        shape=given.shape,
        tensors=[(given.name, given.shape)],
        labels=torch.from_numpy(bench.labels[chosen]),
        take=lambda rows: torch.from_numpy(bench.inputs(chosen[rows.numpy()])),
        logits=logits,
        kept="nowhere",
    )
