"""Is the noise what sorting n Laplace samples gives? Statistics of many draws, and wrong samplers they must reject.

All draws are deterministic, so a test passes for good or never. A p-value below 1e-5 is a rejection; there are about
two hundred of them for right samplers here, so that chance alone would fail one file in five hundred.
"""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from edgecut.noise_kernels.chacha import keystreams
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import request_blocks
from edgecut.noise_kernels.reference import laplace_from_uniform, noise_by_sorting, sorted_laplace
from edgecut.noise_kernels.sampler import sample

DRAWS = 3000
REJECT = 1e-5
SIZES = [10, 480]


def ranks_of(n: int) -> list[int]:
    return sorted({0, 1, n // 4, n // 2 - 1, n // 2, 3 * n // 4, n - 2, n - 1})


def p_ranks(draws: np.ndarray) -> float:
    """Smallest p of a Kolmogorov-Smirnov test at some ranks: F(x_(k)) is Beta(k + 1, n - k), k from 0."""
    n = draws.shape[1]
    uniforms = stats.laplace.cdf(draws)
    return min(float(stats.kstest(uniforms[:, k], stats.beta(k + 1, n - k).cdf).pvalue) for k in ranks_of(n))


def p_pooled(draws: np.ndarray) -> float:
    """All elements of all draws together are independent Laplace samples."""
    return float(stats.kstest(draws.ravel()[:: max(1, draws.size // 200_000)], stats.laplace.cdf).pvalue)


def p_negatives(draws: np.ndarray) -> float:
    """How many of a draw are negative is Binomial(n, 1/2): chi-square over bins of at least 5 expected draws."""
    n = draws.shape[1]
    expected = stats.binom(n, 0.5).pmf(np.arange(n + 1)) * len(draws)
    counts = np.bincount((draws < 0).sum(axis=1), minlength=n + 1)
    usual = expected >= 5
    observed = np.append(counts[usual], counts[~usual].sum())
    return float(stats.chisquare(observed, np.append(expected[usual], expected[~usual].sum())).pvalue)


def p_covariances(draws: np.ndarray) -> float:
    """Variances, and covariances of neighbours, against those of sorted samples: a two-sided z-test, smallest p.

    Centre and standard error are the sorted samples', lest a sampler without any variance has no error to be judged by.
    """
    rng = np.random.default_rng(2024)
    truth = np.sort(rng.laplace(size=(20_000, draws.shape[1])), axis=1)
    centre = truth.mean(axis=0)
    result = 1.0
    for k in ranks_of(draws.shape[1])[:-1]:
        for other in (k, k + 1):
            a, b = ((x[:, k] - centre[k]) * (x[:, other] - centre[other]) for x in (draws, truth))
            z = (a.mean() - b.mean()) / np.sqrt(b.var() * (1 / len(a) + 1 / len(b)))
            result = min(result, 2 * float(stats.norm.sf(abs(z))))
    return result


STATISTICS = {"ranks": p_ranks, "pooled": p_pooled, "negatives": p_negatives, "covariances": p_covariances}


def rejections(draws: np.ndarray) -> set[str]:
    """Which statistics reject the draws, [DRAWS, n] sorted along n."""
    return {name for name, p in STATISTICS.items() if p(draws) < REJECT}


def exponentials(n: int) -> np.ndarray:
    return np.random.default_rng([7, n]).exponential(size=(DRAWS, n))


@pytest.fixture(scope="module", params=SIZES)
def drawn(request: pytest.FixtureRequest, implementation: str) -> np.ndarray:
    """Draws of the sampler with loc 0, scale 1 and the order that leaves ranks in place: rows are sorted samples."""
    n = request.param
    collection = NoiseCollection([0.0], [1.0], [np.arange(n)], [("x", (n,))], "sha256:" + "0" * 64, "x")
    nonces = [i.to_bytes(12, "little") for i in range(DRAWS)]
    return np.array([sample(collection, bytes(32), nonce, implementation) for nonce in nonces], dtype=np.float64)


def test_the_sampler_has_the_law_of_sorting(drawn: np.ndarray) -> None:
    assert rejections(drawn) == set()


@pytest.mark.parametrize("n", SIZES)
def test_sorting_has_the_law_of_sorting(n: int) -> None:
    uniforms = np.random.default_rng([11, n]).random((DRAWS, n))
    draws = np.array([noise_by_sorting(laplace_from_uniform(u), 0, 1, np.arange(n)) for u in uniforms])
    assert rejections(draws) == set()


def test_sampler_and_sorting_agree_rank_by_rank(drawn: np.ndarray) -> None:
    n = drawn.shape[1]
    sorting = np.sort(np.random.default_rng([13, n]).laplace(size=(DRAWS, n)), axis=1)
    for k in ranks_of(n):
        assert stats.ks_2samp(drawn[:, k], sorting[:, k]).pvalue > REJECT


@pytest.mark.parametrize("n", SIZES)
def test_the_number_of_negatives_is_binomial(n: int) -> None:
    """M itself, from the words' lowest bits, and not correlated with the E that the same words give."""
    blocks = request_blocks(n)
    words = keystreams([(bytes(32), i.to_bytes(12, "little")) for i in range(DRAWS)], blocks)[:, 1:].reshape(DRAWS, -1)
    words = words[:, :n]
    negatives = (words & 1).sum(axis=1)
    assert stats.kstest(negatives + np.random.default_rng(0).random(DRAWS), _smoothed_binomial(n)).pvalue > REJECT
    assert stats.pearsonr((words & 1).ravel(), (words >> 9).ravel()).pvalue > REJECT


def _smoothed_binomial(n: int) -> Callable[[float], float]:
    """The distribution function of Binomial(n, 1/2) plus a uniform in [0, 1)."""
    steps = np.append(0, stats.binom(n, 0.5).cdf(np.arange(n + 1)))
    return lambda x: np.interp(x, np.arange(n + 2), steps)  # takes arrays as well


@pytest.mark.parametrize("n", SIZES)
def test_rejects_a_fixed_number_of_negatives(n: int) -> None:
    draws = np.array([sorted_laplace(e, n // 2) for e in exponentials(n)])
    assert {"ranks", "negatives", "covariances"} <= rejections(draws)


@pytest.mark.parametrize("n", SIZES)
def test_rejects_a_fixed_grid_of_quantiles(n: int) -> None:
    draws = np.tile(stats.laplace.ppf((np.arange(n) + 0.5) / n), (DRAWS, 1))
    assert {"ranks", "negatives", "covariances"} <= rejections(draws)


@pytest.mark.parametrize("n", SIZES)
def test_rejects_n_instead_of_n_plus_1_in_the_weights(n: int) -> None:
    """sum E_i / (n + 2 - i) for the positive side: the slip that the formula invites."""
    draws = []
    for e, m in zip(exponentials(n), np.random.default_rng(5).binomial(n, 0.5, DRAWS), strict=True):
        i = np.arange(1, n + 1)
        weights = np.where(i > m, (n + 1 - i) / (n + 2 - i), 1.0)
        draws.append(sorted_laplace(e * weights, int(m)))
    assert "ranks" in rejections(np.array(draws))


def test_rejects_an_order_with_neighbours_swapped(drawn: np.ndarray) -> None:
    k = drawn.shape[1] // 2 - 1
    swapped = drawn.copy()
    swapped[:, [0, 1, k, k + 1]] = drawn[:, [1, 0, k + 1, k]]
    assert "ranks" in rejections(swapped)


def test_rejects_the_deviation_in_place_of_the_scale(drawn: np.ndarray) -> None:
    assert {"ranks", "pooled", "covariances"} <= rejections(drawn * np.sqrt(2))


def test_rejects_a_shifted_centre(drawn: np.ndarray) -> None:
    assert "ranks" in rejections(drawn + 0.2)


@pytest.mark.parametrize("n", SIZES)
def test_rejects_a_bit_that_the_exponential_also_uses(n: int) -> None:
    """M counted from w's top bit, which decides whether E is below ln 2: M and E would not be independent."""
    rng = np.random.default_rng([17, n])
    u = rng.random((DRAWS, n))
    draws = np.array([sorted_laplace(-np.log(row), int((row >= 0.5).sum())) for row in u])
    assert rejections(draws)
