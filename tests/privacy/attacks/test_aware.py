"""The noise's moments, exact against sums that must hold and against sampling, and what the aware adversary makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.privacy.attacks import aware
from edgecut.privacy.attacks.aware import Cleaner
from edgecut.privacy.attacks.clusters import distributions_of
from edgecut.privacy.attacks.moments import moments_of, ordered_laplace


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 200))
def test_sums_of_ordered_samples_are_those_of_unordered_ones(n: int) -> None:
    law = ordered_laplace(n)
    covariance = law.covariance()
    # The sum's variance, and the sum of squares, do not know of any order.
    np.testing.assert_allclose(covariance.sum(), 2 * n, rtol=1e-6)
    np.testing.assert_allclose((law.mean**2).sum() + covariance.trace(), 2 * n, rtol=1e-6)
    np.testing.assert_allclose(law.variances, covariance.diagonal(), rtol=1e-9)
    np.testing.assert_allclose(law.mean, -law.mean[::-1], atol=1e-9)
    assert (np.diff(law.mean) > 0).all() and np.linalg.eigvalsh(covariance).min() > 0


def test_ordered_moments_are_those_of_sorted_samples() -> None:
    samples = np.sort(np.random.default_rng(0).laplace(size=(200_000, 7)), axis=1)
    law = ordered_laplace(7)
    np.testing.assert_allclose(law.mean, samples.mean(0), atol=0.02)
    np.testing.assert_allclose(law.covariance(), np.cov(samples.T), atol=0.06)


def test_moments_are_those_of_what_is_drawn(tasks: Any) -> None:
    mixing = np.random.default_rng(3).normal(size=(8, 8))
    rows = np.arange(20_000)
    for noise in (tasks.gaussian(0.7), tasks.gaussian(0.7, mixing=mixing)):
        drawn = tasks.seen(noise, test=20_000).drawn("test", rows, "moments", 0)
        (own,) = moments_of(noise)
        np.testing.assert_allclose(np.cov(drawn.T), own.covariance(), atol=0.04 * own.covariance().max())
        np.testing.assert_allclose(own.variances(), own.covariance().diagonal())
    noise = tasks.collection(2.0)
    seen = tasks.seen(noise, test=20_000)
    drawn, which = seen.drawn("test", rows, "moments", 0), distributions_of(seen, noise, rows, "moments")
    for own in moments_of(noise):
        mine = drawn[which == own.d]
        np.testing.assert_allclose(mine.mean(0), own.mean, atol=0.15)
        np.testing.assert_allclose(np.cov(mine.T), own.covariance(), atol=0.08 * own.covariance().max())
        np.testing.assert_allclose(own.variances(), own.covariance().diagonal())


@pytest.mark.parametrize("dense", [True, False])
def test_the_filter_has_the_least_squared_error(dense: bool, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aware, "DENSE_ENTRIES", 1 << 25 if dense else 0)
    seen, rows = tasks.seen(tasks.gaussian(1.0)), np.arange(2000)
    variances = seen.train.values.var(0)
    expected = (variances / (1 + variances)).mean()  # of independent values, 1 / (1 / v + 1 / s^2)
    found = Cleaner(seen).cleaned(seen.sent("test", rows, "filter"))
    assert ((found - seen.test.values) ** 2).mean() == pytest.approx(expected, rel=0.05)
    # Of four copies, each filtered as one of four, the mean is the filtered mean.
    cleaner = Cleaner(seen, copies=4)
    several = np.mean([cleaner.cleaned(seen.sent("test", rows, "filter", draw)) for draw in range(4)], axis=0)
    expected = (variances / (1 + 4 * variances)).mean()
    assert ((several - seen.test.values) ** 2).mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dense", [True, False])
def test_the_order_gives_the_distribution_away(dense: bool, tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aware, "DENSE_ENTRIES", 1 << 25 if dense else 0)
    noise = tasks.collection(5.0, n=40, distributions=6)
    seen, rows = tasks.seen(noise), np.arange(2000)
    cleaner, messages = Cleaner(seen), seen.sent("test", rows, "told")
    assert (cleaner.told(messages) == distributions_of(seen, noise, rows, "told")).mean() > 0.99
    before = ((messages - seen.test.values) ** 2).mean()
    assert ((cleaner.cleaned(messages) - seen.test.values) ** 2).mean() < 0.05 * before


def test_when_knowing_helps(tasks: Any) -> None:
    assert Cleaner.useful(tasks.seen(tasks.collection(1.0))) and Cleaner.useful(tasks.seen(tasks.gaussian(1.0)))
    assert not Cleaner.useful(tasks.seen(tasks.silent()))
    assert not Cleaner.useful(tasks.seen(tasks.gaussian(1.0, place="input"), edge=lambda flat: flat))


def test_behind_a_map_what_is_sent_is_filtered(tasks: Any) -> None:
    turned = LinearMap((8,), np.zeros(8), [None], np.arange(3), np.full(3, 2.0), np.full(3, 0.5))
    noise = tasks.gaussian(1.0).__class__(
        "channel", "normal", np.zeros(3), np.ones(3), (("a", (8,)),), "sha256:" + "0" * 64, "c", map=turned
    )
    seen = tasks.seen(noise)
    found = Cleaner(seen).cleaned(seen.sent("test", np.arange(2000), "map"))
    assert found.shape == (2000, 3)
    assert ((found - 2 * seen.test.values[:, :3]) ** 2).mean() < 0.7
