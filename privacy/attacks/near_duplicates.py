"""Sticky noise and its way around: queries with the same image, but for a little noise in its pixels.

Sticky noise follows from what it is added to, so that equal queries tell nothing new; inputs that differ in one bit
have independent noise. Whoever can make the edge send such near-duplicates averages the noise away after all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from torch import fx

from ...models.training import one_thread
from ..audited import LabelAttack, NearDuplicate
from ..observations import Floats, Integers, Observations, Part, PartName
from .effort import EffortName, effort_called
from .label import attack, judged, judged_rows, kinds_of
from .messages import Messages
from .training import Tell

AMPLITUDE = 0.01
MOST_JUDGED = 2000


@one_thread()
def near_duplicates(
    seen: Observations,
    inputs: Floats,
    edge: Callable[[Floats], Floats],
    cloud: fx.GraphModule | None = None,
    best: LabelAttack | None = None,
    amplitude: float = AMPLITUDE,
    copies: Sequence[int] = (1, 4, 16),
    effort: EffortName = "full",
    tell: Tell | None = None,
) -> tuple[NearDuplicate, ...]:
    """What averaging near-duplicates of unseen items gives, for each number of them.

    `inputs` are the unseen items' model inputs, float32 [items, values], and `edge` makes activations [items, width] of
    such. With `best`, the attacker on one message that did best, one like it is trained for each number.
    """
    used = effort_called(effort)
    rows = judged_rows(seen, used)[:MOST_JUDGED]
    truth = edge(inputs[rows])
    kind = None
    if best is not None:
        alike = (best.attacker, best.knows_noise)
        kind = next(one for one in kinds_of(seen, cloud) if (one.name, one.knows_noise) == alike)
    found = []
    for done, count in enumerate(copies):
        queries = Perturbed(Messages(seen, count, restored=seen.restore is None), inputs, edge, amplitude)
        missed = queries.take("test", rows, "judged") - truth
        if len(rows) > 1:  # who knows the mechanism knows the mean of its noise
            missed -= missed.mean(0)
        error = float((missed**2).mean() / max(truth.var(0).mean(), 1e-12))
        accuracy = None
        if kind is not None:
            told = None if tell is None else _share(tell, done, len(copies))
            made = attack(seen, kind, count, used, told)
            accuracy = judged(Perturbed(kind.messages(seen, count), inputs, edge, amplitude), made.network, rows)
        found.append(NearDuplicate(copies=count, amplitude=amplitude, error=error, accuracy=accuracy))
    return tuple(found)


class Perturbed(Messages):
    """Messages like `base`, but each copy of an unseen item is of its image with other noise in the pixels."""

    def __init__(self, base: Messages, inputs: Floats, edge: Callable[[Floats], Floats], amplitude: float) -> None:
        super().__init__(base.seen, base.copies, base.cleaner, base.sticky, base.is_restored)
        self._inputs, self._edge = inputs, edge
        self._span = amplitude * float(inputs.max() - inputs.min())

    def message(self, name: PartName, rows: Integers, purpose: str, number: int) -> Floats:
        """One copy of each item."""
        assert name == "test"
        generator = np.random.default_rng([self.seen.seed, number])
        given = self._inputs[rows]
        given = given + generator.uniform(-self._span, self._span, given.shape).astype(np.float32)
        values = given if self.seen.noise.place == "input" else self._edge(given)
        test, places = self.seen.test, np.arange(len(rows))
        part = Part(test.images[rows], values, test.labels[rows], None)
        # Noise follows from an item's place, and pieces all begin at 0.
        return dataclasses.replace(self.seen, test=part).sent(name, places, f"{purpose}, {rows[0]}", number)


def _share(tell: Tell, done: int, runs: int) -> Tell:
    return lambda text, share: tell(f"near-duplicates, {text}", (done + share) / runs)
