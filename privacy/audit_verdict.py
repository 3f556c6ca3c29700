"""Whether what an audit found keeps to the user's limits: the whole 95 % interval has to, and what is unknown does not.

A limit is on one message. Nobody may take a missing figure for a harmless one, so a limit for which nothing could be
measured is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .audited import Bound, Floors, LabelAttack, LeakageLimits, Reconstruction, Verdict


def judge(
    limits: LeakageLimits,
    upper: Bound | None,
    labels: Sequence[LabelAttack],
    reconstructions: Sequence[Reconstruction],
    floors: Floors,
) -> Verdict:
    """The verdict on an audit's findings. The strongest attacker on one message counts."""
    found = (
        _private(limits.max_private_accuracy, labels, floors),
        _bits(limits.max_bits, upper),
        _ssim(limits.max_ssim, reconstructions, floors),
    )
    broken = tuple(sentence for sentence in found if sentence is not None)
    return Verdict(holds=not broken, limits=limits, broken=broken)


def _private(limit: float | None, labels: Sequence[LabelAttack], floors: Floors) -> str | None:
    if limit is None:
        return None
    single = [attack for attack in labels if attack.copies == 1]
    if not single:
        return f"private accuracy may be at most {_percent(limit)}, and nothing measured it"
    worst = max(single, key=lambda attack: attack.accuracy.high)
    shown = worst.accuracy
    if shown.high <= limit:
        return None
    sentence = (
        f"{_named(worst.attacker, worst.knows_noise)} reads the private label of {_percent(shown.value)} of the items "
        f"(95 % interval {_percent(shown.low)} to {_percent(shown.high)}), where at most {_percent(limit)} is allowed"
    )
    return sentence + _floor("the public label alone gives", floors.label_only, limit, _percent)


def _bits(limit: float | None, upper: Bound | None) -> str | None:
    if limit is None:
        return None
    if upper is None:
        return f"a message may tell at most {limit:g} bits, and nothing bounds them from above"
    if upper.high <= limit:
        return None
    return (
        f"a message may tell up to {upper.bits:.2f} bits (95 % interval {upper.low:.2f} to {upper.high:.2f}), where at "
        f"most {limit:g} are allowed"
    )


def _ssim(limit: float | None, reconstructions: Sequence[Reconstruction], floors: Floors) -> str | None:
    if limit is None:
        return None
    single = [found for found in reconstructions if found.copies == 1]
    if not single:
        return f"the similarity (SSIM) of reconstructions may be at most {limit:g}, and nothing measured it"
    best = max(single, key=lambda found: found.ssim_p95_high)
    if best.ssim_p95_high <= limit:
        return None
    sentence = (
        f"{_named(best.attacker, best.knows_noise)} reconstructs inputs with an SSIM of {best.ssim_p95:.3f} at the "
        f"95th percentile (95 % interval {best.ssim_p95_low:.3f} to {best.ssim_p95_high:.3f}), where at most {limit:g} "
        "is allowed"
    )
    return sentence + _floor("each public label's mean image has", floors.label_ssim_p95, limit, "{:.3f}".format)


def _named(attacker: str, knows_noise: bool) -> str:
    return f"the attacker '{attacker}'" + (", who has the noise file," if knows_noise else "")


def _floor(what: str, floor: float | None, limit: float, form: Callable[[float], str]) -> str:
    """That no noise could keep to the limit, where the message is not even needed to break it."""
    return f"; no noise could, {what} {form(floor)}" if floor is not None and floor > limit else ""


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
