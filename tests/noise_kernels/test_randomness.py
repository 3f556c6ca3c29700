"""Keys and nonces: never twice, never shown, never shared across a fork; and the uniform choice of a distribution."""

import copy
import os
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from edgecut.noise_kernels import randomness
from edgecut.noise_kernels.chacha import keystreams
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.randomness import NoiseStream, distribution_index, request_blocks
from edgecut.noise_kernels.sampler import sample_batch


def in_a_fork(work: Callable[[], bytes]) -> bytes:
    """What `work` returns in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data


def test_shape_of_a_seed() -> None:
    stream = NoiseStream()
    seeds = [stream.next() for _ in range(3)]
    assert len({key for key, _ in seeds}) == 1 and len(seeds[0][0]) == 32
    assert [nonce[:4] for _, nonce in seeds] == [b"\0\0\0\0", b"\1\0\0\0", b"\2\0\0\0"]
    assert {len(nonce) for _, nonce in seeds} == {12}


def test_no_nonce_comes_twice() -> None:
    stream = NoiseStream()
    assert len({stream.next() for _ in range(50_000)}) == 50_000


def test_no_nonce_comes_twice_even_if_the_system_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = NoiseStream()
    monkeypatch.setattr(os, "urandom", bytes)
    assert len({stream.next() for _ in range(1000)}) == 1000


def test_a_restored_snapshot_differs() -> None:
    stream = NoiseStream()
    secret = stream._secret
    _, first = stream.next()
    secret.count = 0
    _, again = stream.next()
    assert first[:4] == again[:4] and first != again


def test_threads_share_a_stream_without_repeats() -> None:
    stream = NoiseStream()
    drawn: list[tuple[bytes, bytes]] = []

    def draw() -> None:
        drawn.extend([stream.next() for _ in range(2000)])

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({nonce[:4] for _, nonce in drawn}) == len(drawn) == 16_000


def test_a_new_key_after_all_nonces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "_NONCES_PER_KEY", 3)
    stream = NoiseStream()
    keys = [stream.next()[0] for _ in range(7)]
    assert [keys.index(key) for key in keys] == [0, 0, 0, 3, 3, 3, 6]
    assert stream.next()[1][:4] == b"\1\0\0\0"


def test_the_last_nonce_of_a_key() -> None:
    stream = NoiseStream()
    stream._secret.count = 2**32 - 1
    key, nonce = stream.next()
    assert nonce[:4] == b"\xff" * 4
    other, nonce = stream.next()
    assert nonce[:4] == bytes(4) and other != key


def test_a_fork_has_a_key_of_its_own() -> None:
    stream = NoiseStream()
    stream.next()
    children = [in_a_fork(lambda: b"".join(stream.next())) for _ in range(2)]
    parent = b"".join(stream.next())
    assert {len(seed) for seed in [parent, *children]} == {44}
    assert len({seed[:32] for seed in [parent, *children]}) == 3


@pytest.mark.parametrize("sign", ["process id", "fork hook"])
def test_either_sign_of_a_fork_is_enough(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = NoiseStream()
    key, _ = stream.next()
    if sign == "process id":
        monkeypatch.setattr(os, "getpid", lambda: -1)
    else:
        monkeypatch.setattr(randomness, "_forks", [randomness._forks[0] + 1])
    assert stream.next()[0] != key


def test_a_fork_while_the_lock_is_held_does_not_hang() -> None:
    stream = NoiseStream()
    with stream._secret.lock:
        seed = in_a_fork(lambda: b"".join(stream.next()))
    assert len(seed) == 44


def test_noise_differs_between_requests_streams_and_forks(
    make_collection: Callable[..., NoiseCollection],
) -> None:
    collection, stream = make_collection(64, 1), NoiseStream()

    def draw() -> bytes:
        return sample_batch(collection, stream, 4).tobytes()

    data = [draw(), in_a_fork(draw), in_a_fork(draw), draw(), sample_batch(collection, NoiseStream(), 4).tobytes()]
    noise = np.frombuffer(b"".join(data), dtype=np.float32).reshape(-1, 64)
    assert len({row.tobytes() for row in noise}) == len(noise) == 20


def test_the_key_is_not_shown() -> None:
    stream = NoiseStream()
    key, _ = stream.next()
    for shown in (repr(stream), str(stream), f"{stream}", repr(stream._secret)):
        assert key.hex() not in shown and repr(key) not in shown
    assert not hasattr(stream, "__dict__")


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        *(lambda s, p=p: pickle.dumps(s, p) for p in range(pickle.HIGHEST_PROTOCOL)),
    ],
)
def test_no_copies(duplicate: Callable[[object], object]) -> None:
    stream = NoiseStream()
    for secret in (stream, stream._secret):
        with pytest.raises(TypeError, match="copied nor pickled"):
            duplicate(secret)


@pytest.mark.parametrize("distributions", [1, 2, 3, 20, 7919])
def test_distribution_index_follows_the_layout(distributions: int) -> None:
    bound = 2**32 // distributions * distributions
    block = np.full(16, 2**32 - 1, dtype=np.uint32)
    assert distribution_index(block, distributions) == (2**32 - 1) % distributions
    if bound < 2**32:
        block[5], block[6] = bound - 1, 0
        assert distribution_index(block, distributions) == distributions - 1
    block[0] = 12345
    assert distribution_index(block, distributions) == 12345 % distributions


@pytest.mark.parametrize("distributions", [7, 20])
def test_every_distribution_is_as_likely(distributions: int) -> None:
    seeds = [(bytes(32), i.to_bytes(12, "little")) for i in range(20_000)]
    counts = np.bincount([distribution_index(words[0], distributions) for words in keystreams(seeds, 1)])
    assert len(counts) == distributions
    assert stats.chisquare(counts).pvalue > 1e-4
    counts[0] += 300  # and the test would see it if one was 10 % more likely
    counts[1] -= 300
    assert stats.chisquare(counts).pvalue < 1e-6


def test_request_blocks() -> None:
    assert [request_blocks(n) for n in (2, 16, 17, 120, 9216)] == [2, 2, 3, 9, 577]
