"""Bounds in bits where the truth is known: Gaussian channels, discrete inputs, nothing at all; and some mistakes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgecut.errors import DataError
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.noise_kernels.mechanism import Noise
from edgecut.privacy import bound_noise, bounds
from edgecut.privacy.bound_densities import Spread, few_directions
from edgecut.privacy.bound_noise import Channel, ordered_moments
from edgecut.privacy.bounds import lower_bound, upper_bound
from edgecut.privacy.information import paper_metric
from edgecut.privacy.observations import Observations, Part

Floats = npt.NDArray[np.float64]
DIGEST = "sha256:" + "0" * 64


def element(n: int, law: str = "normal", scale: Any = 1.0, mixing: Any = None, **more: Any) -> ElementNoise:
    width = more.pop("width", n)
    loc = np.linspace(-1, 1, n)
    tensors = [("t", (width,))]
    return ElementNoise("gaussian", law, loc, np.full(n, 1.0) * scale, tensors, DIGEST, "cut", mixing, **more)


def collection(n: int, distributions: int, scale: float) -> NoiseCollection:
    generator = np.random.default_rng(4)
    orders = np.stack([generator.permutation(n) for _ in range(distributions)])
    loc = generator.normal(0, 1, distributions)
    return NoiseCollection(loc, np.full(distributions, scale), orders, [("t", (n,))], DIGEST, "cut")


def observed(noise: Noise, values: Floats, labels: Any = None, test: int = 500, seed: int = 0) -> Observations:
    labels = np.zeros(len(values), np.int64) if labels is None else np.asarray(labels)
    parts = [
        Part(values[rows], values[rows].astype(np.float32), labels[rows], None)
        for rows in (slice(test, None), slice(test))
    ]
    return Observations(noise, parts[0], parts[1], ("t",), ((values.shape[1],),), seed)


def gaussian_bits(signal: Floats, noise: Floats) -> float:
    """I(x; y) of y = a + noise for a normal a: 1/2 log2 det(S + N) / det N."""
    return float(np.linalg.slogdet(signal + noise)[1] - np.linalg.slogdet(noise)[1]) / math.log(4)


def jointly_gaussian(n: int, items: int, scale: float = 0.5, mixed: bool = False) -> tuple[Observations, float]:
    """y = A x + noise, and how many bits it has of x."""
    generator = np.random.default_rng(n)
    matrix = generator.standard_normal((n, n)) / math.sqrt(n)
    mixing = np.float32(np.eye(n) + generator.standard_normal((n, n)) / (2 * math.sqrt(n))) if mixed else None
    noise = element(n, scale=scale, mixing=mixing)
    root = scale * (np.eye(n) if mixing is None else mixing.astype(np.float64))
    values = generator.standard_normal((items, n)) @ matrix.T
    return observed(noise, values), gaussian_bits(matrix @ matrix.T, root @ root.T)


@pytest.mark.parametrize("n,mixed", [(1, False), (3, False), (10, True), (60, False), (60, True)])
def test_a_gaussian_channel(n: int, mixed: bool) -> None:
    seen, truth = jointly_gaussian(n, 2500, mixed=mixed)
    upper, lower = upper_bound(seen), lower_bound(seen)
    assert upper is not None and lower is not None
    spread = (upper.high - upper.low) / 4
    assert truth - 3.5 * spread < upper.bits < 1.04 * truth + 3.5 * spread
    assert lower.low < truth
    assert lower.cap_bits == pytest.approx(math.log2(500))
    # With a gallery of 500 a lower bound says 9 bits at most: near the truth below that, and no more above it.
    assert lower.bits > 0.9 * truth if truth < 5 else lower.bits <= lower.cap_bits
    assert lower.at_cap == (truth > 25)


@pytest.mark.deep
def test_a_gaussian_channel_of_a_thousand_values() -> None:
    seen, truth = jointly_gaussian(1000, 12500)
    upper = upper_bound(seen)
    assert upper is not None and upper.high > truth and upper.bits < 1.04 * truth


def test_a_hundred_values_where_the_papers_metric_has_lost_nine_tenths() -> None:
    """Research had 15.7 bits for 119.8; the bound has the truth within a few parts in a hundred."""
    generator = np.random.default_rng(1)
    signal = math.sqrt(0.81 / 0.19)
    seen = observed(element(100), signal * generator.standard_normal((3000, 100)))
    rows = np.arange(500)
    metric = paper_metric(seen.test.values, seen.sent("test", rows, "metric"), shuffles=2)
    truth = gaussian_bits(signal**2 * np.eye(100), np.eye(100))
    upper = upper_bound(seen)
    assert truth == pytest.approx(119.8, abs=0.1)
    assert metric.bits < 0.2 * truth
    assert upper is not None and 0.995 * truth < upper.bits < 1.03 * truth


@pytest.mark.parametrize("law", ["laplace", "normal"])
def test_one_of_eight_inputs_under_next_to_no_noise_is_three_bits(law: str) -> None:
    generator = np.random.default_rng(2)
    which = generator.integers(0, 8, 1500)
    seen = observed(element(12, law, 1e-3), generator.standard_normal((8, 12))[which])
    for found in (upper_bound(seen), lower_bound(seen)):
        assert found is not None and found.bits == pytest.approx(3, abs=0.03)


@pytest.mark.parametrize("noise", [element(12, "laplace", 1e4), element(12, "normal", 1e4)])
def test_next_to_nothing_of_the_input_is_no_bits(noise: Noise) -> None:
    seen = observed(noise, np.random.default_rng(3).standard_normal((1500, 12)))
    for found in (upper_bound(seen), lower_bound(seen)):
        assert found is not None and 0 <= found.bits <= found.high < 0.02


def test_a_collection_of_two_orders() -> None:
    """Nine inputs far apart: log2 9 bits whatever the order. Inputs close together: what ordered noise still hides."""
    generator = np.random.default_rng(5)
    which = generator.integers(0, 9, 1500)
    centres = 50 * generator.standard_normal((9, 10))
    noise = collection(10, 2, 1.0)
    seen = observed(noise, centres[which], which)
    for found in (upper_bound(seen), lower_bound(seen)):
        assert found is not None and found.bits == pytest.approx(math.log2(9), abs=0.05)
    near = observed(noise, 0.05 * generator.standard_normal((1500, 10)))
    upper, lower = upper_bound(near), lower_bound(near)
    assert upper is not None and lower is not None and lower.bits < upper.bits + 0.1
    assert "the distribution drawn being known" in upper.method


def test_classes_are_found_and_the_sum_of_class_entropies_agrees() -> None:
    """The form H(C) + sum p_c 1/2 logdet(Cov(a | c) + N) - h, which holds for classes that do not overlap."""
    generator = np.random.default_rng(6)
    labels = generator.integers(0, 4, 2500)
    spreads = np.array([0.2, 1.0, 2.0, 4.0])[labels, None]
    centres = 40 * generator.standard_normal((4, 15))
    seen = observed(element(15), centres[labels] + spreads * generator.standard_normal((2500, 15)), labels)
    upper = upper_bound(seen)
    each = [gaussian_bits(s**2 * np.eye(15), np.eye(15)) for s in (0.2, 1.0, 2.0, 4.0)]
    assert upper is not None
    assert upper.low < 2 + np.mean(each) < upper.high and upper.high - upper.low < 3
    assert "each class, of its own covariance" in upper.method
    blind = upper_bound(observed(seen.noise, np.vstack([seen.test.values, seen.train.values]).astype(np.float64)))
    assert blind is not None and blind.bits > upper.high + 1


WRONG = {
    "entropy": lambda noise: noise.entropy_nats + 3.0,
    "sign": lambda noise: -noise.entropy_nats,
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_entropy_shows(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, truth = jointly_gaussian(10, 2500)
    right = ElementNoise.entropy_nats.fget  # type: ignore[attr-defined]
    wrong = WRONG[mistake]

    class Said:
        def __init__(self, noise: ElementNoise) -> None:
            self.entropy_nats = right(noise)

    monkeypatch.setattr(ElementNoise, "entropy_nats", property(lambda noise: wrong(Said(noise))))
    monkeypatch.setattr(bounds, "_control", lambda *_: 0.0)
    found = upper_bound(seen)
    assert found is not None and abs(found.bits - truth) > 0.2 * truth


def test_densities_of_more_noise_than_there_is_bring_the_bound_below_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn has a third of the scale that the densities and the entropy go by."""
    seen, said = jointly_gaussian(10, 2500)
    stronger, truth = jointly_gaussian(10, 2500, scale=0.5 / 3)
    honest = upper_bound(stronger)
    drawn = Observations.drawn
    monkeypatch.setattr(Observations, "drawn", lambda self, *args: drawn(self, *args) / 3)
    found = upper_bound(seen)
    assert honest is not None and found is not None
    assert honest.high > truth > said + 5 and found.high < truth - 5


def test_bare_values_and_noise_at_the_input() -> None:
    values = np.random.default_rng(7).standard_normal((800, 6))
    nothing = observed(element(6, scale=0.0), values, test=200)
    assert upper_bound(nothing) is None
    lower = lower_bound(nothing)
    assert lower is not None and lower.bits == lower.cap_bits == pytest.approx(math.log2(200)) and lower.at_cap
    some = observed(element(6, scale=[1, 1, 1, 1, 1, 0]), values)
    assert upper_bound(some) is None
    early = observed(element(6, place="input"), values)
    assert lower_bound(early) is None
    upper, late = upper_bound(early), upper_bound(observed(element(6), values))
    assert upper is not None and late is not None
    assert upper.bits == late.bits and "at the model's input" in upper.method
    assert lower_bound(observed(element(6, scale=0.0, mixing=np.eye(6)), values)) is None


def test_what_a_map_drops_gives_nothing_away() -> None:
    generator = np.random.default_rng(8)
    values = generator.standard_normal((2500, 8))
    linear = LinearMap((8,), np.zeros(8), [None], [1, 4], np.full(2, 0.5), np.full(2, 2.0))
    seen = observed(element(2, width=8, scale=0.25, map=linear), values)
    upper, lower = upper_bound(seen), lower_bound(seen)
    truth = gaussian_bits(0.25 * np.eye(2), 0.0625 * np.eye(2))
    assert upper is not None and lower is not None
    assert upper.bits == pytest.approx(truth, abs=0.15) and lower.bits == pytest.approx(truth, abs=0.25)


@pytest.mark.parametrize("noise", [element(40, "laplace", 0.3), collection(40, 2, 3.0)])
def test_few_directions_do_as_well_as_matrices(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done for thousands of values, at 40."""
    generator = np.random.default_rng(9)
    values = generator.standard_normal((2500, 5)) @ generator.standard_normal((5, 40))
    labels = generator.integers(0, 2, 2500)
    values[labels == 1] += 3
    seen = observed(noise, values, labels)
    dense = upper_bound(seen)
    ordered_moments.cache_clear()
    monkeypatch.setattr(bound_noise, "DENSE", 10)
    monkeypatch.setattr(bounds, "DENSE", 10)
    few = upper_bound(seen)
    ordered_moments.cache_clear()
    assert dense is not None and few is not None
    assert few.bits == pytest.approx(dense.bits, rel=0.06)


def test_the_moments_of_sorted_samples() -> None:
    generator = np.random.default_rng(10)
    samples = np.sort(generator.laplace(size=(100_000, 6)), axis=1)
    mean, spread = ordered_moments(6)
    assert spread.dense is not None
    assert mean == pytest.approx(samples.mean(0), abs=0.03)
    assert spread.dense == pytest.approx(np.cov(samples.T), abs=0.06)
    ordered_moments.cache_clear()


def test_the_moments_of_many_sorted_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, dense = ordered_moments.__wrapped__(300)
    monkeypatch.setattr(bound_noise, "DENSE", 100)
    mean, few = ordered_moments.__wrapped__(300)
    assert dense.dense is not None
    whole = few.factor @ few.factor.T + np.diag(few.diagonal)
    assert mean == pytest.approx(exact)
    assert np.abs(whole - dense.dense).max() < 0.03 * np.abs(dense.dense).max()


def test_a_whitening_whitens() -> None:
    generator = np.random.default_rng(11)
    spread = Spread(generator.standard_normal((9, 3)), generator.uniform(0.5, 2, 9))
    matrix = spread.factor @ spread.factor.T + np.diag(spread.diagonal)
    rest = generator.standard_normal((9, 9))
    for some, expected in ((spread, matrix), (spread.plus(Spread.of_dense(rest @ rest.T)), matrix + rest @ rest.T)):
        apply, half_logdet = some.whitening()
        turn = apply(np.eye(9)).T
        assert turn @ expected @ turn.T == pytest.approx(np.eye(9), abs=1e-8)
        assert 2 * half_logdet == pytest.approx(np.linalg.slogdet(expected)[1])
    rows = generator.standard_normal((400, 9)) @ np.diag([9, 5, 1, 1, 1, 1, 1, 1, 1])
    found = few_directions(rows, 2, 0)
    values = np.linalg.eigvalsh(rows.T @ rows / 400)[::-1]
    assert (found.factor**2).sum(0) == pytest.approx(values[:2], rel=1e-3)
    assert (found.factor**2).sum(1) + found.diagonal == pytest.approx((rows**2).mean(0))


def test_a_seed_gives_one_result_and_progress_is_told() -> None:
    seen, _ = jointly_gaussian(3, 1200)
    told: list[float] = []
    one = upper_bound(seen, lambda _text, share: told.append(share))
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1
    assert one == upper_bound(seen) and lower_bound(seen) == lower_bound(seen)
    other = upper_bound(dataclasses.replace(seen, seed=1))
    assert one is not None and other is not None and one.bits != other.bits
    assert Channel(seen, "upper bound").n == 3


@pytest.mark.parametrize("test,word", [(500, "training"), (10, "unseen")])
def test_too_few_items(test: int, word: str) -> None:
    values = np.random.default_rng(12).standard_normal((510, 2))
    with pytest.raises(DataError, match=f"10 {word} items are too few"):
        upper_bound(observed(element(2), values, test=test))
