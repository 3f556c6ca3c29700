"""An audit and a leakage sweep as tables for a terminal of 80 columns or more; `-` is unavailable, the reason below."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from ..privacy.audited import Audit, LeakageSweep, SweepPoint
from . import audit_words, units, words
from .terminal import MISSING, Rows, lines

GOOD, BAD = "bold green", "bold red"


def audit_table(audit: Audit) -> RenderableType:
    """Bits, attackers and the paper's metric as measured, then what is missing, then the verdict."""
    parts: list[RenderableType] = [*lines([audit_words.subject(audit)]), ""]
    for table in (_bits(audit), _labels(audit), _reconstructions(audit), _metrics(audit)):
        if table is not None:
            parts += [table, ""]
    notes = ["measured, with 95 % intervals, under fresh noise", *audit_words.floor_sentences(audit)]
    notes += [audit_words.entropy(audit)]
    notes += [text for text in (audit_words.clustering(audit),) if text is not None]
    notes += audit_words.near_duplicates(audit)
    if audit.accuracy is not None:
        notes.append(
            f"public task: {words.share(audit.accuracy.without)} right without noise, "
            f"{words.share(audit.accuracy.with_noise)} with; loss {words.loss(audit.accuracy)}"
        )
    notes += [*(f"note: {note}" for note in audit.notes), *(f"missing: {reason}" for reason in audit.missing)]
    notes.append(audit_words.took(audit))
    style = "bold" if not audit.verdict.broken else BAD
    style = GOOD if audit.verdict.holds and audit_words.listed_limits(audit.verdict.limits) != "none" else style
    return Group(*parts, *lines(notes), "", Text(audit_words.verdict(audit), style=style))


def _bits(audit: Audit) -> Rows | None:
    rows = [
        (
            name,
            f"{bound.bits:,.2f}",
            f"{bound.low:,.2f}{units.TO}{bound.high:,.2f}",
            units.count(bound.items),
            _cap(bound),
        )
        for name, bound in (("at most", audit.upper), ("at least", audit.lower))
        if bound is not None
    ]
    return Rows(("bits in a message", "bits", "95 %\ninterval", "items", "cap"), tuple(rows)) if rows else None


def _cap(bound: object) -> str:
    cap = getattr(bound, "cap_bits", None)
    return MISSING if cap is None else f"{cap:.2f}" + (", reached" if getattr(bound, "at_cap", False) else "")


def _labels(audit: Audit) -> Rows | None:
    if not audit.labels:
        return None
    return Rows(
        (
            f"reads '{units.printable(audit.private or '')}'",
            "knows\nnoise",
            "messages",
            "right",
            "95 %\ninterval",
            "converged",
        ),
        tuple(
            (
                units.printable(attack.attacker),
                audit_words.knows(attack),
                str(attack.copies),
                units.percent(attack.accuracy.value),
                f"{100 * attack.accuracy.low:.2f}{units.TO}{100 * attack.accuracy.high:.2f}",
                audit_words.converged(attack),
            )
            for attack in audit.labels
        ),
    )


def _reconstructions(audit: Audit) -> Rows | None:
    if not audit.reconstructions:
        return None
    return Rows(
        ("reconstructs the input", "knows\nnoise", "messages", "SSIM\nmean", "95 %\ninterval", "SSIM\np95", "MSE"),
        tuple(
            (
                units.printable(found.attacker),
                audit_words.knows(found),
                str(found.copies),
                f"{found.ssim_mean:.3f}",
                f"{found.ssim_mean_low:.3f}{units.TO}{found.ssim_mean_high:.3f}",
                f"{found.ssim_p95:.3f}",
                f"{found.mse:.4g}",
            )
            for found in audit.reconstructions
        ),
    )


def _metrics(audit: Audit) -> Rows | None:
    if not audit.metrics:
        return None
    return Rows(
        ("the paper's metric, values", "k", "samples", "without\nnoise", "with\nnoise", "shuffled"),
        tuple(
            (
                metric.scaling,
                str(metric.k),
                units.count(metric.samples),
                units.signed(f"{metric.clean_bits:.1f}"),
                units.signed(f"{metric.noisy_bits:.1f}"),
                units.signed(f"{metric.null_bits:.1f}"),
            )
            for metric in audit.metrics
        ),
    )


def sweep_table(made: LeakageSweep) -> RenderableType:
    """One row a point, in the order they were asked for."""
    failed = [
        f"{point.mechanism} at {point.cut_name}, {point.allowed_loss_points:g} points: {point.failed}"
        for point in made.points
        if point.failed is not None
    ]
    table = Rows(
        (
            "mechanism, cut",
            "allowed\npoints",
            "lost, unseen\npoints",
            "values\nsent",
            "bits\nat least",
            "bits\nat most",
            "private\nright",
            "SSIM\np95",
        ),
        tuple(_row(point) for point in made.points),
    )
    notes = [f"measured, on unseen items; {audit_words.sweep_attacks(made)}", *failed, f"{made.seconds:.0f} s"]
    return Group(*lines([audit_words.sweep_subject(made)]), "", table, "", *lines(notes))


def _row(point: SweepPoint) -> tuple[str, ...]:
    private, upper, lower = point.private_accuracy, point.upper, point.lower
    return (
        units.printable(f"{point.mechanism}, {point.cut_name}"),
        f"{point.allowed_loss_points:g}",
        MISSING if point.accuracy is None else units.points(point.accuracy.loss_points),
        MISSING if point.values_sent is None else units.count(point.values_sent),
        MISSING if lower is None else f"{lower.bits:,.2f}",
        MISSING if upper is None else f"{upper.bits:,.2f}",
        MISSING if private is None else units.percent(private.value),
        MISSING if point.ssim_p95 is None else f"{point.ssim_p95:.3f}",
    )
