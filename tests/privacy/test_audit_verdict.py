"""The verdict: a limit holds only where the whole interval keeps to it, and what was not measured breaks it."""

from __future__ import annotations

import itertools

import pytest

from edgecut.privacy.audit_verdict import judge
from edgecut.privacy.audited import Bound, Floors, LabelAttack, LeakageLimits, Reconstruction
from edgecut.runtime.accuracy import Accuracy

NO_FLOORS = Floors(
    chance=None,
    label_only=None,
    mean_ssim_mean=None,
    mean_ssim_p95=None,
    label_ssim_mean=None,
    label_ssim_p95=None,
)
UNLIMITED, HOLDS, BROKEN, MISSING = "no limit", "holds", "broken", "missing"
STATES = (UNLIMITED, HOLDS, BROKEN, MISSING)


def label(right: int, copies: int = 1, total: int = 1000, knows: bool = False, name: str = "perceptron") -> LabelAttack:
    return LabelAttack(
        attacker=name,
        knows_noise=knows,
        copies=copies,
        accuracy=Accuracy.of(right, total),
        curve=None,
        parameters=1,
    )


def decoder(p95: float, copies: int = 1, half: float = 0.0) -> Reconstruction:
    return Reconstruction(
        attacker="decoder",
        knows_noise=False,
        copies=copies,
        ssim_mean=p95 / 2,
        ssim_p95=p95,
        ssim_p95_low=p95 - half,
        ssim_p95_high=p95 + half,
        ssim_mean_low=p95 / 2,
        ssim_mean_high=p95 / 2,
        mse=0.1,
        curve=None,
        parameters=1,
    )


def bound(bits: float, half: float = 0.0) -> Bound:
    return Bound(kind="upper", bits=bits, low=bits - half, high=bits + half, items=100, method="a test")


@pytest.mark.parametrize("states", list(itertools.product(STATES, repeat=3)), ids="-".join)
def test_every_combination(states: tuple[str, str, str]) -> None:
    private, bits, ssim = states
    limits = LeakageLimits(
        max_private_accuracy=None if private == UNLIMITED else 0.5,
        max_bits=None if bits == UNLIMITED else 12.0,
        max_ssim=None if ssim == UNLIMITED else 0.7,
    )
    found = judge(
        limits,
        None if bits == MISSING else bound(13.0 if bits == BROKEN else 11.0),
        [] if private == MISSING else [label(600 if private == BROKEN else 300)],
        [] if ssim == MISSING else [decoder(0.8 if ssim == BROKEN else 0.6)],
        NO_FLOORS,
    )
    bad = [state for state in states if state in (BROKEN, MISSING)]
    assert found.limits == limits and len(found.broken) == len(bad) and found.holds is not bool(bad)
    unmeasured = [
        sentence for sentence in found.broken if "nothing measured" in sentence or "nothing bounds" in sentence
    ]
    assert len(unmeasured) == states.count(MISSING)
    for state, words in zip(states, ("private", "bits", "SSIM"), strict=True):
        assert any(words in sentence for sentence in found.broken) is (state in (BROKEN, MISSING))


def test_the_interval_has_to_keep_to_the_limit_and_the_limit_itself_is_allowed() -> None:
    limits = LeakageLimits(max_private_accuracy=0.5, max_bits=12.0, max_ssim=0.7)
    assert judge(limits, bound(11.5, 0.5), [label(300)], [decoder(0.7)], NO_FLOORS).holds
    assert len(judge(limits, bound(11.5, 0.6), [label(300)], [decoder(0.7)], NO_FLOORS).broken) == 1
    assert judge(limits, bound(1.0), [label(300)], [decoder(0.6, half=0.1)], NO_FLOORS).holds
    [sentence] = judge(limits, bound(1.0), [label(300)], [decoder(0.69, half=0.02)], NO_FLOORS).broken
    assert "0.690 at the 95th percentile (95 % interval 0.670 to 0.710), where at most 0.7 is allowed" in sentence
    one = label(490)
    assert one.accuracy.value < 0.5 < one.accuracy.high
    [sentence] = judge(limits, bound(1.0), [one], [decoder(0.1)], NO_FLOORS).broken
    assert "49.00 %" in sentence and f"{100 * one.accuracy.high:.2f} %" in sentence and "at most 50.00 %" in sentence


def test_the_strongest_attacker_on_one_message_counts() -> None:
    limits = LeakageLimits(max_private_accuracy=0.5, max_ssim=0.7)
    several = judge(limits, None, [label(300), label(990, copies=16)], [decoder(0.3), decoder(0.9, 4)], NO_FLOORS)
    assert several.holds
    assert not judge(limits, None, [label(990, copies=16)], [decoder(0.3)], NO_FLOORS).holds  # none on one message
    strong = [label(300), label(800, knows=True, name="the cloud's"), label(700)]
    [sentence] = judge(limits, None, strong, [decoder(0.3)], NO_FLOORS).broken
    assert sentence.startswith("the attacker 'the cloud's', who has the noise file, reads") and "80.00 %" in sentence


def test_a_limit_that_no_noise_could_keep_says_so() -> None:
    floors = NO_FLOORS.model_copy(update={"label_only": 0.55, "label_ssim_p95": 0.75})
    limits = LeakageLimits(max_private_accuracy=0.5, max_ssim=0.7)
    found = judge(limits, None, [label(600)], [decoder(0.8)], floors)
    assert "no noise could, the public label alone gives 55.00 %" in found.broken[0]
    assert "no noise could, each public label's mean image has 0.750" in found.broken[1]
    lower = judge(
        limits.model_copy(update={"max_private_accuracy": 0.58, "max_ssim": 0.78}),
        None,
        [label(600)],
        [decoder(0.8)],
        floors,
    )
    assert len(lower.broken) == 2 and not any("no noise could" in sentence for sentence in lower.broken)
