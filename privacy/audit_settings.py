"""How much an audit does: which attackers, on how many items, and from which seed its noise follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import EdgecutError, unknown

Attacks = Literal["none", "quick", "full"]
ATTACKS: tuple[Attacks, ...] = get_args(Attacks)


@dataclass(frozen=True)
class AuditSettings:
    """The numbers of one audit.

    `train_items` and `test_items` are the most that attackers learn from and are judged on, None for all; the values of
    both together take at most `memory_bytes`. `metric_samples` are those of the paper's metric (0 leaves it out),
    `gallery` the inputs among which a lower bound tells the right one, `copies` the messages of one input that an
    attacker may average. `accuracy_draws` is how often each unseen item is tried under fresh noise.
    """

    attacks: Attacks = "full"
    seed: int = 0
    train_items: int | None = None
    test_items: int | None = 10_000
    metric_samples: int = 1_000
    gallery: int = 2_048
    copies: tuple[int, ...] = (1, 4, 16)
    accuracy_draws: int = 4
    memory_bytes: int = 1 << 30

    def check(self) -> None:
        """Raise EdgecutError for a value that cannot be used."""
        if self.attacks not in ATTACKS:
            raise EdgecutError(unknown("effort of attacks", self.attacks, ATTACKS))
        for name in ("train_items", "test_items", "gallery", "accuracy_draws", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 1):
                raise EdgecutError(f"{name.replace('_', ' ')} must be 1 or more, not {value}")
        if self.metric_samples < 0:
            raise EdgecutError(f"metric samples must be 0 or more, not {self.metric_samples}")
        if not self.copies or min(self.copies) < 1:
            raise EdgecutError(f"copies must be 1 or more each, not {self.copies}")
        if not 0 <= self.seed < 2**63:
            raise EdgecutError(f"the seed must be from 0 to 2^63 - 1, not {self.seed}")


def quick(seed: int = 0) -> AuditSettings:
    """What a sweep does at each of its many points: fewer items, short attacks on one message, no paper's metric."""
    return AuditSettings(
        attacks="quick",
        seed=seed,
        train_items=15_000,
        test_items=2_000,
        metric_samples=0,
        gallery=1_024,
        copies=(1,),
        accuracy_draws=2,
    )
