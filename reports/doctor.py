"""What `edgecut doctor` found, as a table for a terminal: group by group, with the remedy below what is of no use."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..profiler.diagnosis import Check, Diagnosis
from . import units

MARKS = {"usable": ("yes", "green"), "unusable": ("no", "yellow"), "unknown": ("?", "dim")}


def doctor_table(diagnosis: Diagnosis) -> RenderableType:
    """One row for each check; long texts wrap inside their column."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for header in ("", "usable", "found"):
        table.add_column(header, no_wrap=header != "found", vertical="top")
    group = ""
    for check in diagnosis.checks:
        if check.group != group:
            group = check.group
            table.add_row(Text(group, style="bold"), "", "")
        word, colour = MARKS[check.status]
        table.add_row(Text(f"  {units.printable(check.name)}"), Text(word, style=colour), _found(check))
    return table


def _found(check: Check) -> Text:
    text = Text(units.printable(check.detail))
    if check.remedy:
        text.append(f"\n\N{RIGHTWARDS ARROW} {units.printable(check.remedy)}", style="dim")
    return text
