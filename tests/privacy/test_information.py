from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from edgecut.errors import DataError
from edgecut.privacy import information
from edgecut.privacy.information import MutualInformation, paper_metric, relative_loss, shufflings

Floats = npt.NDArray[np.float64]


def gaussians(columns: int, samples: int, correlation: float, seed: int = 0) -> tuple[Floats, Floats, float]:
    """x and y of `columns` correlated pairs of standard normals, and their mutual information in bits."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((samples, columns))
    y = correlation * x + math.sqrt(1 - correlation**2) * generator.standard_normal((samples, columns))
    return x, y, -columns / 2 * math.log2(1 - correlation**2)


def by_hand(x: Floats, y: Floats, k: int, pairing: npt.NDArray[np.int64], shuffled: npt.NDArray[np.int64]) -> Floats:
    """The estimator pair by pair with scipy's distances: rho, nu and the number of shuffled pairs, for each sample."""
    z, mixed = np.hstack([x, y[pairing]]), np.hstack([x, y[pairing][shuffled]])
    rows = []
    for i in range(len(x)):
        rho = np.sort(cdist(z[i : i + 1], np.delete(z, i, axis=0))[0])[k - 1]
        allowed = [j for j in range(len(x)) if j != i and shuffled[j] != i]
        nu = np.sort(cdist(z[i : i + 1], mixed[allowed])[0])[k - 1]
        rows.append((rho, nu, len(allowed)))
    return np.array(rows)


def right(rho: Floats, nu: Floats, m: Floats, columns: tuple[int, int]) -> float:
    n = len(rho)
    return float(np.mean(sum(columns) * np.log2(nu / rho) + np.log2(m / (n - 1))))


WRONG: dict[str, Callable[[Floats, Floats, Floats, tuple[int, int]], float]] = {
    "no log(m / (n - 1))": lambda rho, nu, m, columns: float(np.mean(sum(columns) * np.log2(nu / rho))),
    "n for n - 1": lambda rho, nu, m, columns: float(np.mean(sum(columns) * np.log2(nu / rho) + np.log2(m / len(rho)))),
    "only x's columns": lambda rho, nu, m, columns: right(rho, nu, m, (columns[0], 0)),
    "nats": lambda rho, nu, m, columns: math.log(2) * right(rho, nu, m, columns),
    "squared distances": lambda rho, nu, m, columns: right(rho**2, nu**2, m, columns),
    "nu and rho swapped": lambda rho, nu, m, columns: right(nu, rho, m, columns),
}


@pytest.mark.parametrize("columns,tolerance", [(1, 0.12), (2, 0.3), (3, 0.65)])
@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_gaussians_in_few_dimensions_come_near_the_truth_from_below(
    columns: int, tolerance: float, correlation: float
) -> None:
    x, y, truth = gaussians(columns, 1000, correlation, seed=columns)
    found = paper_metric(x, y)
    assert truth - tolerance < found.bits < truth + 0.12
    assert abs(found.null_bits) < 0.1
    assert found.dimensions == (columns, columns) and found.samples == 1000 and found.tied == 0


def test_a_hundred_dimensions_read_far_below_the_truth() -> None:
    """The estimator's own limit: research had 15.7 for 119.8 bits, with another sample."""
    x, y, truth = gaussians(100, 1000, 0.9)
    found = paper_metric(x, y)
    assert truth == pytest.approx(119.8, abs=0.01)
    assert found.bits == pytest.approx(15.7, abs=2.5)
    assert abs(found.null_bits) < 0.5
    assert "comparison only" in found.note and "200 dimensions" in found.note


def test_fixed_tensors_that_hide_four_bits_seem_to_hide_half() -> None:
    """Why the number is never given alone: the true information falls by at most log2(20) of 119.8 bits."""
    x, y, _ = gaussians(100, 800, 0.9)
    generator = np.random.default_rng(1)
    noise = generator.laplace(0, 3, (20, 100))[generator.integers(0, 20, 800)]
    loss = relative_loss(paper_metric(x, y), paper_metric(x, y + noise))
    assert loss is not None and 0.3 < loss < 0.6


@pytest.mark.parametrize("columns", [(1, 1), (3, 2), (60, 40)])
def test_independent_data_give_about_nothing(columns: tuple[int, int]) -> None:
    generator = np.random.default_rng(3)
    x, y = (generator.standard_normal((600, count)) for count in columns)
    found = paper_metric(x, y, shuffles=8)
    assert abs(found.bits) < 0.25 + 0.01 * sum(columns)
    assert abs(found.null_bits) < 0.1 + 0.005 * sum(columns)
    assert 0 < found.null_sd < 0.15 + 0.01 * sum(columns)


def test_sklearns_other_estimator_agrees_for_one_column_each() -> None:
    selection = pytest.importorskip("sklearn.feature_selection")
    generator = np.random.default_rng(4)
    x = generator.uniform(-2, 2, 1000)
    y = x**2 + generator.normal(0, 0.3, 1000)
    other = selection.mutual_info_regression(x[:, None], y, random_state=0)[0] / math.log(2)
    assert other > 1
    assert paper_metric(x, y).bits == pytest.approx(other, abs=0.15)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(7, 24),
    x_shape=st.sampled_from([(), (1,), (3,), (2, 2), (1, 2, 3)]),
    y_shape=st.sampled_from([(), (2,), (5,), (2, 1, 2)]),
    k=st.integers(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**31),
)
def test_the_formula_by_hand(
    samples: int, x_shape: tuple[int, ...], y_shape: tuple[int, ...], k: int, dtype: type, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((samples, *x_shape)).astype(dtype)
    y = (
        generator.standard_normal((samples, *y_shape)) + x.reshape(samples, -1).mean(1).reshape(-1, *[1] * len(y_shape))
    ).astype(dtype)
    found = paper_metric(x, y, k, shuffles=2, seed=seed)
    flat = [part.reshape(samples, -1).astype(np.float64) for part in (x, y)]
    columns = (flat[0].shape[1], flat[1].shape[1])
    assert found.dimensions == columns
    again = np.random.default_rng(seed)
    drawn = shufflings(samples, 2, again)
    same = np.arange(samples)
    expected = [right(*by_hand(*flat, k, same, shuffled).T, columns) for shuffled in drawn]
    assert found.bits == pytest.approx(np.mean(expected), rel=1e-6, abs=1e-6)
    nulls = [right(*by_hand(*flat, k, again.permutation(samples), shuffled).T, columns) for shuffled in drawn]
    assert found.null_bits == pytest.approx(np.mean(nulls), rel=1e-6, abs=1e-6)
    assert found.null_sd == pytest.approx(np.std(nulls, ddof=1), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_formulas_are_told_apart(mistake: str) -> None:
    x, y, _ = gaussians(2, 20, 0.8, seed=5)
    drawn = shufflings(20, 2, np.random.default_rng(0))
    parts = [by_hand(x, y, 3, np.arange(20), shuffled) for shuffled in drawn]
    found = paper_metric(x, y, shuffles=2).bits
    assert found == pytest.approx(np.mean([right(*part.T, (2, 2)) for part in parts]))
    assert abs(found - np.mean([WRONG[mistake](*part.T, (2, 2)) for part in parts])) > 0.05


def test_pairs_that_share_a_half_would_push_the_null_below_nothing() -> None:
    """The reason for leaving two shuffled pairs out: with them, independent data in many dimensions read negative."""
    generator = np.random.default_rng(6)
    x, y = generator.standard_normal((2, 400, 100))
    shuffled = shufflings(400, 2, np.random.default_rng(0))[0]
    joint = cdist(np.hstack([x, y]), np.hstack([x, y]))
    np.fill_diagonal(joint, np.inf)
    mixed = cdist(np.hstack([x, y]), np.hstack([x, y[shuffled]]))
    careless = 200 * np.log2(np.sort(mixed)[:, 2] / np.sort(joint)[:, 2]).mean() + math.log2(400 / 399)
    assert careless < -3
    assert abs(paper_metric(x, y).null_bits) < 1


def test_what_changes_nothing() -> None:
    x, y, _ = gaussians(3, 300, 0.8, seed=7)
    found = paper_metric(x, y).bits
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    for same in (
        paper_metric(x + 5, y - 7),
        paper_metric(x[:, ::-1], y),
        paper_metric(x @ turn, y),
        paper_metric(4 * x, 4 * y),
        paper_metric(x + 1e6, y),
    ):
        assert same.bits == pytest.approx(found, rel=1e-6)
    assert paper_metric(y, x).bits == pytest.approx(found, abs=0.15)
    order = np.random.default_rng(1).permutation(300)
    assert paper_metric(x[order], y[order]).bits == pytest.approx(found, abs=0.15)


def test_what_changes_it_although_the_information_is_the_same() -> None:
    x, y, _ = gaussians(20, 500, 0.9, seed=8)
    found = paper_metric(x, y)
    stretched = paper_metric(x, 10 * y)
    assert abs(stretched.bits - found.bits) > 0.5
    one, other = (paper_metric(x, side, scale="standardised") for side in (y, 10 * y))
    assert one.scaling == "standardised" and one.bits == pytest.approx(other.bits, rel=1e-9)
    wide = np.hstack([x, np.full((500, 5), 0.1), np.zeros((500, 5))])
    margin = paper_metric(wide, y)
    constant = math.log2(498 / 499)
    assert margin.bits - constant == pytest.approx((found.bits - constant) * 50 / 40)
    assert paper_metric(wide, y, scale="standardised").bits > one.bits


def test_standardised_is_zero_mean_and_unit_deviation() -> None:
    generator = np.random.default_rng(9)
    x, y, _ = gaussians(4, 200, 0.7, seed=9)
    x, y = x * [1, 20, 300, 4000] + 7, y * generator.uniform(0.01, 9, 4)
    by_columns = ((part - part.mean(0)) / part.std(0) for part in (x, y))
    assert paper_metric(x, y, scale="standardised").bits == pytest.approx(paper_metric(*by_columns).bits, rel=1e-9)


def test_discrete_data_are_counted() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(10)
    x = generator.integers(0, 4, 400)
    y = np.where(generator.random(400) < 0.7, x, generator.integers(0, 4, 400))
    found = paper_metric(x, y)
    assert found.tied == 400
    assert found.bits == pytest.approx(metrics.mutual_info_score(x, y) / math.log(2))
    assert abs(found.null_bits) < 0.05
    assert paper_metric(x, x).bits == pytest.approx(-sum(p * math.log2(p) for p in np.bincount(x) / 400))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_equal_images_count_only_where_their_answers_are_equal_too(dtype: type) -> None:
    generator = np.random.default_rng(11)
    x = generator.integers(0, 256, (300, 4, 5)).astype(dtype)
    x[:5] = x[0]
    y = generator.standard_normal((300, 3)).astype(np.float32)
    apart = paper_metric(x, y)
    assert apart.tied == 0 and math.isfinite(apart.bits)
    y[:5] = y[0]
    drawn = shufflings(300, 5, np.random.default_rng(0))
    flat = x.reshape(300, -1).astype(np.float64), y.astype(np.float64)
    expected = []
    for shuffled in drawn:
        rho, nu, m = by_hand(*flat, 3, np.arange(300), shuffled)[5:].T
        rest = 23 * np.log2(nu / rho) + np.log2(m / 299)
        expected.append((rest.sum() + 5 * math.log2((5 / 300) / (5 / 300) ** 2)) / 300)
    found = paper_metric(x, y)
    assert found.tied == 5
    assert found.bits == pytest.approx(np.mean(expected), rel=1e-6)


def test_minus_zero_is_zero() -> None:
    generator = np.random.default_rng(12)
    x, y = generator.integers(0, 3, (2, 200)) - 1.0
    signs = np.where(generator.random(200) < 0.5, -1.0, 1.0)
    assert paper_metric(x, y) == paper_metric(np.where(x == 0, signs * 0.0, x), y)


def test_close_pairs_keep_their_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins 1e-8 apart among points 1 apart: the matrix product alone cannot tell how far."""
    generator = np.random.default_rng(13)
    x, y = (np.repeat(generator.standard_normal((30, 4)), 2, axis=0) for _ in range(2))
    x, y = (part + 1e-8 * generator.standard_normal(part.shape) for part in (x, y))
    drawn = shufflings(60, 2, np.random.default_rng(0))
    expected = np.mean([right(*by_hand(x, y, 1, np.arange(60), shuffled).T, (4, 4)) for shuffled in drawn])
    assert paper_metric(x, y, 1, shuffles=2).bits == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(information, "_mend", lambda *_: None)
    with np.errstate(all="ignore"):
        assert paper_metric(x, y, 1, shuffles=2).bits != pytest.approx(expected, rel=1e-3)


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = gaussians(9, 70, 0.9, seed=14)
    whole = paper_metric(x, y, scale="standardised")
    monkeypatch.setattr(information, "COLUMNS", 4)
    monkeypatch.setattr(information, "ROWS", 16)
    pieces = paper_metric(x, y, scale="standardised")
    assert pieces.bits == pytest.approx(whole.bits, rel=1e-9)
    assert pieces.null_bits == pytest.approx(whole.null_bits, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_shufflings_leave_nothing_in_its_place(samples: int, seed: int) -> None:
    for drawn in shufflings(samples, 3, np.random.default_rng(seed)):
        assert sorted(drawn) == list(range(samples))
        assert (drawn != np.arange(samples)).all()


def test_a_seed_gives_one_result_and_progress_is_told() -> None:
    x, y, _ = gaussians(2, 50, 0.5)
    told: list[tuple[str, float]] = []
    found = paper_metric(x, y, seed=5, progress=lambda what, share: told.append((what, share)))
    assert found == paper_metric(x, y, seed=5)
    assert found.bits != paper_metric(x, y, seed=6).bits
    assert [share for _, share in told] == sorted(share for _, share in told) and 0 <= told[0][1] <= told[-1][1] <= 1
    assert {what for what, _ in told} == {"distances", "mutual information", "null"}
    assert found.seconds > 0


def test_the_loss_is_relative_and_only_between_like_estimates() -> None:
    before = MutualInformation(
        bits=40.0, null_bits=0.1, null_sd=0.1, k=3, samples=100, dimensions=(9, 4), scaling="as given", shuffles=5,
        tied=0, seconds=1.0,
    )  # fmt: skip
    assert relative_loss(before, dataclasses.replace(before, bits=10.0)) == pytest.approx(0.75)
    assert relative_loss(before, dataclasses.replace(before, bits=-1.0)) == pytest.approx(1.025)
    lost = dataclasses.replace(before, null_bits=30.0, null_sd=5.0)
    assert relative_loss(lost, before) is None
    assert relative_loss(dataclasses.replace(lost, null_sd=4.9), before) == 0
    for bits in (0.0, -0.1):
        assert relative_loss(dataclasses.replace(before, bits=bits, null_bits=-9.0), before) is None
    for other in ({"k": 4}, {"samples": 99}, {"dimensions": (9, 5)}, {"scaling": "standardised"}):
        with pytest.raises(DataError, match=f"different {next(iter(other))}"):
            relative_loss(before, dataclasses.replace(before, **other))


@pytest.mark.parametrize(
    "change,words",
    [
        ({"x": np.zeros((9, 2))}, "x has 9 samples and y 50"),
        ({"x": np.array(["a"] * 50)}, "x must be numbers"),
        ({"y": np.float64(3)}, "y must be numbers"),
        ({"y": np.zeros((50, 0))}, "y must be numbers"),
        ({"y": np.full((50, 2), np.nan)}, "finite numbers"),
        ({"x": np.full((50, 2), 1e200) * np.arange(50)[:, None]}, "finite numbers"),
        ({"k": 0}, "k must be 1 or more"),
        ({"k": 48}, "k = 48 needs 51"),
        ({"shuffles": 1}, "shuffles 2 or more"),
        ({"scale": "standardized"}, "did you mean 'standardised'.*as given"),
        ({"x": np.zeros((5001, 1)), "y": np.zeros((5001, 1))}, "more than 5000 take too long"),
    ],
)
def test_what_cannot_be_estimated_is_said(change: dict[str, object], words: str) -> None:
    x, y, _ = gaussians(2, 50, 0.5)
    with pytest.raises(DataError, match=words):
        paper_metric(**{"x": x, "y": y, **change})  # type: ignore[arg-type]
