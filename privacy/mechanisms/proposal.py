"""What a mechanism's module hands to the search: noise for any value of its one open number, the knob."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...noise_kernels.element_noise import ElementNoise


@dataclass(frozen=True)
class Proposal:
    """`noise(knob)`, where a larger knob hides more and costs more accuracy.

    `start` is where the search begins, None where there is nothing to search; `given` says that the user chose it.
    The search goes no further than from `least` to `most`, by factors that grow from `step`, and ends within
    `precision`. `bits(knob)` is the mechanism's own formula for what can be learned, if it has one.
    """

    noise: Callable[[float], ElementNoise]
    name: str
    meaning: str
    deviation: float
    start: float | None
    given: bool = False
    least: float = 1e-4
    most: float = 1e4
    step: float = 1.25
    precision: float = 1.005
    bits: Callable[[float], float] | None = None
    learnable: int = 0
    notes: tuple[str, ...] = ()
    kept: str = ""
