"""The cuts worth a thought when both latency and energy count: no other beats them in both."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import CutCost


def front(rows: Sequence[CutCost]) -> tuple[str, ...]:
    """The names of the rows that none beats, fastest first; none where an energy is unknown.

    One row beats another when it is nowhere worse and somewhere better. Figures are those with every part at its
    median.
    """
    known = [(row.total_s, row.energy_j, row.name) for row in rows if row.energy_j is not None]
    if len(known) < len(rows):
        return ()
    found: list[tuple[float, float, str]] = []
    for total_s, energy_j, name in sorted(known, key=lambda each: each[:2]):
        if not found or energy_j < found[-1][1] or (total_s, energy_j) == found[-1][:2]:
            found.append((total_s, energy_j, name))
    return tuple(name for _, _, name in found)
