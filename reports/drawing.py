"""The pieces that every figure of a report is drawn from: plotly.js's traces and layouts as plain dictionaries.

Rows run from top to bottom by number, so that two things of one shortened name keep a row each. What is unavailable is
written so in its row and never drawn as 0. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from . import units
from .content import Way

Figure = dict[str, Any]

EDGE, NOISE, LINK, REQUEST, CLOUD = "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#009E73"
INK, TEXT = "ink", "#1b1f24"
"""`meta` of traces that the page draws in its text colour, light or dark, and that colour where it is light."""
NAME_LETTERS, NARROW_LETTERS, NARROW_HEAD = 32, 14, 3
"""A name's length beside a figure on a screen, and on a phone, where the end tells more than the start."""
FRAME_PIXELS = 132
ROW_PIXELS = ((14, 40), (30, 26))
"""Pixels of a row in a figure of up to so many rows; more rows are as narrow as their names allow."""
LEAST_ROW_PIXELS = 20


def bars(name: str, colour: str, values: Sequence[float | None], texts: Sequence[str]) -> dict[str, Any]:
    """Horizontal bars, one a row; None leaves its row empty."""
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


def markers(
    name: str,
    rows: Sequence[int],
    values: Sequence[float | None],
    texts: Sequence[str],
    above: Sequence[float | None] = (),
    below: Sequence[float | None] = (),
    *,
    symbol: str = "diamond",
    colour: str = "",
) -> dict[str, Any]:
    """Marks in some rows, with error bars where `above` and `below` are given; the page's text colour if no other."""
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        **({} if colour else {"meta": INK}),
        "x": list(values),
        "y": list(rows),
        "marker": {
            "symbol": symbol,
            "size": 9,
            "color": colour or TEXT,
            "line": {"width": 0 if colour else 1.5, "color": "#ffffff"},
        },
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
            "color": colour or TEXT,
        }
    return trace


def frame(height: int, axis: str) -> dict[str, Any]:
    """What all layouts share: no background of their own, a legend above, and a titled x axis."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 18, "t": 8, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": TEXT},
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
        "xaxis": value_axis(axis),
    }


def value_axis(title: str) -> dict[str, Any]:
    """An axis of values from 0."""
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 10},
        "rangemode": "tozero",
        "gridcolor": "#d9dde3",
        "zerolinecolor": "#8a929c",
        "fixedrange": True,
        "automargin": True,
    }


def row_layout(names: Sequence[str], axis: str, mode: str, narrow: Sequence[str] = ()) -> dict[str, Any]:
    """A layout with one row a name; `mode` says whether a row's bars are stacked or stand side by side.

    The page takes the names in `narrow`, where there are any, when there is little room.
    """
    count = len(names)
    row_pixels = next((pixels for most, pixels in ROW_PIXELS if count <= most), LEAST_ROW_PIXELS)
    return {
        **frame(FRAME_PIXELS + row_pixels * count, axis),
        "meta": {"narrow": [full(name) for name in narrow or names]},
        "barmode": mode,
        "bargap": 0.34,
        "yaxis": {
            "tickvals": list(range(count)),
            "ticktext": [full(name) for name in names],
            "range": [count - 0.5, -0.5],
            "ticklen": 6,
            "tickcolor": "rgba(0,0,0,0)",
            "zeroline": False,
            "showgrid": False,
            "fixedrange": True,
            "automargin": True,
        },
    }


def missing(row: int) -> dict[str, Any]:
    """The note in a row that has no value."""
    return {"x": 0, "y": row, "xanchor": "left", "xshift": 4, "text": units.UNAVAILABLE, "showarrow": False}


def tick(way: Way, *, star: bool, narrow: bool = False) -> str:
    """A way's name beside its row; the full names are in the hover texts."""
    name = way.label
    if way.role == "split":
        name = f"after {narrowed(way.modelled.name) if narrow else short(way.modelled.name)}"
    return name + (" \N{BLACK STAR}" if star else "")


def short(name: str) -> str:
    """A layer's name with its middle left out where it is long."""
    return units.shorten(units.printable(name), NAME_LETTERS)


def narrowed(name: str) -> str:
    """A layer's name as a phone has room for."""
    return units.shorten(units.printable(name), NARROW_LETTERS, NARROW_HEAD)


def full(name: str) -> str:
    """The whole name, as text: plotly.js reads some HTML in its texts, links among it."""
    return html.escape(units.printable(name), quote=False)
