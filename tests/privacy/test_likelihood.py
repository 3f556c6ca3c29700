"""Log densities against the laws written out, against entropies, and against what the samplers really draw."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgecut.errors import DataError
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.mechanism import Noise
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import sample_batch
from edgecut.privacy.gates import Repeatable
from edgecut.privacy.likelihood import Coordinates, distributions_of, log_densities

Floats = npt.NDArray[np.float64]
DIGEST = "sha256:" + "0" * 64
Law = Literal["laplace", "normal"]


def element(law: str, loc: Any, scale: Any, mixing: Any = None) -> ElementNoise:
    return ElementNoise("gaussian", law, loc, scale, [("t", (len(loc),))], DIGEST, "cut", mixing)


def collection(n: int, distributions: int, scale: float = 2.0, seed: int = 0) -> NoiseCollection:
    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permutation(n) for _ in range(distributions)])
    loc, scales = generator.normal(0, 1, distributions), scale * generator.uniform(0.5, 1.5, distributions)
    return NoiseCollection(loc, scales, orders, [("t", (n,))], DIGEST, "cut")


def drawn(noise: Noise, count: int, first: int = 0) -> npt.NDArray[np.float32]:
    stream = cast(NoiseStream, Repeatable(bytes(range(32)), first))
    return cast(npt.NDArray[np.float32], sample_batch(noise, stream, count))


def ordered_by_hand(noise: NoiseCollection, d: int, z: Floats) -> float:
    if (np.diff(z[noise.orders[d]]) < 0).any():
        return -math.inf
    return math.log(math.factorial(noise.n)) + float(
        stats.laplace.logpdf(z, float(noise.loc[d]), float(noise.scale[d])).sum()
    )


@pytest.mark.parametrize("law", ["laplace", "normal"])
@pytest.mark.parametrize("mixed", [False, True])
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_element_noise_is_scipys_law_after_a_change_of_variables(law: str, mixed: bool, n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    loc, scale = np.float32(generator.normal(size=n)), np.float32(generator.uniform(0.1, 3, n))
    mixing = np.float32(np.eye(n) + 0.3 * generator.normal(size=(n, n)) / n) if mixed else None
    noise = element(law, loc, scale, mixing)
    messages, carried = np.float32(generator.normal(0, 3, (4, n))), np.float32(generator.normal(0, 3, (3, n)))
    matrix = np.diag(np.float64(scale)) if mixing is None else np.float64(mixing) @ np.diag(np.float64(scale))
    for i, j in itertools.product(range(4), range(3)):
        u = np.linalg.inv(matrix) @ (np.float64(messages[i]) - carried[j] - loc)
        law_of_u = stats.laplace if law == "laplace" else stats.norm
        expected = law_of_u.logpdf(u).sum() - math.log(abs(np.linalg.det(matrix)))
        assert log_densities(noise, messages, carried)[i, j] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_mixed_normal_noise_is_the_multivariate_normal() -> None:
    generator = np.random.default_rng(0)
    mixing = np.float32(generator.normal(size=(3, 3)))
    noise = element("normal", np.array([1, 2, 3.0]), np.array([1, 0.5, 2.0]), mixing)
    root = mixing.astype(np.float64) @ np.diag([1, 0.5, 2.0])
    y = generator.normal(size=(5, 3)).astype(np.float32)
    expected = stats.multivariate_normal.logpdf(y.astype(np.float64), [1, 2, 3], root @ root.T)
    assert log_densities(noise, y, np.zeros((1, 3)))[:, 0] == pytest.approx(expected, rel=1e-6)


NOISES: list[Noise] = [
    element("laplace", np.linspace(-1, 1, 30), np.linspace(0.1, 2, 30)),
    element("normal", np.linspace(-1, 1, 30), np.linspace(0.1, 2, 30)),
    element("normal", np.zeros(8), np.ones(8), np.tril(np.ones((8, 8)))),
    element("laplace", np.zeros(8), np.ones(8), np.tril(np.ones((8, 8)))),
    collection(40, 1),
]


@pytest.mark.parametrize("noise", NOISES)
def test_the_mean_over_drawn_noise_is_the_entropy(noise: Noise) -> None:
    """Ties density, entropy and sampler together: E[-ln p(noise)] = h."""
    found = -log_densities(noise, drawn(noise, 4000), np.zeros((1, noise.values)))[:, 0]
    assert np.isfinite(found).all()
    assert abs(found.mean() - noise.entropy_nats) < 5 * found.std() / math.sqrt(4000)


@pytest.mark.parametrize("wrong", [1.1, 0.9])
def test_a_scale_that_is_a_tenth_wrong_would_show_there(wrong: float) -> None:
    drawn_from, said = (element("laplace", np.zeros(30), np.full(30, scale)) for scale in (1.0, wrong))
    found = -log_densities(said, drawn(drawn_from, 4000), np.zeros((1, 30)))[:, 0]
    assert abs(found.mean() - said.entropy_nats) > 5 * found.std() / math.sqrt(4000)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 5), distributions=st.integers(1, 4), seed=st.integers(0, 2**20))
def test_ordered_noise_by_hand(n: int, distributions: int, seed: int) -> None:
    noise = collection(n, distributions, seed=seed)
    generator = np.random.default_rng(seed)
    carried = generator.normal(0, 0.5, (6, n))
    # Messages in float64, so that no rounding can break an order by hand.
    messages = np.vstack([carried[:4] + drawn(noise, 4), generator.normal(0, 3, (4, n))])
    each = np.array(
        [[[ordered_by_hand(noise, d, y - a) for a in carried] for y in messages] for d in range(distributions)]
    )
    for d in range(distributions):
        assert log_densities(noise, messages, carried, d) == pytest.approx(each[d], rel=1e-9, abs=1e-9)
    with np.errstate(divide="ignore"):
        mixture = np.log(np.exp(each).mean(0))
    assert log_densities(noise, messages, carried) == pytest.approx(mixture, rel=1e-6, abs=1e-6)


def test_ordered_densities_integrate_to_one() -> None:
    """Over the plane for n = 2; with p for each element alone and without n! it would be a half."""
    noise = NoiseCollection([0.5], [1.0], [[1, 0]], [("t", (2,))], DIGEST, "cut")
    axis = np.linspace(-12, 13, 501)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(log_densities(noise, grid, np.zeros((1, 2))))
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("n", [2, 7, 120, 3000])
def test_the_true_input_is_always_possible_and_wrong_ones_hardly_ever(n: int) -> None:
    """Thousands of sorted values lie so close that float32 swaps some: without slack the truth would be impossible."""
    noise = collection(n, 3)
    generator = np.random.default_rng(1)
    carried = np.maximum(generator.normal(0, 2, (12, n)), 0).astype(np.float32)
    sent = carried + drawn(noise, 12)
    found = log_densities(noise, sent, carried)
    assert np.isfinite(np.diag(found)).all()
    if n >= 120:
        assert np.isneginf(found[~np.eye(12, dtype=bool)]).all()


def test_the_distribution_that_noise_came_from() -> None:
    noise = collection(50, 5)
    rows = drawn(noise, 200)
    which = distributions_of(noise, rows)
    assert set(which) == set(range(5))
    for row, d in zip(rows, which, strict=True):
        assert (np.diff(row[noise.orders[d]]) >= 0).all()
    with pytest.raises(DataError, match="none of its collection's orders"):
        distributions_of(noise, rows[:, ::-1])


def test_values_without_noise_have_to_be_equal() -> None:
    noise = element("laplace", np.array([0.5, 0.25, -1.0]), np.array([1.0, 0.0, 0.0]))
    carried = np.array([[0, 1, 2], [5, 1, 2], [0, 1, 2.001]], np.float32)
    sent = carried[:1] + drawn(noise, 1)
    found = log_densities(noise, sent, carried)[0]
    alone = log_densities(element("laplace", np.array([0.5]), np.array([1.0])), sent[:, :1], carried[:, :1])[0]
    assert found[:2] == pytest.approx(alone[:2]) and np.isneginf(found[2])
    nothing = element("laplace", np.zeros(3), np.zeros(3))
    assert log_densities(nothing, carried, carried).tolist() == np.where(np.eye(3), 0.0, -np.inf).tolist()


def test_no_density_no_coordinates() -> None:
    with pytest.raises(DataError, match="values without noise"):
        Coordinates.of(element("normal", np.zeros(2), np.array([1.0, 0.0])))
    singular = element("normal", np.zeros(2), np.ones(2), np.ones((2, 2)))
    with pytest.raises(DataError, match="no density"):
        log_densities(singular, np.zeros((1, 2)), np.zeros((1, 2)))
