"""What the command line prints: a profile and a measurement as tables for a terminal of 80 columns or more.

Times are milliseconds (microseconds where a whole profile stays below one), energies millijoules, both per inference
of batch 1; the unit stands in the header. `-` is unavailable, with the reason below the table. Imports no plotly and
no jinja2: `edgecut plan` starts with this file and `plan_table` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.table import Table
from rich.text import Text

from ..profiler.profile import Profile
from ..runtime.accuracy import NoiseAccuracy
from ..runtime.measurement import Measurement, Variant
from . import units, words

MISSING = "-"
NO_CUT = "no cut was timed (--cuts layers)"
SHORTEST_NAME = 10
CHOSEN = "bold green"


@dataclass(frozen=True)
class Rows:
    """A table that shortens its first column, the names, only as far as the terminal is too narrow for them."""

    headers: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    marked: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        longest = max((len(row[0]) for row in self.cells), default=0)
        table = self._table(longest)
        excess = Width.get(console, options.update(max_width=1000), table).maximum - options.max_width
        yield table if excess <= 0 else self._table(max(SHORTEST_NAME, longest - excess))

    def _table(self, name_width: int) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for place, header in enumerate(self.headers):
            table.add_column(Text(header), justify="right" if place else "left", no_wrap=True, vertical="bottom")
        head = _telling(tuple(row[0] for row in self.cells), name_width)
        for index, (name, *rest) in enumerate(self.cells):
            mark = "" if self.marked is None else "\N{RIGHTWARDS ARROW} " if index == self.marked else "  "
            style = CHOSEN if index == self.marked else ""
            table.add_row(
                Text(mark + units.shorten(name, name_width, head)), *(Text(cell) for cell in rest), style=style
            )
        return table


def _telling(names: Sequence[str], width: int) -> int:
    """How many first letters to keep, so that as many shortened names as can be still tell themselves apart."""
    middle = width // 2
    heads = sorted(range(1, width - 1), key=lambda head: abs(head - middle)) or [middle]
    return max(heads, key=lambda head: len({units.shorten(name, width, head) for name in names}))


def profile_table(profile: Profile) -> RenderableType:
    """The cuts' halves as measured on one device, and the layer times that explain them."""
    scale = units.times([profile.whole.median_s])
    work = units.scale_of([layer.flops for layer in profile.layers], (("MFLOP", 1e-6),))
    layers = Rows(
        ("layer", "kind", "output", "parameters", "MFLOP", f"time\n{scale.unit}"),
        tuple(
            (
                units.printable(layer.name),
                units.printable(layer.kind),
                "x".join(map(str, layer.output_shape)),
                units.count(layer.parameters),
                work.text(layer.flops),
                scale.text(layer.latency_s, MISSING),
            )
            for layer in profile.layers
        ),
    )
    cuts = _cuts(profile, scale) if profile.cuts else Text(NO_CUT)
    return Group(*lines(_profile_head(profile, scale)), "", cuts, "", layers, *lines(_profile_notes(profile, scale)))


def _cuts(profile: Profile, scale: units.Scale) -> Rows:
    """Both halves of every cut."""
    unit, energy = scale.unit, units.millijoules([cut.prefix_energy.energy_j for cut in profile.cuts])
    return Rows(
        (
            "cut after",
            "sends\nbytes",
            f"edge part\n{unit}",
            f"cloud part\n{unit}",
            f"noise\n{unit}",
            f"add\n{unit}",
            "edge part\nmJ",
        ),
        tuple(
            (
                units.printable(cut.name),
                units.count(profile.model.cut(cut.name).size_bytes),
                scale.text(cut.prefix.median_s),
                scale.text(cut.suffix.median_s),
                scale.text(cut.noise.median_s),
                scale.text(cut.add.median_s),
                energy.text(cut.prefix_energy.energy_j, MISSING),
            )
            for cut in profile.cuts
        ),
    )


def _profile_head(profile: Profile, scale: units.Scale) -> list[str]:
    whole = profile.whole
    how = [profile.backend, profile.precision]
    if profile.threads is not None:
        how.append(f"threads: {profile.threads}")
    what = f"{profile.model.name} on {profile.device} ({', '.join(how)}), {profile.environment.processor}"
    interval = scale.interval(whole.low_s, whole.high_s)
    if profile.provenance != "measured":
        return [what, f"whole model {scale.text(whole.median_s)} {scale.unit}, 90 % interval {interval}; modelled"]
    return [
        what,
        f"whole model {scale.text(whole.median_s)} {scale.unit}, 95 % interval {interval}, "
        f"p95 {scale.text(whole.p95_s)}; measured, {units.count(whole.count)} runs in {whole.rounds} rounds, "
        f"{words.pause(profile.pause_s)}",
    ]


def _profile_notes(profile: Profile, scale: units.Scale) -> list[str]:
    notes = []
    total = profile.layer_sum_s
    if total is None and not any(note.startswith("no layer times") for note in profile.notes):
        notes.append("layer times unavailable: the runtime's profiler showed no layer")
    if total is not None and profile.provenance == "measured":
        gap = total / profile.whole.median_s - 1
        decide = ", the parts above decide" if profile.cuts else ""
        notes.append(
            f"layers sum to {scale.text(total)} {scale.unit}, {units.percent_change(gap)} against the whole: "
            f"the runtime's profiler explains{decide}"
        )
    energy = profile.whole_energy
    if energy.energy_j is None:
        notes.append(f"energy unavailable: {energy.source}")
    else:
        whole_mj = units.millijoules([energy.energy_j]).with_unit(energy.energy_j)
        notes.append(f"energy of the whole model {whole_mj}, {energy.provenance}: {energy.source}")
    if not profile.converged:
        notes.append("the profile ran out of time: the intervals are wider than asked for")
    notes.extend(units.printable(note) for note in profile.notes)
    return notes


def measurement_table(measurement: Measurement) -> RenderableType:
    """Measured beside modelled, the split's speedup over every baseline, energy and wrong answers."""
    variants = (measurement.split, *words.baselines(measurement))
    scale = units.milliseconds([variant.latency.high_s for variant in variants])
    energy = units.millijoules([variant.energy.energy_j for variant in variants])
    table = Rows(
        (
            "way to run it",
            "plan\nms",
            "measured\nms",
            "95 %\ninterval",
            "split's\nspeedup",
            "95 %\ninterval",
            "energy\nmJ",
            "wrong",
        ),
        tuple(_measured_row(measurement, variant, scale, energy) for variant in variants),
    )
    banners = [Text(text, style="bold yellow") for text in words.warnings(measurement)]
    planned = words.modelled(measurement.plan)
    notes = [words.headline(measurement), words.noise_cost(measurement)]
    notes += [f"measured: this run; plan: {planned}; {words.WRONG}"]
    notes += _energy_notes(variants)
    return Group(*banners, table, "", *lines(notes), accuracy_line(measurement.accuracy))


def _measured_row(
    measurement: Measurement, variant: Variant, scale: units.Scale, energy: units.Scale
) -> tuple[str, ...]:
    latency = variant.latency
    speedup, interval = "", ""
    if variant is not measurement.split:
        low, high = measurement.speedup_interval(variant)
        speedup = units.ratio(measurement.speedup(variant))
        interval = f"{units.ratio(low)}{units.TO}{units.ratio(high)}"
    return (
        words.label(variant),
        scale.text(variant.predicted.total_s),
        scale.text(latency.median_s),
        scale.interval(latency.low_s, latency.high_s),
        speedup,
        interval,
        energy.text(variant.energy.energy_j, MISSING),
        units.count(variant.wrong_answers),
    )


def _energy_notes(variants: Sequence[Variant]) -> list[str]:
    """One sentence for each provenance that occurs, with the source of the first way that has it."""
    notes = []
    for provenance in dict.fromkeys(variant.energy.provenance for variant in variants):
        having = [variant for variant in variants if variant.energy.provenance == provenance]
        whose = "" if len(having) == len(variants) else " of " + words.listed([words.label(v) for v in having])
        notes.append(f"energy{whose} {provenance}: {having[0].energy.source} ({words.label(having[0])})")
    return notes


def accuracy_line(accuracy: NoiseAccuracy | None) -> Text:
    """Accuracy without and with noise with their 95 % intervals, or that it is unavailable."""
    if accuracy is None:
        return Text(f"accuracy unavailable: {words.ACCURACY_MISSING}")
    text = (
        f"accuracy on {units.count(accuracy.without.total)} unseen items of {accuracy.data}, measured: "
        f"{words.share(accuracy.without)} without noise, {words.share(accuracy.with_noise)} with "
        f"({accuracy.draws} draws); loss {words.loss(accuracy)}"
    )
    return Text(units.printable(text))


def lines(texts: Sequence[str]) -> list[Text]:
    """Sentences as they are: never read as rich's markup, and without anything a terminal might obey."""
    return [Text(units.printable(text)) for text in texts]
