"""The noise of requests, drawn without sorting and added: the one interface that everything on a processor uses.

Two implementations give the same noise as `reference.reference_noise` and `elements.reference_elements`, to within
4e-6 * scale (plus float32's rounding of the result where |loc| is many times the scale; with a matrix the scales of all
that it adds up count): the compiled one (`native`), and vectorised NumPy where there is none. Each function takes the
first there is, or the one that `implementation` ("c" or "numpy") names.
"""

from functools import lru_cache
from typing import Any, List, Optional, Tuple

import numpy as np

from . import native
from .chacha import keystreams
from .collection import NoiseCollection
from .element_noise import ElementNoise
from .elements import sample_rows
from .mechanism import Noise
from .randomness import NoiseStream, distribution_index, request_blocks
from .reference import inverse_step
from .sticky import AnyStream

__all__ = ["IMPLEMENTATIONS", "add_noise", "add_noise_int8", "quantise", "sample", "sample_batch"]

IMPLEMENTATIONS = ("c", "numpy")
_CHOICES = (None, "c", "numpy")

# Random words drawn at a time for a batch: enough to share NumPy's overhead, few enough to stay in the cache.
_WORDS_AT_ONCE = 1 << 17

_FLOAT32 = np.dtype(np.float32)
_LEAST, _MOST = np.float32(-128), np.float32(127)

_Runs = List[Tuple[bytes, bytes]]


def sample(noise: Noise, key: bytes, nonce: bytes, implementation: Optional[str] = None) -> np.ndarray:
    """The noise of one request, float32 [values], for the elements in the order that `noise.carriers` gives them.

    Use each (key, nonce) once, as `NoiseStream.next` gives them. Raises ValueError if they have the wrong length.
    """
    if len(nonce) != 12:
        raise ValueError("ChaCha20 got a nonce of {} bytes; give it 32 and 12".format(len(nonce)))
    out = np.empty((1, noise.values), dtype=np.float32)
    _serve(noise, [(key, nonce)], None, out, None, implementation)
    made: np.ndarray = out[0]
    return made


def sample_batch(noise: Noise, stream: NoiseStream, batch: int, implementation: Optional[str] = None) -> np.ndarray:
    """Noise for `batch` requests, float32 [batch, values]: every row has its own nonce, and so its own distribution.

    Raises ValueError if batch is below 1.
    """
    if batch < 1:
        raise ValueError("noise is asked for a batch of {}; ask for at least 1".format(batch))
    out = np.empty((batch, noise.values), dtype=np.float32)
    _serve(noise, stream.next_runs(batch), None, out, None, implementation)
    return out


def add_noise(
    noise: Noise,
    stream: AnyStream,
    activation: np.ndarray,
    out: Optional[np.ndarray] = None,
    implementation: Optional[str] = None,
) -> np.ndarray:
    """Activations [batch, ...] of `values` elements each, with noise of its own on every row, as float32.

    stream -- a NoiseStream for fresh noise, or a StickyStream, which gives equal rows the same.
    out -- where to: float32 of the activation's shape, C-contiguous and aligned; may be the activation itself. A new
    array otherwise. Raises ValueError where shapes do not fit, or `out` overlaps the activation without being it.
    """
    rows = _rows(noise, activation)
    if out is None:
        out = np.empty(rows.shape, dtype=np.float32)
    elif not (isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == rows.shape and out.flags.carray):
        raise ValueError("the noisy activation must go to a contiguous float32 array of shape {}".format(rows.shape))
    elif np.may_share_memory(rows, out) and rows.ctypes.data != out.ctypes.data:
        raise ValueError("the noisy activation may replace the activation or lie apart from it, but not overlap it")
    _serve(noise, stream.runs_for(rows), rows, out, None, implementation)
    return out


def add_noise_int8(
    noise: Noise,
    stream: AnyStream,
    activation: np.ndarray,
    step: float,
    implementation: Optional[str] = None,
) -> np.ndarray:
    """As `add_noise`, but in steps: int8 by `reference.reference_int8`, which says what NaN and infinities become.

    Raises ValueError where shapes do not fit, or unless `step` and its inverse are positive and finite.
    """
    inverse = inverse_step(step)
    rows = _rows(noise, activation)
    out = np.empty(rows.shape, dtype=np.int8)
    _serve(noise, stream.runs_for(rows), rows, out, inverse, implementation)
    return out


def quantise(sums: np.ndarray, inverse: np.float32) -> np.ndarray:
    """`reference.reference_int8` of sums that were made before, float32, which are overwritten on the way.

    What NumPy says of an overflow is the caller's to silence.
    """
    np.multiply(sums, inverse, out=sums)
    np.rint(sums, out=sums)
    np.fmax(sums, _LEAST, out=sums)
    np.fmin(sums, _MOST, out=sums)
    levels: np.ndarray = sums.astype(np.int8)
    return levels


def _rows(noise: Noise, activation: np.ndarray) -> np.ndarray:
    """The activation as float32, C-contiguous, aligned and writable: itself if it is, or a copy."""
    rows: np.ndarray = activation
    if not (isinstance(rows, np.ndarray) and rows.dtype == _FLOAT32 and rows.flags.carray):
        rows = np.require(activation, dtype=np.float32, requirements=["C", "A", "W"])
    if rows.ndim < 2 or rows.size != len(rows) * noise.values or len(rows) < 1:
        raise ValueError(
            "the activation has shape {}; give [batch, ...] with {} elements a row".format(rows.shape, noise.values)
        )
    return rows


def _serve(
    noise: Noise,
    runs: _Runs,
    activation: Optional[np.ndarray],
    out: np.ndarray,
    inverse: Optional[np.float32],
    implementation: Optional[str],
) -> None:
    """Fill `out`'s rows: noise alone, or (float32 or, with `inverse`, int8) activation + noise."""
    if implementation not in _CHOICES:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError("{!r} is no implementation of the noise; known: {}".format(implementation, known))
    compiled = None if implementation == "numpy" else native.load()
    if compiled is None:
        if implementation == "c":
            raise ValueError(native.why_not())
        _serve_numpy(noise, runs, activation, out, inverse)
        return
    scale = 0.0 if inverse is None else float(inverse)
    if len(runs) == 1:  # with fresh noise all but once in 2^32 requests, and slicing takes time
        compiled.fill(noise, runs[0][0], runs[0][1], activation, out, scale)
        return
    start = 0
    for key, nonces in runs:
        rows = slice(start, start + len(nonces) // 12)
        compiled.fill(noise, key, nonces, None if activation is None else activation[rows], out[rows], scale)
        start = rows.stop


def _serve_numpy(
    noise: Noise,
    runs: _Runs,
    activation: Optional[np.ndarray],
    out: np.ndarray,
    inverse: Optional[np.float32],
) -> None:
    n = noise.values
    seeds = [(key, nonces[i : i + 12]) for key, nonces in runs for i in range(0, len(nonces), 12)]
    targets = out.reshape(len(seeds), n)
    given = None if activation is None else activation.reshape(len(seeds), n)
    count = max(1, _WORDS_AT_ONCE // n)
    draw: Any = sample_rows if isinstance(noise, ElementNoise) else _sample_rows
    for start in range(0, len(seeds), count):
        part = slice(start, start + count)
        if given is None:
            draw(noise, seeds[part], targets[part])
            continue
        drawn = np.empty(given[part].shape, dtype=np.float32)
        draw(noise, seeds[part], drawn)
        if inverse is None:
            np.add(given[part], drawn, out=targets[part])
        else:
            np.add(given[part], drawn, out=drawn)
            with np.errstate(over="ignore", invalid="ignore"):
                targets[part] = quantise(drawn, inverse)


def _sample_rows(collection: NoiseCollection, seeds: _Runs, out: np.ndarray) -> None:
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
