"""Accuracy: Wilson's interval against SciPy's, and Newcombe's interval of a difference by numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgecut.runtime.accuracy import Accuracy, NoiseAccuracy, count_correct


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_interval_is_wilsons(counts: tuple[int, int]) -> None:
    correct, total = counts
    made = Accuracy.of(correct, total)
    expected = stats.binomtest(correct, total).proportion_ci(method="wilson")
    assert (made.low, made.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= made.low <= made.value <= made.high <= 1
    assert made.value == correct / total


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_no_share_is_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="is no share"):
        Accuracy.of(correct, total)


def test_loss_and_interval_by_hand() -> None:
    # Newcombe 1998, table II (a): 56/70 against 48/80, difference 0.2, method 10 gives 0.0524 to 0.3339.
    first, second = Accuracy.of(56, 70), Accuracy.of(48, 80)
    made = NoiseAccuracy(data="paper", without=first, with_noise=second, draws=1)
    assert made.loss_points == pytest.approx(20.0)
    assert made.loss_interval_points == pytest.approx((5.24, 33.39), abs=0.005)


def test_repeated_tries_do_not_narrow_the_interval() -> None:
    once = NoiseAccuracy.of("x", clean=95, noisy=90, items=100, draws=1)
    often = NoiseAccuracy.of("x", clean=95, noisy=900, items=100, draws=10)
    assert often.with_noise.total == 1000 and often.with_noise.value == 0.9
    assert often.loss_points == pytest.approx(once.loss_points) == pytest.approx(5.0)
    assert often.loss_interval_points == pytest.approx(once.loss_interval_points)
    # The negative control: a thousand independent answers would have a narrower interval.
    independent = Accuracy.of(900, 1000)
    assert often.with_noise.high - often.with_noise.low > 2 * (independent.high - independent.low)


def test_a_gain_is_a_negative_loss() -> None:
    made = NoiseAccuracy.of("x", clean=50, noisy=60, items=100, draws=1)
    low, high = made.loss_interval_points
    assert made.loss_points == pytest.approx(-10) and low < -10 < high


@given(st.integers(1, 50), st.integers(1, 6), st.integers(0, 2**31))
def test_counting_sees_every_item(count: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.standard_normal((count, classes)), generator.integers(0, classes, count)
    assert count_correct(logits, labels) == sum(np.argmax(x) == y for x, y in zip(logits, labels, strict=True))
