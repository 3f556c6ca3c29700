"""Tasks whose best possible attacker is known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.privacy.observations import Observations, Part

DIGEST = "sha256:" + "0" * 64
N = 8
SPREAD = 0.5
"""Deviation of the values within a class; the two classes' means are at -1 and 1 along the first value."""


class Tasks:
    """Makes mechanisms and observations of the two-class task."""

    @staticmethod
    def gaussian(scale: float, n: int = N, loc: Any = None, **how: Any) -> ElementNoise:
        mean = np.zeros(n) if loc is None else loc
        return ElementNoise("gaussian", "normal", mean, np.full(n, scale), (("a", (n,)),), DIGEST, "c", **how)

    @staticmethod
    def silent(n: int = N) -> ElementNoise:
        return ElementNoise("none", "normal", np.zeros(n), np.zeros(n), (("a", (n,)),), DIGEST, "c")

    @staticmethod
    def collection(scale: float, n: int = N, distributions: int = 3) -> NoiseCollection:
        generator = np.random.default_rng(1)
        orders = np.stack([generator.permutation(n) for _ in range(distributions)])
        return NoiseCollection(
            np.zeros(distributions), np.full(distributions, scale), orders, (("a", (n,)),), DIGEST, "c"
        )

    @staticmethod
    def part(items: int, seed: int, n: int = N) -> Part:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, items)
        values = generator.normal(0, SPREAD, (items, n)).astype(np.float32)
        values[:, 0] += np.where(labels == 1, 1, -1)
        return Part(np.zeros((items, 4), np.int64), values, 1 - labels, labels)

    def seen(self, noise: Any, train: int | Part = 6000, test: int | Part = 2000, **how: Any) -> Observations:
        parts = [
            given if isinstance(given, Part) else self.part(given, seed, noise.n)
            for seed, given in enumerate((train, test))
        ]
        return Observations(noise, *parts, **({"names": ("a",), "shapes": ((noise.n,),), "seed": 0} | how))


@pytest.fixture(scope="session")
def tasks() -> Tasks:
    return Tasks()
