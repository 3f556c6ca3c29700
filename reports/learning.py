"""What `edgecut learn` found, as a small table: what it costs in accuracy, what the noise is, what it took."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..privacy.result import Learned
from ..runtime.accuracy import NoiseAccuracy
from . import units, words


def learning_table(learned: Learned) -> RenderableType:
    """Accuracies with their 95 % intervals, and below them how the noise came about."""
    table = Table(box=None, pad_edge=False)
    for header in ("accuracy", "items", "without noise", "with noise", "loss, points"):
        table.add_column(header, justify="left" if header == "accuracy" else "right", no_wrap=True)
    table.add_row(*_row("unseen", learned.accuracy))
    table.add_row(*_row("hold-out", learned.hold_out))
    if learned.replay is not None:
        table.add_row(*_row("replayed", learned.replay))
    if learned.private is not None:
        table.add_row(*_row("private", learned.private.accuracy))
    return Group(table, "", *[Text(units.printable(line)) for line in _lines(learned)])


def _row(what: str, accuracy: NoiseAccuracy) -> list[str]:
    return [
        what,
        units.count(accuracy.without.total),
        units.percent(accuracy.without.value),
        words.share(accuracy.with_noise),
        words.loss(accuracy).replace(" points", ""),
    ]


def _lines(learned: Learned) -> list[str]:
    took = learned.timings
    lines = ["measured, with 95 % intervals; noise is sampled as it is deployed"]
    if learned.replay is not None:
        lines[0] += "; replayed: the learned tensors themselves on unseen items, which nobody deploys"
    lines += _shredder(learned) if learned.mechanism == "shredder" else _other(learned)
    lines += [
        f"{learned.elapsed_s:.1f} s: activations {took.activations_s:.1f}, learning {took.learning_s:.1f}, "
        f"search {took.search_s:.1f}, judging {took.gates_s + took.test_s:.1f}",
    ]
    if learned.sse:
        lines.append(
            f"SSE of the tensors' histograms against the fitted ones: {min(learned.sse):.3g} to {max(learned.sse):.3g}"
        )
    if learned.private is not None:
        private = learned.private
        lines.append(
            f"private: '{private.name}' on unseen items by a classifier not retrained on noise; an attacker who trains "
            f"on noise reads more; the most frequent of {private.classes} classes alone gives "
            f"{units.percent(private.most_frequent)}"
        )
    return [*lines, *(f"note: {note}" for note in learned.notes)]


def _shredder(learned: Learned) -> list[str]:
    return [
        f"{learned.distributions} distributions over {units.count(learned.elements)} values, recipe {learned.recipe}, "
        f"Laplace scale {learned.scale:.3g} deviations of the activation ({learned.scale_absolute:.3g}), "
        f"{learned.tries} tried",
        f"{learned.epochs:.2f} epochs, {units.count(learned.learnable_parameters)} values learned for each, where the "
        f"model has {units.count(learned.model_parameters)}; {learned.footprint_bytes / 1024:.2f} KB of orders",
    ]


def _other(learned: Learned) -> list[str]:
    what = f"mechanism {learned.mechanism} at the {learned.place}, {units.count(learned.values_sent)} values sent"
    if learned.place == "cut":
        what += f" for {units.count(learned.elements)} of the activation"
    lines = [what]
    if learned.knob is not None:
        knob = learned.knob
        lines.append(f"{knob.name} {knob.value:.4g} ({knob.meaning}), {learned.tries} tried")
    if learned.closed_form_bits is not None:
        lines.append(
            f"{learned.closed_form_bits:.4g} bits of the input can be learned from an item, by the mechanism's own "
            "formula for normal values (modelled); edgecut audit bounds and attacks it"
        )
    fitted = "1 number" if learned.learnable_parameters == 1 else f"{units.count(learned.learnable_parameters)} numbers"
    lines.append(f"{fitted} fitted; {learned.footprint_bytes / 1024:.2f} KB of noise")
    return lines
