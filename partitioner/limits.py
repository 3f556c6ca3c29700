"""Limits on the chosen cut: which ones a cut breaks, and which ones bind where no cut keeps to all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Strict, TypeAdapter, ValidationError

from ..artefacts import first_fault, read_bytes
from ..errors import DataError, EdgecutError
from .cost import Way
from .plan import Limits

MAX_LEAKAGE_BYTES = 16 * 1024 * 1024
_LEAKAGE = TypeAdapter(dict[str, Annotated[float, Strict()]])


class InfeasibleError(EdgecutError):
    """No cut keeps to all limits."""


@dataclass(frozen=True)
class Measured:
    """What a limit is held against, for one way; None where unknown."""

    way: Way
    latency_s: float
    energy_j: float | None


@dataclass(frozen=True)
class Limit:
    """One limit in words: the `demand` and its `noun`, and what of a way is held against it.

    `held` is the quantity, or its negative where more is better, so that less is always better.
    """

    demand: str
    noun: str
    bound: float
    held: Callable[[Measured], float | None]
    text: Callable[[float], str]
    missing: str
    best: str = "the least"

    @property
    def asked(self) -> str:
        """The whole demand."""
        return f"{self.demand} {self.noun}"

    def keeps(self, one: Measured) -> bool:
        """Whether a way keeps to the limit; what is unknown does not."""
        value = self.held(one)
        return value is not None and value <= self.bound

    def phrase(self, one: Measured) -> str:
        """How a way breaks the limit."""
        value = self.held(one)
        return self.missing if value is None else f"{self.text(value)} {self.noun}, {self.demand} asked"


def stated(limits: Limits) -> list[Limit]:
    """The limits that were set."""
    found = []
    if (memory := limits.edge_memory_bytes) is not None:
        held, text = (lambda one: one.way.edge_memory_bytes), _megabytes
        found.append(Limit(f"at most {text(memory)}", "of edge memory", memory, held, text, "no known edge memory"))
    if (energy := limits.edge_energy_j) is not None:
        held, text = (lambda one: one.energy_j), _millijoules
        found.append(Limit(f"at most {text(energy)}", "per inference", energy, held, text, "no known energy"))
    if (latency := limits.latency_s) is not None:
        held, text = (lambda one: one.latency_s), _milliseconds
        found.append(Limit(f"at most {text(latency)}", "of latency", latency, held, text, "no known latency"))
    if (depth := limits.min_depth) is not None:
        held, text = _shallowness, _layers
        found.append(
            Limit(f"at least {depth}", "layer(s) on the edge", -depth, held, text, "no known depth", best="the most")
        )
    if (leakage := limits.leakage_bits) is not None:
        held, text = (lambda one: one.way.leakage_bits), _plain
        found.append(Limit(f"at most {text(leakage)}", "bits of leakage", leakage, held, text, "no leakage figure"))
    return found


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.4g} MB"


def _millijoules(value: float) -> str:
    return f"{value * 1e3:.4g} mJ"


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:.4g} ms"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _layers(value: float) -> str:
    return f"{-value:.0f}"


def _shallowness(one: Measured) -> float | None:
    return None if one.way.depth is None else -one.way.depth


def breaches(one: Measured, limits: Limits) -> tuple[str, ...]:
    """The limits that a way breaks, one short phrase each."""
    return tuple(limit.phrase(one) for limit in stated(limits) if not limit.keeps(one))


def breaks_anywhere(way: Way, limits: Limits) -> bool:
    """Whether a way breaks a limit that neither link nor load can change: memory, depth or leakage."""
    lasting = limits.model_copy(update={"latency_s": None, "edge_energy_j": None})
    return bool(breaches(Measured(way, 0.0, None), lasting))


def infeasible(ways: Sequence[Measured], limits: Limits) -> InfeasibleError:
    """Which limits bind: the smallest set that no way keeps to, and what is left to have of each.

    Call it only where no way keeps to all.
    """
    every = stated(limits)
    for size in range(1, len(every) + 1):
        for binding in itertools.combinations(every, size):
            if not any(all(limit.keeps(one) for limit in binding) for one in ways):
                return InfeasibleError(_sentence(binding, ways))
    raise AssertionError("some way keeps to all limits")


def _sentence(binding: Sequence[Limit], ways: Sequence[Measured]) -> str:
    best = []
    for limit in binding:
        others = [other for other in binding if other is not limit]
        left = [(limit.held(one), one.way.name) for one in ways if all(other.keeps(one) for other in others)]
        known = [(value, name) for value, name in left if value is not None]
        among = f" with {' and '.join(other.asked for other in others)}" if others else ""
        if known:
            value, name = min(known)
            best.append(f"{limit.best} to be had{among} is {limit.text(value)} {limit.noun}, after {name}")
        else:
            best.append(f"there is {limit.missing} for any cut{among}")
    if len(binding) == 1:
        return f"no cut keeps to the limit of {binding[0].asked}: {best[0]}; loosen it"
    asked = " and ".join(limit.asked for limit in binding)
    return f"no cut keeps to {asked} at once: {'; '.join(best)}; loosen one of them"


def read_leakage(path: str | os.PathLike[str]) -> dict[str, float]:
    """Bits by cut from a JSON object. Raises DataError, or ArtefactError where there is no such file."""
    try:
        found = _LEAKAGE.validate_json(read_bytes(path, limit=MAX_LEAKAGE_BYTES))
    except ValidationError as error:
        raise DataError(
            f"{path} holds no leakage figures ({first_fault(error)}); write a JSON object of cut and bits"
        ) from None
    return check_leakage(found, str(path))


def check_leakage(bits: Mapping[str, float], where: str) -> dict[str, float]:
    """The figures as they are. Raises DataError where one is no finite number of at least 0."""
    for name, value in bits.items():
        if not 0 <= value < float("inf"):
            raise DataError(f"{where} says {value} bits for cut {name}; a leakage is a finite number of at least 0")
    return dict(bits)
