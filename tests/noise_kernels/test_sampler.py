"""The word layout, derived here once more from OpenSSL's keystream; the reference; the fast samplers against it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgecut.noise_kernels import native
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.reference import (
    inverse_step,
    laplace_from_uniform,
    noise_by_sorting,
    reference_int8,
    reference_noise,
    sorted_laplace,
)
from edgecut.noise_kernels.sampler import add_noise, add_noise_int8, quantise, sample, sample_batch

KEY = bytes(range(32))
Make = Callable[..., NoiseCollection]


def nonce(i: int) -> bytes:
    return i.to_bytes(12, "little")


class Counting(NoiseStream):
    """A stream that can be foretold; never for use."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def next_runs(self, count: int) -> list[tuple[bytes, bytes]]:
        """In two runs where there are two, as when a key has given out its last nonce."""
        nonces = [nonce(self.count + i) for i in range(count)]
        self.count += count
        return [(KEY, b"".join(run)) for run in (nonces[: count // 2], nonces[count // 2 :]) if run]


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
def test_reference_is_the_layout(n: int, make_collection: Make) -> None:
    collection = make_collection(n, 5)
    for i in range(10):
        expected = by_hand(collection, KEY, nonce(i))
        np.testing.assert_allclose(reference_noise(collection, KEY, nonce(i)), expected, rtol=1e-12, atol=1e-13)


SIZES = [(2, 40), (3, 20), (16, 20), (120, 20), (255, 9), (256, 9), (257, 9), (480, 20), (1176, 10), (4095, 2)]
SIZES += [(4096, 2), (4097, 2), (9216, 4), (25_088, 2), (70_000, 1)]


@pytest.mark.parametrize(("n", "draws"), [*SIZES, pytest.param(401_408, 1, marks=pytest.mark.deep)])
def test_sampler_equals_reference(n: int, draws: int, implementation: str, make_collection: Make) -> None:
    collection = make_collection(n, 4)
    for i in range(draws):
        noise = sample(collection, KEY, nonce(i), implementation)
        assert noise.dtype == np.float32 and noise.shape == (n,)
        error = np.abs(noise - reference_noise(collection, KEY, nonce(i))).max()
        assert error <= 4e-6 * collection.scale.min()


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.integers(2, 300))
def test_sampler_equals_reference_for_any_key(implementation: str, key: bytes, nonce: bytes, n: int) -> None:
    order = np.random.default_rng(n).permutation(n)
    digest = "sha256:" + "0" * 64
    collection = NoiseCollection([0.0, 1.0], [1.0, 2.0], [order, order[::-1]], [("x", (n,))], digest, "x")
    noise = sample(collection, key, nonce, implementation)
    np.testing.assert_allclose(noise, by_hand(collection, key, nonce), rtol=0, atol=4e-6)


@pytest.mark.parametrize(("n", "batch"), [(2, 1), (120, 7), (9216, 30)])
def test_batch_rows_are_the_single_requests(n: int, batch: int, implementation: str, make_collection: Make) -> None:
    collection = make_collection(n, 4)
    rows = sample_batch(collection, Counting(), batch, implementation)
    assert rows.dtype == np.float32 and rows.shape == (batch, n)
    for i, row in enumerate(rows):
        assert (row == sample(collection, KEY, nonce(i), implementation)).all()


def activation(batch: int, n: int) -> np.ndarray:
    return np.random.default_rng([batch, n]).normal(size=(batch, n)).astype(np.float32)


@pytest.mark.parametrize(("n", "batch"), [(2, 1), (257, 5), (9216, 3), (70_000, 2)])
def test_noise_is_added(n: int, batch: int, implementation: str, make_collection: Make) -> None:
    """To a new array, to a given one, and in place; also where the activation is a slice, or starts at an odd byte."""
    collection, given_ = make_collection(n, 4), activation(batch, n)
    untouched = given_.copy()
    expected = given_ + sample_batch(collection, Counting(), batch, implementation)
    noisy = add_noise(collection, Counting(), given_, implementation=implementation)
    assert noisy.dtype == np.float32 and (noisy == expected).all() and (given_ == untouched).all()
    out = np.full_like(given_, np.nan)
    assert add_noise(collection, Counting(), given_, out, implementation) is out and (out == expected).all()
    wide = np.repeat(given_, 2, axis=1)
    odd = np.frombuffer(b"x" + given_.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(batch, n)
    assert not odd.flags.aligned
    for form in (
        wide[:, ::2],
        odd,
        given_.reshape(batch, 1, n, 1),
        given_.astype(np.float64),
        np.asfortranarray(given_),
    ):
        noisy = add_noise(collection, Counting(), form, implementation=implementation)
        assert noisy.shape == form.shape and (noisy.reshape(batch, n) == expected).all()
    held = np.zeros(batch * n + 3, dtype=np.float32)
    for start in (1, 2, 3):  # where no vector is aligned
        part = held[start : start + batch * n].reshape(batch, n)
        part[:] = given_
        assert add_noise(collection, Counting(), part, part, implementation) is part and (part == expected).all()
        assert (held[:start] == 0).all()
        held[:] = 0


@pytest.mark.parametrize(("n", "batch"), [(16, 3), (300, 2), (70_000, 1)])
def test_int8_is_the_same_sums_in_steps(n: int, batch: int, implementation: str, make_collection: Make) -> None:
    collection, given_ = make_collection(n, 4), activation(batch, n)
    sums = add_noise(collection, Counting(), given_, implementation=implementation)
    for step in (0.01, 0.03125, 1 / 3, 50.0):
        levels = add_noise_int8(collection, Counting(), given_, step, implementation)
        assert levels.dtype == np.int8 and levels.shape == (batch, n)
        assert (levels == reference_int8(sums, inverse_step(step))).all()
    assert set(np.abs(levels.astype(int)).ravel()) <= {0, 1}


EXACT = {
    0.5: 0,
    1.5: 2,
    2.5: 2,
    -0.5: 0,
    -1.5: -2,
    -2.5: -2,
    126.5: 126,
    127.49: 127,
    127.5: 127,
    128.0: 127,
    1e30: 127,
}
EXACT = {**EXACT, -127.5: -128, -128.5: -128, -1e30: -128, np.inf: 127, -np.inf: -128, np.nan: -128, 3e38: 127, 0.49: 0}


@pytest.mark.parametrize("given_step", [1.0, 0.25])
def test_ties_ends_and_what_is_not_finite(given_step: float, implementation: str, make_collection: Make) -> None:
    """Noise of next to no scale leaves the activation as it is."""
    values = np.array(list(EXACT), dtype=np.float32)
    n = len(values)
    collection = make_collection(n, 1, loc=[0.0], scale=[1e-30])
    with np.errstate(over="ignore"):
        levels = add_noise_int8(
            collection, Counting(), values[None] * np.float32(given_step), given_step, implementation
        )
    assert levels[0].tolist() == list(EXACT.values())


def test_reference_int8_by_hand() -> None:
    sums = np.array(list(EXACT), dtype=np.float32)
    assert reference_int8(sums, np.float32(1)).tolist() == list(EXACT.values())
    assert reference_int8(np.float32([[0.3, -0.3]]), np.float32(10)).tolist() == [[3, -3]]
    # The product is float32's: 0.7 * 5 = 3.5 there, though the float32 next to 0.7 is below it.
    assert reference_int8(np.float32([0.7]), np.float32(5)).tolist() == [4]
    assert inverse_step(0.1) == np.float32(10) and inverse_step(4).dtype == np.float32


@pytest.mark.parametrize("step", [0, -1, np.nan, np.inf, 1e-50, 1e50])
def test_refuses_a_step(step: float, make_collection: Make) -> None:
    with pytest.raises(ValueError, match="no positive float32 as its inverse"):
        add_noise_int8(make_collection(10), NoiseStream(), np.zeros((1, 10), np.float32), step)


def test_batch_rows_have_distributions_of_their_own(implementation: str, make_collection: Make) -> None:
    collection = make_collection(10, 4, loc=[0, 1000, 2000, 3000])
    chosen = np.rint(np.median(sample_batch(collection, NoiseStream(), 200, implementation), axis=1) / 1000)
    assert set(chosen) == {0, 1, 2, 3}


def test_refuses(implementation: str, make_collection: Make) -> None:
    collection, stream = make_collection(10), NoiseStream()
    with pytest.raises(ValueError, match="ask for at least 1"):
        sample_batch(collection, stream, 0, implementation)
    for key, wrong in ((b"short", bytes(12)), (KEY, bytes(24)), (KEY, b"")):
        with pytest.raises(ValueError, match="give it 32 and 12"):
            sample(collection, key, wrong, implementation)
    for shape in ((1, 9), (10,), (0, 10), (2, 5)):
        with pytest.raises(ValueError, match="with 10 elements a row"):
            add_noise(collection, stream, np.zeros(shape, np.float32), implementation=implementation)
    held = np.zeros((3, 10), np.float32)
    for out in (held[:2].astype(np.float64), held, held[:2, ::-1], held[:2].tolist()):
        with pytest.raises(ValueError, match="contiguous float32 array"):
            add_noise(collection, stream, held[:2].copy(), out, implementation)
    with pytest.raises(ValueError, match="not overlap"):
        add_noise(collection, stream, held[:2], held[1:], implementation)
    with pytest.raises(ValueError, match="known: c, numpy"):
        sample(collection, KEY, nonce(0), "fortran")


def test_the_fastest_there_is_comes_by_itself(
    native_sampler: native.Native, make_collection: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And NumPy where the compiled one is missing, which only whoever asked for it is told."""
    collection = make_collection(9216)
    monkeypatch.setattr(native, "_outcomes", [(native_sampler, "")])
    compiled, vectorised = (sample(collection, KEY, nonce(1), name) for name in ("c", "numpy"))
    assert (compiled != vectorised).any()  # they round differently, which tells them apart
    assert (sample(collection, KEY, nonce(1)) == compiled).all()
    monkeypatch.setattr(native, "_outcomes", [(None, "It is not there.")])
    assert (sample(collection, KEY, nonce(1)) == vectorised).all()
    with pytest.raises(ValueError, match="It is not there"):
        sample(collection, KEY, nonce(1), "c")


def test_noise_follows_the_order(implementation: str, make_collection: Make) -> None:
    collection = make_collection(480, 1)
    order = collection.orders[0]
    steps = np.array([np.diff(sample(collection, KEY, nonce(i), implementation)[order]) for i in range(50)])
    assert steps.min() >= 0
    wrong = np.array(
        [np.diff(sample(collection, KEY, nonce(i), implementation)[collection.ranks[0]]) for i in range(50)]
    )
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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.floats(2.0**-20, 2.0**20, width=32))
def test_sums_made_before_are_rounded_as_the_reference_says(values: list[float], inverse: float) -> None:
    """Also NaN, infinities and what overflows on the way."""
    sums = np.array(values, np.float32)
    expected = reference_int8(sums, np.float32(inverse))
    with np.errstate(over="ignore", invalid="ignore"):
        made = quantise(sums.copy(), np.float32(inverse))
    assert made.dtype == np.int8 and made.tolist() == expected.tolist()
