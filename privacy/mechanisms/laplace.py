"""Plain Laplace noise: independent, of one scale for every value of the cut."""

from __future__ import annotations

import numpy as np

from ...noise_kernels.element_noise import ElementNoise
from ..bench import Bench
from ..settings import FitSettings
from .proposal import Proposal


def propose(bench: Bench, settings: FitSettings) -> Proposal:
    """Laplace(0, b) on all values; the knob is b in standard deviations of the activation."""
    values = bench.cut.elements

    def noise(scale: float) -> ElementNoise:
        return ElementNoise(
            "laplace",
            "laplace",
            np.zeros(values),
            np.full(values, scale * bench.deviation),
            [(tensor.name, tensor.shape) for tensor in bench.cut.tensors],
            bench.model.spec.digest,
            bench.cut.name,
        )

    return Proposal(
        noise=noise,
        name="scale",
        meaning="Laplace b in standard deviations of the activation",
        deviation=bench.deviation,
        start=settings.scale or 0.5,
        given=settings.scale is not None,
        learnable=1,
    )
