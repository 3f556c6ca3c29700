"""How long attackers are trained, in counts and never in seconds, so that the same seed gives the same attacker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import DataError, unknown

EffortName = Literal["full", "quick"]


@dataclass(frozen=True)
class Effort:
    """`items` to train with at most, in `steps` batches; less where `most_flops` end sooner, but `least` steps.

    `held_out` items of the training part are kept for the learning curve, `judged` unseen ones are judged at most.
    """

    items: int
    steps: int
    least: int
    most_flops: float
    held_out: int
    judged: int
    batch: int = 256


EFFORTS: dict[str, Effort] = {
    "full": Effort(items=60_000, steps=1600, least=200, most_flops=1.2e12, held_out=2000, judged=10_000),
    "quick": Effort(items=10_000, steps=400, least=100, most_flops=1e11, held_out=1000, judged=2000),
}


def effort_called(name: str) -> Effort:
    """The effort of this name. Raises DataError naming the known ones."""
    if name not in EFFORTS:
        raise DataError(unknown("effort of attacks", name, EFFORTS))
    return EFFORTS[name]
