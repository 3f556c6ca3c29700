"""The table of what a choice may go by beside latency and energy: depth, memory, leakage, risk, likelihood, limits.

A column stands in it only where the plan has anything to put there; a cell without a value says unavailable, and sorts
last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import units
from .content import Report, Way


@dataclass(frozen=True)
class Cell:
    """`sort` is the number or word that the page sorts by, empty for what is missing; `kind` is a style's class."""

    text: str
    sort: str
    kind: str = ""
    badge: str = ""


@dataclass(frozen=True)
class Row:
    """One split."""

    name: str
    chosen: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ChoiceTable:
    """`titles` are a column's head, its unit, and whether it holds text."""

    titles: tuple[tuple[str, str, bool], ...]
    rows: tuple[Row, ...]


Column = tuple[str, str, bool, Callable[[Way], Cell]]


def choice_table(report: Report) -> ChoiceTable | None:
    """The table, None where the plan says nothing of any of it."""
    splits = [way for way in report.ways if way.role == "split"]
    columns = _columns(report, splits)
    if not columns:
        return None
    rows = (Row(way.modelled.name, way.chosen, tuple(make(way) for *_, make in columns)) for way in splits)
    return ChoiceTable(tuple((title, unit, text) for title, unit, text, _ in columns), tuple(rows))


def _columns(report: Report, splits: list[Way]) -> list[Column]:
    costs = [way.modelled for way in splits]
    seconds = units.milliseconds([value for cost in costs for value in (cost.mean_s, cost.p95_s)])
    memory = units.scale_of([cost.edge_memory_bytes for cost in costs], (("MB", 1e-6), ("kB", 1e-3)))
    front = set(report.planned.pareto)
    possible: list[tuple[bool, Column]] = [
        (
            any(cost.depth is not None for cost in costs),
            ("Compute layers", "on the edge", False, lambda way: _number(way.modelled.depth, "{:d}")),
        ),
        (
            any(cost.edge_memory_bytes is not None for cost in costs),
            ("Edge memory", memory.unit, False, lambda way: _memory(way, memory)),
        ),
        (
            any(cost.leakage_bits is not None for cost in costs),
            ("Leakage", "bits", False, lambda way: _number(way.modelled.leakage_bits, "{:.4g}")),
        ),
        (
            any(cost.mean_s is not None for cost in costs),
            ("Mean", "ms", False, lambda way: _scaled(way.modelled.mean_s, seconds)),
        ),
        (
            any(cost.p95_s is not None for cost in costs),
            ("95th perc.", "ms", False, lambda way: _scaled(way.modelled.p95_s, seconds)),
        ),
        (
            any(cost.best_share is not None for cost in costs),
            ("Best in", "% of draws", False, lambda way: _share(way.modelled.best_share)),
        ),
        (bool(front), ("On the front", "", True, lambda way: _yes(way.modelled.name in front))),
        (
            any(value is not None for value in report.planned.limits.model_dump().values()),
            ("Breaks", "", True, lambda way: _words(way.modelled.broken)),
        ),
    ]
    return [column for wanted, column in possible if wanted]


MISSING = Cell(units.UNAVAILABLE, "", "na")


def _number(value: float | None, form: str) -> Cell:
    return MISSING if value is None else Cell(form.format(value), repr(value))


def _scaled(value: float | None, scale: units.Scale) -> Cell:
    return MISSING if value is None else Cell(scale.text(value), repr(value))


def _share(value: float | None) -> Cell:
    return MISSING if value is None else Cell(f"{100 * value:.0f}", repr(value))


def _memory(way: Way, scale: units.Scale) -> Cell:
    size = way.modelled.edge_memory_bytes
    if size is None:
        return MISSING
    return Cell(scale.text(size), repr(size), badge=way.modelled.memory_provenance)


def _yes(value: bool) -> Cell:
    return Cell("yes", "0", "text") if value else Cell("\N{EN DASH}", "", "na text")


def _words(broken: tuple[str, ...]) -> Cell:
    return Cell("; ".join(broken), "; ".join(broken), "text wrap") if broken else Cell("nothing", "", "na text")
