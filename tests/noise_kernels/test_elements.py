"""Independent noise: the words by OpenSSL and the law by `math`; both implementations, every way, alone and added."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.noise_kernels import native
from edgecut.noise_kernels.element_noise import LAWS, ElementNoise
from edgecut.noise_kernels.elements import reference_elements
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.reference import reference_int8
from edgecut.noise_kernels.sampler import add_noise, add_noise_int8, sample, sample_batch

KEY = bytes(range(32))
MODEL = "sha256:" + "0" * 64


def nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")


def nonces(count: int) -> bytes:
    return b"".join(map(nonce, range(count)))


def make(n: int, law: str, mixed: bool = False, **changes: Any) -> ElementNoise:
    """Noise for n values that depends on n alone. The loc is small, so that its float32 costs nothing."""
    rng = np.random.default_rng([n, 5])
    fields: dict[str, Any] = {
        "loc": rng.uniform(-1, 1, n),
        "scale": rng.uniform(0.5, 2, n),
        "mixing": rng.normal(size=(n, n)) / n**0.5 if mixed else None,
    }
    fields.update(changes)
    return ElementNoise("gaussian", law, tensors=[("x", (n,))], model_digest=MODEL, cut="x", **fields)


def by_hand(noise: ElementNoise, key: bytes, nonce: bytes) -> np.ndarray:
    """From the layout's text, sharing no code with the package; sums by fsum."""
    n = noise.values
    keystream = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()
    words = [int(w) for w in np.frombuffer(keystream.update(bytes(64 * (3 + n // 16))), dtype="<u4")][16:]
    u = []
    for i in range(n):
        if noise.law == "laplace":
            u.append(math.log(((words[i] >> 9) + 0.5) / 2**23) * (1 if words[i] & 1 else -1))
        else:
            pair = i - i % 2
            radius = math.sqrt(-2 * math.log(((words[pair] >> 9) + 0.5) / 2**23))
            turn = math.tau * ((words[pair + 1] >> 9) + 0.5) / 2**23
            u.append(radius * (math.sin(turn) if i % 2 else math.cos(turn)))
    scaled = [float(s) * x for s, x in zip(noise.scale, u, strict=True)]
    if noise.mixing is not None:
        scaled = [math.fsum(float(m) * x for m, x in zip(row, scaled, strict=True)) for row in noise.mixing]
    return np.array([float(a) + b for a, b in zip(noise.loc, scaled, strict=True)])


def tolerance(noise: ElementNoise) -> np.ndarray:
    """4e-6 times the scale, or what a row's scales add up to; and the float32 of the loc, which is at most 1."""
    scale = noise.scale.astype(np.float64)
    if noise.mixing is not None:
        scale = np.abs(noise.mixing.astype(np.float64)) @ scale
    return 4e-6 * scale + 6e-8


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.sampled_from(LAWS), st.booleans(), st.binary(min_size=32, max_size=32), st.integers(0))
def test_the_reference_is_the_layout(n: int, law: str, mixed: bool, key: bytes, number: int) -> None:
    noise, one = make(n, law, mixed), nonce(number % 2**96)
    np.testing.assert_allclose(reference_elements(noise, key, one), by_hand(noise, key, one), rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.sampled_from(LAWS), st.booleans(), st.binary(min_size=32, max_size=32), st.integers(0))
def test_equals_the_reference(implementation: str, n: int, law: str, mixed: bool, key: bytes, number: int) -> None:
    noise, one = make(n, law, mixed), nonce(number % 2**96)
    drawn = sample(noise, key, one, implementation)
    assert drawn.dtype == np.float32 and drawn.shape == (n,)
    assert (np.abs(drawn - reference_elements(noise, key, one)) <= tolerance(noise)).all()


@pytest.mark.parametrize(("n", "mixed"), [(255, True), (257, True), (700, True), (9216, False), (70_001, False)])
@pytest.mark.parametrize("law", LAWS)
def test_equals_the_reference_for_large_n(n: int, mixed: bool, law: str, implementation: str) -> None:
    noise = make(n, law, mixed)
    drawn = sample(noise, KEY, nonce(1), implementation)
    assert (np.abs(drawn - reference_elements(noise, KEY, nonce(1))) <= tolerance(noise)).all()


def test_a_word_out_of_place_would_be_seen() -> None:
    """That the comparisons above can fail: another word, sign, partner of a pair or column is far outside."""
    for law in LAWS:
        noise = make(40, law)
        right = reference_elements(noise, KEY, nonce(0))
        for wrong in (np.roll(right, 1), right[::-1], 2 * noise.loc - right):
            assert (np.abs(wrong - right) > 1000 * tolerance(noise)).any()


def ways(sampler: native.Native) -> range:
    return range(sampler.widest + 1)


def served(sampler: native.Native, noise: ElementNoise, batch: int, way: int) -> Iterator[np.ndarray]:
    """The noise, the sums in place, and the levels."""
    shape = (batch, noise.values)
    activation = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    drawn, sums, levels = np.empty(shape, np.float32), activation.copy(), np.empty(shape, np.int8)
    sampler.fill(noise, KEY, nonces(batch), None, drawn, way=way)
    sampler.fill(noise, KEY, nonces(batch), sums, sums, way=way)
    sampler.fill(noise, KEY, nonces(batch), activation, levels, 15.0, way=way)
    assert (sums == activation + drawn).all() and (levels == reference_int8(sums, np.float32(15))).all()
    yield from (drawn, sums, levels)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.sampled_from(LAWS), st.booleans(), st.integers(1, 9))
def test_every_way_gives_the_same_bits(
    native_sampler: native.Native, n: int, law: str, mixed: bool, batch: int
) -> None:
    noise = make(n, law, mixed)
    found = {b"".join(a.tobytes() for a in served(native_sampler, noise, batch, way)) for way in ways(native_sampler)}
    assert len(found) == 1


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("law", LAWS)
def test_rows_of_a_batch_are_the_single_requests(law: str, mixed: bool, native_sampler: native.Native) -> None:
    """To the bit, whether or not the matrix was read for several of them at once."""
    noise, batch = make(123, law, mixed), 11
    rows = np.empty((batch, 123), np.float32)
    native_sampler.fill(noise, KEY, nonces(batch), None, rows)
    for i, row in enumerate(rows):
        one = np.empty((1, 123), np.float32)
        native_sampler.fill(noise, KEY, nonce(i), None, one)
        assert one.tobytes() == row.tobytes()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("law", LAWS)
def test_added_through_the_sampler(law: str, mixed: bool, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise, stream = make(50, law, mixed), NoiseStream()
    monkeypatch.setattr(NoiseStream, "next_runs", lambda self, count: [(KEY, nonces(2)), (KEY, nonces(count)[24:])])
    activation = np.random.default_rng(2).normal(size=(6, 2, 25)).astype(np.float32)
    expected = np.array([reference_elements(noise, KEY, nonce(i)) for i in range(6)]).reshape(6, 2, 25)
    close = tolerance(noise).reshape(2, 25) + 1e-6
    assert (np.abs(sample_batch(noise, stream, 6, implementation).reshape(6, 2, 25) - expected) <= close).all()
    sums = add_noise(noise, stream, activation, implementation=implementation)
    assert (np.abs(sums - activation - expected) <= close).all()
    levels = add_noise_int8(noise, stream, activation, 0.05, implementation)
    assert (levels == reference_int8(sums, np.float32(1) / np.float32(0.05))).all() and len(np.unique(levels)) > 50


@pytest.mark.parametrize("mixed", [False, True])
def test_without_a_scale_the_loc_alone(mixed: bool, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the words; and NumPy draws none."""
    for law in LAWS:
        noise = make(300, law, mixed, scale=np.zeros(300))
        with monkeypatch.context() as patch:
            patch.setattr("edgecut.noise_kernels.elements.keystreams", lambda *_: pytest.fail("words were drawn"))
            rows = sample_batch(noise, NoiseStream(), 5, implementation)
        assert (rows == noise.loc).all()


def test_a_scale_of_0_is_exact_among_others(implementation: str) -> None:
    """Suppressed values get their constant, to the bit."""
    scale = np.where(np.arange(300) % 3, 1.0, 0.0)
    noise = make(300, "laplace", scale=scale)
    drawn = sample(noise, KEY, nonce(0), implementation)
    assert ((drawn == noise.loc) == (scale == 0)).all()


def test_nothing_is_left_in_the_working_memory(native_sampler: native.Native) -> None:
    for mixed, size in ((False, 2 * 256), (True, 2 * 256 + 4 * 512)):
        native_sampler._scratch.bytes = 0
        native_sampler.fill(make(500, "normal", mixed), KEY, nonces(5), None, np.empty((5, 500), np.float32))
        memory = native_sampler._scratch.memory
        assert memory.size >= 4 * size and not memory.any()


def test_the_order_of_use_does_not_matter(native_sampler: native.Native, make_collection: Any) -> None:
    """A collection and independent noise take turns in one thread's memory."""
    kinds = [make(40, "normal", True), make_collection(4000), make(9000, "laplace"), make(300, "normal", True)]
    first: dict[int, bytes] = {}
    for turn in (*range(4), *reversed(range(4))):
        out = np.empty((5, kinds[turn].values), np.float32)
        native_sampler.fill(kinds[turn], KEY, nonces(5), None, out)
        assert first.setdefault(turn, out.tobytes()) == out.tobytes()


def test_refuses_what_does_not_fit(native_sampler: native.Native) -> None:
    noise, out = make(10, "normal"), np.empty((2, 10), np.float32)
    with pytest.raises(ValueError, match="give it 32 and 12"):
        native_sampler.fill(noise, KEY[1:], nonces(2), None, out)
    with pytest.raises(ValueError, match="do not fill 20"):
        native_sampler.fill(noise, KEY, nonces(3), None, out)
    with pytest.raises(ValueError, match="int8 goes with"):
        native_sampler.fill(noise, KEY, nonces(2), None, np.empty((2, 10), np.int8), 1.0)
