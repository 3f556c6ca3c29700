"""The figures' data: valid for plotly, equal to the report's numbers, and honest about what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from plotly import graph_objects

from edgecut.reports import figures
from edgecut.reports.summary import summarise


def trace(figure: figures.Figure, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(trace for trace in figure["data"] if trace["name"] == name)
    return found


def test_plotly_accepts_every_figure(case: Any) -> None:
    made = summarise(*case)
    for figure in (figures.latency_figure(made), figures.energy_figure(made), figures.layer_figure(made)):
        assert figure is not None
        graph_objects.Figure(figure)
        json.dumps(figure, allow_nan=False)


def test_stack_adds_up_to_the_planned_total(case: Any) -> None:
    made = summarise(*case)
    figure = figures.latency_figure(made)
    for row, way in enumerate(made.ways):
        total = sum(bars["x"][row] for bars in figure["data"] if bars["type"] == "bar")
        assert total == pytest.approx(way.modelled.total_s * 1e3)


def test_noise_that_outlasts_the_wait_gets_a_bar(make_case: Callable[..., Any]) -> None:
    made = summarise(*make_case(slowdown=60.0))
    figure = figures.latency_figure(made)
    beyond = trace(figure, "noise beyond the wait")["x"]
    assert beyond[0] > 5
    assert sum(bars["x"][0] for bars in figure["data"] if bars["type"] == "bar") == pytest.approx(
        made.ways[0].modelled.total_s * 1e3
    )


def test_markers_are_the_measured_medians_with_their_intervals(case: Any) -> None:
    measurement = case[0]
    markers = trace(figures.latency_figure(summarise(*case)), "measured")
    assert markers["y"] == [3, 4, 5, 6]
    for place, variant in enumerate(measurement.variants):
        latency = variant.latency
        assert markers["x"][place] == pytest.approx(latency.median_s * 1e3)
        assert markers["error_x"]["array"][place] == pytest.approx((latency.high_s - latency.median_s) * 1e3)
        assert markers["error_x"]["arrayminus"][place] == pytest.approx((latency.median_s - latency.low_s) * 1e3)


def test_unseen_layer_is_none_and_written_so(case: Any) -> None:
    figure = figures.layer_figure(summarise(*case))
    assert figure is not None
    assert trace(figure, "edge")["x"] == [
        pytest.approx(24.0),
        pytest.approx(15.0),
        pytest.approx(15.0),
        pytest.approx(5.0),
        None,
    ]
    assert [(note["y"], note["text"]) for note in figure["layout"]["annotations"]] == [(4, "unavailable")]


def test_without_figures_there_is_no_figure(bare_case: Any) -> None:
    made = summarise(*bare_case)
    assert figures.energy_figure(made) is None
    assert figures.layer_figure(made) is None
    assert figures.latency_figure(made)["data"]


def test_row_without_energy_is_empty_and_written_so(case: Any) -> None:
    made = summarise(*case)
    first = made.ways[0]
    unknown = first.model_copy(
        update={"modelled": first.modelled.model_copy(update={"edge_j": None, "energy_j": None})}
    )
    figure = figures.energy_figure(made.model_copy(update={"ways": (unknown, *made.ways[1:])}))
    assert figure is not None
    assert [bars["x"][0] for bars in figure["data"] if bars["type"] == "bar"] == [None, None, None]
    assert [note["y"] for note in figure["layout"]["annotations"]] == [0]


def test_names_are_escaped_for_plotly(make_case: Callable[..., Any]) -> None:
    made = summarise(*make_case(suffix="<a href='http://x'>"))
    text = json.dumps([figures.latency_figure(made), figures.layer_figure(made), figures.energy_figure(made)])
    assert "<a" not in text
    assert "&lt;a" in text
