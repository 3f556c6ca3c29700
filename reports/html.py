"""`edgecut report`: one report.html that opens from disk without a network, and report.json with the same numbers.

How the page is kept to itself is in page.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..profiler.profile import Profile
from ..runtime.measurement import Measurement
from . import audit_words, figures, page, plan_words, units, whatif, words
from .audit_recorded import recorded
from .choice_table import choice_table
from .content import Comparison, Measured, Report, Way
from .formats import write
from .pareto import pareto
from .summary import summarise

CONTENTS = {
    "result": "What came out",
    "where": "What was measured where",
    "ways": "Where the time goes",
    "whatif": "What if",
    "choice": "Why this cut",
    "energy": "Energy",
    "accuracy": "Accuracy",
    "parts": "The parts",
    "provenance": "How each figure came about",
    "environment": "Environment",
}
"""The page's sections by their anchors."""
LEAKAGE = ("leakage", "What leaks")
"""And the one after the accuracy, where the bundle was audited."""

Tile = dict[str, str]


def report(
    measurement: Measurement | str | os.PathLike[str],
    edge_profile: Profile | str | os.PathLike[str],
    cloud_profile: Profile | str | os.PathLike[str],
    output: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a measurement and return the path of the HTML page.

    `output` is a folder, which then holds report.html and report.json, or the path of the page itself, with the JSON
    beside it under the same stem. `bundle` is the folder that was measured, where its leakage verdict is to be shown.
    Raises ArtefactError for unusable files, for the profiles of another model, for another bundle, and where the output
    cannot be written.
    """
    measured = measurement if isinstance(measurement, Measurement) else Measurement.load(measurement)
    made = summarise(
        measured,
        edge_profile if isinstance(edge_profile, Profile) else Profile.load(edge_profile),
        cloud_profile if isinstance(cloud_profile, Profile) else Profile.load(cloud_profile),
        None if bundle is None else recorded(bundle, measured),
    )
    return write(made, "html", output)


def render(made: Report) -> str:
    """The page's text."""
    front = pareto(made)
    drawn = {
        "latency": figures.latency_figure(made),
        "whatif": figures.whatif_figure(made),
        "pareto": front.figure if front is not None else None,
        "energy": figures.energy_figure(made),
        "layers": figures.layer_figure(made),
    }
    values = {
        "report": made,
        "contents": _contents(made),
        "leaks": [] if made.leakage is None else audit_words.leakage_lines(made.leakage),
        "tiles": _tiles(made),
        "compared": _compared(made),
        "drawn": {name: figure for name, figure in drawn.items() if figure is not None},
        "panel": whatif.panel(made),
        "front": front,
        "beside": choice_table(made),
        **_plan_words(made),
        "from_layers": any(way.modelled.basis == "layers" for way in made.ways),
        "ms": units.milliseconds(_latencies(made)),
        "mj": units.millijoules(_energies(made)),
        "part": units.times(
            [time for cut in made.cuts for time in (cut.edge_prefix.median_s, cut.edge_noise.median_s)]
        ),
        "layer": units.times([made.edge.whole.median_s, made.cloud.whole.median_s]),
        "work": units.scale_of([row.flops for row in made.layers], (("MFLOP", 1e-6),)),
    }
    return page.fill("report.html.j2", ("guard", "report", "sort", "whatif"), values)


def _contents(made: Report) -> list[tuple[str, str]]:
    places = list(CONTENTS.items())
    if made.leakage is not None:
        places.insert(1 + list(CONTENTS).index("accuracy"), LEAKAGE)
    return places


def _plan_words(made: Report) -> dict[str, object]:
    """The sentences on what the plan was asked for and what it found."""
    planned, cuts = made.planned, [way.modelled for way in made.ways if way.role == "split"]
    return {
        "aim": plan_words.AIMS[made.objective],
        "asked": plan_words.aim(made.objective, planned.weight_s_per_j, planned.risk, planned.wire),
        "limits": plan_words.limits(planned.limits),
        "likelihood": plan_words.likelihood(
            made.choice,
            planned.best_share,
            sum(cut.best_share is not None for cut in cuts),
            (made.edge.provenance, made.cloud.provenance),
            planned.link,
        ),
        "untimed": plan_words.untimed(planned.candidates, made.split.modelled.basis),
        "segments": plan_words.segments(planned.sweeps),
    }


def _compared(made: Report) -> list[tuple[Way, Comparison | None]]:
    """The measured ways, each baseline with how the split stands against it."""
    against = {compared.baseline: compared for compared in made.comparisons}
    return [(way, against.get(way.label)) for way in made.ways if way.measured is not None]


def _latencies(made: Report) -> list[float]:
    measured = [way.measured.latency.high_s for way in made.ways if way.measured]
    return [*measured, *(way.modelled.total_s for way in made.ways)]


def _energies(made: Report) -> list[float | None]:
    measured = [way.measured.energy.energy_j for way in made.ways if way.measured]
    return [*measured, *(way.modelled.energy_j for way in made.ways)]


def _tiles(made: Report) -> list[Tile]:
    """The few numbers that a reader came for."""
    split = made.split.measured
    tiles = [] if split is None else [_latency_tile(made, split)]
    tiles += [_speedup_tile(compared) for compared in sorted(made.comparisons, key=lambda c: c.role)]
    return [*tiles, *([] if split is None else [_energy_tile(made, split)]), _accuracy_tile(made)]


def _latency_tile(made: Report, split: Measured) -> Tile:
    latency = split.latency
    scale = units.milliseconds([latency.median_s])
    return {
        "label": f"End to end, {made.split.label}",
        "value": scale.text(latency.median_s),
        "unit": "ms",
        "note": f"95 % interval {scale.interval(latency.low_s, latency.high_s)}",
        "provenance": "measured",
        "tone": "",
    }


def _speedup_tile(compared: Comparison) -> Tile:
    interval = f"{units.ratio(compared.speedup_low)}{units.TO}{units.ratio(compared.speedup_high)}"
    factor = f"{units.ratio(1 / compared.speedup)} times as fast"
    verdicts = {"faster": "split is faster", "slower": f"{compared.baseline} is {factor}"}
    return {
        "label": f"Speedup over {compared.baseline}",
        "value": units.ratio(compared.speedup),
        "unit": "\N{MULTIPLICATION SIGN}",
        "note": f"interval {interval}; {verdicts.get(compared.verdict, compared.verdict)}",
        "provenance": "measured",
        "tone": {"faster": "good", "slower": "bad"}.get(compared.verdict, ""),
    }


def _energy_tile(made: Report, split: Measured) -> Tile:
    energy = split.energy
    ratios = [
        f"{compared.baseline} {units.ratio(compared.energy_ratio)}\N{MULTIPLICATION SIGN}"
        for compared in sorted(made.comparisons, key=lambda c: c.role)
        if compared.energy_ratio is not None
    ]
    known = energy.energy_j is not None
    return {
        "label": "Energy per inference, edge",
        "value": units.millijoules([energy.energy_j]).text(energy.energy_j),
        "unit": "mJ" if known else "",
        "note": ("Baselines: " + ", ".join(ratios) if ratios else "") if known else words.sentence(energy.source),
        "provenance": energy.provenance,
        "tone": "" if known else "none",
    }


def _accuracy_tile(made: Report) -> Tile:
    accuracy = made.accuracy
    if accuracy is None:
        return {
            "label": "Accuracy with noise",
            "value": units.UNAVAILABLE,
            "unit": "",
            "note": words.sentence(made.accuracy_missing or ""),
            "provenance": units.UNAVAILABLE,
            "tone": "none",
        }
    low, high = units.points(accuracy.loss_low_points), units.points(accuracy.loss_high_points)
    return {
        "label": "Accuracy with noise",
        "value": f"{100 * accuracy.with_noise_share:.2f}",
        "unit": "%",
        "note": f"{units.percent(accuracy.without_noise_share)} without; loss {units.points(accuracy.loss_points)} "
        f"points, interval {low} to {high}",
        "provenance": "measured",
        "tone": "",
    }
