"""How noise is learned: the numbers a user may set, for Shredder's two recipes and for the other mechanisms.

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

The other mechanisms share `FitSettings`; which of its numbers a mechanism has is in `OPTIONS`, with what it takes
where none is given.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import EdgecutError, unknown
from ..noise_kernels.element_noise import LAWS, PLACES
from ..noise_kernels.mechanism import MECHANISMS

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
        _check_shared(self)


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


SHARED = ("max_accuracy_loss", "hold_out", "seed")
BASES = ("best", "eigen", "diagonal")
OPTIONS: dict[str, dict[str, Any]] = {
    "laplace": {"scale": None},
    "none": {},
    "cloak": {"steps": 1000, "batch": 64, "learning_rate": 0.02, "place": "cut", "law": "normal"},
    "gaussian": {"images": 10_000},
    "channel": {"images": 2000, "basis": "best"},
}
"""What each mechanism but Shredder's has beside SHARED, and its value where none is given."""


@dataclass(frozen=True)
class FitSettings:
    """The numbers of one fit. None is the mechanism's own value; what it does not have must be None (`OPTIONS`).

    `scale` is a Laplace b in deviations of the activation, searched where it is None. `place` is cut or input. `images`
    is how many training items gaussian and channel are fitted to, `basis` one of BASES.
    """

    max_accuracy_loss: float = 1.5
    hold_out: float = 0.1
    seed: int = 0
    scale: float | None = None
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    place: str | None = None
    law: str | None = None
    images: int | None = None
    basis: str | None = None

    def of(self, mechanism: str) -> FitSettings:
        """These settings with everything that `mechanism` has. Raises EdgecutError for what it does not have."""
        has = OPTIONS[_known(mechanism, OPTIONS)]
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in given.items():
            if name not in SHARED and name not in has and value is not None:
                raise EdgecutError(_has_no(mechanism, name))
        filled = {name: value for name, value in has.items() if given[name] is None}
        made = dataclasses.replace(self, **filled)
        made._check()
        return made

    def _check(self) -> None:
        for name in ("scale", "steps", "batch", "learning_rate", "images", "max_accuracy_loss"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise EdgecutError(f"{_words(name)} must be positive, not {value}")
        for name, known in (("place", PLACES), ("law", LAWS), ("basis", BASES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise EdgecutError(unknown(name, value, known))
        _check_shared(self)


def choose_settings(mechanism: str, recipe: str | None = None, **changes: Any) -> Settings | FitSettings:
    """The settings of a mechanism with those `changes` that are not None, checked. Raises EdgecutError."""
    given = {name: value for name, value in changes.items() if value is not None}
    fields = {field.name for field in dataclasses.fields(FitSettings)}
    if _known(mechanism, MECHANISMS) != "shredder":
        for name in [*(["recipe"] if recipe is not None else []), *given]:
            if name not in fields:
                raise EdgecutError(_has_no(mechanism, name))
        return FitSettings(**given).of(mechanism)
    own = {field.name for field in dataclasses.fields(Settings)}
    for name in given:
        if name not in own:
            raise EdgecutError(_has_no(mechanism, name))
    return settings_for(recipe or "sampled", **given)


def shredder_settings(settings: Settings | FitSettings) -> Settings:
    """For Shredder's mechanism, whichever kind was given. Raises EdgecutError."""
    if isinstance(settings, Settings):
        settings.check()
        return settings
    given = dataclasses.asdict(settings)
    made = choose_settings("shredder", **given)
    assert isinstance(made, Settings)
    return made


def fit_settings(mechanism: str, settings: Settings | FitSettings) -> FitSettings:
    """For any other mechanism, whichever kind was given. Raises EdgecutError."""
    if isinstance(settings, FitSettings):
        return settings.of(mechanism)
    default = Settings()
    changed = {name: value for name, value in dataclasses.asdict(settings).items() if value != getattr(default, name)}
    made = choose_settings(mechanism, **changed)
    assert isinstance(made, FitSettings)
    return made


def _known(mechanism: str, known: Any) -> str:
    if mechanism not in known:
        raise EdgecutError(unknown("mechanism", mechanism, MECHANISMS))
    return mechanism


def _has_no(mechanism: str, name: str) -> str:
    having = [known for known, options in OPTIONS.items() if name in options]
    if any(field.name == name for field in dataclasses.fields(Settings)):
        having.insert(0, "shredder")
    return f"the mechanism {mechanism} has no {_words(name)} ({', '.join(having)} has it); leave it out"


def _check_shared(settings: Settings | FitSettings) -> None:
    if not 0 < settings.hold_out < 1:
        raise EdgecutError(f"hold out must be a share above 0 and below 1, not {settings.hold_out}")
    if not 0 <= settings.seed < 2**63:
        raise EdgecutError(f"the seed must be from 0 to 2^63 - 1, not {settings.seed}")


def _recipe(name: str) -> Settings:
    if name not in RECIPES:
        raise EdgecutError(unknown("recipe", name, RECIPES))
    return RECIPES[name]


def _words(name: str) -> str:
    return name.replace("_", " ")
