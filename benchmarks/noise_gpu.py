"""How long the noise takes on a GPU: the kernels, fused and split, beside torch's way and beside a copy of the bytes.

torch's way is the obvious one on a GPU: draw Laplace samples, sort them, scatter them into the order, add; for
independent noise draw, scale, mix by a matrix product where there is a matrix, add. Its random numbers are no secret to
who sees some of them (Philox), ours are ChaCha20's. The copy is of the activation from one place on the GPU to another:
what no adding can be faster than. Before anything is timed the kernels must give what NumPy's sampler gives. All take
turns; a time is that of one call, by the GPU's events over several in a row, so it is the host's where that is slower
at handing out work than the GPU at doing it.

Not yet run on a GPU. Where there is none it says so and writes nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import write_result

from edgecut.agent import cuda
from edgecut.agent.gpu_noise import GpuNoise
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.mechanism import Noise
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import sample

KINDS = ("sorted", "laplace", "normal", "mixed")
SIZES = (120, 480, 1176, 9216, 25088, 100352, 401408)
MIXED_SIZES = (120, 480, 1176)  # as with a matrix in practice
BATCHES = (1, 16, 64, 256)
DISTRIBUTIONS = 20
MOST_VALUES = 1 << 25
IN_A_ROW, ROUNDS, WARM_UP = 20, 30, 3


class Noted(NoiseStream):
    """A stream that remembers what it gave, to check the noise."""

    __slots__ = ("given",)

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[bytes, bytes]] = []

    def next(self) -> tuple[bytes, bytes]:
        self.given.append(super().next())
        return self.given[-1]


def make(kind: str, n: int) -> Noise:
    """Noise of n values; random orders, and values that do not matter for the time."""
    rng = np.random.default_rng(n)
    about = [("x", (n,))], "sha256:" + "0" * 64, "x"
    if kind == "sorted":
        orders = np.argsort(rng.random((DISTRIBUTIONS, n)), axis=1)
        loc, scale = rng.normal(size=DISTRIBUTIONS), rng.uniform(0.5, 2, DISTRIBUTIONS)
        return NoiseCollection(loc, scale, orders, *about)
    mixing = rng.normal(size=(n, n)) / n**0.5 if kind == "mixed" else None
    law, mechanism = "laplace" if kind == "laplace" else "normal", "cloak" if mixing is None else "gaussian"
    return ElementNoise(mechanism, law, rng.normal(size=n), rng.uniform(0.5, 2, n), *about, mixing)


def tolerance(noise: Noise) -> Any:
    """4e-6 of the scale, or of all scales that are mixed, and the rounding of the sum."""
    if isinstance(noise, NoiseCollection):
        return 4e-6 * noise.scale.max() + 1e-5
    return 4e-6 * (noise.scale if noise.mixing is None else np.abs(noise.mixing) @ noise.scale) + 1e-5


def validate(torch: Any, device: cuda.Device, known: Noise, stream: int) -> None:
    """Both ways give what NumPy gives. Raises AssertionError."""
    activation = torch.randn((2, known.values), device="cuda")
    torch.cuda.synchronize()
    for split in (False, True):
        seeds, out = Noted(), torch.empty_like(activation)
        noise = GpuNoise(device, known, 2, seeds=seeds)
        if split:
            noise.draw(stream)
            noise.add(stream, activation.data_ptr(), out.data_ptr())
        else:
            noise.fused(stream, activation.data_ptr(), out.data_ptr())
        torch.cuda.synchronize()
        noise.close()
        expected = activation.cpu().numpy() + np.stack([sample(known, *pair) for pair in seeds.given])
        error = np.abs(out.cpu().numpy() - expected)
        assert (error <= tolerance(known)).all(), f"the noise is off by {error.max()}"


def by_torch(torch: Any, known: Noise, activation: Any, out: Any) -> Callable[[], None]:
    """The same noise, drawn and added with torch's own operations."""
    way = _sorted_by_torch if isinstance(known, NoiseCollection) else _elements_by_torch
    return way(torch, known, activation, out)


def _sorted_by_torch(torch: Any, collection: Any, activation: Any, out: Any) -> Callable[[], None]:
    """Draw, sort, scatter, add; for each request a distribution of its own."""
    batch, n = activation.shape
    orders = torch.from_numpy(collection.orders.astype(np.int64)).cuda()
    loc, scale = (torch.from_numpy(np.array(each)).cuda() for each in (collection.loc, collection.scale))
    standard = torch.distributions.Laplace(torch.zeros((), device="cuda"), torch.ones((), device="cuda"))

    def run() -> None:
        d = torch.randint(DISTRIBUTIONS, (batch,), device="cuda")
        samples = standard.sample((batch, n)).sort(dim=1).values * scale[d, None] + loc[d, None]
        torch.add(activation, torch.empty_like(samples).scatter_(1, orders[d], samples), out=out)

    return run


def _elements_by_torch(torch: Any, noise: Any, activation: Any, out: Any) -> Callable[[], None]:
    """Draw, scale, mix, add."""
    loc, scale = (torch.from_numpy(np.array(each)).cuda() for each in (noise.loc, noise.scale))
    mixing = None if noise.mixing is None else torch.from_numpy(np.array(noise.mixing)).cuda()
    law = torch.distributions.Laplace if noise.law == "laplace" else torch.distributions.Normal
    drawn = law(torch.zeros_like(scale) if mixing is not None else loc, scale)

    def run() -> None:
        samples = drawn.sample((len(activation),))
        if mixing is not None:
            samples = torch.addmm(loc, samples, mixing.T)
        torch.add(activation, samples, out=out)

    return run


def timed(torch: Any, ways: dict[str, Callable[[], None]]) -> dict[str, dict[str, float]]:
    """Median and quartiles, seconds, of each; all in turns."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(WARM_UP + ROUNDS):
        for name, way in ways.items():
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(IN_A_ROW):
                way()
            last.record()
            last.synchronize()
            if turn >= WARM_UP:
                samples[name].append(first.elapsed_time(last) / 1000 / IN_A_ROW)
    cuts = {name: np.percentile(each, [25, 50, 75]) for name, each in samples.items()}
    return {name: {"median_s": m, "low_s": low, "high_s": high} for name, (low, m, high) in cuts.items()}


def measure(torch: Any, device: cuda.Device, kind: str, n: int, batch: int) -> dict[str, Any]:
    """All ways for one kind of noise and size."""
    known = make(kind, n)
    stream = torch.cuda.current_stream().cuda_stream
    if batch == 1:
        validate(torch, device, known, stream)
    activation = torch.randn((batch, n), device="cuda")
    out, levels = torch.empty_like(activation), torch.empty((batch, n), dtype=torch.int8, device="cuda")
    noise = GpuNoise(device, known, batch)
    given, taken = activation.data_ptr(), out.data_ptr()
    waiting = [True]

    def add() -> None:
        noise._waiting = waiting[:]  # the same draw again and again, for its time alone
        noise.add(stream, given, taken)

    noise.draw(stream)
    result = timed(
        torch,
        {
            "fused": lambda: noise.fused(stream, given, taken),
            "fused_int8": lambda: noise.fused(stream, given, levels.data_ptr(), 16.0),
            "draw": lambda: noise.draw(stream),
            "add": add,
            "torch": by_torch(torch, known, activation, out),
            "copy": lambda: out.copy_(activation),
        },
    )
    noise.close()
    return {"noise": kind, "n": n, "batch": batch, **result}


def main() -> int:
    """Measure every size and batch, print and write."""
    why = cuda.usable()
    if why:
        print(f"no GPU, so nothing was measured: {why}")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("the GPU is there but this torch was built without CUDA, so nothing was measured; install one with it")
        return 0
    torch.cuda.init()
    device = cuda.Device()
    rows = []
    for kind, batch in itertools.product(KINDS, BATCHES):
        for n in MIXED_SIZES if kind == "mixed" else SIZES:
            if n * batch <= MOST_VALUES:
                rows.append(measure(torch, device, kind, n, batch))
                times = {k: f"{v['median_s'] * 1e6:.1f}" for k, v in rows[-1].items() if isinstance(v, dict)}
                print(f"{kind}, n {n}, batch {batch}, us: {times}", flush=True)
    write_result("noise_gpu", {"kind": "measured", "gpu": device.name, "versions": cuda.versions(), "times": rows})
    device.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
