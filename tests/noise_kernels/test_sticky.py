"""Sticky seeds: one row one seed, and nothing else in common with any other row, secret or context."""

import copy
import hashlib
import multiprocessing
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from scipy import stats

from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import add_noise, add_noise_int8
from edgecut.noise_kernels.sticky import StickyStream

SECRET = bytes(range(32))
N = 600
NOISE = ElementNoise("laplace", "laplace", np.zeros(N), np.ones(N), [("x", (N,))], "sha256:" + "0" * 64, "x")
STREAM = StickyStream(SECRET)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, N)).astype(np.float32)


def noise_of(stream: Any, given: np.ndarray, implementation: str | None = None) -> np.ndarray:
    return (add_noise(NOISE, stream, given, implementation=implementation) - given).astype(np.float64)


def unrelated(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(stats.pearsonr(one.ravel(), other.ravel()).pvalue > 1e-5)


def test_the_seed_is_this_digest() -> None:
    """Were it another, inputs sent before an update would get a second noise after it."""
    row = np.array([[1.5, -0.0, 3.0]], np.float32)
    message = (3).to_bytes(8, "little") + b"any" + np.array([1.5, 0.0, 3.0], "<f4").tobytes()
    seed = hashlib.blake2b(message, digest_size=44, key=SECRET, person=b"edgecut sticky 1").digest()
    assert StickyStream(SECRET, b"any").runs_for(row) == [(seed[:32], seed[32:])]


def test_one_row_one_noise(implementation: str) -> None:
    """Whatever the batch and its place there, the call, the shape, the stream made anew."""
    given_ = rows(5)
    batch = add_noise(NOISE, STREAM, given_, implementation=implementation)
    turned = add_noise(NOISE, StickyStream(SECRET), given_[::-1].copy(), implementation=implementation)[::-1]
    single = [add_noise(NOISE, STREAM, row.reshape(1, 20, 30), implementation=implementation).ravel() for row in given_]
    strided = add_noise(NOISE, STREAM, np.repeat(given_, 2, axis=1)[:, ::2], implementation=implementation)
    for other in (turned, np.array(single), strided):
        assert other.tobytes() == batch.tobytes()
    levels = add_noise_int8(NOISE, STREAM, given_, 0.25, implementation)
    assert (levels == np.clip(np.rint(batch * 4), -128, 127)).all()
    in_place = given_.copy()
    add_noise(NOISE, STREAM, in_place, in_place, implementation)
    assert in_place.tobytes() == batch.tobytes()


def test_copies_cannot_be_averaged(implementation: str) -> None:
    """The mean of 16 copies is no nearer to the activation than one; with fresh noise it is."""
    copies = np.repeat(rows(1), 16, axis=0)
    spread = {}
    for name, stream in (("sticky", STREAM), ("fresh", NoiseStream())):
        spread[name] = float(noise_of(stream, copies, implementation).mean(axis=0).std())
    assert spread["sticky"] > 1.2 and spread["fresh"] < 0.5


@settings(max_examples=60, deadline=None)
@given(
    hypothesis_numpy.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40))),
    st.integers(0, 10**6),
    st.integers(0, 31),
)
def test_any_bit_of_a_row_changes_its_seed_alone(given_: np.ndarray, place: int, bit: int) -> None:
    given_ = np.nan_to_num(given_)
    changed = given_.copy()
    changed.view(np.uint32).reshape(-1)[place % changed.size] ^= np.uint32(1 << bit)
    same = given_.view(np.uint32) == changed.view(np.uint32)
    equal = (same | ((given_ == 0) & (changed == 0))).all(axis=1)
    before, after = STREAM.runs_for(given_), STREAM.runs_for(changed)
    assert [a == b for a, b in zip(before, after, strict=True)] == equal.tolist()
    assert all(len(key) == 32 and len(nonce) == 12 for key, nonce in before)


def test_one_ulp_gives_unrelated_noise() -> None:
    given_ = rows(20)
    near = given_.copy()
    near[:, 7] = np.nextafter(near[:, 7], np.float32(9))
    assert unrelated(noise_of(STREAM, given_), noise_of(STREAM, near))
    assert not unrelated(noise_of(STREAM, given_), noise_of(STREAM, given_))


def test_a_negative_zero_is_a_zero() -> None:
    given_ = rows(2)
    given_[:, ::3] = 0.0
    negative = given_.copy()
    negative[:, ::3] = -0.0
    assert negative.tobytes() != given_.tobytes()
    assert STREAM.runs_for(negative) == STREAM.runs_for(given_)
    assert np.signbit(negative[0, 0])  # and the rows are left alone


def test_other_secrets_and_contexts_give_unrelated_noise() -> None:
    """Of one seed for two scales, the activation could be solved for."""
    given_, first = rows(20), noise_of(STREAM, rows(20))
    others = [StickyStream(bytes(32)), StickyStream(SECRET, b"a"), StickyStream(SECRET, b"b")]
    others += [StickyStream(SECRET[:-1] + bytes([SECRET[-1] ^ 1]))]
    drawn = [first, *(noise_of(stream, given_) for stream in others)]
    for i, one in enumerate(drawn):
        assert all(unrelated(one, other) for other in drawn[i + 1 :])


def test_a_context_and_a_row_do_not_run_together() -> None:
    row = np.array([[1.0, 2.0]], np.float32)
    shifted = StickyStream(SECRET, row[0, :1].tobytes()).runs_for(row[:, 1:])
    assert shifted != STREAM.runs_for(row)


def test_seeds_of_many_rows_are_like_random_ones() -> None:
    """Rows that differ in a counter alone: all seeds differ, and their bytes are uniform."""
    given_ = np.zeros((3000, 3), np.float32)
    given_[:, 1] = np.arange(3000)
    seeds = [key + nonce for key, nonce in STREAM.runs_for(given_)]
    assert len(set(seeds)) == 3000
    counts = np.bincount(np.frombuffer(b"".join(seeds), np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-5


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), "0" * 32, None, bytearray(32)])
def test_refuses_a_secret_of_another_length(secret: Any) -> None:
    with pytest.raises(ValueError, match="a secret of 32 bytes"):
        StickyStream(secret)


@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, pickle.dumps])
def test_is_neither_copied_nor_pickled(carry: Any) -> None:
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        carry(STREAM)


def test_does_not_show_the_secret() -> None:
    stream = StickyStream(b"this is a secret, 32 bytes of it")
    assert "secret" not in repr(stream) + str(stream) and not hasattr(stream, "__dict__")


def into(queue: Any, given_: np.ndarray) -> None:
    queue.put(STREAM.runs_for(given_))


def test_a_forked_process_and_threads_give_the_same() -> None:
    given_, expected = rows(50), STREAM.runs_for(rows(50))
    context: Any = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=into, args=(queue, given_))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(STREAM.runs_for(given_))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_fresh_seeds_ignore_the_rows() -> None:
    stream, given_ = NoiseStream(), rows(3)
    (key, nonces), (again, others) = (stream.runs_for(given_)[0] for _ in range(2))
    assert key == again and len(nonces) == 36 and nonces != others
