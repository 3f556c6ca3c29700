"""The largest scale that is accurate enough: found, and never larger."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from edgecut.errors import EdgecutError  # noqa: E402
from edgecut.noise_kernels.collection import NoiseCollection  # noqa: E402
from edgecut.noise_kernels.reference import reference_noise  # noqa: E402
from edgecut.privacy import search  # noqa: E402
from edgecut.privacy.activations import Rows  # noqa: E402
from edgecut.privacy.cloud import Cloud  # noqa: E402
from edgecut.privacy.gates import count_right, gate_key, noise_from, replayed  # noqa: E402
from edgecut.privacy.search import PRECISION, Trial, largest_scale  # noqa: E402


@settings(deadline=None, max_examples=80)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0.01, 10))
def test_it_is_good_and_a_little_more_is_not(limit: float, start: float, allowed: float) -> None:
    tried: list[float] = []

    def loss(scale: float) -> float:
        tried.append(scale)
        return allowed * (scale / limit) ** 1.5

    found, tries = largest_scale(loss, start, allowed)
    assert found <= limit < found * PRECISION * (1 + 1e-9) and tries == len(tried) < 80
    assert found in tried  # never one that was not tried itself


def test_nothing_is_good_and_everything_is() -> None:
    with pytest.raises(EdgecutError, match=r"even noise of .* costs more than the 1.5 points allowed .*; allow more"):
        largest_scale(lambda _: 2.0, 1.0, 1.5)
    assert largest_scale(lambda _: 0.0, 1.0, 1.5)[0] >= search.LARGEST


def collection(count: int = 3, n: int = 6, scale: float = 1.0) -> NoiseCollection:
    orders = np.stack([np.random.default_rng(d).permutation(n) for d in range(count)])
    return NoiseCollection(np.zeros(count), np.full(count, scale), orders, [("a", (n,))], "sha256:" + "0" * 64, "c")


def test_noise_does_not_depend_on_the_pieces() -> None:
    noise, key = noise_from(collection(), gate_key(0, "x"), 10), gate_key(0, "x")
    whole = np.stack([noise(1, 0, 10), noise(2, 0, 10)])
    again = np.stack([np.concatenate([noise(draw, 0, 4), noise(draw, 4, 6)]) for draw in (1, 2)])
    np.testing.assert_array_equal(whole, again)
    nonce = (0).to_bytes(4, "little") + (13).to_bytes(8, "little")
    np.testing.assert_allclose(whole[0][3], reference_noise(collection(), key, nonce), atol=1e-5)
    assert len({row.tobytes() for row in whole.reshape(-1, 6)}) == 20


def test_keys_differ_by_seed_and_purpose() -> None:
    keys = {gate_key(seed, purpose) for seed in (0, 1, 2**62) for purpose in ("hold-out", "unseen")}
    assert len(keys) == 6 and all(len(key) == 32 for key in keys) and gate_key(1, "x") == gate_key(1, "x")


def trial(width: int, labels: np.ndarray, heads: np.ndarray, unit: NoiseCollection, hoisted: bool) -> Trial:
    cloud = Cloud(lambda flat: 2 * flat + 1, lambda head: head - 1, width, hoisted=hoisted)
    rows = Rows(len(heads), width, "memory", lambda wanted: heads[wanted])
    return Trial(cloud, rows, labels, unit, gate_key(3, "hold-out"), 2, 4)


@pytest.mark.parametrize("cached", [True, False])
def test_a_trial_counts_what_a_gate_counts(cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cached:
        monkeypatch.setattr(search, "CACHE_BYTES", 0)
    generator = np.random.default_rng(1)
    flat, labels = generator.standard_normal((30, 6)).astype(np.float32), generator.integers(0, 6, 30)
    tried = trial(6, labels, 2 * flat + 1, collection(), hoisted=True)
    key = gate_key(3, "hold-out")
    for scale in (0.0, 0.3, 1.7, 0.3):
        noise = noise_from(collection(scale=scale), key, 30) if scale else None
        batches = [(flat[i : i + 7], (labels[i : i + 7],)) for i in range(0, 30, 7)]
        right = count_right(batches, (lambda sent: 2 * sent,), noise, 2 if scale else 1)
        assert tried.accuracy(scale) == right[0] / (60 if scale else 30)


def test_a_known_answer() -> None:
    """One element, one distribution, two classes at distance 1: the share of errors is half the tail beyond it.

    P(x > 1) = exp(-1 / b) / 2 is the accuracy lost, so 5 points allow b = -1 / ln 0.1.
    """
    items = 20_000
    flat = np.zeros((items, 2), np.float32)
    unit = NoiseCollection([0], [1], [[0, 1]], [("a", (2,))], "sha256:" + "0" * 64, "c")

    # Only the first element counts, and unsorted: of two sorted samples it would be the smaller.
    class One:
        kept = np.random.default_rng(8).laplace(size=(2, items, 2)).astype(np.float32)

    cloud = Cloud(lambda a: a, lambda h: torch.stack([torch.ones(len(h)), h[:, 0]], 1), 2, hoisted=False)
    made = Trial(cloud, Rows(items, 2, "memory", lambda r: flat[r]), np.zeros(items, np.int64), unit, b"k" * 32, 2, 997)
    made._noise = lambda draw, first, count: One.kept[draw, first : first + count]
    found, _ = largest_scale(lambda scale: 100 * (made.accuracy(0.0) - made.accuracy(scale)), 1.0, 5.0)
    assert found == pytest.approx(-1 / math.log(0.1), rel=0.04)


def test_replayed_tensors_are_chosen_evenly() -> None:
    tensors = np.arange(12, dtype=np.float32).reshape(4, 3)
    drawn = replayed(tensors, gate_key(0, "replay"))(0, 0, 4000)
    counts = np.bincount((drawn[:, 0] / 3).astype(int), minlength=4)
    assert (np.abs(counts - 1000) < 150).all() and {row.tobytes() for row in drawn} == {t.tobytes() for t in tensors}


def test_every_classifier_is_counted() -> None:
    batches = [(np.eye(3, dtype=np.float32), (np.array([0, 1, 0]), np.array([1, 2, 1])))]
    assert count_right(batches, (lambda a: a, lambda a: np.roll(a, 1, axis=1))) == [2, 2]
    shift = np.roll(np.eye(3, dtype=np.float32), 1, axis=1) * 9
    assert count_right(batches, (lambda a: a, lambda a: a), lambda *_: shift, 5) == [5, 10]
