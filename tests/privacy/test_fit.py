"""Fitting a Laplace distribution to a learned tensor: known parameters, the order, and the sum of squares."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from edgecut.privacy.fit import fit


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (3.0, 0.2), (-7.0, 5.0)])
def test_known_parameters_are_recovered(loc: float, scale: float) -> None:
    n = 40_000
    values = np.random.default_rng(1).laplace(loc, scale, n)
    made = fit(values.reshape(200, 200))
    # The estimates' standard deviations are scale / sqrt(n); five of them are never reached by chance.
    assert abs(made.loc - loc) < 5 * scale / n**0.5 and abs(made.scale - scale) < 5 * scale / n**0.5


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-50, 50, width=32), unique=True))
def test_fit_is_maximum_likelihood_and_order_sorts(values: np.ndarray) -> None:
    made = fit(values)
    assert (np.diff(values[made.order]) > 0).all() and sorted(made.order) == list(range(len(values)))
    best = stats.laplace.logpdf(values, made.loc, made.scale).sum()
    for loc, scale in ((0.01, 1.0), (-0.01, 1.0), (0.0, 1.02), (0.0, 0.98)):
        other = stats.laplace.logpdf(values, made.loc + loc * made.scale, made.scale * scale).sum()
        assert other <= best + 1e-9 * abs(best)


def test_the_sum_of_squares_tells_laplace_from_others() -> None:
    generator = np.random.default_rng(2)
    values = {
        "laplace": generator.laplace(0, 1, 20_000),
        "normal": generator.normal(0, 2**0.5, 20_000),
        "uniform": generator.uniform(-(6**0.5), 6**0.5, 20_000),  # the same variance
        "two lumps": np.concatenate([generator.normal(side, 0.2, 10_000) for side in (-2, 2)]),
    }
    sse = {name: fit(sample).sse for name, sample in values.items()}
    assert sse["laplace"] < 0.02 < sse["normal"] and 10 * sse["laplace"] < min(sse["uniform"], sse["two lumps"])


def test_the_sum_of_squares_by_hand() -> None:
    values = np.random.default_rng(3).laplace(1, 2, 500)
    made = fit(values)
    edges = np.linspace(values.min(), values.max(), 51)
    width = edges[1] - edges[0]
    counts = [((values >= a) & (values < b)).sum() for a, b in pairwise(edges)]
    counts[-1] += 1  # the largest value belongs to the last bin
    centres = edges[:-1] + width / 2
    density = np.exp(-np.abs(centres - np.median(values)) / made.scale) / (2 * made.scale)
    assert made.sse == pytest.approx(((np.array(counts) / (500 * width) - density) ** 2).sum(), rel=1e-9)
    # It has no unit of its own: values ten times as large give a hundredth.
    assert fit(10 * values).sse == pytest.approx(made.sse / 100, rel=1e-9)
