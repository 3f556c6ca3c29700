"""How every figure of a report came about, as notes: measured, modelled, published or counted, on what and how.

A `Note` names a group of figures. `counted` is for what is read off the model's own file and cannot be off; every
other figure is an observation (`measured`), a calculation from observations and given figures (`modelled`), or taken
from the literature or a data sheet (`published`). `given` is what the user said and nothing here checked.
"""

from __future__ import annotations

from typing import Literal

from ..artefacts import Record
from ..profiler.profile import Profile, Provenance
from ..runtime.measurement import Measurement
from . import units, words

MOST_NAMES = 5
"""More cuts than this are counted in a note, not named."""


class Note(Record):
    """One group of figures, where they come from, and how."""

    figures: str
    provenance: Literal["measured", "modelled", "published", "counted", "given", "unavailable"]
    how: str


def notes(measurement: Measurement, edge: Profile, cloud: Profile) -> tuple[Note, ...]:
    """The notes of a report, from its headline down."""
    return (
        *_latency(measurement),
        *_plan(measurement),
        *_choice(measurement),
        *_energy(measurement),
        _accuracy(measurement),
        *_profiles(measurement, edge, cloud),
        Note(
            figures="Parameters, floating-point operations, tensor sizes",
            provenance="counted",
            how=f"From the graph of the model file {measurement.plan.model.digest}; a multiply-add counts as two.",
        ),
    )


def _latency(measurement: Measurement) -> tuple[Note, ...]:
    latency = measurement.split.latency
    edge = words.emulated_edge(measurement.edge_slowdown)
    where = f" {edge}." if edge is not None else ""
    link = words.link_kind(measurement)
    return (
        Note(
            figures="End-to-end latency and its interval, 95th percentile, edge part, wait",
            provenance="measured",
            how=f"Wall time of whole requests of batch 1 by real processes over one {link}, all ways taking turns in "
            f"one run of {units.count(measurement.requests)} requests, "
            f"{words.pause(measurement.pause_s)}. The median of {latency.rounds} rounds' medians; the interval "
            f"holds that median with 95 % confidence, by order statistics.{where}",
        ),
        Note(
            figures="Speedups and their intervals",
            provenance="measured",
            how="The baseline's median latency over the split's; above 1 the split is faster. The interval takes both "
            "95 % intervals at their worst, so it is wider than one of 95 %.",
        ),
        Note(
            figures="Bytes on the wire, wrong answers",
            provenance="measured",
            how=f"Bytes counted per request on the link. {words.sentence(words.WRONG)}",
        ),
    )


def _plan(measurement: Measurement) -> tuple[Note, ...]:
    plan, link = measurement.plan, measurement.link
    factors = [f"edge times multiplied by the slow-down of {plan.edge_slowdown:g}"] if plan.edge_slowdown > 1 else []
    factors += [f"cloud times multiplied by a load of {plan.cloud_load:g}"] if plan.cloud_load > 1 else []
    return (
        Note(
            figures="Predicted latency of every cut and baseline, and its parts",
            provenance="modelled",
            how=f"{words.modelled(plan).capitalize()}: both halves of every cut as sub-models on their devices, the "
            "bytes over the link's rates, its round trip, and the request overhead"
            + "".join(f"; {factor}" for factor in factors)
            + ".",
        ),
        Note(
            figures="Request overhead",
            provenance="measured",
            how=f"Measured once for edgecut's own client and server, not in this run: {plan.serving.source}.",
        ),
        Note(
            figures=f"Rates and round trip of link {link.name}",
            provenance=link.provenance,
            how=words.sentence(f"{link.source}; {words.link_rates(link)}")
            + (" In the measurement a relay held traffic back to these figures." if measurement.emulated_link else ""),
        ),
    )


def _choice(measurement: Measurement) -> tuple[Note, ...]:
    """Only of what the plan has: figures beside latency and energy that a choice may go by."""
    cuts, found = measurement.plan.cuts, []
    known = [cut for cut in cuts if cut.edge_memory_bytes is not None]
    for provenance in dict.fromkeys(cut.memory_provenance for cut in known):
        named = [cut.name for cut in known if cut.memory_provenance == provenance]
        found.append(
            Note(
                figures="Memory of the edge partition" + (f": {_some(named)}" if len(named) < len(cuts) else ""),
                provenance=provenance,
                how="As profiled: the most resident memory that opening the partition and running it once took."
                if provenance == "measured"
                else "Reckoned from the graph: float32 weights and the most that activations take at once, without "
                "what the runtime takes for itself.",
            )
        )
    if any(cut.p95_s is not None or cut.best_share is not None for cut in cuts):
        found.append(
            Note(
                figures="Mean, 95th percentile and likelihood of every cut in the plan",
                provenance="modelled",
                how="Parts drawn from what was measured of them, with a fixed seed, and put together like the medians.",
            )
        )
    layers = [cut.name for cut in cuts if cut.basis == "layers"]
    if layers:
        found.append(
            Note(
                figures=f"Times of cuts that nothing timed: {_some(layers)}",
                provenance="modelled",
                how="Sums of layer times, scaled so that all layers make up the whole model's time.",
            )
        )
    if any(cut.leakage_bits is not None for cut in cuts):
        found.append(Note(figures="Leakage of cuts", provenance="given", how="As the user gave it to the planner."))
    return tuple(found)


def _some(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:MOST_NAMES])} and {more} more"


def _energy(measurement: Measurement) -> tuple[Note, ...]:
    plan = measurement.plan
    planned = Note(
        figures="Predicted energy of every cut and baseline",
        provenance="unavailable" if plan.chosen.energy_j is None else "modelled",
        how=words.sentence(words.plan_energy_note(plan)),
    )
    radio = Note(
        figures="Radio power",
        provenance="unavailable"
        if plan.link.radio_tx_w is None
        else "published"
        if plan.link.radio_source
        else "modelled",
        how=words.sentence(plan.link.radio_source or "the link names no source of a radio power"),
    )
    found: dict[tuple[Provenance, str], list[str]] = {}
    for variant in measurement.variants:
        found.setdefault((variant.energy.provenance, variant.energy.source), []).append(words.label(variant))
    run = tuple(
        Note(
            figures=f"Energy per inference in the run: {', '.join(labels)}",
            provenance=provenance,
            how=words.sentence(source),
        )
        for (provenance, source), labels in found.items()
    )
    return (*run, planned, radio)


def _accuracy(measurement: Measurement) -> Note:
    figures = "Accuracy without and with noise, and the loss"
    accuracy = measurement.accuracy
    if accuracy is None:
        return Note(figures=figures, provenance="unavailable", how=words.sentence(words.ACCURACY_MISSING))
    return Note(
        figures=figures,
        provenance="measured",
        how=f"On {units.count(accuracy.without.total)} unseen items of {accuracy.data} through the deployed halves, "
        f"each item under fresh noise {accuracy.draws} times. Intervals are 95 %, and that with noise counts "
        "an item once, for tries of one item are not independent: Wilson's for the shares, Newcombe's "
        "for the loss. The edge's speed plays no part.",
    )


def _profiles(measurement: Measurement, edge: Profile, cloud: Profile) -> tuple[Note, ...]:
    slowed = measurement.plan.edge_slowdown > 1
    return (
        Note(
            figures="Times of the cuts' halves and of the whole model",
            provenance="measured" if edge.provenance == cloud.provenance == "measured" else "modelled",
            how=f"Edge: {_times(edge)} Cloud: {_times(cloud)}"
            + (" Shown as the processor gave them, before the slow-down." if slowed else ""),
        ),
        Note(
            figures="Layer times, their sum and its gap to the whole",
            provenance="unavailable" if edge.layer_sum_s is None and cloud.layer_sum_s is None else "measured",
            how="From the runtime's own profiler, which slows what it watches: they explain, and no cut is chosen by "
            "them." + (" Before the slow-down." if slowed else ""),
        ),
    )


def _times(profile: Profile) -> str:
    where = f"with {profile.backend} on {profile.environment.processor}, batch 1"
    if profile.provenance == "measured":
        return f"sub-models timed in turns {where}, {words.pause(profile.pause_s)}; medians with 95 % intervals."
    return f"predicted {where}, not measured; 90 % intervals. {' '.join(words.sentence(n) for n in profile.notes[:1])}"
