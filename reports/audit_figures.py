"""The figures of an audit's page and a sweep's, as plotly.js takes them: plain dictionaries, from the records alone.

Everything drawn was measured. A dashed line is what anyone can do without the message, a dotted one the user's limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..privacy.audited import Audit, Curve, Floors, LabelAttack, LeakageSweep, Reconstruction, SweepPoint
from . import units
from .drawing import CLOUD, EDGE, LINK, NOISE, REQUEST, Figure, bars, frame, full, markers, row_layout, value_axis
from .pareto import wide_scale

HEIGHT_PIXELS = 380
GREY = "#8a929c"
SERIES = (
    (EDGE, "circle"),
    (LINK, "square"),
    (NOISE, "diamond"),
    (CLOUD, "triangle-up"),
    (REQUEST, "star"),
    (GREY, "x"),
)
"""Colour and symbol of one line after the other: told apart by form as well."""

Value = Callable[[SweepPoint], float | None]


def audit_figures(audit: Audit) -> dict[str, Figure]:
    """Every figure that there is something to draw in, by the name of its place in the page."""
    limits, floors = audit.verdict.limits, audit.floors
    drawn = {
        "bits": _bits_figure(audit),
        "labels": _bar_figure(
            [(_named(attack), 100 * attack.accuracy.value, _label_text(attack)) for attack in audit.labels],
            "% of private labels read",
            [("chance", floors.chance), ("public label alone", floors.label_only)],
            limits.max_private_accuracy,
            100,
        ),
        "reconstructions": _bar_figure(
            [(_named(found), found.ssim_p95, _ssim_text(found)) for found in audit.reconstructions],
            "SSIM, 95th percentile",
            [("mean image", floors.mean_ssim_p95), ("mean of the public label", floors.label_ssim_p95)],
            limits.max_ssim,
            1,
        ),
        "label_curves": _curve_figure(
            [(_named(attack), attack.curve) for attack in audit.labels], "share read, held out"
        ),
        "decoder_curves": _curve_figure(
            [(_named(found), found.curve) for found in audit.reconstructions], "measure, held out"
        ),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _named(attack: LabelAttack | Reconstruction) -> str:
    name = attack.attacker + (", knows the noise" if attack.knows_noise else "")
    return name if attack.copies == 1 else f"{name}, {attack.copies} messages"


def _label_text(attack: LabelAttack) -> str:
    found = attack.accuracy
    return (
        f"<b>{full(_named(attack))}</b><br>{units.percent(found.value)}, 95 % interval {units.percent(found.low)} to "
        f"{units.percent(found.high)}"
    )


def _ssim_text(found: Reconstruction) -> str:
    return (
        f"<b>{full(_named(found))}</b><br>95th percentile {found.ssim_p95:.3f}<br>mean {found.ssim_mean:.3f}, 95 % "
        f"interval {found.ssim_mean_low:.3f} to {found.ssim_mean_high:.3f}"
    )


def _bits_figure(audit: Audit) -> Figure | None:
    shown = [
        (name, bound) for name, bound in (("at most", audit.upper), ("at least", audit.lower)) if bound is not None
    ]
    if not shown:
        return None
    texts = [
        f"<b>{name}</b><br>{bound.bits:,.2f} bits, 95 % interval {bound.low:,.2f} to {bound.high:,.2f}"
        for name, bound in shown
    ]
    marks = markers(
        "bits in a message",
        range(len(shown)),
        [bound.bits for _, bound in shown],
        texts,
        [bound.high - bound.bits for _, bound in shown],
        [bound.bits - bound.low for _, bound in shown],
    )
    names = [name for name, _ in shown]
    layout = row_layout(names, "bits in a message, measured", "overlay", names)
    layout["showlegend"] = False
    most = max(bound.high for _, bound in shown)
    layout["xaxis"]["range"] = [0, 1.08 * max(most, audit.verdict.limits.max_bits or 0.0, 1.0)]
    layout["margin"] = {**layout["margin"], "t": 28}
    _lines_across(layout, [], audit.verdict.limits.max_bits, 1)
    return {"data": [marks], "layout": layout}


def _bar_figure(
    rows: Sequence[tuple[str, float, str]],
    axis: str,
    floors: Sequence[tuple[str, float | None]],
    limit: float | None,
    factor: float,
) -> Figure | None:
    """Bars of attackers, with what needs no message as dashed lines and the limit as a dotted one."""
    if not rows:
        return None
    names = [name for name, _, _ in rows]
    narrow = [units.shorten(units.printable(name), 16) for name in names]
    layout = row_layout([units.shorten(units.printable(name), 40) for name in names], axis, "overlay", narrow)
    layout["showlegend"] = False
    layout["xaxis"]["range"] = [0, factor]
    layout["margin"] = {**layout["margin"], "t": 40}
    _lines_across(layout, floors, limit, factor)
    trace = bars("attackers", EDGE, [value for _, value, _ in rows], [text for _, _, text in rows])
    return {"data": [trace], "layout": layout}


def _lines_across(
    layout: dict[str, Any], floors: Sequence[tuple[str, float | None]], limit: float | None, factor: float
) -> None:
    wanted = [(name, value, "dash", GREY) for name, value in floors] + [("limit", limit, "dot", NOISE)]
    shapes, notes = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, value, dash, colour in wanted:
        if value is None:
            continue
        at = value * factor
        shapes.append(
            {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1}
            | {"line": {"color": colour, "width": 2, "dash": dash}}
        )
        height = {"yref": "paper", "y": 1, "yanchor": "bottom", "yshift": 14 * (len(notes) % 2)}
        notes.append({"x": at, "text": name, "showarrow": False, "font": {"size": 11, "color": GREY}} | height)
    layout["shapes"], layout["annotations"] = shapes, notes


def _curve_figure(curves: Sequence[tuple[str, Curve | None]], title: str) -> Figure | None:
    shown = [(name, curve) for name, curve in curves if curve is not None and curve.steps]
    if not shown:
        return None
    traces = []
    for number, (name, curve) in enumerate(shown):
        colour, symbol = SERIES[number % len(SERIES)]
        texts = [
            f"<b>{full(name)}</b><br>step {step:,}: {value:.4g}"
            for step, value in zip(curve.steps, curve.held_out, strict=True)
        ]
        traces.append(_line(name, list(curve.steps), list(curve.held_out), texts, colour, symbol))
    layout = frame(HEIGHT_PIXELS + 14 * len(traces), "training steps")
    layout["yaxis"] = value_axis(title) | {"rangemode": "normal"}
    layout["hovermode"] = "closest"
    return {"data": traces, "layout": layout}


def _line(
    name: str, x: list[float] | list[int], y: list[float], texts: list[str], colour: str, symbol: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": full(units.shorten(units.printable(name), 34)),
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 1.5},
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "hovertext": texts,
        "hoverinfo": "text",
        "cliponaxis": False,
    }


def sweep_figures(made: LeakageSweep) -> dict[str, Figure]:
    """Leakage against the accuracy lost at the plan's cut, and against depth where several cuts were swept."""
    at_cut = [point for point in made.points if point.cut_name == made.cut_name]
    by_depth = [point for point in made.points if point.allowed_loss_points == made.depth_loss_points]
    floors = made.floors
    measures: tuple[tuple[str, str, Value, list[tuple[str, float | None]]], ...] = (
        ("bits", "bits in a message, at most", _bits, []),
        ("private", "% of private labels read", _private, _floors(floors, 100, "chance", "label_only")),
        (
            "ssim",
            "SSIM of reconstructions, 95th percentile",
            _ssim,
            _floors(floors, 1, "mean_ssim_p95", "label_ssim_p95"),
        ),
    )
    drawn: dict[str, Figure | None] = {}
    for name, title, value, flat in measures:
        drawn[f"loss_{name}"] = _against_loss(made, at_cut, title, value, flat)
        if len({point.cut_name for point in by_depth}) > 1:
            drawn[f"depth_{name}"] = _against_depth(made, by_depth, title, value, flat)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _bits(point: SweepPoint) -> float | None:
    return None if point.upper is None else point.upper.bits


def _private(point: SweepPoint) -> float | None:
    return None if point.private_accuracy is None else 100 * point.private_accuracy.value


def _ssim(point: SweepPoint) -> float | None:
    return point.ssim_p95


def _floors(floors: Floors | None, factor: float, *fields: str) -> list[tuple[str, float | None]]:
    names = ("without the message", "public label alone")
    values = [None if floors is None else getattr(floors, field) for field in fields]
    return [(name, None if value is None else factor * value) for name, value in zip(names, values, strict=True)]


def _against_loss(
    made: LeakageSweep, points: Sequence[SweepPoint], title: str, value: Value, flat: list[tuple[str, float | None]]
) -> Figure | None:
    def x(point: SweepPoint) -> float | None:
        return None if point.accuracy is None else point.accuracy.loss_points

    layout = frame(HEIGHT_PIXELS, "points of accuracy lost on unseen items, measured")
    return _lines(made, points, x, value, title, layout, flat)


def _against_depth(
    made: LeakageSweep, points: Sequence[SweepPoint], title: str, value: Value, flat: list[tuple[str, float | None]]
) -> Figure | None:
    names = {point.cut_name: point.depth for point in sorted(points, key=lambda point: point.depth)}
    places = {name: place for place, name in enumerate(names)}
    layout = frame(HEIGHT_PIXELS, f"cut after, {made.depth_loss_points:g} points allowed")
    labels = [full(units.shorten(units.printable(name), 14, 3)) for name in places]
    layout["xaxis"] |= {"tickvals": list(places.values()), "ticktext": labels, "range": [-0.4, len(places) - 0.6]}
    return _lines(made, points, lambda point: places[point.cut_name], value, title, layout, flat)


def _lines(
    made: LeakageSweep,
    points: Sequence[SweepPoint],
    x: Value,
    value: Value,
    title: str,
    layout: dict[str, Any],
    flat: list[tuple[str, float | None]],
) -> Figure | None:
    traces, heights = [], []
    for number, mechanism in enumerate(made.mechanisms):
        found = [
            (across, height, point)
            for point in points
            if point.mechanism == mechanism
            and (across := x(point)) is not None
            and (height := value(point)) is not None
        ]
        if not found:
            continue
        found.sort(key=lambda one: one[0])
        heights += [height for _, height, _ in found]
        colour, symbol = SERIES[number % len(SERIES)]
        texts = [_point_text(point, title, height) for _, height, point in found]
        traces.append(
            _line(
                mechanism, [across for across, _, _ in found], [height for _, height, _ in found], texts, colour, symbol
            )
        )
    if not traces:
        return None
    layout["yaxis"] = value_axis(title) | (wide_scale(heights) if not flat else {})
    layout["hovermode"] = "closest"
    lines = [(name, height) for name, height in flat if height is not None]
    layout["shapes"] = [
        {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": height, "y1": height}
        | {"line": {"color": GREY, "width": 2, "dash": "dash"}}
        for _, height in lines
    ]
    layout["annotations"] = [
        {"xref": "paper", "x": 1, "xanchor": "right", "y": height, "yanchor": "bottom", "text": name}
        | {"showarrow": False, "font": {"size": 11, "color": GREY}}
        for name, height in lines
    ]
    return {"data": traces, "layout": layout}


def _point_text(point: SweepPoint, title: str, height: float) -> str:
    lost = units.UNAVAILABLE if point.accuracy is None else f"{units.points(point.accuracy.loss_points)} points"
    return (
        f"<b>{full(point.mechanism)} after {full(point.cut_name)}</b><br>{title}: {height:,.4g}<br>{lost} lost, "
        f"{point.allowed_loss_points:g} allowed on the hold-out"
    )
