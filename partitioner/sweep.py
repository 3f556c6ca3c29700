"""Where the choice moves while one quantity goes from low to high: rates, the round trip, slow-down, load.

The range is cut into ever smaller pieces, leaving out of each the cuts that cannot be the best in it, until a
break-point is known to one part in ten thousand. Where two cuts stay close, one that is the best over less than a step
only may be missed. The radio draws the same power at every rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgecutError, unknown
from .cost import Way
from .limits import breaks_anywhere
from .plan import BreakPoint, Quantity, Sweep
from .ranking import FIELDS, Ranking

STEP = 1.01
DRAWN_STEP = 1.1
"""Pieces between two ends with the same choice need not be smaller; more where every value means thousands of draws."""
TOLERANCE = 1e-4
LEAST, MOST = 1e-60, 1e60
"""No rate, round trip or factor is beyond them."""
PIECES = 8
NAMES: dict[str, tuple[Quantity, float]] = {
    "uplink": ("uplink", 1e6),
    "downlink": ("downlink", 1e6),
    "rtt": ("rtt", 1e-3),
    "slowdown": ("edge-slowdown", 1.0),
    "load": ("cloud-load", 1.0),
}
"""How a sweep is asked for on the command line, and its unit (Mbit/s, ms or a factor) in SI."""
Array = NDArray[np.float64]
Score = Callable[[int, Array], Array]


def sweep(ranking: Ranking, ways: Sequence[Way], quantity: Quantity, low: float, high: float) -> Sweep:
    """The choice from `low` to `high`, in SI units. Raises EdgecutError for a range that cannot be."""
    check_range(quantity, low, high)
    running = [way for way in ways if not breaks_anywhere(way, ranking.aim.limits)]
    if not running:
        return Sweep(quantity=quantity, low=low, high=high, first="", points=())
    step = STEP if ranking.aim.risk == "median" else DRAWN_STEP
    first, points = break_points(
        lambda place, values: ranking.swept(running[place], quantity, values), len(running), (low, high), step
    )
    names = [*(way.name for way in running), ""]
    return Sweep(
        quantity=quantity,
        low=low,
        high=high,
        first=names[first],
        points=tuple(BreakPoint(at=at, before=names[before], after=names[after]) for at, before, after in points),
    )


def break_points(
    score: Score, count: int, ends: tuple[float, float], step: float
) -> tuple[int, list[tuple[float, int, int]]]:
    """Which of `count` has the least score at the first end, and where on the way to the second another one gets it.

    `score(place, values)` may be infinite; -1 stands for none, where all are.
    """
    grid = np.asarray(ends)
    table = np.stack([score(place, grid) for place in range(count)])
    while True:
        least = np.where(np.isfinite(table.min(axis=0)), table.argmin(axis=0), -1)
        moves = least[:-1] != least[1:]
        alive = _alive(table)
        ratio = grid[1:] / grid[:-1]
        divide = np.where(moves, ratio > 1 + TOLERANCE, (alive.sum(axis=0) > 1) & (ratio > step))
        if not divide.any():
            break
        grid, table = _divided(score, grid, table, alive, divide)
    at = np.sqrt(grid[:-1]) * np.sqrt(grid[1:])
    return int(least[0]), [
        (float(at[place]), int(least[place]), int(least[place + 1])) for place in np.flatnonzero(moves)
    ]


def _alive(table: Array) -> NDArray[np.bool_]:
    """Which rows can be the least between two neighbouring columns.

    Where scores only rise or only fall, one that is over another's ceiling at both ends is so everywhere between.
    """
    floor = np.minimum(table[:, :-1], table[:, 1:])
    ceiling = np.maximum(table[:, :-1], table[:, 1:]).min(axis=0)
    alive: NDArray[np.bool_] = (floor <= ceiling) & np.isfinite(floor)
    return alive


def _divided(
    score: Score, grid: Array, table: Array, alive: NDArray[np.bool_], divide: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Every piece that is to be divided in `PIECES`; what is not alive in one is not reckoned there."""
    places = np.flatnonzero(divide)
    inner = np.geomspace(grid[places], grid[places + 1], PIECES + 1, axis=1)[:, 1:-1]
    scores = np.full((len(table), *inner.shape), np.inf)
    for row in range(len(table)):
        here = alive[row, places]
        if here.any():
            scores[row, here] = score(row, inner[here].ravel()).reshape(-1, PIECES - 1)
    behind = np.repeat(places + 1, PIECES - 1)
    return np.insert(grid, behind, inner.ravel()), np.insert(table, behind, scores.reshape(len(table), -1), axis=1)


def check_range(quantity: str, low: float, high: float) -> None:
    """Raise EdgecutError unless `quantity` is known and can go from `low` to `high`."""
    if quantity not in FIELDS:
        raise EdgecutError(unknown("quantity to sweep", quantity, FIELDS))
    least = 1.0 if quantity in ("edge-slowdown", "cloud-load") else 0.0
    if not (max(least, LEAST) <= low < high <= MOST):
        known = "a factor of at least 1" if least else "positive"
        raise EdgecutError(f"{quantity} cannot be swept from {low:g} to {high:g}; give low < high, both {known}")


def parse_sweep(text: str) -> tuple[Quantity, float, float]:
    """`NAME=LOW:HIGH` in Mbit/s, ms or as factors. Raises EdgecutError."""
    name, _, span = text.partition("=")
    if name not in NAMES:
        raise EdgecutError(unknown("quantity to sweep", name, NAMES, "; as in uplink=1:100"))
    quantity, unit = NAMES[name]
    try:
        low, high = (float(part) * unit for part in span.split(":"))
    except ValueError:
        raise EdgecutError(f"a sweep of {name} is asked for as {name}=LOW:HIGH, not as {text}") from None
    try:
        check_range(quantity, low, high)
    except EdgecutError:
        known = "both factors of at least 1" if quantity in ("edge-slowdown", "cloud-load") else "both positive"
        raise EdgecutError(f"no sweep can go as {text} says; give {name}=LOW:HIGH with LOW < HIGH, {known}") from None
    return quantity, low, high
