"""A report or a comparison as Markdown, for the log of a CI run or a paper's draft: the numbers without the figures.

Times are milliseconds and energies millijoules per inference of batch 1, as the headers say. What is unavailable says
so. Names that come from model files are escaped: they are text and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from . import audit_words, units, words
from .compare import RunComparison, WayChange
from .content import Report, Way

SPECIAL = re.compile(r"([\\`*|<>\[\]#~&])")


def report_text(made: Report) -> str:
    """One measurement: its headline, every way to run the model, the baselines, accuracy and provenance."""
    ms = units.milliseconds(
        [*(way.modelled.total_s for way in made.ways), *(c.baseline_latency_s for c in made.comparisons)]
    )
    mj = units.millijoules(
        [*(way.modelled.energy_j for way in made.ways), *(w.measured.energy.energy_j for w in made.ways if w.measured)]
    )
    return _document(
        f"# {escaped(made.model.name)} over {escaped(made.link.name)}",
        escaped(made.headline),
        _quoted(made.warnings),
        "## Every way to run it",
        _table(
            ("way to run it", "predicted ms", "measured ms", "95 % interval", "energy mJ", "provenance", "sent bytes"),
            [_way_cells(way, ms, mj) for way in made.ways],
        ),
        *_lines(f"Not compared: {missing}." for missing in made.missing_baselines),
        "## The split against every baseline (measured)",
        _table(
            ("baseline", "latency ms", "speedup", "interval", "the split is", "energy ratio", "provenance"),
            [
                (
                    c.baseline,
                    ms.text(c.baseline_latency_s),
                    units.ratio(c.speedup),
                    f"{units.ratio(c.speedup_low)}{units.TO}{units.ratio(c.speedup_high)}",
                    c.verdict,
                    units.ratio(c.energy_ratio),
                    c.energy_provenance,
                )
                for c in made.comparisons
            ],
        ),
        "## Accuracy",
        _accuracy_text(made),
        *_leakage_blocks(made),
        "## How each figure came about",
        _table(
            ("figures", "provenance", "how"), [(note.figures, note.provenance, note.how) for note in made.provenance]
        ),
    )


def _way_cells(way: Way, ms: units.Scale, mj: units.Scale) -> tuple[str, ...]:
    """The run's energy where there is one, else the plan's."""
    name = way.label + (" \N{BLACK STAR}" if way.chosen else "")
    plan = (name, ms.text(way.modelled.total_s))
    sent = units.count(way.modelled.uplink_bytes)
    if way.measured is None:
        joules = way.modelled.energy_j
        provenance = units.UNAVAILABLE if joules is None else "modelled"
        return (*plan, "not measured", "", mj.text(joules), provenance, sent)
    latency, energy = way.measured.latency, way.measured.energy
    interval = ms.interval(latency.low_s, latency.high_s)
    return (*plan, ms.text(latency.median_s), interval, mj.text(energy.energy_j), energy.provenance, sent)


def _accuracy_text(made: Report) -> str:
    accuracy = made.accuracy
    if accuracy is None:
        return f"Accuracy is unavailable: {made.accuracy_missing}."
    low, high = units.points(accuracy.loss_low_points), units.points(accuracy.loss_high_points)
    return (
        f"On unseen items of {escaped(accuracy.data)} (measured): {words.share(accuracy.without_noise)} without noise, "
        f"{words.share(accuracy.with_noise)} with; loss {units.points(accuracy.loss_points)} points [{low}, {high}]."
    )


def _leakage_blocks(made: Report) -> list[str]:
    if made.leakage is None:
        return []
    return ["## What leaks (measured)", *_lines(audit_words.leakage_lines(made.leakage))]


def comparison_text(made: RunComparison) -> str:
    """Two measurements: what differs between them, and B over A for every way that both measured."""
    ms = units.milliseconds([seconds for way in made.ways for seconds in (way.a.high_s, way.b.high_s)])
    mj = units.millijoules([joules for way in made.ways for joules in (way.a_energy.energy_j, way.b_energy.energy_j)])
    return _document(
        f"# {escaped(made.b.model)}: run B against run A",
        escaped(made.headline),
        _quoted(banner_sentences(made)),
        "## Every way that both runs measured",
        _table(
            (
                "way to run it",
                "A ms",
                "B ms",
                "B over A",
                "interval",
                "B is",
                "A mJ",
                "B mJ",
                "energy B over A",
                "provenance",
            ),
            [_change_cells(way, ms, mj) for way in made.ways],
        ),
        *_lines(only_sentences(made)),
        "## Accuracy with noise",
        accuracy_sentence(made),
        "## What differs",
        _table(
            ("what", "A", "B", "like for like"),
            [(d.what, d.a, d.b, "no" if d.decisive else "yes") for d in made.differences],
        )
        if made.differences
        else "Nothing that the files tell of.",
    )


def _change_cells(way: WayChange, ms: units.Scale, mj: units.Scale) -> tuple[str, ...]:
    return (
        way.label,
        ms.text(way.a.median_s),
        ms.text(way.b.median_s),
        units.ratio(way.latency_ratio),
        f"{units.ratio(way.ratio_low)}{units.TO}{units.ratio(way.ratio_high)}",
        way.verdict,
        mj.text(way.a_energy.energy_j),
        mj.text(way.b_energy.energy_j),
        units.ratio(way.energy_ratio),
        way.energy_provenance,
    )


def banner_sentences(made: RunComparison) -> list[str]:
    """What to know before any number; once where it holds of both runs."""
    both = [warning for warning in made.a.warnings if warning in made.b.warnings]
    found = [] if made.like_for_like else ["The two runs are no like for like; see what differs below."]
    found += [f"Both runs: {warning}" for warning in both]
    for name, run in (("A", made.a), ("B", made.b)):
        found += [f"Run {name}: {warning}" for warning in run.warnings if warning not in both]
    return found


def only_sentences(made: RunComparison) -> list[str]:
    """The ways that one run alone measured."""
    return [
        f"Only run {name} measured {words.listed(list(labels))}."
        for name, labels in (("A", made.only_a), ("B", made.only_b))
        if labels
    ]


def accuracy_sentence(made: RunComparison) -> str:
    """Both shares and their difference, or why there is none."""
    accuracy = made.accuracy
    if accuracy is None:
        return f"Accuracy is not compared: {made.accuracy_missing}."
    low, high = units.points(accuracy.low_points), units.points(accuracy.high_points)
    return (
        f"A {units.percent(accuracy.a_share)}, B {units.percent(accuracy.b_share)} (measured): "
        f"{units.points(accuracy.difference_points)} points [{low}, {high}] from A to B."
    )


def escaped(text: str) -> str:
    """As text within a line of Markdown, a table's cell included."""
    return SPECIAL.sub(r"\\\1", units.printable(text))


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _quoted(sentences: Iterable[str]) -> str:
    return "\n>\n".join(f"> {escaped(sentence)}" for sentence in sentences)


def _lines(sentences: Iterable[str]) -> list[str]:
    return [escaped(sentence) for sentence in sentences]


def _document(*blocks: str) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"
