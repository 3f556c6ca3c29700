"""A plan in the terminal, for 80 columns or more: all cuts and baselines with their costs, why this cut, what moves it.

Times are milliseconds, energies millijoules, both per inference of batch 1 and with every part at its median, beside
them the 95th percentile of the latency. `-` is unavailable, with the reason below the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType

from ..partitioner.plan import CutCost, Plan, Sweep
from . import units, words
from .plan_words import likelihood, segments, untimed
from .terminal import MISSING, Rows, lines

PARETO, BROKEN, UNTIMED = "*", "!", "~"
BROKEN_SHOWN = 5


def plan_table(plan: Plan) -> RenderableType:
    """Every cut and baseline with its cost, the choice marked, and why."""
    rows = (*plan.cuts, *plan.baselines)
    scale = units.milliseconds([row.p95_s or row.total_s for row in rows])
    energy = units.millijoules([row.energy_j for row in rows])
    headers = (
        "split after,\nor without one",
        "edge\nms",
        "noise\nms",
        "link\nms",
        "request\nms",
        "cloud\nms",
        "total\nms",
        "p95\nms",
        "energy\nmJ",
        "sent\nbytes",
        "",
    )
    table = Rows(
        headers,
        tuple(_row(plan, row, scale, energy) for row in rows),
        marked=next((index for index, row in enumerate(rows) if row.name == plan.choice), None),
    )
    sweeps = [part for sweep in plan.sweeps for part in ("", _sweep(sweep))]
    return Group(table, *lines(list(_marks(plan))), "", *lines(list(_notes(plan))), *sweeps)


def _row(plan: Plan, row: CutCost, scale: units.Scale, energy: units.Scale) -> tuple[str, ...]:
    split, crosses = row.role == "split", row.role != "edge-only"
    return (
        units.printable(row.name if split else words.way(row.name, row.role)),
        scale.text(row.edge_s + row.add_s) if row.role != "cloud-only" else "",
        scale.text(row.noise_s) if split else "",
        scale.text(row.link_s) if crosses else "",
        scale.text(row.request_s) if crosses else "",
        scale.text(row.cloud_s) if crosses else "",
        scale.text(row.total_s),
        scale.text(row.p95_s, MISSING),
        energy.text(row.energy_j, MISSING),
        units.count(row.uplink_bytes),
        (PARETO if row.name in plan.pareto else "")
        + (BROKEN if row.broken else "")
        + (UNTIMED if row.basis == "layers" else ""),
    )


def _marks(plan: Plan) -> Iterator[str]:
    """What the marks at the ends of rows mean, and which limits are broken."""
    if plan.pareto:
        yield f"{PARETO} no other cut beats it in both latency and energy"
    if any(row.basis == "layers" for row in plan.cuts):
        yield f"{UNTIMED} modelled from layer times, its halves not timed"
    broken = [row for row in plan.cuts if row.broken]
    for row in broken[:BROKEN_SHOWN]:
        yield f"{BROKEN} after {row.name}: {'; '.join(row.broken)}"
    if len(broken) > BROKEN_SHOWN:
        yield f"{BROKEN} {len(broken) - BROKEN_SHOWN} more cuts break a limit"


def _notes(plan: Plan) -> Iterator[str]:
    yield plan.reason
    yield from plan.changes
    chosen = plan.chosen
    likely = likelihood(
        plan.choice,
        chosen.best_share,
        sum(row.best_share is not None for row in plan.cuts),
        (plan.edge.provenance, plan.cloud.provenance),
        plan.link,
    )
    yield from (said for said in (likely, untimed(plan.candidates, chosen.basis)) if said is not None)
    if chosen.edge_memory_bytes is not None and chosen.depth is not None:
        how = "measured" if chosen.memory_provenance == "measured" else "computed from weights and activations"
        yield (
            f"on the edge: {chosen.depth} of {len(plan.model.layers)} layers, "
            f"{chosen.edge_memory_bytes / 1e6:.4g} MB of memory, {how}"
        )
    if plan.wire == "int8":
        yield "activations cross as int8, one byte a value"
    yield from (f"not compared: {missing}" for missing in plan.missing_baselines)
    yield f"times {words.modelled(plan)}; link {plan.link.name}: {plan.link.provenance}, {plan.link.source}"
    if plan.edge_slowdown > 1:
        yield f"{words.emulated_edge(plan.edge_slowdown)}; applied to every edge figure above"
    if plan.cloud_load > 1:
        yield f"cloud times multiplied by its load of {plan.cloud_load:g}"
    yield words.plan_energy_note(plan)


def _sweep(sweep: Sweep) -> RenderableType:
    """From which value on which cut is chosen."""
    found = segments((sweep,))
    return Rows(
        ("split after", f"{found[0].quantity}\nfrom", "to"),
        tuple((units.printable(one.choice), one.low, one.high) for one in found),
    )
