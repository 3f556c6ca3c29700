"""What a plan was asked for and what it found beside its choice, in words: aim, limits, likelihood, break-points."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..partitioner.link import Link
from ..partitioner.plan import DRAWS, Basis, Limits, Objective, Quantity, Risk, Sweep, Wire
from ..profiler.profile import Provenance
from . import units

AIMS: dict[Objective, str] = {
    "latency": "least latency",
    "energy": "least energy",
    "weighted": "least sum of latency and weighted energy",
    "edp": "least energy-delay product",
}
QUANTITIES: dict[Quantity, tuple[str, str, float]] = {
    "uplink": ("Uplink", "Mbit/s", 1e-6),
    "downlink": ("Downlink", "Mbit/s", 1e-6),
    "rtt": ("Round trip", "ms", 1e3),
    "edge-slowdown": ("Edge slow-down", "times", 1.0),
    "cloud-load": ("Cloud load", "times", 1.0),
}
NONE_LEFT = "no cut keeps to the limits"


class Segment(NamedTuple):
    """A stretch of a swept quantity over which one cut is the choice."""

    quantity: str
    low: str
    high: str
    choice: str


def aim(objective: Objective, weight_s_per_j: float | None, risk: Risk, wire: Wire) -> str:
    """What the plan went for, in one sentence."""
    goal = AIMS[objective]
    if weight_s_per_j is not None and objective == "weighted":
        goal += f" ({weight_s_per_j * 1e3:.4g} ms to the joule)"
    risks = {"median": "of medians", "mean": "in the mean", "p95": "in the 95th percentile"}
    crossing = "; activations cross as int8, a byte a value" if wire == "int8" else ""
    return f"Planned for the {goal}, {risks[risk]}{crossing}."


def limits(kept: Limits) -> list[str]:
    """The limits that were set, one short phrase each."""
    said = []
    if kept.edge_memory_bytes is not None:
        said.append(f"edge memory at most {kept.edge_memory_bytes / 1e6:.4g} MB")
    if kept.edge_energy_j is not None:
        said.append(f"edge energy at most {kept.edge_energy_j * 1e3:.4g} mJ")
    if kept.latency_s is not None:
        said.append(f"latency at most {kept.latency_s * 1e3:.4g} ms")
    if kept.min_depth is not None:
        said.append(f"at least {kept.min_depth} compute layers on the edge")
    if kept.leakage_bits is not None:
        said.append(f"leakage at most {kept.leakage_bits:.4g} bits")
    return said


def likelihood(
    choice: str, best_share: float | None, compared: int, parts: Collection[Provenance], link: Link
) -> str | None:
    """How likely the choice is the best of the `compared` cuts; None where no other cut was in question.

    `parts` is how the two sides' times came about.
    """
    if best_share is None or compared < 2:
        return None
    spreads = (("measured", "measured" in parts), ("predicted", any(part != "measured" for part in parts)))
    spread = " and ".join(word for word, is_in in spreads if is_in)
    rates = "as given" if link.uplink_interval_bps is None else "with theirs"
    return (
        f"After {choice} it is the best of {compared} cuts in {percent(best_share)} of {DRAWS:,} draws under the "
        f"{spread} spread, the link's rates {rates}."
    )


def percent(part: float) -> str:
    """A whole percentage that says 0 or 100 only where it is."""
    if 0 < part < 0.005 or 0.995 <= part < 1:
        return "less than 1 %" if part < 0.5 else "more than 99 %"
    return units.percent(part, 0)


def untimed(candidates: Sequence[str], chosen_basis: Basis) -> str | None:
    """Which cuts are worth timing before the choice is trusted, and how; None where there is none."""
    if not candidates:
        return None
    todo = "run 'edgecut profile MODEL --cuts PLAN --add-to PROFILE' on both devices, and plan again."
    if chosen_basis == "layers":
        return f"No cut was timed on both sides: {todo}"
    count = len(candidates)
    what = f"{count} cuts that nothing timed" if count > 1 else "A cut that nothing timed"
    first = f"{'the first ' if count > 1 else ''}after {candidates[0]}"
    return f"{what} could be cheaper by layer times, {first}: {todo}"


def segments(sweeps: tuple[Sweep, ...]) -> list[Segment]:
    """The swept quantities, stretch by stretch, in the units that people use."""
    found = []
    for sweep in sweeps:
        title, unit, factor = QUANTITIES[sweep.quantity]
        edges = [sweep.low, *(point.at for point in sweep.points), sweep.high]
        choices = [sweep.first, *(point.after for point in sweep.points)]
        found += [
            Segment(f"{title}, {unit}", f"{low * factor:.4g}", f"{high * factor:.4g}", choice or NONE_LEFT)
            for choice, low, high in zip(choices, edges[:-1], edges[1:], strict=True)
        ]
    return found
