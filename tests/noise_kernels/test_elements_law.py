"""Is independent noise of the law that it says? Statistics of many draws, and wrong samplers that they must reject.

All draws are deterministic, so that a test passes for good or never. A p-value below 1e-5 is a rejection.
"""

import math

import numpy as np
import pytest
from scipy import stats

from edgecut.noise_kernels.element_noise import LAWS, ElementNoise
from edgecut.noise_kernels.elements import sample_rows
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import sample, sample_batch

DRAWS, N, REJECT = 4000, 48, 1e-5
MODEL = "sha256:" + "0" * 64
CDF = {"laplace": stats.laplace.cdf, "normal": stats.norm.cdf}
KURTOSIS = {"laplace": 6.0, "normal": 3.0}


def noise(law: str, n: int = N, **changes: object) -> ElementNoise:
    fields: dict[str, object] = {"loc": np.zeros(n), "scale": np.ones(n), **changes}
    return ElementNoise(
        "gaussian", law, fields["loc"], fields["scale"], [("x", (n,))], MODEL, "x", fields.get("mixing")
    )


class Counting(NoiseStream):
    """A stream that can be foretold; never for use."""

    def next_runs(self, count: int) -> list[tuple[bytes, bytes]]:
        return [(bytes(32), b"".join(i.to_bytes(12, "little") for i in range(count)))]


def p_each(u: np.ndarray, law: str) -> float:
    """Smallest p of a Kolmogorov-Smirnov test of some values, first and last and on both sides of a block's end."""
    return min(float(stats.kstest(u[:, i], CDF[law]).pvalue) for i in (0, 1, 15, 16, 17, N - 2, N - 1))


def p_pooled(u: np.ndarray, law: str) -> float:
    """Chi-square of all values over 64 bins of equal probability."""
    counts = np.bincount((CDF[law](u) * 64).astype(int).ravel().clip(0, 63), minlength=64)
    return float(stats.chisquare(counts).pvalue)


def p_signs(u: np.ndarray, law: str) -> float:
    return float(stats.binomtest(int((u < 0).sum()), u.size).pvalue)


def p_correlations(u: np.ndarray, law: str) -> float:
    """Each value with the next one, as they are and their sizes: the pair of one radius, and what lies beside."""
    worst = 1.0
    for kind in (u, np.abs(u), u**2 * np.sign(u)):
        for first in (0, 1):
            one, other = kind[:, first : N - 1 : 2].ravel(), kind[:, first + 1 :: 2].ravel()
            worst = min(worst, float(stats.pearsonr(one, other[: one.size]).pvalue))
    return worst


def p_circle(u: np.ndarray, law: str) -> float:
    """The angle of the pairs is uniform and has nothing to do with their radius: normal values only."""
    if law != "normal":
        return 1.0
    angle, radius = np.arctan2(u[:, 1::2], u[:, 0::2]).ravel(), np.hypot(u[:, 1::2], u[:, 0::2]).ravel()
    table = np.histogram2d(angle, stats.rayleigh.cdf(radius), bins=8, range=[[-math.pi, math.pi], [0, 1]])[0]
    return float(stats.chisquare(table.ravel()).pvalue)


def p_tail(u: np.ndarray, law: str) -> float:
    """How many of all values lie beyond what 1 in 2000 should."""
    frozen = stats.laplace if law == "laplace" else stats.norm
    beyond = int((np.abs(u) > frozen.isf(0.00025)).sum())
    return float(stats.binomtest(beyond, u.size, 0.0005).pvalue)


STATISTICS = {
    "each": p_each,
    "pooled": p_pooled,
    "signs": p_signs,
    "correlations": p_correlations,
    "circle": p_circle,
    "tail": p_tail,
}


def rejections(u: np.ndarray, law: str) -> set[str]:
    """Which statistics reject draws [DRAWS, N]."""
    return {name for name, p in STATISTICS.items() if p(u, law) < REJECT}


@pytest.fixture(scope="module", params=LAWS)
def drawn(request: pytest.FixtureRequest, implementation: str) -> tuple[str, np.ndarray]:
    rows = sample_batch(noise(request.param), Counting(), DRAWS, implementation)
    return request.param, rows.astype(np.float64)


def test_the_law(drawn: tuple[str, np.ndarray]) -> None:
    assert rejections(drawn[1], drawn[0]) == set()


def test_the_moments(drawn: tuple[str, np.ndarray]) -> None:
    """Variance 2 and 1, and the kurtosis that tells the laws apart, each within 5 standard errors."""
    law, u = drawn
    fourth, eighth = (24.0, 40320.0) if law == "laplace" else (3.0, 105.0)
    variance = 2.0 if law == "laplace" else 1.0
    assert abs((u**2).mean() - variance) < 5 * math.sqrt((fourth - variance**2) / u.size)
    assert abs((u**4).mean() - fourth) < 5 * math.sqrt((eighth - fourth**2) / u.size)
    assert KURTOSIS[law] == fourth / variance**2


def test_one_request_s_values_have_the_law(implementation: str) -> None:
    """Across a single row of many tiles, not down the rows."""
    for law in LAWS:
        row = sample(noise(law, 100_000), bytes(32), bytes(12), implementation).astype(np.float64)
        assert stats.kstest(row, CDF[law]).pvalue > REJECT
        for lag in (1, 2, 16, 256):
            assert stats.pearsonr(row[:-lag], row[lag:]).pvalue > REJECT


def test_the_matrix_gives_its_covariance(implementation: str) -> None:
    """scale, then mixing, then loc: mean and covariance of many draws against the closed form, 5 standard errors."""
    rng = np.random.default_rng(4)
    n, draws = 6, 20_000
    mixing, scale, loc = rng.normal(size=(n, n)), rng.uniform(0.5, 2, n), rng.normal(size=n)
    made = noise("normal", n, loc=loc, scale=scale, mixing=mixing)
    rows = sample_batch(made, Counting(), draws, implementation).astype(np.float64)
    covariance = mixing @ np.diag(scale**2) @ mixing.T
    variances = np.diag(covariance)
    assert (np.abs(rows.mean(axis=0) - loc) < 5 * np.sqrt(variances / draws)).all()
    error = np.sqrt((covariance**2 + np.outer(variances, variances)) / draws)
    assert (np.abs(np.cov(rows.T) - covariance) < 5 * error).all()
    for wrong in (mixing.T @ np.diag(scale**2) @ mixing, mixing @ mixing.T, np.diag(scale) @ mixing @ mixing.T):
        assert (np.abs(np.cov(rows.T) - wrong) > 5 * error).any()


def test_rejects_the_other_law(drawn: tuple[str, np.ndarray]) -> None:
    law, u = drawn
    other = {"laplace": "normal", "normal": "laplace"}[law]
    same_variance = u / math.sqrt(2) if law == "laplace" else u * math.sqrt(2)
    assert {"each", "pooled", "tail"} <= rejections(same_variance, other)


def test_rejects_a_scale_that_is_5_percent_off(drawn: tuple[str, np.ndarray]) -> None:
    law, u = drawn
    assert "pooled" in rejections(u * 1.05, law) and "pooled" in rejections(u / 1.05, law)


def test_rejects_one_sided_values(drawn: tuple[str, np.ndarray]) -> None:
    law, u = drawn
    assert {"each", "signs"} <= rejections(np.abs(u), law)


def test_rejects_a_cut_tail(drawn: tuple[str, np.ndarray]) -> None:
    law, u = drawn
    limit = 6.0 if law == "laplace" else 3.2
    assert rejections(u.clip(-limit, limit), law) == {"tail"}


def test_rejects_pairs_that_share_an_angle(drawn: tuple[str, np.ndarray]) -> None:
    """Two cosines of one angle, or |cosine| and |sine| with signs of their own from one bit."""
    law, u = drawn
    if law == "normal":
        twice = u.copy()
        twice[:, 1::2] = twice[:, 0::2]
        assert {"correlations", "circle"} <= rejections(twice, law)
    signs = u.copy()
    signs[:, 1::2] = np.abs(signs[:, 1::2]) * np.sign(signs[:, 0::2])
    assert "correlations" in rejections(signs, law)


def test_rejects_a_radius_from_the_angle_s_word() -> None:
    """One word for both, which is the slip that saves a word: the radius then says the angle."""
    word = np.random.default_rng(3).integers(0, 1 << 32, (DRAWS, N // 2))
    part = ((word >> 9) + 0.5) * 2.0**-23
    u = np.empty((DRAWS, N))
    u[:, 0::2] = np.sqrt(-2 * np.log(part)) * np.cos(2 * np.pi * part)
    u[:, 1::2] = np.sqrt(-2 * np.log(part)) * np.sin(2 * np.pi * part)
    assert "circle" in rejections(u, "normal")


def test_rejects_a_sign_that_the_exponential_also_uses() -> None:
    """The sign from the word's top bit, which decides whether E is below ln 2."""
    word = np.random.default_rng(3).integers(0, 1 << 32, (DRAWS, N))
    exponential = -np.log(((word >> 9) + 0.5) * 2.0**-23)
    assert {"each", "pooled"} <= rejections(np.where(word >> 31, -exponential, exponential), "laplace")


def test_rows_of_one_seed_are_equal_and_others_are_not() -> None:
    """What the vectorised form must not do: share words between rows."""
    rows = np.empty((3, N), np.float32)
    sample_rows(noise("normal"), [(bytes(32), bytes(12)), (bytes(32), b"1" + bytes(11)), (bytes(32), bytes(12))], rows)
    assert (rows[0] == rows[2]).all() and not np.isin(rows[0], rows[1]).any()
