"""The page of `edgecut report A B`: one file like the report's, which opens from disk and loads nothing.

Its figure shows every way to run the model with the median and the 95 % interval of A and, below it, of B.
"""

from __future__ import annotations

from . import page, units
from .compare import RunComparison, WayChange
from .content import Spread
from .drawing import EDGE, NAME_LETTERS, NARROW_LETTERS, Figure, full, markers, row_layout
from .markdown import accuracy_sentence, banner_sentences, only_sentences


def render_comparison(made: RunComparison) -> str:
    """The page's text."""
    scale = units.milliseconds([seconds for way in made.ways for seconds in (way.a.high_s, way.b.high_s)])
    values = {
        "made": made,
        "drawn": {"ways": ways_figure(made, scale)},
        "ms": scale,
        "mj": units.millijoules([j for way in made.ways for j in (way.a_energy.energy_j, way.b_energy.energy_j)]),
        "banner": banner_sentences(made),
        "only": only_sentences(made),
        "accuracy": accuracy_sentence(made),
        "tones": {"faster": "good", "slower": "bad"},
    }
    return page.fill("comparison.html.j2", ("guard", "report"), values)


def ways_figure(made: RunComparison, scale: units.Scale) -> Figure:
    """Every way's median and interval in both runs, one row a way."""
    traces = [
        _marks("run A", made, [way.a for way in made.ways], scale),
        # Told from A by its form as well as by its colour.
        _marks("run B", made, [way.b for way in made.ways], scale, symbol="circle", colour=EDGE),
    ]
    layout = row_layout(
        [_tick(way, NAME_LETTERS) for way in made.ways],
        "ms per inference, measured",
        "group",
        [_tick(way, NARROW_LETTERS) for way in made.ways],
    )
    # Side by side within a row, as the bars of a group are.
    return {"data": traces, "layout": {**layout, "scattermode": "group", "scattergap": 0.4}}


def _marks(
    run: str, made: RunComparison, spreads: list[Spread], scale: units.Scale, symbol: str = "diamond", colour: str = ""
) -> dict[str, object]:
    texts = [
        f"<b>{full(way.label)}</b><br>{run} {scale.with_unit(spread.median_s)}<br>"
        f"95 % interval {scale.interval(spread.low_s, spread.high_s)}"
        for way, spread in zip(made.ways, spreads, strict=True)
    ]
    marks = markers(
        run,
        range(len(spreads)),
        [scale.number(spread.median_s) for spread in spreads],
        texts,
        [scale.number(spread.high_s - spread.median_s) for spread in spreads],
        [scale.number(spread.median_s - spread.low_s) for spread in spreads],
        symbol=symbol,
        colour=colour,
    )
    return {**marks, "orientation": "h"}


def _tick(way: WayChange, letters: int) -> str:
    """A way's name beside its row. There is one split, so it stays known without its cuts' names."""
    return "split" if way.role == "split" and len(way.label) > letters else way.label
