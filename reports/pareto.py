"""The report's figure of what latency costs in energy: every split and baseline as a point, and the front.

The front is the plan's: the splits that no other beats in both. Where an energy is unknown, the bytes sent stand in
for it, as the radio's energy goes by them, and the figure says so. All points are modelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from . import units
from .content import Report, Way
from .drawing import CLOUD, EDGE, LINK, Figure, frame, full, short, value_axis

HEIGHT_PIXELS = 440
MOST_NAMES = 8
"""More splits on the front than this are named only under the mouse; all are listed below the figure."""
WIDE = 20
"""Values further apart than this factor need a logarithmic axis."""

Against = Literal["energy", "bytes"]


class Pareto(NamedTuple):
    """The points' second quantity, the splits on the front (fastest first), and the figure."""

    against: Against
    front: tuple[Way, ...]
    figure: Figure


def pareto(report: Report) -> Pareto | None:
    """The figure with its front; None where there is only one split to show."""
    splits = [way for way in report.ways if way.role == "split"]
    if len(splits) < 2:
        return None
    if not report.planned.pareto:
        front = fastest_to_leanest(splits)
        return Pareto("bytes", front, _figure(report.ways, front, "bytes"))
    by_name = {way.modelled.name: way for way in splits}
    front = tuple(by_name[name] for name in report.planned.pareto if name in by_name)
    return Pareto("energy", front, _figure(report.ways, front, "energy"))


def fastest_to_leanest(splits: Iterable[Way]) -> tuple[Way, ...]:
    """The splits that no other beats in both latency and bytes sent, fastest first."""
    front: list[Way] = []
    for way in sorted(splits, key=lambda way: (way.modelled.total_s, way.modelled.uplink_bytes)):
        if not front or way.modelled.uplink_bytes < front[-1].modelled.uplink_bytes:
            front.append(way)
    return tuple(front)


def _height(way: Way, against: Against) -> float | None:
    if against == "bytes":
        return float(way.modelled.uplink_bytes)
    return None if way.modelled.energy_j is None else way.modelled.energy_j * 1e3


def _figure(ways: Sequence[Way], front: tuple[Way, ...], against: Against) -> Figure:
    on_front = {way.modelled.name for way in front}
    shown = [way for way in ways if _height(way, against) is not None]
    deployed = [way for way in shown if way.chosen]
    others = [way for way in shown if way.role == "split" and not way.chosen]
    baselines = [way for way in shown if way.role != "split"]
    best = [way for way in others if way.modelled.name in on_front]
    rest = [way for way in others if way.modelled.name not in on_front]
    traces = [_line(front, against)] if len(front) > 1 else []
    traces += [
        _points("split", rest, against, "circle-open", EDGE),
        _points("split on the front", best, against, "circle", EDGE, "top right" if len(best) <= MOST_NAMES else None),
        _points("baseline", baselines, against, "square", LINK, "bottom center"),
        _points("deployed split", deployed, against, "star", CLOUD, "top center"),
    ]
    layout = frame(HEIGHT_PIXELS, "ms per inference, modelled")
    layout["yaxis"] = value_axis("mJ per inference, modelled" if against == "energy" else "bytes sent per inference")
    layout["xaxis"] |= wide_scale([way.modelled.total_s * 1e3 for way in shown])
    layout["yaxis"] |= wide_scale([height for way in shown if (height := _height(way, against)) is not None])
    layout["margin"] = {**layout["margin"], "t": 28}
    layout["hovermode"] = "closest"
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def wide_scale(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 where the values ask for one; zeros cannot stand on it."""
    if not values or min(values) <= 0 or max(values) / min(values) < WIDE:
        return {}
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"type": "log", "rangemode": "normal", "tickvals": ticks, "ticktext": [f"{tick:,.12g}" for tick in ticks]}


def _line(front: tuple[Way, ...], against: Against) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [way.modelled.total_s * 1e3 for way in front],
        "y": [_height(way, against) for way in front],
        "line": {"color": EDGE, "width": 1.5, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _points(
    name: str, ways: Sequence[Way], against: Against, symbol: str, colour: str, names_at: str | None = None
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text" if names_at else "markers",
        "name": name,
        "x": [way.modelled.total_s * 1e3 for way in ways],
        "y": [_height(way, against) for way in ways],
        "text": [full(short(way.modelled.name) if way.role == "split" else way.label) for way in ways],
        "textposition": names_at or "top center",
        "textfont": {"size": 11},
        "marker": {"symbol": symbol, "size": 15 if symbol == "star" else 10, "color": colour, "line": {"width": 1.5}},
        "hovertext": [_told(way) for way in ways],
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def _told(way: Way) -> str:
    cost = way.modelled
    latency, energy = units.milliseconds([cost.total_s]), units.millijoules([cost.energy_j])
    return (
        f"<b>{full(way.label)}</b><br>{latency.with_unit(cost.total_s)}, energy {energy.with_unit(cost.energy_j)}, "
        f"{units.count(cost.uplink_bytes)} B sent<br>modelled"
    )
