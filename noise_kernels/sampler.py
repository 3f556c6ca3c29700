"""The noise of a request, drawn without sorting, in vectorised NumPy: what runs where no compiled sampler does.

The same words give the same noise as `reference.reference_noise`, to within 4e-6 * scale (plus float32's rounding of
the result where |loc| is many times the scale).
"""

from functools import lru_cache
from typing import List, Tuple

import numpy as np

from .chacha import keystreams
from .collection import NoiseCollection
from .randomness import NoiseStream, distribution_index, request_blocks

__all__ = ["sample", "sample_batch"]

# Random words drawn at a time for a batch: enough to share NumPy's overhead, few enough to stay in the cache.
_WORDS_AT_ONCE = 1 << 17


def sample(collection: NoiseCollection, key: bytes, nonce: bytes) -> np.ndarray:
    """The noise of one request, float32 [n], for the elements in the order that `collection.tensors` gives them.

    Use each (key, nonce) once, as `NoiseStream.next` gives them. Raises ValueError if they have the wrong length.
    """
    out = np.empty(collection.n, dtype=np.float32)
    _sample_rows(collection, [(key, nonce)], out[np.newaxis])
    return out


def sample_batch(collection: NoiseCollection, stream: NoiseStream, batch: int) -> np.ndarray:
    """Noise for `batch` requests, float32 [batch, n]: every row has its own nonce, and so its own distribution.

    Raises ValueError if batch is below 1.
    """
    if batch < 1:
        raise ValueError(f"noise is asked for a batch of {batch}; ask for at least 1")
    out = np.empty((batch, collection.n), dtype=np.float32)
    rows = max(1, _WORDS_AT_ONCE // collection.n)
    for start in range(0, batch, rows):
        part = out[start : start + rows]
        _sample_rows(collection, [stream.next() for _ in range(len(part))], part)
    return out


def _sample_rows(collection: NoiseCollection, seeds: List[Tuple[bytes, bytes]], out: np.ndarray) -> None:
    n = collection.n
    blocks = keystreams(seeds, request_blocks(n))
    for row, noise in zip(blocks, out):
        d = distribution_index(row[0], collection.distributions)
        samples = _sorted_laplace(row[1:].reshape(-1)[:n])
        samples *= float(collection.scale[d])
        samples += float(collection.loc[d])
        # The indices are in range; "clip" only spares the copy that the default mode makes of `out`.
        samples.astype(np.float32).take(collection.ranks[d], out=noise, mode="clip")


def _sorted_laplace(words: np.ndarray) -> np.ndarray:
    """`reference.sorted_laplace` of the words' E and M, float64 [n].

    The logarithm is float32's, right to a relative 1e-7 since its argument is exact there. The sums are float64's: a
    running sum in float32 is wrong by 10 times as much.
    """
    n = words.size
    negatives = int(np.count_nonzero(words & 1))
    uniforms = (words >> 9).astype(np.float32)
    uniforms += 0.5
    uniforms *= 2.0**-23
    logs = np.log(uniforms, out=uniforms)
    below, above = _weights(n)
    steps = np.empty(n, dtype=np.float64)
    # Outward from the centre on both sides, so that nothing cancels in the tails.
    left, right = steps[:negatives][::-1], steps[negatives:]
    np.multiply(logs[:negatives], below[:negatives], out=steps[:negatives])
    np.multiply(logs[negatives:], above[negatives:], out=right)
    np.cumsum(left, out=left)
    np.cumsum(right, out=right)
    return steps


@lru_cache(maxsize=4)  # the few n that a process has
def _weights(n: int) -> Tuple[np.ndarray, np.ndarray]:
    """What ln u is multiplied by at rank i (from 1), float64 [n] each: 1/i for a negative sample, -1/(n+1-i) else.

    A sample is a sum of E = -ln u over i, so the logarithm's sign is in here too.
    """
    below = 1.0 / np.arange(1, n + 1, dtype=np.float64)
    return below, -below[::-1].copy()
