"""Clustering of intercepted messages, against the distribution that really made each one's noise."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.privacy.attacks import clusters
from edgecut.privacy.attacks.clusters import clustering, distributions_of, purity


def test_purity_by_hand() -> None:
    assert purity(np.array([0, 0, 0, 1, 1]), np.array([2, 2, 0, 1, 1])) == 0.8
    assert purity(np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3])) == 0.25


def test_the_true_distribution_is_the_one_whose_order_the_noise_has(tasks: Any) -> None:
    noise = tasks.collection(2.0, n=30, distributions=5)
    seen, rows = tasks.seen(noise, test=300), np.arange(300)
    drawn = seen.drawn("test", rows, clusters.PURPOSE, 0)
    np.testing.assert_array_equal(np.argsort(drawn, axis=1), noise.orders[distributions_of(seen, noise, rows)])


@pytest.mark.parametrize("library", ["scikit-learn", "scipy"])
def test_a_large_order_is_found_out_and_a_small_one_is_not(
    library: str, tasks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "scipy":
        monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    else:
        pytest.importorskip("sklearn")
    large = clustering(tasks.seen(tasks.collection(6.0, n=30, distributions=4)))
    assert large is not None and large.messages == 400 and large.clusters == 4
    assert large.purity > 0.95 and 0.25 <= large.chance < 0.4
    small = clustering(tasks.seen(tasks.collection(0.001, n=30, distributions=4)))
    assert small is not None and abs(small.purity - small.chance) < 0.06


def test_fewer_messages_than_distributions_have_none(tasks: Any) -> None:
    assert clustering(tasks.seen(tasks.collection(1.0, distributions=5), test=4)) is None


def test_any_seed_will_do(tasks: Any) -> None:
    assert clustering(tasks.seen(tasks.collection(1.0), test=40, seed=2**62)) is not None


def test_one_distribution_has_no_clusters(tasks: Any) -> None:
    assert clustering(tasks.seen(tasks.gaussian(1.0))) is None
    assert clustering(tasks.seen(tasks.collection(1.0, distributions=1))) is None
