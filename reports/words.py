"""The sentences that a table, a report and a headline share, so that all say the same of the same numbers.

A comparison counts as decided only where the speedup's 95 % interval leaves out 1; a speedup below 1 is always said.
Energy that nothing measured or modelled is `unavailable`, with what is missing.
"""

from __future__ import annotations

from ..partitioner.link import Link
from ..partitioner.plan import CutCost, Plan, Role
from ..runtime.accuracy import Accuracy, NoiseAccuracy
from ..runtime.measurement import Measurement, Variant
from . import units

EMULATED_LINK = "emulated link (a relay holds bytes back)"
EMULATED_PACKETS = "emulated link (a relay of packets between two network namespaces; kernel TCP, {})"
REAL_LINK = "real link"
WRONG = "wrong: answers of a class other than the whole model's; the noise costs the split some"
ACCURACY_MISSING = "no labelled data were given to measure it on"


def parts(edge: str, cloud: str) -> str:
    """What the parts of a plan are, from the provenance of the two sides' profiles."""
    predicted = [side for side, how in (("edge", edge), ("cloud", cloud)) if how != "measured"]
    if not predicted:
        return "measured parts"
    return "predicted parts" if len(predicted) == 2 else f"parts of which the {predicted[0]}'s are predicted"


def modelled(plan: Plan) -> str:
    """How a plan's times came about."""
    return f"modelled from {parts(plan.edge.provenance, plan.cloud.provenance)}"


def way(name: str, role: Role) -> str:
    """A way to run the model as a reader knows it."""
    return f"split after {name}" if role == "split" else name


def emulated_edge(slowdown: float) -> str | None:
    """The banner of an edge that is no edge device, None for a real one."""
    if slowdown <= 1:
        return None
    return f"Emulated edge: this machine's processor, held back by a factor of {slowdown:g}"


def link_kind(measurement: Measurement) -> str:
    """What the link was: emulated, and by what, or real."""
    if not measurement.emulated_link:
        return REAL_LINK
    if measurement.link_emulation == "tun":
        return EMULATED_PACKETS.format(measurement.congestion_control)
    return EMULATED_LINK


def warnings(measurement: Measurement) -> list[str]:
    """What a reader must know before any number."""
    found = []
    edge = emulated_edge(measurement.edge_slowdown)
    if edge is not None:
        found.append(f"{edge} ({units.printable(measurement.environment.processor)}). No edge device was measured.")
    if measurement.emulated_link:
        found.append(f"The link is an {link_kind(measurement)}, set to {link_rates(measurement.link)}.")
    if measurement.plan.edge_slowdown != measurement.edge_slowdown:
        found.append(
            f"The plan reckoned with an edge slow-down of {measurement.plan.edge_slowdown:g}, the measurement ran "
            f"with {measurement.edge_slowdown:g}: modelled and measured figures are of two different edges."
        )
    if not measurement.converged:
        found.append("The measurement ran out of time before it settled: the intervals are wider than asked for.")
    wrong = [variant for variant in baselines(measurement) if variant.wrong_answers]
    if wrong:
        found.append(
            "Baselines gave wrong answers, which no noise explains: "
            + ", ".join(f"{label(v)} {v.wrong_answers}" for v in wrong)
            + "."
        )
    return found


def link_rates(link: Link) -> str:
    """A link's rates and round trip."""
    return (
        f"{units.rate(link.uplink_bps)} up, {units.rate(link.downlink_bps)} down, {link.rtt_s * 1e3:.4g} ms round trip"
    )


def pause(pause_s: float) -> str:
    """What lies between two runs."""
    return f"each after a pause of {pause_s * 1e3:g} ms" if pause_s else "without a pause between them"


def label(variant: Variant) -> str:
    """A measured way by its reader's name."""
    return units.printable(way(variant.predicted.name, variant.role))


def baselines(measurement: Measurement) -> list[Variant]:
    """What was measured beside the split, in the order of the file."""
    return [variant for variant in measurement.variants if variant is not measurement.split]


def headline(measurement: Measurement) -> str:
    """One sentence: the split's latency, and how it stands against every baseline measured; losses are said first."""
    split, compared = measurement.split, baselines(measurement)
    scale = units.milliseconds([split.latency.median_s])
    opening = (
        f"The {label(split)} takes {scale.text(split.latency.median_s)} ms end to end"
        f" (95 % interval {scale.interval(split.latency.low_s, split.latency.high_s)})"
    )
    if not compared:
        return f"{opening}; no baseline was measured beside it."
    ahead = [v for v in compared if measurement.speedup_interval(v)[0] > 1]
    behind = [v for v in compared if measurement.speedup_interval(v)[1] < 1]
    level = [v for v in compared if v not in ahead and v not in behind]
    parts = []
    if behind:
        parts.append(
            "it is slower than "
            + listed(
                [f"{label(v)} ({_ms(v)} ms, {units.ratio(1 / measurement.speedup(v))} times as fast)" for v in behind]
            )
        )
    if level:
        parts.append("within the error it is level with " + listed([_level(measurement, v) for v in level]))
    if ahead:
        parts.append(
            "it is "
            + listed(
                [f"{units.ratio(measurement.speedup(v))} times as fast as {label(v)} ({_ms(v)} ms)" for v in ahead]
            )
        )
    return f"{opening}: {'; '.join(parts)}."


def noise_cost(measurement: Measurement) -> str:
    """One sentence: what the noise adds to a request, and all the work it makes, beside the time on the link."""
    split, (added, worked) = measurement.split, measurement.noise_shares
    made_ms, added_ms = (units.milliseconds([part]).text(part) for part in (split.noise_s, split.add_s))
    return (
        f"The noise adds {units.percent(added)} of the time that the link takes for the request and its answer: adding "
        f"it takes {added_ms} ms, and making it {made_ms} ms while the answer is awaited; with all of that counted it "
        f"is {units.percent(worked)} (measured times and bytes, the link's own rates)."
    )


def _level(measurement: Measurement, baseline: Variant) -> str:
    return f"{label(baseline)} ({_ms(baseline)} ms, speedup {units.ratio(measurement.speedup(baseline))})"


def _ms(variant: Variant) -> str:
    return units.milliseconds([variant.latency.median_s]).text(variant.latency.median_s)


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return (text[:1].upper() + text[1:]).rstrip(".") + "."


def verdict(low: float, high: float) -> str:
    """What an interval of a speedup says of the split."""
    return "faster" if low > 1 else "slower" if high < 1 else "level within the error"


def energy_missing(cost: CutCost) -> str | None:
    """Why a planned energy is unavailable, None where it is not."""
    if cost.energy_j is not None:
        return None
    parts = (
        (cost.edge_j, "the edge profile has no energy"),
        (cost.radio_j, "the link names no radio power"),
        (cost.idle_j, "the edge's idle power is unknown"),
    )
    return listed([why for part, why in parts if part is None] or ["the plan has no sum"])


def plan_energy_note(plan: Plan) -> str:
    """How the plan's joules came about, or why there are none."""
    missing = [why for row in (*plan.cuts, *plan.baselines) if (why := energy_missing(row)) is not None]
    if missing:
        return f"energy {units.UNAVAILABLE}: {missing[0]}"
    power = plan.edge.power.source if plan.edge.power is not None else "as in the edge profile"
    return units.printable(f"energy modelled: edge power {power}; radio {plan.link.radio_source or plan.link.source}")


def share(accuracy: Accuracy) -> str:
    """98.90 % [98.68, 99.09]."""
    return f"{units.percent(accuracy.value)} [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]"


def loss(accuracy: NoiseAccuracy) -> str:
    """0.78 points [0.45, 1.11]."""
    low, high = accuracy.loss_interval_points
    return f"{units.points(accuracy.loss_points)} points [{units.points(low)}, {units.points(high)}]"
