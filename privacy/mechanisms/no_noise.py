"""No noise at all: the mechanism `none`, so that what an unprotected cut tells can be audited like any other."""

from __future__ import annotations

import numpy as np

from ...noise_kernels.element_noise import ElementNoise
from ..bench import Bench
from ..settings import FitSettings
from .proposal import Proposal


def propose(bench: Bench, settings: FitSettings) -> Proposal:
    """Scales of 0; there is nothing to search."""
    nothing = np.zeros(bench.cut.elements)
    made = ElementNoise(
        "none",
        "laplace",
        nothing,
        nothing,
        [(tensor.name, tensor.shape) for tensor in bench.cut.tensors],
        bench.model.spec.digest,
        bench.cut.name,
    )
    return Proposal(
        noise=lambda _: made, name="scale", meaning="no noise", deviation=bench.deviation, start=None, learnable=0
    )
