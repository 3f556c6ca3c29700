"""Sorted samples for training, and putting them where a latent ranks them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
from edgecut.privacy.order import place, sorted_laplace, steered  # noqa: E402


def draw(count: int, n: int) -> np.ndarray:
    made: np.ndarray = sorted_laplace(count, n, torch.Generator().manual_seed(3)).numpy()
    assert made.shape == (count, n) and (np.diff(made, axis=1) >= -1e-6).all()
    return made


@pytest.mark.parametrize("n", [2, 11, 120])
def test_the_law_is_that_of_sorting(n: int) -> None:
    count = 3000
    ours = draw(count, n)
    sorted_ = np.sort(np.random.default_rng(4).laplace(size=(count, n)), axis=1)
    for rank in {0, n // 2, n - 1}:
        assert stats.ks_2samp(ours[:, rank], sorted_[:, rank]).pvalue > 1e-4
    one_each = ours[np.arange(count), np.random.default_rng(5).integers(0, n, count)]
    assert stats.kstest(one_each, stats.laplace.cdf).pvalue > 1e-4
    # The number below 0 varies as a binomial's does; half of n every time would be another law.
    below = (ours < 0).sum(1)
    assert below.var() == pytest.approx(n / 4, rel=0.15) and below.mean() == pytest.approx(n / 2, rel=0.05)


def test_the_smallest_sample_goes_to_the_smallest_latent() -> None:
    latent = torch.tensor([[0.3, -2.0, 5.0, 0.1], [4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    samples = torch.tensor([[-3.0, -1.0, 2.0, 7.0], [-1.0, 0.0, 1.0, 2.0]])
    placed = place(samples, latent)
    np.testing.assert_array_equal(placed.detach(), [[2.0, -3.0, 7.0, -1.0], [2.0, 1.0, 0.0, -1.0]])
    weights = torch.arange(8.0).view(2, 4)
    (placed * weights).sum().backward()
    np.testing.assert_array_equal(latent.grad, weights)


def test_steering() -> None:
    assert steered(2.0, 0.90, 0.88) == pytest.approx(2.04) and steered(2.0, 0.87, 0.88) == pytest.approx(1.98)
    assert steered(2.0, 1.0, 0.1) == pytest.approx(2.1) and steered(2.0, 0.0, 0.9) == pytest.approx(1.9)
