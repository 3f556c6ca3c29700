"""The figures of a report as plotly.js takes them: plain dictionaries of traces and layout, from a `Report` alone.

A bar is what the plan modelled, a marker with a bar of error what was measured (median and its 95 % interval). Times
are milliseconds or microseconds and energies millijoules per inference, as the axis says. What is unavailable is
written so in its row and never drawn as 0. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from . import units
from .content import LayerRow, Report, Way

Figure = dict[str, Any]

EDGE, NOISE, LINK, REQUEST, CLOUD = "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#009E73"
INK = "ink"
"""`meta` of traces that the page draws in its text colour, light or dark."""
NAME_LETTERS = 14
ROW_PIXELS, FRAME_PIXELS = 40, 132
NEGLIGIBLE = 1e-9

Part = tuple[str, str, Callable[[Way], float | None], Callable[[Way], str]]


def latency_figure(report: Report) -> Figure:
    """Stacked bars of where the time goes in every way to run the model, with measured totals as markers."""
    ways = report.ways
    totals = [way.modelled.total_s for way in ways]
    scale = units.milliseconds([*totals, *(way.measured.latency.high_s for way in ways if way.measured)])
    parts: list[Part] = [
        (
            "edge",
            EDGE,
            lambda way: way.modelled.edge_s + way.modelled.add_s,
            lambda _: "edge part and adding the noise",
        ),
        ("noise beyond the wait", NOISE, _noise_beyond_wait, lambda _: "making the noise took longer than the wait"),
        ("link", LINK, lambda way: way.modelled.link_s, lambda way: _link_text(way, scale)),
        ("request", REQUEST, lambda way: way.modelled.request_s, lambda _: "serialising and serving"),
        ("cloud", CLOUD, lambda way: way.modelled.cloud_s, lambda _: "cloud part"),
    ]
    traces = _stack(ways, parts, scale)
    shown = [(row, way.measured.latency) for row, way in enumerate(ways) if way.measured]
    if shown:
        traces.append(
            _markers(
                "measured",
                [row for row, _ in shown],
                [scale.number(latency.median_s) for _, latency in shown],
                [
                    f"<b>{_full(ways[row].label)}</b><br>measured {scale.with_unit(latency.median_s)}<br>"
                    f"95 % interval {scale.interval(latency.low_s, latency.high_s)}"
                    for row, latency in shown
                ],
                [scale.number(latency.high_s - latency.median_s) for _, latency in shown],
                [scale.number(latency.median_s - latency.low_s) for _, latency in shown],
            )
        )
    return {"data": traces, "layout": _layout(_names(ways), "ms per inference", "stack")}


def _noise_beyond_wait(way: Way) -> float | None:
    cost = way.modelled
    return max(0.0, cost.total_s - cost.edge_s - cost.add_s - cost.wait_s)


def _link_text(way: Way, scale: units.Scale) -> str:
    cost = way.modelled
    return (
        f"round trip {scale.text(cost.rtt_s)}, up {scale.text(cost.uplink_s)} ({units.count(cost.uplink_bytes)} B), "
        f"down {scale.text(cost.downlink_s)}"
    )


def energy_figure(report: Report) -> Figure | None:
    """Stacked bars of the edge's joules, with the run's as markers; None where no energy is known at all."""
    ways = report.ways
    run = [(row, way.measured.energy) for row, way in enumerate(ways) if way.measured]
    known = [(row, energy) for row, energy in run if energy.energy_j is not None]
    planned = [way for way in ways if way.modelled.energy_j is not None]
    if not known and not planned:
        return None
    scale = units.millijoules([*(way.modelled.energy_j for way in ways), *(energy.energy_j for _, energy in known)])
    # A stack with a part missing would look like a smaller sum: such rows stay empty and say so.
    parts: list[Part] = [
        ("compute", EDGE, lambda way: _whole(way, way.modelled.edge_j), lambda _: "edge part and noise"),
        ("radio", LINK, lambda way: _whole(way, way.modelled.radio_j), lambda _: "sending and receiving"),
        ("idle", REQUEST, lambda way: _whole(way, way.modelled.idle_j), lambda _: "waiting for the answer"),
    ]
    traces = _stack(ways, parts, scale) if planned else []
    for provenance in dict.fromkeys(energy.provenance for _, energy in known):
        those = [(row, energy) for row, energy in known if energy.provenance == provenance]
        traces.append(
            _markers(
                f"the run, {provenance}",
                [row for row, _ in those],
                [scale.number(energy.energy_j) for _, energy in those],
                [
                    f"<b>{_full(ways[row].label)}</b><br>the run, {provenance}: {scale.with_unit(energy.energy_j)}"
                    for row, energy in those
                ],
            )
        )
    layout = _layout(_names(ways), "mJ per inference", "stack")
    layout["annotations"] = [
        _missing(row) for row, way in enumerate(ways) if way.modelled.energy_j is None and row not in dict(known)
    ]
    return {"data": traces, "layout": layout}


def _whole(way: Way, part_j: float | None) -> float | None:
    return None if way.modelled.energy_j is None else part_j


def layer_figure(report: Report) -> Figure | None:
    """Layer times of both devices side by side; None where the runtime's profiler showed no layer."""
    layers = report.layers
    every = [seconds for layer in layers for seconds in (layer.edge_s, layer.cloud_s)]
    if all(seconds is None for seconds in every):
        return None
    scale = units.times(every)

    def trace(name: str, colour: str, times: Sequence[float | None]) -> dict[str, Any]:
        return _bars(
            name,
            colour,
            [scale.number(seconds) for seconds in times],
            [
                f"<b>{_full(layer.name)}</b> ({_full(layer.kind)})<br>{name} {scale.with_unit(seconds)}"
                for layer, seconds in zip(layers, times, strict=True)
            ],
        )

    traces = [
        trace("edge", EDGE, [layer.edge_s for layer in layers]),
        trace("cloud", CLOUD, [layer.cloud_s for layer in layers]),
    ]
    layout = _layout([_short(layer.name) for layer in layers], f"{scale.unit} per inference, measured", "group")
    layout["annotations"] = [_missing(row) for row, layer in enumerate(layers) if _unseen(layer)]
    return {"data": traces, "layout": layout}


def _unseen(layer: LayerRow) -> bool:
    return layer.edge_s is None and layer.cloud_s is None


def _stack(ways: Sequence[Way], parts: Sequence[Part], scale: units.Scale) -> list[dict[str, Any]]:
    """One trace a part; a part that is nothing in every row is left out."""
    traces = []
    for name, colour, seconds_or_joules, explain in parts:
        values = [seconds_or_joules(way) for way in ways]
        if all(value is None or value < NEGLIGIBLE for value in values):
            continue
        texts = [
            f"<b>{_full(way.label)}</b><br>{name} {scale.with_unit(value)}, modelled<br>{explain(way)}"
            for way, value in zip(ways, values, strict=True)
        ]
        traces.append(_bars(name, colour, [scale.number(value) for value in values], texts))
    return traces


def _bars(name: str, colour: str, values: Sequence[float | None], texts: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [None if value is None else max(0.0, value) for value in values],
        "y": list(range(len(values))),
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertext": list(texts),
        "hoverinfo": "text",
    }


def _markers(
    name: str,
    rows: Sequence[int],
    values: Sequence[float | None],
    texts: Sequence[str],
    above: Sequence[float | None] = (),
    below: Sequence[float | None] = (),
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "meta": INK,
        "x": list(values),
        "y": list(rows),
        "marker": {"symbol": "diamond", "size": 9, "color": "#1b1f24", "line": {"width": 1.5, "color": "#ffffff"}},
        "hovertext": list(texts),
        "hoverinfo": "text",
        "cliponaxis": False,
    }
    if above:
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": list(above),
            "arrayminus": list(below),
            "thickness": 1.5,
            "width": 7,
            "color": "#1b1f24",
        }
    return trace


def _layout(names: Sequence[str], axis: str, mode: str) -> dict[str, Any]:
    """Rows from top to bottom by number, so that two layers of one shortened name keep a row each."""
    return {
        "barmode": mode,
        "bargap": 0.34,
        "height": FRAME_PIXELS + ROW_PIXELS * len(names),
        "margin": {"l": 8, "r": 18, "t": 8, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#1b1f24"},
        "hoverlabel": {"align": "left", "font": {"size": 13}},
        "dragmode": False,
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "xaxis": {
            "title": {"text": axis, "font": {"size": 12}, "standoff": 10},
            "rangemode": "tozero",
            "gridcolor": "#d9dde3",
            "zerolinecolor": "#8a929c",
            "fixedrange": True,
            "automargin": True,
        },
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [_full(name) for name in names],
            "range": [len(names) - 0.5, -0.5],
            "ticklen": 6,
            "tickcolor": "rgba(0,0,0,0)",
            "zeroline": False,
            "showgrid": False,
            "fixedrange": True,
            "automargin": True,
        },
    }


def _missing(row: int) -> dict[str, Any]:
    return {"x": 0, "y": row, "xanchor": "left", "xshift": 4, "text": units.UNAVAILABLE, "showarrow": False}


def _names(ways: Sequence[Way]) -> list[str]:
    """Short enough for a phone; the full names are in the hover texts."""
    names = [f"after {_short(way.modelled.name)}" if way.role == "split" else way.label for way in ways]
    return [name + (" \N{BLACK STAR}" if way.chosen else "") for name, way in zip(names, ways, strict=True)]


def _short(name: str) -> str:
    return units.shorten(units.printable(name), NAME_LETTERS)


def _full(name: str) -> str:
    return _escaped(units.printable(name))


def _escaped(name: str) -> str:
    """plotly.js reads some HTML in its texts, links among it; a name from a model file is only ever text."""
    return html.escape(name, quote=False)
