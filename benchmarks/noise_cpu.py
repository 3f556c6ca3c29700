"""How long noise takes to draw and add on one thread: the compiled sampler against NumPy's, sorting, and the least.

One request at a time, in microseconds, everything in turns in the same run: median, quartiles, and how many times the
compiled sampler is faster. Each draws for one request of a collection of 20 distributions, and adds to an activation:

sort_laplace -- the obvious way: Generator.laplace, sort, scatter, add.
sort_numpy -- sorting as fast as NumPy does it: 32 random bits a value from its default generator (PCG64), a float32
    logarithm of 23 of them with another one as the sign, sort, scatter, add. Neither hides anything: PCG64 is no
    cryptographic generator, and its state follows from its outputs.
sort_chacha -- the same with random bits that may be used: OpenSSL's ChaCha20 under a new nonce for each request.
numpy, c -- `noise_kernels.sampler.add_noise` with key, nonce and checks, by either implementation.
floor -- what no sampler can save: take finished samples by rank, and add (NumPy's take and add).

Then the same for independent noise, which `elements` in the result holds: for either law, without and (up to
MIXED_SIZES' end) with a matrix, and with sticky seeds.

pcg64 -- NumPy's default generator as one would write it: loc + scale * Generator.laplace (float64, the only one there
    is) or Generator.standard_normal (float32), times the matrix by BLAS, added. It hides nothing, as said above.
numpy, c -- `noise_kernels.sampler.add_noise` with fresh seeds, by either implementation.
c_sticky -- the compiled one with seeds that follow from the activation (`noise_kernels.sticky`).
"""

from __future__ import annotations

import argparse
import os
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from machine import write_result
from threadpoolctl import threadpool_limits

from edgecut.noise_kernels import native
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import LAWS, ElementNoise
from edgecut.noise_kernels.elements import reference_elements
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.reference import reference_noise
from edgecut.noise_kernels.sampler import add_noise, sample
from edgecut.noise_kernels.sticky import StickyStream

SIZES = (64, 120, 256, 480, 1176, 9216, 25088, 100352, 401408)
ELEMENT_SIZES = (10, 120, 437, 9216, 100352)
MIXED_SIZES = (10, 120, 437, 2048)
DISTRIBUTIONS = 20
Draw = Callable[[], object]


def collection_of(n: int) -> NoiseCollection:
    """Random orders, locations and scales."""
    rng = np.random.default_rng(n)
    orders = [rng.permutation(n) for _ in range(DISTRIBUTIONS)]
    loc, scale = rng.normal(size=DISTRIBUTIONS), rng.uniform(0.5, 2, DISTRIBUTIONS)
    return NoiseCollection(loc, scale, orders, [("x", (n,))], "sha256:" + "0" * 64, "x")


def sorting(collection: NoiseCollection, activation: np.ndarray, source: str) -> Draw:
    """Draw, sort, scatter, add; what can be prepared is."""
    n = collection.n
    orders = [order.astype(np.intp) for order in collection.orders]
    loc, scale = collection.loc, collection.scale
    generator = np.random.default_rng(0)
    key, count = os.urandom(32), [0]
    zeros = bytes(4 * (n + 1))

    def from_laplace() -> tuple[int, np.ndarray]:
        return int(generator.integers(DISTRIBUTIONS)), generator.laplace(size=n).astype(np.float32)

    def from_words(words: np.ndarray) -> tuple[int, np.ndarray]:
        bits = words[1:]
        x = (bits >> np.uint32(9)).astype(np.float32)
        x += np.float32(0.5)
        x *= np.float32(2.0**-23)
        np.log(x, out=x)
        # The lowest bit, which x does not use, moved to the sign.
        return int(words[0]) % DISTRIBUTIONS, (x.view(np.uint32) ^ (bits << np.uint32(31))).view(np.float32)

    def from_numpy() -> tuple[int, np.ndarray]:
        return from_words(generator.integers(0, 1 << 32, n + 1, dtype=np.uint32))

    def from_chacha() -> tuple[int, np.ndarray]:
        count[0] += 1
        cipher = Cipher(algorithms.ChaCha20(key, bytes(4) + struct.pack("<I", count[0]) + bytes(8)), mode=None)
        return from_words(np.frombuffer(cipher.encryptor().update(zeros), dtype=np.uint32))

    draw = {"laplace": from_laplace, "numpy": from_numpy, "chacha": from_chacha}[source]

    def serve() -> np.ndarray:
        d, x = draw()
        x.sort()
        x *= scale[d]
        x += loc[d]
        noise = np.empty(n, dtype=np.float32)
        noise[orders[d]] = x
        noise += activation[0]
        return noise

    return serve


def floor(collection: NoiseCollection, activation: np.ndarray) -> Draw:
    """Finished samples to their places, and the activation added."""
    samples = np.zeros(collection.n, dtype=np.float32)
    ranks, turn = collection.ranks.astype(np.intp), [0]

    def serve() -> np.ndarray:
        turn[0] = (turn[0] + 1) % DISTRIBUTIONS
        noise = samples.take(ranks[turn[0]], mode="clip")
        noise += activation[0]
        return noise

    return serve


def check(collection: NoiseCollection) -> None:
    """Both implementations give the reference's noise, before anything is timed."""
    for implementation in ("c", "numpy"):
        error = np.abs(
            sample(collection, bytes(32), bytes(12), implementation) - reference_noise(collection, bytes(32), bytes(12))
        )
        assert error.max() <= 4e-6 * collection.scale.max()


def timed(tasks: dict[str, Draw], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, the tasks taking turns. A turn repeats its task, and its first call is not counted.

    Each task gets the same time, lest the fast ones have too few samples or the slow ones take for ever.
    """
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    turn_s = seconds / len(tasks) / 15
    for _ in range(15):
        for name, task in tasks.items():
            task()
            end = time.perf_counter() + turn_s
            while (start := time.perf_counter()) < end or len(taken[name]) < 5:
                task()
                taken[name].append(time.perf_counter() - start)
    return taken


def measure(n: int, seconds: float) -> dict[str, dict[str, Any]]:
    """All implementations at one size."""
    collection, stream = collection_of(n), NoiseStream()
    check(collection)
    activation = np.random.default_rng(1).normal(size=(1, n)).astype(np.float32)
    tasks: dict[str, Draw] = {
        **{f"sort_{source}": sorting(collection, activation, source) for source in ("laplace", "numpy", "chacha")},
        "numpy": lambda: add_noise(collection, stream, activation, implementation="numpy"),
        "c": lambda: add_noise(collection, stream, activation, implementation="c"),
        "floor": floor(collection, activation),
    }
    return summary(timed(tasks, seconds))


def summary(taken: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """What a size's row holds."""
    quartiles = {name: np.percentile(values, [25, 50, 75]) * 1e6 for name, values in taken.items()}
    medians = {name: float(values[1]) for name, values in quartiles.items()}
    return {
        "us": {name: [round(float(value), 3) for value in values] for name, values in quartiles.items()},
        "calls": {name: len(values) for name, values in taken.items()},
        "c_times_faster_than": {name: round(medians[name] / medians["c"], 2) for name in medians if name != "c"},
    }


def elements_of(n: int, law: str, mixed: bool) -> ElementNoise:
    """Random locations, scales and matrix."""
    rng = np.random.default_rng(n)
    mixing = rng.normal(size=(n, n)) / n**0.5 if mixed else None
    loc, scale = rng.normal(size=n), rng.uniform(0.5, 2, n)
    return ElementNoise("gaussian", law, loc, scale, [("x", (n,))], "sha256:" + "0" * 64, "x", mixing)


def pcg64(noise: ElementNoise, activation: np.ndarray) -> Draw:
    """Independent noise by NumPy's own generator."""
    generator, n = np.random.default_rng(0), noise.values

    def serve() -> np.ndarray:
        if noise.law == "laplace":
            u = generator.laplace(size=n).astype(np.float32)
        else:
            u = generator.standard_normal(n, dtype=np.float32)
        u *= noise.scale
        if noise.mixing is not None:
            u = noise.mixing @ u
        u += noise.loc
        u += activation[0]
        return u

    return serve


def measure_elements(n: int, law: str, mixed: bool, seconds: float) -> dict[str, dict[str, Any]]:
    """All ways of independent noise at one size."""
    noise, stream = elements_of(n, law, mixed), NoiseStream()
    sticky = StickyStream(os.urandom(32), noise.digest.encode())
    scale = noise.scale if noise.mixing is None else np.abs(noise.mixing) @ noise.scale
    for implementation in ("c", "numpy"):
        error = np.abs(
            sample(noise, bytes(32), bytes(12), implementation) - reference_elements(noise, bytes(32), bytes(12))
        )
        assert (error <= 4e-6 * scale + 1e-6).all()  # and float32's rounding of the loc
    activation = np.random.default_rng(1).normal(size=(1, n)).astype(np.float32)
    tasks: dict[str, Draw] = {
        "pcg64": pcg64(noise, activation),
        "numpy": lambda: add_noise(noise, stream, activation, implementation="numpy"),
        "c": lambda: add_noise(noise, stream, activation, implementation="c"),
        "c_sticky": lambda: add_noise(noise, sticky, activation, implementation="c"),
    }
    return summary(timed(tasks, seconds))


def show(name: str, row: dict[str, dict[str, Any]], first: bool) -> None:
    """A size's line of the table, under the names where it is the first."""
    if first:
        print("median microseconds; in brackets: times what the compiled sampler takes\n" + " " * 20, end="")
        print("".join(f"{name:>18}" for name in row["us"]))
    ratios = {**row["c_times_faster_than"], "c": 1.0}
    print(f"{name:20}" + "".join(f"{us[1]:9.1f} ({ratios[way]:6.2f})" for way, us in row["us"].items()))


def main() -> None:
    """Measure every size, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6, help="for each size")
    options = parser.parse_args()
    sampler = native.load()
    if sampler is None:
        raise SystemExit(native.why_not())
    load_before = os.getloadavg()[0]
    threadpool_limits(1)  # NumPy's matrix products, for the rest of the process
    sizes: dict[str, Any] = {}
    for n in SIZES:
        sizes[str(n)] = measure(n, options.seconds)
        show(str(n), sizes[str(n)], len(sizes) == 1)
    elements: dict[str, Any] = {}
    for law in LAWS:
        for n, mixed in [*((n, False) for n in ELEMENT_SIZES), *((n, True) for n in MIXED_SIZES)]:
            name = f"{law} {n}{' mixed' if mixed else ''}"
            elements[name] = measure_elements(n, law, mixed, options.seconds)
            show(name, elements[name], len(elements) == 1)
    write_result(
        "noise_cpu",
        {
            "way": native.PATHS[sampler.widest],
            "load_average_before": load_before,
            "us_are": "quartiles",
            "sizes": sizes,
            "elements": elements,
        },
    )


if __name__ == "__main__":
    main()
