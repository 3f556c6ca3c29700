"""The specification of the noise, in float64, as plainly as it can be said. Everything faster is tested against this.

What it is (Shredder, section 2.5): n independent Laplace samples, sorted, put in a learned order (`noise_by_sorting`).
How it is drawn without sorting (`sorted_laplace`): Renyi's representation of exponential order statistics (A. Renyi, On
the theory of order statistics, 1953), for the negative and the positive samples apart. Given the number M of
negative ones, which is Binomial(n, 1/2), the magnitudes on either side are independent exponential variates, so the law
of the result is exactly that of sorting.
"""

from typing import List

import numpy as np

from .chacha import chacha20_words
from .collection import NoiseCollection
from .randomness import distribution_index, request_blocks

__all__ = [
    "inverse_step",
    "laplace_from_uniform",
    "noise_by_sorting",
    "reference_int8",
    "reference_noise",
    "sorted_laplace",
]


def laplace_from_uniform(u: np.ndarray) -> np.ndarray:
    """Standard Laplace samples, float64, from uniforms in (0, 1), by the inverse of the distribution function."""
    u = np.asarray(u, dtype=np.float64)
    # 1 - u is exact from 1/2 on; each side takes its logarithm of its own tail.
    samples: np.ndarray = np.where(u < 0.5, np.log(2 * np.minimum(u, 0.5)), -np.log(2 * (1 - np.maximum(u, 0.5))))
    return samples


def noise_by_sorting(samples: np.ndarray, loc: float, scale: float, order: np.ndarray) -> np.ndarray:
    """Noise, float64 [n], of n standard Laplace samples: element order[k] gets loc + scale * the (k+1)-th smallest."""
    noise = np.empty(len(order), dtype=np.float64)
    noise[np.asarray(order, dtype=np.intp)] = loc + scale * np.sort(np.asarray(samples, dtype=np.float64))
    return noise


def sorted_laplace(exponentials: np.ndarray, negatives: int) -> np.ndarray:
    """n sorted standard Laplace samples, float64 [n], from n standard exponential variates E and the number M below 0.

    With k counted from 1:
    x_(k) = - sum of E_i / i for i = k..M, for k <= M;
    x_(k) = + sum of E_i / (n + 1 - i) for i = M+1..k, for k > M.
    """
    values: List[float] = np.asarray(exponentials, dtype=np.float64).tolist()
    n = len(values)
    result = np.empty(n, dtype=np.float64)
    total = 0.0
    for k in range(negatives, 0, -1):
        total += values[k - 1] / k
        result[k - 1] = -total
    total = 0.0
    for k in range(negatives + 1, n + 1):
        total += values[k - 1] / (n + 1 - k)
        result[k - 1] = total
    return result


def reference_noise(collection: NoiseCollection, key: bytes, nonce: bytes) -> np.ndarray:
    """The noise of one request, float64 [n], from the words as `randomness` lays them out."""
    blocks = chacha20_words(key, nonce, 0, request_blocks(collection.n))
    d = distribution_index(blocks[0], collection.distributions)
    words = blocks[1:].reshape(-1)[: collection.n]
    uniforms = ((words >> 9).astype(np.float64) + 0.5) * 2.0**-23
    samples = sorted_laplace(-np.log(uniforms), int(np.sum(words % 2)))
    # `samples` is sorted already, and sorting it again is what makes this the definition.
    return noise_by_sorting(samples, float(collection.loc[d]), float(collection.scale[d]), collection.orders[d])


def inverse_step(step: float) -> np.float32:
    """1 / step as every implementation multiplies by it. Raises ValueError unless it is positive and finite."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(np.float64(1) / np.float64(step))
    if not (0 < inverse < np.inf):
        raise ValueError("a step of {!r} has no positive float32 as its inverse; give 1e-38 to 1e38".format(step))
    return inverse


def reference_int8(sums: np.ndarray, inverse_step: np.float32) -> np.ndarray:
    """float32 activation + noise as int8, of the same shape: clamp(rint(sum * inverse_step), -128, 127).

    The product is float32's; rint rounds half to even. Infinities saturate. NaN gives -128, as it does wherever a
    maximum ignores NaN, so that all implementations agree; a NaN in an activation can only come from the model.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.asarray(sums, dtype=np.float32) * np.float32(inverse_step)
    levels: np.ndarray = np.fmin(np.fmax(np.rint(scaled), np.float32(-128)), np.float32(127)).astype(np.int8)
    return levels
