"""The word layout, derived here once more from OpenSSL's keystream; the reference; the fast sampler against it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.reference import laplace_from_uniform, noise_by_sorting, reference_noise, sorted_laplace
from edgecut.noise_kernels.sampler import sample, sample_batch

KEY = bytes(range(32))


def nonce(i: int) -> bytes:
    return i.to_bytes(12, "little")


class Counting(NoiseStream):
    """A stream that can be foretold; never for use."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def next(self) -> tuple[bytes, bytes]:
        self.count += 1
        return KEY, nonce(self.count - 1)


def by_hand(collection: NoiseCollection, key: bytes, nonce: bytes) -> np.ndarray:
    """The noise from the layout's text, sharing no code with the package; every E explicit, sums by fsum."""
    n = collection.n
    keystream = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()
    words = [int(w) for w in np.frombuffer(keystream.update(bytes(64 * (2 + n // 16))), dtype="<u4")]
    size = collection.distributions
    d = next(w % size for w in words[:16] if w < 2**32 // size * size)
    e = [-math.log(((w >> 9) + 0.5) / 2**23) for w in words[16 : 16 + n]]
    m = sum(w & 1 for w in words[16 : 16 + n])
    noise = np.empty(n)
    for k in range(1, n + 1):
        if k <= m:
            x = -math.fsum(e[i - 1] / i for i in range(k, m + 1))
        else:
            x = math.fsum(e[i - 1] / (n + 1 - i) for i in range(m + 1, k + 1))
        noise[collection.orders[d][k - 1]] = float(collection.loc[d]) + float(collection.scale[d]) * x
    return noise


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 120])
def test_reference_is_the_layout(n: int, make_collection: Callable[..., NoiseCollection]) -> None:
    collection = make_collection(n, 5)
    for i in range(10):
        expected = by_hand(collection, KEY, nonce(i))
        np.testing.assert_allclose(reference_noise(collection, KEY, nonce(i)), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("n", "draws"), [(2, 40), (3, 20), (16, 20), (120, 20), (480, 20), (1176, 10), (9216, 4), (70_000, 1)]
)
def test_sampler_equals_reference(n: int, draws: int, make_collection: Callable[..., NoiseCollection]) -> None:
    collection = make_collection(n, 4)
    for i in range(draws):
        noise = sample(collection, KEY, nonce(i))
        assert noise.dtype == np.float32 and noise.shape == (n,)
        error = np.abs(noise - reference_noise(collection, KEY, nonce(i))).max()
        assert error <= 4e-6 * collection.scale.min()


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.integers(2, 300))
def test_sampler_equals_reference_for_any_key(key: bytes, nonce: bytes, n: int) -> None:
    order = np.random.default_rng(n).permutation(n)
    digest = "sha256:" + "0" * 64
    collection = NoiseCollection([0.0, 1.0], [1.0, 2.0], [order, order[::-1]], [("x", (n,))], digest, "x")
    np.testing.assert_allclose(sample(collection, key, nonce), reference_noise(collection, key, nonce), atol=4e-6)


@pytest.mark.parametrize(("n", "batch"), [(2, 1), (120, 7), (9216, 30)])
def test_batch_rows_are_the_single_requests(
    n: int, batch: int, make_collection: Callable[..., NoiseCollection]
) -> None:
    collection = make_collection(n, 4)
    rows = sample_batch(collection, Counting(), batch)
    assert rows.dtype == np.float32 and rows.shape == (batch, n)
    for i, row in enumerate(rows):
        assert (row == sample(collection, KEY, nonce(i))).all()


def test_batch_rows_have_distributions_of_their_own(make_collection: Callable[..., NoiseCollection]) -> None:
    collection = make_collection(10, 4, loc=[0, 1000, 2000, 3000])
    chosen = np.rint(np.median(sample_batch(collection, NoiseStream(), 200), axis=1) / 1000)
    assert set(chosen) == {0, 1, 2, 3}


def test_refuses(make_collection: Callable[..., NoiseCollection]) -> None:
    with pytest.raises(ValueError, match="ask for at least 1"):
        sample_batch(make_collection(10), NoiseStream(), 0)
    with pytest.raises(ValueError, match="give it 32 and 12"):
        sample(make_collection(10), b"short", bytes(12))


def test_noise_follows_the_order(make_collection: Callable[..., NoiseCollection]) -> None:
    collection = make_collection(480, 1)
    order = collection.orders[0]
    steps = np.array([np.diff(sample(collection, KEY, nonce(i))[order]) for i in range(50)])
    assert steps.min() >= 0
    wrong = np.array([np.diff(sample(collection, KEY, nonce(i))[collection.ranks[0]]) for i in range(50)])
    assert (wrong < 0).mean() > 0.3  # the order's inverse in its place would be seen


def test_noise_by_sorting() -> None:
    noise = noise_by_sorting(np.array([3.0, -1.0, 0.5]), 10.0, 2.0, np.array([2, 0, 1]))
    assert noise.tolist() == [11.0, 16.0, 8.0]


def test_sorted_laplace_by_hand() -> None:
    e = np.array([1.0, 2.0, 3.0, 4.0])
    assert sorted_laplace(e, 2).tolist() == [-2.0, -1.0, 1.5, 5.5]
    assert sorted_laplace(e, 0).tolist() == [0.25, 0.25 + 2 / 3, 0.25 + 2 / 3 + 1.5, 0.25 + 2 / 3 + 1.5 + 4]
    np.testing.assert_allclose(sorted_laplace(e, 4), [-4.0, -3.0, -2.0, -1.0])


def test_laplace_from_uniform() -> None:
    u = np.array([1e-300, 1e-9, 0.25, 0.5, 0.75, 1 - 2**-53])
    np.testing.assert_allclose(laplace_from_uniform(u), stats.laplace.ppf(u), rtol=1e-13, atol=1e-15)
