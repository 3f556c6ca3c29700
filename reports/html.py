"""`edgecut report`: one report.html that opens from disk without a network, and report.json with the same numbers.

The page holds plotly.js, its style and its data. Its Content-Security-Policy names the digests of its own scripts, so
that nothing a model file's names might smuggle in could ever run, and lets it load nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..artefacts import write_bytes
from ..profiler.profile import Profile
from ..runtime.measurement import Measurement
from . import figures, units, words
from .content import Comparison, Measured, Report
from .summary import summarise

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
HTML_NAME = "report.html"

Tile = dict[str, str]


def report(
    measurement: Measurement | str | os.PathLike[str],
    edge_profile: Profile | str | os.PathLike[str],
    cloud_profile: Profile | str | os.PathLike[str],
    output: str | os.PathLike[str],
) -> Path:
    """Write the report of a measurement and return the path of the HTML page.

    `output` is a folder, which then holds report.html and report.json, or the path of the page itself, with the JSON
    beside it under the same stem. Raises ArtefactError for unusable files, for the profiles of another model and
    where the output cannot be written.
    """
    made = summarise(
        measurement if isinstance(measurement, Measurement) else Measurement.load(measurement),
        edge_profile if isinstance(edge_profile, Profile) else Profile.load(edge_profile),
        cloud_profile if isinstance(cloud_profile, Profile) else Profile.load(cloud_profile),
    )
    page = Path(output)
    if page.suffix.lower() not in (".html", ".htm"):
        page = page / HTML_NAME
    text = render(made)
    made.save(page.with_suffix(".json"))
    return write_bytes(page, text.encode())


def render(made: Report) -> str:
    """The page's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(units=units, words=words)
    # A name made to look like another by control or direction marks is shown as what it is.
    environment.finalize = _shown
    scripts = {"guard": _script("guard.js"), "plotly": _plotly(), "page": _script("report.js")}
    drawn = {
        "latency": figures.latency_figure(made),
        "energy": figures.energy_figure(made),
        "layers": figures.layer_figure(made),
    }
    return environment.get_template("report.html.j2").render(
        report=made,
        tiles=_tiles(made),
        drawn={name: figure for name, figure in drawn.items() if figure is not None},
        scripts=scripts,
        style=_verbatim((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        policy=_policy(scripts),
        ms=units.milliseconds(_latencies(made)),
        mj=units.millijoules(_energies(made)),
        part=units.times([time for cut in made.cuts for time in (cut.edge_prefix.median_s, cut.edge_noise.median_s)]),
        layer=units.times([made.edge.whole.median_s, made.cloud.whole.median_s]),
        work=units.scale_of([row.flops for row in made.layers], (("MFLOP", 1e-6),)),
    )


def _shown(value: object) -> object:
    return units.printable(value) if type(value) is str and not value.isprintable() and "\n" not in value else value


def _verbatim(text: str) -> Markup:
    """Our own text, put into the page as it is."""
    from markupsafe import Markup

    return Markup(text)


def _script(name: str) -> Markup:
    return _verbatim((TEMPLATES / name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    """plotly.js. An end tag within would end the script; inside JavaScript strings the two spellings are the same."""
    from plotly.offline import get_plotlyjs

    return _verbatim(str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n"))


def _policy(scripts: Mapping[str, str]) -> str:
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts.values()
    )
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


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
