"""The figures' data: valid for plotly, equal to the report's numbers, and honest about what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from plotly import graph_objects

from edgecut.reports import figures
from edgecut.reports.pareto import fastest_to_leanest, pareto
from edgecut.reports.summary import summarise


def trace(figure: figures.Figure, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(trace for trace in figure["data"] if trace["name"] == name)
    return found


def test_plotly_accepts_every_figure(case: Any) -> None:
    made = summarise(*case)
    front = pareto(made)
    assert front is not None
    for figure in (
        figures.latency_figure(made),
        figures.whatif_figure(made),
        front.figure,
        figures.energy_figure(made),
        figures.layer_figure(made),
    ):
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
    drawn = [figures.latency_figure(made), figures.layer_figure(made), figures.energy_figure(made)]
    front = pareto(made)
    assert front is not None
    text = json.dumps([*drawn, figures.whatif_figure(made), front.figure])
    assert "<a" not in text
    assert "&lt;a" in text


def test_panel_figure_has_every_part_even_an_empty_one(case: Any) -> None:
    made = summarise(*case)
    data = figures.whatif_figure(made)["data"]
    assert [bars["name"] for bars in data] == ["edge", "noise beyond the wait", "link", "request", "cloud"]
    assert sum(data[1]["x"]) == pytest.approx(0)
    for row, way in enumerate(made.ways):
        assert sum(bars["x"][row] for bars in data) == pytest.approx(way.modelled.total_s * 1e3)


def test_many_rows_are_narrow_and_long_names_tell_them_apart(make_case: Callable[..., Any]) -> None:
    made = summarise(*make_case(suffix=".of.a.very.long.and.hardly.readable.name.of.layer.17"))
    layout = figures.latency_figure(made)["layout"]
    assert layout["yaxis"]["ticktext"][0].startswith("after conv1")
    assert layout["yaxis"]["ticktext"][0].endswith("of.layer.17")
    assert layout["meta"]["narrow"][0] == "after con\N{HORIZONTAL ELLIPSIS}f.layer.17"
    many = made.model_copy(update={"ways": made.ways * 9})
    few = layout["height"] / len(made.ways)
    assert figures.latency_figure(many)["layout"]["height"] / len(many.ways) < 0.6 * few


def points(figure: figures.Figure) -> dict[str, tuple[float, float]]:
    """Every marker's place by the start of its hover text."""
    return {
        text.split("</b>")[0].removeprefix("<b>"): (x, y)
        for one in figure["data"]
        if one["mode"] != "lines"
        for text, x, y in zip(one["hovertext"], one["x"], one["y"], strict=True)
    }


def test_every_way_is_a_point_of_latency_against_energy(case: Any) -> None:
    made = summarise(*case)
    found = pareto(made)
    assert found is not None and found.against == "energy"
    assert tuple(way.modelled.name for way in found.front) == case[0].plan.pareto
    at = points(found.figure)
    assert set(at) == {way.label for way in made.ways}
    for way in made.ways:
        assert way.modelled.energy_j is not None
        assert at[way.label] == pytest.approx((way.modelled.total_s * 1e3, way.modelled.energy_j * 1e3))
    assert trace(found.figure, "deployed split")["x"] == [pytest.approx(made.split.modelled.total_s * 1e3)]


def test_bytes_stand_in_for_an_unknown_energy(bare_case: Any) -> None:
    made = summarise(*bare_case)
    found = pareto(made)
    assert found is not None and found.against == "bytes"
    assert found.figure["layout"]["yaxis"]["title"]["text"] == "bytes sent per inference"
    at = points(found.figure)
    assert at["split after conv1"][1] == made.ways[0].modelled.uplink_bytes
    splits = [way.modelled for way in made.ways if way.role == "split"]
    unbeaten = {
        one.name
        for one in splits
        if not any(
            other.total_s <= one.total_s
            and other.uplink_bytes <= one.uplink_bytes
            and (other.total_s, other.uplink_bytes) != (one.total_s, one.uplink_bytes)
            for other in splits
        )
    }
    assert {way.modelled.name for way in fastest_to_leanest(w for w in made.ways if w.role == "split")} == unbeaten
    assert {way.modelled.name for way in found.front} == unbeaten


def test_wide_ranges_are_logarithmic_with_ticks_in_them(case: Any) -> None:
    found = pareto(summarise(*case))
    assert found is not None
    axis, latencies = found.figure["layout"]["xaxis"], [x for x, _ in points(found.figure).values()]
    assert axis["type"] == "log"
    assert sum(min(latencies) < tick < max(latencies) for tick in axis["tickvals"]) >= 3
    assert axis["ticktext"][axis["tickvals"].index(0.5)] == "0.5"


def test_one_split_alone_has_no_front_to_draw(case: Any) -> None:
    made = summarise(*case)
    assert pareto(made.model_copy(update={"ways": made.ways[3:]})) is None
