"""Drawing independent noise: which random word serves which value, the specification, and the same in vectorised NumPy.

A request's words are those of `randomness`: block 0 is left out, as it chooses among distributions for a collection,
and the words of blocks 1, 2, ... serve the values in turn, from value 0 on. With E(w) = -ln(((w >> 9) + 1/2) * 2^-23):

* Laplace: value i takes word i; u = -E where the word's lowest bit is 1, else +E.
* normal (Box and Muller, 1958): values 2p and 2p + 1 take words 2p and 2p + 1;
  u = sqrt(2 E(w_2p)) times the cosine and the sine of 2 pi ((w_2p+1 >> 9) + 1/2) * 2^-23. Of an odd number of values
  the last one takes a cosine, and the word after its own serves the angle.

E ends at 16.6, so that u is within 16.6 and 5.8: of exact laws 6e-8 and 1e-8 of the probability lies beyond.
"""

from typing import List, Tuple

import numpy as np

from .chacha import chacha20_words, keystreams
from .element_noise import ElementNoise
from .randomness import request_blocks

__all__ = ["reference_elements", "sample_rows"]

_Seeds = List[Tuple[bytes, bytes]]


def reference_elements(noise: ElementNoise, key: bytes, nonce: bytes) -> np.ndarray:
    """The noise of one request, float64 [values], as plainly as it can be said."""
    words = chacha20_words(key, nonce, 0, blocks_for(noise))[1:].reshape(-1)
    standard = []
    for i in range(noise.values):
        if noise.law == "laplace":
            exponential = -np.log((float(words[i] >> 9) + 0.5) * 2.0**-23)
            standard.append(-exponential if words[i] & 1 else exponential)
        else:
            first, second = int(words[i // 2 * 2]), int(words[i // 2 * 2 + 1])
            radius = np.sqrt(-2 * np.log((float(first >> 9) + 0.5) * 2.0**-23))
            angle = 2 * np.pi * (float(second >> 9) + 0.5) * 2.0**-23
            standard.append(radius * (np.sin(angle) if i % 2 else np.cos(angle)))
    scaled = noise.scale.astype(np.float64) * np.array(standard)
    if noise.mixing is not None:
        scaled = noise.mixing.astype(np.float64) @ scaled
    made: np.ndarray = noise.loc.astype(np.float64) + scaled
    return made


def blocks_for(noise: ElementNoise) -> int:
    """ChaCha20 blocks of one request."""
    return request_blocks(noise.values + noise.values % 2)


def sample_rows(noise: ElementNoise, seeds: _Seeds, out: np.ndarray) -> None:
    """Noise of the requests with these keys and nonces to `out`, float32 [requests, values]; within 4e-6 * scale."""
    if not noise.scale.any():
        out[...] = noise.loc
        return
    even = noise.values + noise.values % 2
    words = keystreams(seeds, blocks_for(noise))[:, 1:].reshape(len(seeds), -1)
    standard = _laplace(words[:, : noise.values]) if noise.law == "laplace" else _normal(words[:, :even])
    scaled = standard[:, : noise.values]
    scaled *= noise.scale
    if noise.mixing is not None:
        scaled = scaled @ noise.mixing.T
    np.add(scaled, noise.loc, out=out)


def _exponentials(words: np.ndarray) -> np.ndarray:
    uniforms = (words >> 9).astype(np.float32)
    uniforms += 0.5
    uniforms *= 2.0**-23
    np.log(uniforms, out=uniforms)
    made: np.ndarray = np.negative(uniforms, out=uniforms)
    return made


def _laplace(words: np.ndarray) -> np.ndarray:
    made = _exponentials(words)
    bits = made.view(np.uint32)
    bits ^= words << 31
    return made


def _normal(words: np.ndarray) -> np.ndarray:
    radius = _exponentials(words[:, 0::2])
    radius *= 2
    np.sqrt(radius, out=radius)
    angle = (words[:, 1::2] >> 9).astype(np.float64)
    angle += 0.5
    angle *= 2 * np.pi * 2.0**-23
    made = np.empty(words.shape, np.float32)
    made[:, 0::2] = radius * np.cos(angle)
    made[:, 1::2] = radius * np.sin(angle)
    return made
