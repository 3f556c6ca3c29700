"""How noise is learned: two recipes, and the numbers a user may set.

`sampled` (the default) learns the order of the elements under fresh samples, which is what is deployed, and searches
the largest scale that keeps the accuracy. `paper` is Shredder's own: gradient descent on a tensor of values
(equations 3, 4 and 5), to which a Laplace distribution is fitted afterwards.

A scale is given in standard deviations of the activation, so that it means the same for every network. The paper's
alpha and learning rate stay in the activation's own unit, as the paper has them: 0.01 and 0.01, its values
for LeNet, CIFAR and 20Newsgroups, are the defaults, because three of its six networks have them; it has 0.001 and
0.001 for SVHN and 0.0001 and 0.0001 for AlexNet and VGG-16 (section 6.1), to be given with --alpha and
--learning-rate. It says nothing of the initial scale, the steps or the batch.

The sampled recipe has no alpha: its noise is a Laplace sample of a scale that is searched or given, whatever the
order, so the sum of magnitudes and the variance do not depend on what is learned and their terms are constant.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import EdgecutError, unknown

EQUATIONS = (3, 4)
POSITIVE = ("distributions", "steps", "batch", "decay_steps", "learning_rate", "scale", "max_accuracy_loss", "max_sse")
PAPER_ONLY = ("alpha", "equation", "decay_steps", "max_sse")


@dataclass(frozen=True)
class Settings:
    """The numbers of one run. None means that the recipe has no such number, or (`scale`) that it is searched.

    `alpha` weighs the term that makes noise grow and falls tenfold every `decay_steps` steps; `gamma` weighs equation
    5's private term, where private labels are given. `hold_out` is the share of the training data that judges.
    """

    recipe: str = "sampled"
    distributions: int = 20
    steps: int = 1500
    batch: int = 32
    learning_rate: float = 0.02
    scale: float | None = None
    max_accuracy_loss: float = 1.5
    hold_out: float = 0.1
    gamma: float = 0.01
    alpha: float | None = None
    equation: int | None = None
    decay_steps: int | None = None
    max_sse: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise EdgecutError for a value that cannot be used."""
        base = _recipe(self.recipe)
        for name in PAPER_ONLY:
            if base.equation is None and getattr(self, name) is not None:
                raise EdgecutError(
                    f"the recipe {self.recipe} has no {_words(name)}: its scale is searched or given, so that the term "
                    "that makes noise grow would be constant; leave it out, or take the recipe paper"
                )
            if getattr(self, name) is None and getattr(base, name) is not None:
                raise EdgecutError(f"the recipe {self.recipe} needs its {_words(name)}; take {getattr(base, name):g}")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise EdgecutError(f"{_words(name)} must be positive, not {value}")
        for name in ("alpha", "gamma"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise EdgecutError(f"{name} must be 0 or more, not {value}")
        if self.equation is not None and self.equation not in EQUATIONS:
            raise EdgecutError(
                f"equation must be 3 or 4, not {self.equation}; either becomes equation 5 with private labels"
            )
        if not 0 < self.hold_out < 1:
            raise EdgecutError(f"hold out must be a share above 0 and below 1, not {self.hold_out}")
        if not 0 <= self.seed < 2**63:
            raise EdgecutError(f"the seed must be from 0 to 2^63 - 1, not {self.seed}")


RECIPES = {
    "sampled": Settings(),
    # Alpha and the rate are section 6.1's for LeNet, CIFAR and 20Newsgroups; the initial scale and the steps are ours.
    "paper": Settings(
        recipe="paper", learning_rate=0.01, scale=2.0, alpha=0.01, equation=4, decay_steps=500, distributions=20
    ),
}


def settings_for(recipe: str, **changes: Any) -> Settings:
    """A recipe's settings with those `changes` that are not None, checked. Raises EdgecutError."""
    given = {name: value for name, value in changes.items() if value is not None}
    made = dataclasses.replace(_recipe(recipe), **given)
    made.check()
    return made


def _recipe(name: str) -> Settings:
    if name not in RECIPES:
        raise EdgecutError(unknown("recipe", name, RECIPES))
    return RECIPES[name]


def _words(name: str) -> str:
    return name.replace("_", " ")
