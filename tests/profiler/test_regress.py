"""Regressors against tables made from a known law, with steps and noise: the law is the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.profiler.features import Shapes, cost_terms, neurosurgeon_features
from edgecut.profiler.layer_table import LayerRow, LayerTable
from edgecut.profiler.regress import Regressor, Regressors, fit_weights

ROUND = sorted(factor * 2**n for n in range(2, 11) for factor in (1, 3))


def stepped(row: LayerRow) -> float:
    """A device with a fixed cost, a roofline, and tiles of 32 channels by 64 positions; in seconds."""
    out = math.ceil(row.input_hw / row.stride)
    tiles = math.ceil(row.out_channels / 32) * math.ceil(out * out / 64)
    work = tiles * 32 * 64 * 2 * row.kernel**2 * math.ceil(row.in_channels / 4) * 4
    moved = 4 * (row.input_hw**2 * row.in_channels + out * out * row.out_channels)
    return 2e-5 + max(work / 2e11, moved / 1.5e10)


def drawn(count: int, law: Callable[[LayerRow], float], noise: float, seed: int = 0) -> list[LayerRow]:
    """Convolutions of random sizes, timed by the law with log-normal noise."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        side = round(math.exp(random.uniform(math.log(4), math.log(112))))
        most = math.log(min(1024, 8e5 / side**2))
        row = LayerRow(
            kind="conv",
            input_hw=side,
            in_channels=round(math.exp(random.uniform(1, most))),
            out_channels=round(math.exp(random.uniform(1, most))),
            kernel=int(random.choice([1, 3, 5])),
            stride=int(random.choice([1, 2])),
            latency_s=1.0,
        )
        rows.append(row.model_copy(update={"latency_s": law(row) * math.exp(noise * random.standard_normal())}))
    return rows


@pytest.fixture(scope="module")
def fitted() -> Regressor:
    return Regressor("conv", drawn(600, stepped, 0.03))


def relative(predicted: np.ndarray, rows: list[LayerRow]) -> np.ndarray:
    return np.abs(predicted / np.array([stepped(row) for row in rows]) - 1)


def test_follows_the_law_between_and_beyond(fitted: Regressor) -> None:
    rows = drawn(300, stepped, 0.0, seed=1)
    assert np.median(relative(fitted.latency([row.operation() for row in rows]), rows)) < 0.07
    largest = [
        LayerRow(kind="conv", input_hw=112, in_channels=c, out_channels=c, kernel=3, latency_s=1.0)
        for c in (128, 192, 256)
    ]
    operations = [row.operation() for row in largest]
    assert (fitted.octaves_outside(Shapes.of(operations)) > 0).all(), "beyond the trained FLOPs"
    assert np.median(relative(fitted.latency(operations), largest)) < 0.2


def test_the_correction_is_what_makes_it_accurate(fitted: Regressor) -> None:
    """Negative control: the same rows by Neurosurgeon's linear regression are far off."""
    rows, train = drawn(300, stepped, 0.0, seed=1), drawn(600, stepped, 0.03)
    columns = [neurosurgeon_features("conv", Shapes.of([row.operation() for row in some])) for some in (train, rows)]
    weights = np.linalg.lstsq(columns[0], np.array([row.latency_s for row in train]), rcond=None)[0]
    assert np.median(relative(columns[1] @ weights, rows)) > 0.5


def test_same_rows_give_the_same_regressor(fitted: Regressor) -> None:
    again = Regressor("conv", drawn(600, stepped, 0.03))
    operations = [row.operation() for row in drawn(50, stepped, 0.0, seed=2)]
    assert (again.latency(operations) == fitted.latency(operations)).all()


@given(
    side=st.integers(1, 300),
    taken=st.integers(1, 2000),
    made=st.integers(1, 2000),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_positive_and_never_faster_than_a_smaller_round_layer(
    fitted: Regressor, side: int, taken: int, made: int, kernel: int, stride: int
) -> None:
    """A layer with every size rounded down to a round one is not slower, with every size rounded up not faster."""

    def layer(*sizes: int) -> LayerRow:
        return LayerRow(
            kind="conv",
            input_hw=sizes[0],
            in_channels=sizes[1],
            out_channels=sizes[2],
            kernel=kernel,
            stride=stride,
            latency_s=1,
        )

    grown = [min(value for value in (1, 2, 3, *ROUND, 4096) if value >= size) for size in (side, taken, made)]
    shrunk = [max(value for value in (1, 2, 3, *ROUND) if value <= size) for size in (side, taken, made)]
    low, middle, high = fitted.latency([layer(*sizes).operation() for sizes in (shrunk, (side, taken, made), grown)])
    assert 0 < low <= middle * (1 + 1e-9)
    assert middle <= high * (1 + 1e-9)


@pytest.mark.parametrize("grow", ["input_hw", "in_channels", "out_channels"])
def test_growing_one_round_size_never_makes_it_faster(fitted: Regressor, grow: str) -> None:
    sizes = {"input_hw": 14, "in_channels": 48, "out_channels": 64}
    rows = [
        LayerRow(kind="conv", **{**sizes, grow: value}, kernel=3, latency_s=1.0)
        for value in ((4, 7, 8, 14, 16, 28, 56, 112) if grow == "input_hw" else ROUND)
    ]
    assert (np.diff(fitted.latency([row.operation() for row in rows])) >= 0).all()


def test_without_round_sizes_it_would_not_be_monotone(fitted: Regressor) -> None:
    """Negative control: the raw correction does fall somewhere between round sizes."""
    rows = [
        LayerRow(kind="conv", input_hw=side, in_channels=taken, out_channels=made, kernel=3, latency_s=1.0)
        for side in (7, 14, 28, 56)
        for taken in (16, 64, 256)
        for made in ROUND
    ]
    raw = fitted.raw(Shapes.of([row.operation() for row in rows])).reshape(-1, len(ROUND))
    assert (np.diff(raw, axis=1) < 0).any()


@given(st.integers(1, 200), st.integers(1, 900), st.integers(1, 900), st.integers(0, 2))
def test_terms_never_fall_when_a_layer_grows(side: int, taken: int, made: int, which: int) -> None:
    sizes = [side, taken, made]
    larger = [size + (place == which) * 7 for place, size in enumerate(sizes)]
    for kind in ("conv", "linear"):
        rows = [
            LayerRow(kind=kind, input_hw=s if kind == "conv" else 1, in_channels=i, out_channels=o, latency_s=1)
            for s, i, o in (sizes, larger)
        ]
        small, large = cost_terms(kind, Shapes.of([row.operation() for row in rows]))
        assert (large >= small - 1e-9).all()


def test_weights_find_a_roofline_and_ignore_outliers() -> None:
    random = np.random.default_rng(0)
    terms = np.stack([np.ones(200), random.lognormal(20, 2, 200), random.lognormal(12, 2, 200)], 1)
    seconds = terms @ [2e-5, 1e-11, 4e-10]
    seconds[::20] *= 5
    weights = fit_weights(terms, seconds)
    assert (weights >= 0).all()
    assert np.median(np.abs(terms @ weights / seconds - 1)) < 0.02


@pytest.mark.parametrize("count", [1, 2, 7, 25])
def test_few_rows_have_the_base_alone(count: int) -> None:
    rows = drawn(count, stepped, 0.02)
    fitted = Regressors(LayerTable(rows=tuple(rows)))
    found = fitted.estimate("conv", [row.operation() for row in rows])
    assert not fitted.parameters()[0].corrected
    assert (found.latency_s > 0).all() and (found.low_s < found.high_s).all()
    assert np.median(relative(found.latency_s, rows)) < 0.4


def test_intervals_cover_unseen_layers_and_shrink_with_noise() -> None:
    """90 % of 400 unseen layers, give or take four standard deviations; a calm device gets narrower ones."""
    widths = []
    for noise in (0.02, 0.2):
        fitted = Regressors(LayerTable(rows=tuple(drawn(500, stepped, noise))), pooled=False)
        unseen = drawn(400, stepped, noise, seed=3)
        found = fitted.estimate("conv", [row.operation() for row in unseen])
        measured = np.array([row.latency_s for row in unseen])
        covered = ((found.low_s <= measured) & (measured <= found.high_s)).mean()
        assert 0.82 <= covered <= 0.97
        # Negative control: half as wide does not do.
        near = np.abs(np.log(measured / found.latency_s)) <= np.log(found.high_s / found.latency_s) / 2
        assert near.mean() < 0.82
        widths.append(np.median(np.log(found.high_s / found.latency_s)))
    assert widths[0] < widths[1] / 1.5


def test_outside_the_range_is_said_and_wider() -> None:
    fitted = Regressors(LayerTable(rows=tuple(drawn(120, stepped, 0.02))))
    inside = LayerRow(kind="conv", input_hw=28, in_channels=32, out_channels=32, kernel=3, latency_s=1).operation()
    huge = LayerRow(kind="conv", input_hw=512, in_channels=2048, out_channels=2048, kernel=7, latency_s=1).operation()
    found = fitted.estimate("conv", [inside, huge])
    assert found.outside.tolist() == [False, True]
    assert found.high_s[1] / found.latency_s[1] > found.high_s[0] / found.latency_s[0]
    other = LayerRow(kind="linear", in_channels=64, out_channels=64, latency_s=1).operation()
    assert not fitted.knows("linear") and fitted.estimate("linear", [other]).outside.all()
