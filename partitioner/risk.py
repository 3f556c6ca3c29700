"""How far a cost is to be trusted: draws of what was measured, with a fixed seed, so that a plan is repeatable.

Two questions, two kinds of draws. How much do requests differ from each other? Each part is drawn from the raw samples
of its timing, the link from its own samples where it was measured: mean and 95th percentile come from these. How well
are the medians known? Each is drawn from its interval, the link's rates in one draw for all cuts: how likely a cut is
the best of all comes from these. A predicted device has one error in common for all its parts, drawn from the 90 %
interval of its prediction, in both kinds. Drawn intervals are log-normal on either side of the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..profiler.profile import Timing
from .cost import Factors, Number, Part, Way
from .link import Link
from .plan import DRAWS, Risk

SEED = 20_190_416
Z_90, Z_95 = 1.6448536269514722, 1.959963984540054
"""How many standard deviations an interval of 90 % and of 95 % reaches to either side."""
PARTS = ("edge", "noise", "add", "cloud")
Array = NDArray[np.float64]


class Spread:
    """Draws for a pair of devices and a link, as factors on the medians."""

    def __init__(self, link: Link, draws: int = DRAWS, seed: int = SEED) -> None:
        self.link, self.draws = link, draws
        generator = np.random.default_rng(seed)
        # All cuts have in common: where in its samples a part lies, the predictions' errors, the link.
        self._place = {part: generator.random(draws) for part in (*PARTS, "uplink", "downlink", "rtt")}
        self._error = {side: generator.standard_normal(draws) for side in ("edge", "cloud")}
        self._known = {what: generator.standard_normal(draws) for what in ("uplink", "downlink", "rtt")}
        self._medians = generator

    def requests(self, way: Way) -> Factors:
        """One request after the other, as they were measured."""
        parts = {part: self._request(part, getattr(way, part)) for part in PARTS}
        return Factors(**parts, **self._link_requests)

    def medians(self, way: Way) -> Factors:
        """The medians as far as they are known; every call draws the measured ones anew."""
        parts = {part: self._median(part, getattr(way, part).timing) for part in PARTS}
        return Factors(**parts, **self._link_medians)

    def _request(self, name: str, part: Part) -> Number:
        timing = part.timing
        if timing is None:
            return 1.0
        if timing.provenance != "measured":
            return between(timing.median_s, timing.low_s, timing.high_s, self._error[_side(name)] / Z_90)
        if timing.samples_s:
            return of_samples(np.asarray(timing.samples_s), timing.median_s, self._place[name])
        return np.ones(self.draws)

    def _median(self, name: str, timing: Timing | None) -> Number:
        if timing is None:
            return 1.0
        if timing.provenance != "measured":
            return between(timing.median_s, timing.low_s, timing.high_s, self._error[_side(name)] / Z_90)
        return between(timing.median_s, timing.low_s, timing.high_s, self._medians.standard_normal(self.draws) / Z_95)

    @cached_property
    def _link_requests(self) -> dict[str, Number]:
        """Transfers of the largest size, less what a call costs, and pings; 1 where the link has no samples."""
        found = _no_factors()
        calls = [value for taken in self.link.samples if taken.what == "request" for value in taken.elapsed_s]
        base = float(np.median(calls)) if calls else 0.0
        for what in ("uplink", "downlink", "rtt"):
            kind = "ping" if what == "rtt" else what
            taken = [one for one in self.link.samples if one.what == kind and one.elapsed_s]
            if not taken:
                continue
            largest = max(taken, key=lambda one: one.size_bytes)
            seconds = np.asarray(largest.elapsed_s) - (0.0 if what == "rtt" else base)
            median = float(np.median(seconds))
            if median > 0:
                found[what] = of_samples(np.maximum(seconds, 0.0), median, self._place[what])
        return found

    @cached_property
    def _link_medians(self) -> dict[str, Number]:
        """Factors on times, so a rate's are turned over: a transfer takes longer where the rate is lower."""
        link, found = self.link, _no_factors()
        for what, value, interval in (
            ("uplink", link.uplink_bps, link.uplink_interval_bps),
            ("downlink", link.downlink_bps, link.downlink_interval_bps),
            ("rtt", link.rtt_s, link.rtt_interval_s),
        ):
            if interval is not None:
                drawn = between(value, *interval, self._known[what] / Z_95)
                found[what] = drawn if what == "rtt" else 1 / drawn
        return found

    @property
    def of_link(self) -> bool:
        """Whether the link's own spread is known."""
        return bool(self._link_medians)


def _no_factors() -> dict[str, Number]:
    return {}


def _side(part: str) -> str:
    return "cloud" if part == "cloud" else "edge"


def of_samples(samples: Array, median: float, places: Array) -> Array:
    """Draws from samples, as factors on their median. The same place is the same quantile for every cut."""
    if median <= 0:
        return np.ones_like(places)
    ranked: Array = np.sort(samples)
    drawn: Array = ranked[(places * len(ranked)).astype(int)] / median
    return drawn


def between(median: float, low: float, high: float, deviations: Array) -> Array:
    """Factors on the median, `low` at a deviation of -1 and `high` at 1, log-normal on either side."""
    if median <= 0:
        return np.ones_like(deviations)
    up = np.log(max(high, median) / median)
    down = np.log(median / min(max(low, median * 1e-6), median))
    return np.asarray(np.exp(np.where(deviations > 0, up, down) * deviations))


def summary(values: Number, risk: Risk) -> Number:
    """The mean or the 95th percentile over the last axis; for the median the value as it is, of parts at theirs."""
    if risk == "median" or not np.ndim(values):
        return values
    return np.mean(values, axis=-1) if risk == "mean" else np.percentile(values, 95, axis=-1)


def best_shares(scores: Sequence[Array]) -> list[float]:
    """How often each is the least of all; a tie counts for each in equal parts."""
    if not scores:
        return []
    table = np.stack(scores)
    least = table == table.min(axis=0)
    return [float(share) for share in (least / least.sum(axis=0)).mean(axis=1)]
