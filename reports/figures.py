"""The bars of a report as plotly.js takes them: plain dictionaries of traces and layout, from a `Report` alone.

A bar is what the plan modelled, a marker with a bar of error what was measured (median and its 95 % interval). Times
are milliseconds or microseconds and energies millijoules per inference, as the axis says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import units
from .content import LayerRow, Report, Way
from .drawing import (
    CLOUD,
    EDGE,
    LINK,
    NOISE,
    REQUEST,
    Figure,
    bars,
    full,
    markers,
    missing,
    narrowed,
    row_layout,
    short,
    tick,
)

NEGLIGIBLE = 1e-6
"""Milliseconds or millijoules that no figure could show."""

Part = tuple[str, str, Callable[[Way], float | None], Callable[[Way], str]]


def latency_figure(report: Report) -> Figure:
    """Stacked bars of where the time goes in every way to run the model, with measured totals as markers."""
    ways = report.ways
    totals = [way.modelled.total_s for way in ways]
    scale = units.milliseconds([*totals, *(way.measured.latency.high_s for way in ways if way.measured)])
    traces = _without_empty(_stack(ways, _latency_parts(scale), scale))
    shown = [(row, way.measured.latency) for row, way in enumerate(ways) if way.measured]
    if shown:
        traces.append(
            markers(
                "measured",
                [row for row, _ in shown],
                [scale.number(latency.median_s) for _, latency in shown],
                [
                    f"<b>{full(ways[row].label)}</b><br>measured {scale.with_unit(latency.median_s)}<br>"
                    f"95 % interval {scale.interval(latency.low_s, latency.high_s)}"
                    for row, latency in shown
                ],
                [scale.number(latency.high_s - latency.median_s) for _, latency in shown],
                [scale.number(latency.median_s - latency.low_s) for _, latency in shown],
            )
        )
    return {"data": traces, "layout": _rows(ways, "ms per inference")}


def whatif_figure(report: Report) -> Figure:
    """The modelled bars alone, every part of them: the page fills them anew for other links and slow-downs."""
    ways = report.ways
    scale = units.milliseconds([way.modelled.total_s for way in ways])
    traces = _stack(ways, _latency_parts(scale), scale)
    return {"data": traces, "layout": _rows(ways, "ms per inference, modelled")}


def _latency_parts(scale: units.Scale) -> list[Part]:
    return [
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
    traces = _without_empty(_stack(ways, parts, scale)) if planned else []
    for provenance in dict.fromkeys(energy.provenance for _, energy in known):
        those = [(row, energy) for row, energy in known if energy.provenance == provenance]
        traces.append(
            markers(
                f"the run, {provenance}",
                [row for row, _ in those],
                [scale.number(energy.energy_j) for _, energy in those],
                [
                    f"<b>{full(ways[row].label)}</b><br>the run, {provenance}: {scale.with_unit(energy.energy_j)}"
                    for row, energy in those
                ],
            )
        )
    layout = _rows(ways, "mJ per inference")
    layout["annotations"] = [
        missing(row) for row, way in enumerate(ways) if way.modelled.energy_j is None and row not in dict(known)
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
        return bars(
            name,
            colour,
            [scale.number(seconds) for seconds in times],
            [
                f"<b>{full(layer.name)}</b> ({full(layer.kind)})<br>{name} {scale.with_unit(seconds)}"
                for layer, seconds in zip(layers, times, strict=True)
            ],
        )

    traces = [
        trace("edge", EDGE, [layer.edge_s for layer in layers]),
        trace("cloud", CLOUD, [layer.cloud_s for layer in layers]),
    ]
    layout = row_layout(
        [short(layer.name) for layer in layers],
        f"{scale.unit} per inference, measured",
        "group",
        [narrowed(layer.name) for layer in layers],
    )
    layout["annotations"] = [missing(row) for row, layer in enumerate(layers) if _unseen(layer)]
    return {"data": traces, "layout": layout}


def _unseen(layer: LayerRow) -> bool:
    return layer.edge_s is None and layer.cloud_s is None


def _stack(ways: Sequence[Way], parts: Sequence[Part], scale: units.Scale) -> list[dict[str, Any]]:
    """One trace a part."""
    traces = []
    for name, colour, seconds_or_joules, explain in parts:
        values = [seconds_or_joules(way) for way in ways]
        texts = [
            f"<b>{full(way.label)}</b><br>{name} {scale.with_unit(value)}, modelled<br>{explain(way)}"
            for way, value in zip(ways, values, strict=True)
        ]
        traces.append(bars(name, colour, [scale.number(value) for value in values], texts))
    return traces


def _without_empty(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the parts that are nothing in every row, which would only fill the legend."""
    return [trace for trace in traces if any(value is not None and value >= NEGLIGIBLE for value in trace["x"])]


def _rows(ways: Sequence[Way], axis: str) -> dict[str, Any]:
    names = [tick(way, star=way.chosen) for way in ways]
    return row_layout(names, axis, "stack", [tick(way, star=way.chosen, narrow=True) for way in ways])
