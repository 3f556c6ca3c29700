"""Whether intercepted messages fall into the collection's distributions by themselves, without its file."""

from __future__ import annotations

from typing import cast

import numpy as np

from ...noise_kernels.chacha import keystreams
from ...noise_kernels.collection import NoiseCollection
from ...noise_kernels.randomness import distribution_index
from ..audited import Clustering
from ..gates import gate_key
from ..observations import Floats, Integers, Observations, RowSeeds

PURPOSE = "clustering"
MESSAGES = 2000
PER_CLUSTER = 100
STARTS = 10
PERMUTATIONS = 200
SEEDS = 1 << 31
"""scikit-learn takes no larger seed, nor NumPy's older generators."""


def clustering(seen: Observations) -> Clustering | None:
    """k-means on messages of unseen items, against the distribution that each one's noise was of.

    None for a mechanism without several distributions, or with more of them than messages. `chance` is the mean purity
    with the distributions permuted.
    """
    noise = seen.noise
    if not isinstance(noise, NoiseCollection) or noise.distributions < 2:
        return None
    count = min(seen.test.count, MESSAGES, PER_CLUSTER * noise.distributions)
    if count < noise.distributions:
        return None
    rows = np.arange(count)
    found = _clusters(seen.sent("test", rows, PURPOSE), noise.distributions, seen.seed % SEEDS)
    truth = distributions_of(seen, noise, rows)
    generator = np.random.default_rng(seen.seed)
    by_chance = [purity(found, generator.permutation(truth)) for _ in range(PERMUTATIONS)]
    return Clustering(
        messages=count,
        clusters=noise.distributions,
        purity=purity(found, truth),
        chance=float(np.mean(by_chance)),
        purity_of="the share of messages whose distribution is the most frequent one of their cluster",
    )


def purity(clusters: Integers, truth: Integers) -> float:
    """The share of items that have the most frequent truth of their cluster."""
    table = np.zeros((int(clusters.max()) + 1, int(truth.max()) + 1), np.int64)
    np.add.at(table, (clusters, truth), 1)
    return float(table.max(1).sum() / len(truth))


def distributions_of(seen: Observations, noise: NoiseCollection, rows: Integers, purpose: str = PURPOSE) -> Integers:
    """Which distribution the noise of these unseen items is of: block 0 of each one's random words says it."""
    key, nonces = RowSeeds(gate_key(seen.seed, f"audit, {purpose}, test"), 0, rows).next_runs(len(rows))[0]
    first = keystreams([(key, nonces[12 * i : 12 * i + 12]) for i in range(len(rows))], 1)[:, 0]
    return np.array([distribution_index(block, noise.distributions) for block in first])


def _clusters(messages: Floats, count: int, seed: int) -> Integers:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        return _by_scipy(messages, count, seed)
    found = KMeans(n_clusters=count, n_init=STARTS, random_state=seed).fit_predict(messages)
    return cast(Integers, np.asarray(found, np.int64))


def _by_scipy(messages: Floats, count: int, seed: int) -> Integers:
    """The start with the least squared distance, as scikit-learn keeps it too."""
    from scipy.cluster.vq import kmeans2

    best: tuple[float, Integers] | None = None
    for start in range(STARTS):
        centres, found = kmeans2(messages.astype(np.float64), count, minit="++", rng=seed + start, missing="warn")
        distance = float(((messages - centres[found]) ** 2).sum())
        if best is None or distance < best[0]:
            best = distance, np.asarray(found, np.int64)
    assert best is not None
    return best[1]
