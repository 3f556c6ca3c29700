"""Keys and nonces for the noise, and which random word serves what.

Word layout, the one definition that every implementation (NumPy, C, CUDA) shares. A request has one key (32 bytes) and
one nonce (12 bytes); its words are the ChaCha20 blocks 0, 1, ... of that pair, 16 words of 32 bits each (RFC 8439).

* Block 0 chooses among the D distributions: d = w mod D of its first word w, in order, with
  w < floor(2^32 / D) * D. Were all 16 words to fail that (probability below (D / 2^32)^16; 2^-448 at D = 20), the last
  word mod D is taken as it is.
* Blocks 1, 2, ... serve the ranks: rank k, counted from 0 at the smallest of the n samples, has word k mod 16 of block
  1 + floor(k / 16).
* A rank's word w gives its exponential variate E = -ln(((w >> 9) + 1/2) * 2^-23), which ignores w's low 9 bits, and its
  lowest bit counts towards M, the number of negative samples.

What E and M become is in `reference.sorted_laplace`.
"""

import os
import struct
import threading
from typing import Any, List, NoReturn, Tuple

import numpy as np

__all__ = ["NoiseStream", "distribution_index", "request_blocks"]

WORDS_PER_BLOCK = 16
_NONCES_PER_KEY = 1 << 32
_COUNTER = struct.Struct("<I")


def request_blocks(n: int) -> int:
    """ChaCha20 blocks that one request for n samples uses: block 0, then one for every 16 ranks begun."""
    return 1 + (n + WORDS_PER_BLOCK - 1) // WORDS_PER_BLOCK


def distribution_index(block0: np.ndarray, distributions: int) -> int:
    """The distribution, 0..distributions-1, that block 0 (uint32 [16]) of a request chooses; all are equally likely."""
    bound = (1 << 32) // distributions * distributions
    word = 0
    for word in block0.tolist():
        if word < bound:
            break
    return int(word % distributions)


# How often this process came from a fork. The process id alone would miss a child that has its parent's id, as the
# first process of a new container can.
_forks = [0]


def _count_fork() -> None:
    _forks[0] += 1


# Python 3.7 and later; before that the process id has to do.
_register_at_fork = getattr(os, "register_at_fork", None)
if _register_at_fork is not None:
    _register_at_fork(after_in_child=_count_fork)


def _nonces(first: int, count: int) -> bytes:
    """`count` nonces, whose counters go on from `first`."""
    fresh = os.urandom(8 * count)
    if count == 1:
        return _COUNTER.pack(first) + fresh
    return b"".join(_COUNTER.pack(first + i) + fresh[8 * i : 8 * i + 8] for i in range(count))


def _process() -> Tuple[int, int]:
    return os.getpid(), _forks[0]


class _Secret:
    """One key, how many nonces it has given out, the process it belongs to, and the lock for all that."""

    __slots__ = ("count", "key", "lock", "process")

    def __init__(self, process: Tuple[int, int]) -> None:
        self.process = process
        self.lock = threading.Lock()
        self.key = os.urandom(32)
        self.count = 0

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a noise key is neither copied nor pickled; make a new NoiseStream")


class NoiseStream:
    """A source of (key, nonce) pairs of which none ever comes twice, in whatever thread or process.

    The key is the operating system's and never leaves the process: with it, anyone could compute the noise and take it
    off. A copy would repeat the original's nonces, so copying and pickling raise TypeError.
    """

    __slots__ = ("_secret",)

    def __init__(self) -> None:
        self._secret = _Secret(_process())

    def next(self) -> Tuple[bytes, bytes]:
        """A key (32 bytes) and a nonce (12 bytes) for one request.

        The nonce is a counter (uint32, little-endian), which rules out repeats under one key, and 8 bytes that the
        operating system gives now: a virtual machine restored twice from one snapshot has the same key and counter both
        times, but its kernel re-seeds. After 2^32 nonces the counter would start over, so the key changes.
        """
        return self.next_runs(1)[0]

    def next_runs(self, count: int) -> List[Tuple[bytes, bytes]]:
        """As `next` for `count` requests, by runs of one key: (key, the run's nonces, one after the other).

        There is one run, but for the one call in which the key changes.
        """
        secret = self._current()
        runs: List[Tuple[bytes, bytes]] = []
        with secret.lock:
            while secret.count + count > _NONCES_PER_KEY:
                left = _NONCES_PER_KEY - secret.count
                if left > 0:
                    runs.append((secret.key, _nonces(secret.count, left)))
                secret.key = os.urandom(32)
                secret.count = 0
                count -= left
            key, first = secret.key, secret.count
            secret.count += count
        runs.append((key, _nonces(first, count)))
        return runs

    def runs_for(self, rows: np.ndarray) -> List[Tuple[bytes, bytes]]:
        """As `next_runs`, for the rows that the noise will be added to; here they do not matter (see `sticky`)."""
        return self.next_runs(len(rows))

    def _current(self) -> _Secret:
        """This process's secret: a new one after a fork, where parent and child would give out the same nonces.

        It is replaced whole, lock included: some other thread may have held the old lock at the fork, and nobody is
        left in the child to release it. Two threads that get here together each go on with a key of their own.
        """
        process = _process()
        secret = self._secret
        if secret.process != process:
            secret = self._secret = _Secret(process)
        return secret

    def __repr__(self) -> str:
        return "NoiseStream()"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a NoiseStream is neither copied nor pickled, the copy would repeat its noise; make a new one")
