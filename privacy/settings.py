"""How noise is learned: the numbers a user may set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import EdgecutError


@dataclass(frozen=True)
class Settings:
    """How noise is learned. `alpha` weighs equation 4's second term and falls tenfold every `decay_steps` steps.

    `scale` is the Laplace initialisation's b in units of the activation's standard deviation.
    """

    distributions: int = 20
    steps: int = 800
    batch: int = 32
    learning_rate: float = 0.01
    alpha: float = 3e-4
    decay_steps: int = 500
    scale: float = 2.0
    max_accuracy_loss: float = 1.5
    seed: int = 0

    def check(self) -> None:
        """Raise EdgecutError for a value that cannot be used."""
        for name in ("distributions", "steps", "batch", "decay_steps", "learning_rate", "scale", "max_accuracy_loss"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise EdgecutError(f"{name.replace('_', ' ')} must be positive, not {value}")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise EdgecutError(f"alpha must be 0 or more, not {self.alpha}")
        if not 0 <= self.seed < 2**63:
            raise EdgecutError(f"the seed must be from 0 to 2^63 - 1, not {self.seed}")
