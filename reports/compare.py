"""`edgecut report A B`: how a measurement B stands against a measurement A, way by way, as plain data.

A ratio is B's figure over A's: a latency ratio below 1 says that B is faster. Its interval takes both runs' 95 %
intervals at their worst, so it is wider than one of 95 %. Two runs that differ in the model, the link, the edge's
slow-down or the machine are no like for like: the comparison is made all the same, and says so before any number.
"""

from __future__ import annotations

import math

from ..artefacts import Artefact, Record
from ..partitioner.plan import Role
from ..profiler.profile import Energy, Provenance
from ..runtime.accuracy import NoiseAccuracy
from ..runtime.measurement import Measurement, Variant
from . import units, words
from .content import Spread
from .summary import FROM_STRONG_TO_WEAK

ACCURACY_MISSING = "accuracy was not measured in {}"


class Difference(Record):
    """One thing that is not the same in both runs. `decisive`: with it, the runs are no like for like."""

    what: str
    a: str
    b: str
    decisive: bool


class Run(Record):
    """What identifies one of the two runs, and the sentences to know before its numbers."""

    model: str
    digest: str
    bundle_id: str
    choice: str
    link: str
    edge_slowdown: float
    processor: str
    measured_at: str
    requests: int
    converged: bool
    warnings: tuple[str, ...]


class WayChange(Record):
    """One way to run the model in both runs. Latency and energy ratios are B over A; `verdict` is of B."""

    label: str
    role: Role
    a: Spread
    b: Spread
    latency_ratio: float
    ratio_low: float
    ratio_high: float
    verdict: str
    a_energy: Energy
    b_energy: Energy
    energy_ratio: float | None
    energy_provenance: Provenance
    energy_source: str
    a_uplink_bytes: float
    b_uplink_bytes: float
    a_wrong_answers: int
    b_wrong_answers: int


class AccuracyChange(Record):
    """Shares of right answers with noise, and B's less A's in percentage points with its 95 % interval.

    The interval is that of two independent shares; two runs over the same items are closer than it says.
    """

    a_data: str
    b_data: str
    a_share: float
    b_share: float
    difference_points: float
    low_points: float
    high_points: float


class RunComparison(Artefact):
    """B against A. `only_a` and `only_b` are the ways that one run alone measured."""

    KIND = "comparison"

    headline: str
    like_for_like: bool
    differences: tuple[Difference, ...]
    a: Run
    b: Run
    ways: tuple[WayChange, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    accuracy: AccuracyChange | None
    accuracy_missing: str | None

    @property
    def split(self) -> WayChange:
        """The splits' row."""
        return next(way for way in self.ways if way.role == "split")

    def slower_than(self, percent: float) -> bool:
        """Whether B's split is slower than A's by more than `percent`, with the whole interval beyond it."""
        return self.split.ratio_low > 1 + percent / 100


def compare(a: Measurement, b: Measurement) -> RunComparison:
    """B against A, from the two measurements alone."""
    first, second = ({_key(variant): variant for variant in run.variants} for run in (a, b))
    found = tuple(differences(a, b))
    ways = tuple(_change(first[key], second[key]) for key in first if key in second)
    like = not any(difference.decisive for difference in found)
    return RunComparison(
        headline=_headline(next(way for way in ways if way.role == "split"), found),
        like_for_like=like,
        differences=found,
        a=_run(a),
        b=_run(b),
        ways=ways,
        only_a=tuple(words.label(variant) for key, variant in first.items() if key not in second),
        only_b=tuple(words.label(variant) for key, variant in second.items() if key not in first),
        accuracy=_accuracy(a.accuracy, b.accuracy),
        accuracy_missing=_accuracy_missing(a, b),
    )


def _key(variant: Variant) -> tuple[Role, str]:
    """Splits belong together whatever their cuts; a baseline belongs to the one of its name."""
    return variant.role, "" if variant.role == "split" else variant.predicted.name


def differences(a: Measurement, b: Measurement) -> list[Difference]:
    """What is not the same in both runs, the decisive first."""
    decisive: dict[str, list[str]] = {
        "Model": [f"{units.printable(run.plan.model.name)} ({run.plan.model.digest[7:19]})" for run in (a, b)],
        "Link": [f"{units.printable(run.link.name)}: {words.link_rates(run.link)}" for run in (a, b)],
        "Kind of link": [words.link_kind(run) for run in (a, b)],
        "Edge slow-down": [f"{run.edge_slowdown:g}" for run in (a, b)],
        "Processor": [_processor(run) for run in (a, b)],
        "Pause between runs": [f"{run.pause_s * 1e3:g} ms" for run in (a, b)],
    }
    told: dict[str, list[str]] = {
        "Cut": [units.printable(run.plan.choice) for run in (a, b)],
        "Wire": [str(run.plan.wire) for run in (a, b)],
        "Bundle": [run.bundle_id[:19] for run in (a, b)],
        "Data of the accuracy": [_data(run) for run in (a, b)],
        "System": [run.environment.system or units.UNAVAILABLE for run in (a, b)],
        "Python": [run.environment.python or units.UNAVAILABLE for run in (a, b)],
        "Settled": ["yes" if run.converged else "no, intervals wider than asked for" for run in (a, b)],
        **_versions(a, b),
    }
    return [
        Difference(what=what, a=one, b=two, decisive=weighs)
        for weighs, group in ((True, decisive), (False, told))
        for what, (one, two) in group.items()
        if one != two
    ]


def _processor(run: Measurement) -> str:
    count = run.environment.processors
    return units.printable(run.environment.processor) + (f", {count} processors" if count else "")


def _data(run: Measurement) -> str:
    return units.UNAVAILABLE if run.accuracy is None else units.printable(run.accuracy.data)


def _versions(a: Measurement, b: Measurement) -> dict[str, list[str]]:
    one, two = a.environment.versions, b.environment.versions
    return {f"Version of {name}": [side.get(name, "none") for side in (one, two)] for name in sorted({*one, *two})}


def _run(run: Measurement) -> Run:
    return Run(
        model=run.plan.model.name,
        digest=run.plan.model.digest,
        bundle_id=run.bundle_id,
        choice=run.plan.choice,
        link=run.link.name,
        edge_slowdown=run.edge_slowdown,
        processor=_processor(run),
        measured_at=run.measured_at,
        requests=run.requests,
        converged=run.converged,
        warnings=tuple(words.warnings(run)),
    )


def _change(a: Variant, b: Variant) -> WayChange:
    low, high = b.latency.low_s / a.latency.high_s, b.latency.high_s / a.latency.low_s
    weaker = max((a.energy, b.energy), key=lambda energy: FROM_STRONG_TO_WEAK.index(energy.provenance))
    names = words.label(a), words.label(b)
    return WayChange(
        label=names[0] if names[0] == names[1] else f"{names[0]} (A), {names[1]} (B)",
        role=a.role,
        a=Spread.of(a.latency),
        b=Spread.of(b.latency),
        latency_ratio=b.latency.median_s / a.latency.median_s,
        ratio_low=low,
        ratio_high=high,
        verdict=words.verdict(1 / high, 1 / low),
        a_energy=a.energy,
        b_energy=b.energy,
        energy_ratio=_over(b.energy.energy_j, a.energy.energy_j),
        energy_provenance=weaker.provenance,
        energy_source=weaker.source,
        a_uplink_bytes=a.uplink_bytes,
        b_uplink_bytes=b.uplink_bytes,
        a_wrong_answers=a.wrong_answers,
        b_wrong_answers=b.wrong_answers,
    )


def _over(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or lower is None or lower == 0 else upper / lower


def _accuracy(a: NoiseAccuracy | None, b: NoiseAccuracy | None) -> AccuracyChange | None:
    if a is None or b is None:
        return None
    one, two = a.with_noise, b.with_noise
    difference = two.value - one.value
    # Newcombe 1998, method 10, as for the loss to the noise within one run.
    low = difference - math.hypot(two.value - two.low, one.high - one.value)
    high = difference + math.hypot(two.high - two.value, one.value - one.low)
    return AccuracyChange(
        a_data=a.data,
        b_data=b.data,
        a_share=one.value,
        b_share=two.value,
        difference_points=100 * difference,
        low_points=100 * low,
        high_points=100 * high,
    )


def _accuracy_missing(a: Measurement, b: Measurement) -> str | None:
    without = [name for name, run in (("A", a), ("B", b)) if run.accuracy is None]
    return ACCURACY_MISSING.format(" and in ".join(without)) if without else None


def _headline(split: WayChange, found: tuple[Difference, ...]) -> str:
    """One sentence on the splits, and one more where the runs are of two different things."""
    scale = units.milliseconds([split.a.median_s, split.b.median_s])
    ratio = (
        f"{units.ratio(split.latency_ratio)} ({units.ratio(split.ratio_low)}{units.TO}{units.ratio(split.ratio_high)})"
    )
    said = (
        f"B's split takes {scale.text(split.b.median_s)} ms, A's {scale.text(split.a.median_s)} ms: "
        f"a ratio of {ratio}; B is {split.verdict}."
    )
    apart = [difference.what.lower() for difference in found if difference.decisive]
    return f"Not like for like, the runs differ in {words.listed(apart)}. {said}" if apart else said
