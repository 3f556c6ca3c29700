"""The sentences that an audit's table and page share: what was audited, how much leaks, and whether that is allowed."""

from __future__ import annotations

from collections.abc import Iterable

from ..privacy.audited import Audit, Bound, LabelAttack, LeakageLimits, LeakageSweep, Reconstruction, SweepPoint
from ..runtime.manifest import Leakage
from . import units, words


def subject(audit: Audit) -> str:
    """What was audited, on what."""
    where = "its input" if audit.place == "input" else f"the cut after {audit.cut_name}"
    sent = f"{units.count(audit.values_sent)} values sent"
    if audit.values_sent != audit.elements:
        sent += f" of {units.count(audit.elements)}"
    return (
        f"{audit.model_name}, {audit.mechanism} noise at {where}, {sent}; attackers learn from "
        f"{units.count(audit.train_items)} items of {audit.data} and are judged on {units.count(audit.test_items)} "
        "unseen ones"
    )


def verdict(audit: Audit) -> str:
    """One sentence on the limits."""
    if audit.verdict.limits == LeakageLimits():
        return "No limits were given, so nothing is broken: this says what leaks, and not that it may."
    given = listed_limits(audit.verdict.limits)
    return f"All limits hold: {given}." if audit.verdict.holds else f"Not all limits hold: {given}."


def listed_limits(limits: LeakageLimits) -> str:
    """The limits that were given; `none` without any."""
    told = []
    if limits.max_private_accuracy is not None:
        told.append(f"private accuracy at most {units.percent(limits.max_private_accuracy)}")
    if limits.max_bits is not None:
        told.append(f"at most {limits.max_bits:g} bits")
    if limits.max_ssim is not None:
        told.append(f"SSIM at most {limits.max_ssim:g}")
    return words.listed(told) if told else "none"


def bits(bound: Bound | None) -> str:
    """`12.70 [12.51, 12.88]`, or that there is none."""
    return units.UNAVAILABLE if bound is None else f"{bound.bits:,.2f} [{bound.low:,.2f}, {bound.high:,.2f}]"


def sandwich(upper: Bound | None, lower: Bound | None) -> str:
    """What one message tells, from below and above."""
    if upper is None and lower is None:
        return "How many bits a message tells is unavailable."
    below = "unknown" if lower is None else f"{lower.bits:,.2f}"
    above = "unknown" if upper is None else f"{upper.bits:,.2f}"
    told = f"One message tells at least {below} and at most {above} bits of its input."
    if lower is not None and lower.cap_bits is not None and lower.at_cap:
        told += (
            f" The lower bound stands at its cap: the right one of {units.count(2**lower.cap_bits)} unseen inputs is "
            "told, and more the method cannot see."
        )
    return told


def knows(attack: LabelAttack | Reconstruction) -> str:
    """Whether an attacker has the noise file."""
    return "yes" if attack.knows_noise else "no"


def converged(attack: LabelAttack | Reconstruction) -> str:
    """Whether an attacker had learned all that it could."""
    return "-" if attack.curve is None else "yes" if attack.curve.converged else "no, could do better"


def floor_sentences(audit: Audit) -> list[str]:
    """What anyone can do without the message."""
    floors, found = audit.floors, []
    if floors.chance is not None:
        told = f"Without the message the most frequent private label is right for {units.percent(floors.chance)}"
        if floors.label_only is not None:
            told += f", and the public label alone gives {units.percent(floors.label_only)}"
        found.append(told + ".")
    if floors.mean_ssim_p95 is not None:
        told = f"The mean image has an SSIM of {floors.mean_ssim_p95:.3f} at the 95th percentile"
        if floors.label_ssim_p95 is not None:
            told += f", each public label's mean image {floors.label_ssim_p95:.3f}"
        found.append(told + ".")
    return found


def clustering(audit: Audit) -> str | None:
    """What intercepted messages show of the collection."""
    found = audit.clustering
    if found is None:
        return None
    return (
        f"{units.count(found.messages)} intercepted messages fall into {found.clusters} clusters of purity "
        f"{found.purity:.2f} by {found.purity_of}, where chance gives {found.chance:.2f}."
    )


def near_duplicates(audit: Audit) -> list[str]:
    """What sticky noise leaves of messages of almost equal inputs."""
    found = []
    for one in audit.near_duplicates:
        sent = "One message" if one.copies == 1 else f"The mean of {one.copies} messages"
        told = f"{sent} of an input whose values move by up to {one.amplitude:.0%} of their range"
        told += f" leaves a squared error of {one.error:.3g} times the activation's variance"
        if one.accuracy is not None:
            told += f", and the private label is read for {units.percent(one.accuracy.value)}"
        found.append(told + ".")
    return found


def entropy(audit: Audit) -> str:
    """The noise's own entropy."""
    if audit.entropy_bits is None:
        return f"Entropy of the noise: {units.UNAVAILABLE}, {audit.entropy_note}."
    return f"Entropy of the noise: {units.signed(f'{audit.entropy_bits:,.1f}')} bits ({audit.entropy_note})."


def took(audit: Audit) -> str:
    """Where the time went."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in audit.timings.items() if seconds >= 0.05)
    return f"{audit.seconds:.1f} s: {parts}; one seed ({audit.seed})"


def point_loss(point: SweepPoint) -> str:
    """The accuracy that a point loses on unseen items."""
    return units.UNAVAILABLE if point.accuracy is None else words.loss(point.accuracy).replace(" points", "")


def sweep_subject(made: LeakageSweep) -> str:
    """What was swept, on what."""
    private = f", private label {made.private}" if made.private is not None else ", no private labels"
    return f"{made.model_name} after {made.cut_name}, unseen items of {made.data}{private}; one seed ({made.seed})"


def sweep_attacks(made: LeakageSweep) -> str:
    """How long attackers were trained, and on what."""
    return "no attacks" if made.attacks == "none" else f"{made.attacks} attacks on one message, with one seed"


def leakage_lines(leakage: Leakage) -> list[str]:
    """A bundle's recorded verdict in sentences, for reports of what was measured with it."""
    figures = [
        f"{name} {text}"
        for name, text in (
            ("bits from above", _figure(leakage.upper_bits, "{:,.2f}")),
            ("bits from below", _figure(leakage.lower_bits, "{:,.2f}")),
            ("best private accuracy", _figure(leakage.private_accuracy, "{:.2%}")),
            ("SSIM of reconstructions, 95th percentile", _figure(leakage.ssim_p95, "{:.3f}")),
        )
    ]
    of = f"private label {leakage.private}" if leakage.private is not None else "no private labels"
    said = f"Audited {units.moment(leakage.audited_at)} on unseen items of {leakage.data} ({of}): {', '.join(figures)}."
    if leakage.limits == LeakageLimits():
        return [said, "No limits were given."]
    given = listed_limits(leakage.limits)
    state = "All limits hold" if leakage.holds else "Not all limits hold"
    return [said, f"{state}: {given}.", *(f"Broken: {sentence}." for sentence in leakage.broken)]


def _figure(value: float | None, form: str) -> str:
    return units.UNAVAILABLE if value is None else form.format(value)


def sentences(texts: Iterable[str]) -> list[str]:
    """Each with a capital and a full stop."""
    return [text[:1].upper() + text[1:].rstrip(".") + "." for text in texts]
