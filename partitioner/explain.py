"""In plain sentences: why a plan chose its cut, and what would make it choose another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cost import Way
from .plan import BreakPoint, CutCost, Quantity
from .ranking import FIELDS, Aim, Ranking
from .sweep import sweep

REACH = 100.0
"""How far the circumstances may be from the present ones for a change of the choice to be told."""
LEAST_RTT_S = 1e-3
RISKS = {"median": "", "mean": "mean ", "p95": "95th percentile of "}
OBJECTIVES = {
    "latency": "latency",
    "energy": "energy",
    "weighted": "weighted sum of latency and energy",
    "edp": "energy-delay product",
}
CHANGING: tuple[Quantity, ...] = ("uplink", "rtt", "edge-slowdown", "cloud-load")


def reason(
    best: CutCost, cuts: Sequence[CutCost], baselines: Sequence[CutCost], costs: dict[str, float], aim: Aim
) -> str:
    """Why this cut, and plainly where a baseline is cheaper. `costs` holds the objective of all whose is known."""
    said = {name: value(cost, aim) for name, cost in costs.items()}
    running = [row for row in cuts if not row.broken and row.basis == best.basis and row.name in costs]
    others = sorted((row.name for row in running if row.name != best.name), key=lambda name: costs[name])
    second = f", against {said[others[0]]} after {others[0]}" if others else ""
    compared = ", ".join(f"{row.name} {said.get(row.name, 'unknown')}" for row in baselines)
    cheaper = [row.name for row in baselines if row.name in costs and costs[row.name] < costs[best.name]]
    would = {"latency": "would be faster", "energy": "would need less"}.get(aim.objective, "would cost less")
    verdict = f"; {' and '.join(cheaper)} {would}" if cheaper else "; it beats them all"
    taken, typical = said[best.name], f"{_ms(best.total_s)} ms"
    if aim.objective != "latency":
        taken += f" in {typical}"
    elif aim.risk != "median":
        taken += f" ({typical} with every part at its median)"
    kept = " that keeps to the limits" if any(row.broken for row in cuts) else ""
    least = f"{RISKS[aim.risk]}{OBJECTIVES[aim.objective]}{kept}"
    return (
        f"The split with the least {least} is after {best.name}: {taken}, of which "
        f"{_ms(best.edge_s)} on the edge, {_ms(best.link_s)} on the link and "
        f"{_ms(best.cloud_s)} in the cloud{second}. Without a split: "
        f"{compared}{verdict}.{_excluded(best, cuts, costs, said)}{_basis(best)}"
    )


def _excluded(best: CutCost, cuts: Sequence[CutCost], costs: dict[str, float], said: dict[str, str]) -> str:
    """The cheapest cut that a limit rules out, where it would have been chosen."""
    out = [row for row in cuts if row.broken and row.basis == best.basis and costs[row.name] < costs[best.name]]
    if not out:
        return ""
    cheapest = min(out, key=lambda row: costs[row.name])
    return (
        f" After {cheapest.name} it would be {said[cheapest.name]}, but that breaks a limit: "
        f"{' and '.join(cheapest.broken)}."
    )


def _basis(best: CutCost) -> str:
    return "" if best.basis == "sub-models" else " Its times are sums of layer times: nothing timed its halves yet."


def value(cost: float, aim: Aim) -> str:
    """An objective's value with its unit."""
    if aim.objective == "edp":
        return f"{cost * 1e6:.4g} mJ*ms"
    return f"{cost * 1e3:.2f} {'mJ' if aim.objective == 'energy' else 'ms'}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def changes(ranking: Ranking, ways: Sequence[Way], choice: str) -> tuple[str, ...]:
    """The nearest break-points on both sides of the present circumstances, one sentence each."""
    found = [sentence for quantity in CHANGING for sentence in _nearest(ranking, ways, quantity, choice)]
    if not found and len(ways) > 1:
        return (f"No uplink, round trip, edge slow-down or cloud load within a factor of {REACH:g} moves the cut.",)
    return tuple(found)


def _nearest(ranking: Ranking, ways: Sequence[Way], quantity: Quantity, choice: str) -> Iterator[str]:
    present = float(getattr(ranking.under, FIELDS[quantity]))
    middle = max(present, LEAST_RTT_S) if quantity == "rtt" else present
    least = 1.0 if quantity in ("edge-slowdown", "cloud-load") else middle / REACH
    points = sweep(ranking, ways, quantity, max(least, middle / REACH), middle * REACH).points
    below = [point for point in points if point.at < present and point.after == choice]
    above = [point for point in points if point.at >= present and point.before == choice]
    if below:
        yield sentence(below[-1], quantity, below=True)
    if above:
        yield sentence(above[0], quantity, below=False)


def sentence(point: BreakPoint, quantity: Quantity, *, below: bool) -> str:
    """`Below 4.1 Mbit/s up the cut moves to pool5.`"""
    where = {
        "uplink": f"{_three(point.at / 1e6)} Mbit/s up",
        "downlink": f"{_three(point.at / 1e6)} Mbit/s down",
        "rtt": f"a round trip of {_three(point.at * 1e3)} ms",
        "edge-slowdown": f"an edge slow-down of {_three(point.at)}",
        "cloud-load": f"a cloud load of {_three(point.at)}",
    }[quantity]
    name = point.before if below else point.after
    moved = f"the cut moves to {name}" if name else "no cut keeps to the limits"
    return f"{'Below' if below else 'Above'} {where} {moved}."


def _three(number: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{float(f'{number:.3g}'):,.12g}"
