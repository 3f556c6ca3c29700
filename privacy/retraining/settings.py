"""What a retraining run can be told, and what each method does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import EdgecutError, unknown

Method = Literal["scrunch", "dpfe"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class RetrainSettings:
    """`weight` is lambda in lambda * privacy loss + (1 - lambda) * cross-entropy, both means over a batch.

    `centre_rate` is how far a class centre moves to its items of a batch (scrunch); `bottleneck` and `margin` are the
    values sent and the distance that items of one private class are pushed apart to, where 2 is the mean squared
    distance of two items before the training (dpfe). `hold_out` is the share of the training data that is only
    watched, epoch by epoch.
    """

    weight: float = 0.9
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    hold_out: float = 0.1
    centre_rate: float = 0.5
    bottleneck: int = 32
    margin: float = 1.0

    def check(self) -> None:
        """Raise EdgecutError for a number that cannot be."""
        for name, value, low, high in (
            ("--lambda", self.weight, 0.0, 1.0),
            ("--hold-out", self.hold_out, 0.0, 0.9),
            ("the centres' rate", self.centre_rate, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise EdgecutError(f"{name} is {value:g}, but must be from {low:g} to {high:g}")
        for name, value, least in (("--epochs", self.epochs, 1), ("--batch", self.batch, 2)):
            if value < least:
                raise EdgecutError(f"{name} is {value}, but must be at least {least}")
        for name, size in (("--bottleneck", self.bottleneck), ("--margin", self.margin)):
            if not size > 0:
                raise EdgecutError(f"{name} is {size:g}, but must be more than 0")
        if not 0 < self.learning_rate < 1:
            raise EdgecutError(f"--learning-rate is {self.learning_rate:g}, but must be more than 0 and less than 1")


def check_method(method: str) -> None:
    """Raise EdgecutError for a method that is not known."""
    if method not in METHODS:
        raise EdgecutError(unknown("retraining method", method, METHODS))
