"""What a plan minimises, under which limits and measure of risk, for one set of circumstances or for many at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cost import AS_MEASURED, Amounts, Circumstances, Factors, Number, Way, amounts
from .limits import Measured
from .plan import Limits, Objective, Quantity, Risk
from .risk import Spread, best_shares, summary

FIELDS: dict[Quantity, str] = {
    "uplink": "uplink_bps",
    "downlink": "downlink_bps",
    "rtt": "rtt_s",
    "edge-slowdown": "edge_slowdown",
    "cloud-load": "cloud_load",
}
Array = NDArray[np.float64]
DRAWN_AT_ONCE = 400_000
"""Draws times values of a sweep that are in memory together."""


@dataclass(frozen=True)
class Aim:
    """The objective with its weight, the limits and the measure of risk."""

    objective: Objective = "latency"
    weight_s_per_j: float | None = None
    limits: Limits = field(default_factory=Limits)
    risk: Risk = "median"

    @property
    def needs_energy(self) -> bool:
        """Whether nothing can be chosen without joules."""
        return self.objective != "latency" or self.limits.edge_energy_j is not None

    def value(self, found: Amounts) -> Number | None:
        """The objective in seconds, joules, or joule-seconds; None where it needs an unknown energy."""
        seconds, joules = found.total_s, found.energy_j
        if self.objective == "latency":
            return seconds
        if joules is None:
            return None
        if self.objective == "energy":
            return joules
        if self.objective == "edp":
            return joules * seconds
        return seconds + (self.weight_s_per_j or 0.0) * joules


class Ranking:
    """Scores of ways to run a model under an aim, all in the aim's measure of risk."""

    def __init__(self, aim: Aim, under: Circumstances, spread: Spread) -> None:
        self.aim, self.under, self.spread = aim, under, spread
        self._drawn: dict[str, Factors] = {}

    def requests(self, way: Way) -> Amounts:
        """What many requests cost."""
        return amounts(way, self.under, self._factors(way))

    def score(self, way: Way) -> float | None:
        """The objective's value; None where it is unknown."""
        return _number(_summed(self.aim.value(self._amounts(way, self.under)), self.aim.risk))

    def measured(self, way: Way) -> Measured:
        """What the limits are held against."""
        found = self._amounts(way, self.under)
        seconds = _number(_summed(found.total_s, self.aim.risk))
        assert seconds is not None
        return Measured(way, seconds, _number(_summed(found.energy_j, self.aim.risk)))

    def shares(self, ways: Sequence[Way]) -> dict[str, float]:
        """How likely each way, by name, is the best of these, their medians drawn from their intervals.

        With another measure of risk than the median, what it adds to a way's cost is taken as a fixed share of it.
        """
        scores = []
        for way in ways:
            known = self.aim.value(amounts(way, self.under))
            drawn = self.aim.value(amounts(way, self.under, self.spread.medians(way)))
            risky = self.score(way)
            assert known is not None and drawn is not None and risky is not None
            scores.append(np.broadcast_to(drawn * (risky / known), (self.spread.draws,)))
        return dict(zip((way.name for way in ways), best_shares(scores), strict=True))

    def _amounts(self, way: Way, under: Circumstances) -> Amounts:
        if self.aim.risk == "median":
            return amounts(way, under, AS_MEASURED)
        return amounts(way, under, self._factors(way))

    def _factors(self, way: Way) -> Factors:
        if way.name not in self._drawn:
            self._drawn[way.name] = self.spread.requests(way)
        return self._drawn[way.name]

    def swept(self, way: Way, quantity: Quantity, values: Array) -> Array:
        """The score at each value of a quantity, infinite where latency or energy break their limit."""
        together = len(values) if self.aim.risk == "median" else max(1, DRAWN_AT_ONCE // self.spread.draws)
        pieces = [values[start : start + together] for start in range(0, len(values), together)]
        return np.concatenate([self._piece(way, quantity, piece) for piece in pieces])

    def _piece(self, way: Way, quantity: Quantity, values: Array) -> Array:
        limits, risk = self.aim.limits, self.aim.risk
        # Draws lie along the last axis, values of the sweep along the one before.
        given = values if risk == "median" else values[:, np.newaxis]
        changed: dict[str, Any] = {FIELDS[quantity]: given}
        found = self._amounts(way, dataclasses.replace(self.under, **changed))
        score = _summed(self.aim.value(found), risk)
        assert score is not None
        kept = np.ones(values.shape, dtype=bool)
        if limits.latency_s is not None:
            kept &= np.asarray(_summed(found.total_s, risk)) <= limits.latency_s
        if limits.edge_energy_j is not None and found.energy_j is not None:
            kept &= np.asarray(_summed(found.energy_j, risk)) <= limits.edge_energy_j
        return np.where(kept, score, np.inf)


def _summed(value: Number | None, risk: Risk) -> Number | None:
    return None if value is None else summary(value, risk)


def _number(value: Number | None) -> float | None:
    return None if value is None else float(value)
