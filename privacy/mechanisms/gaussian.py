"""Correlated normal noise of a full covariance, from an information bound: strong, for up to MOST values.

What is sent is a + L z with z standard normal. By maximum entropy nobody learns more from it than

    I = 1/2 [logdet(C + L L^T) - logdet(L L^T)]        C: covariance of a

Minimised is the accuracy's cost tr(G L L^T) / 2, G being the cloud partition's sensitivity (`sensitivity`), plus
lambda * I. That has a closed form: in the basis that whitens C and makes G diagonal, with values g, the noise has the
variance v that solves v (1 + v) = lambda / g. So it is loud where the answer does not look. G is taken where noise
puts the activations, twice: under plain noise, then under what came of that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ...errors import EdgecutError
from ...noise_kernels.element_noise import ElementNoise
from ..bench import Bench
from ..settings import FitSettings
from .proposal import Proposal
from .sensitivity import Doubles, Points, points_of, spread_of

MOST = 2048
EPSILON = 1e-4
"""Of the values' variance, added to each one's: units that never fire would make the covariance singular."""
PLAIN = 0.7
LOUDEST = 1e3
"""The most noise variance in a whitened direction: 0.0007 bits of it remain."""


def propose(bench: Bench, settings: FitSettings) -> Proposal:
    """The closed form; the knob is lambda. Raises EdgecutError for more than MOST values."""
    n = bench.cut.elements
    if n > MOST:
        raise EdgecutError(
            f"the mechanism gaussian keeps a matrix over all {n:,} values of {bench.cut.name}, and takes at most "
            f"{MOST:,}; take the mechanism channel, or a cut with fewer values"
        )
    assert settings.images is not None
    points = points_of(bench, settings.images)
    bench.stages.start("learning")
    spread = spread_of(points.values).covariance + EPSILON * bench.deviation**2 * np.eye(n)
    factor = PLAIN * bench.deviation * np.eye(n)
    weight = 1.0
    for done in range(2):
        bench.stages.tell("looking at what the cloud partition is sensitive to", done / 2)
        rows = torch.cat(list(points.rows(points.values + _drawn(factor, points)))).double().numpy()
        directions = directions_of(spread, rows.T @ rows / len(rows))
        weight = _largest_weight(directions, points)
        factor = directions.factor(weight)

    def noise(knob: float) -> ElementNoise:
        return ElementNoise(
            "gaussian",
            "normal",
            np.zeros(n),
            np.ones(n),
            [(tensor.name, tensor.shape) for tensor in bench.cut.tensors],
            bench.model.spec.digest,
            bench.cut.name,
            mixing=directions.factor(knob),
        )

    return Proposal(
        noise=noise,
        name="lambda",
        meaning="weight of the information bound against accuracy",
        deviation=bench.deviation,
        start=weight,
        least=weight * 1e-6,
        most=weight * 1e6,
        precision=1.01,
        bits=directions.bits,
        learnable=n * n,
        kept=points.kept,
    )


class Directions(NamedTuple):
    """A basis [n, n], its columns the directions, in which the values are white, and their gains (the g above) [n]."""

    basis: Doubles
    gains: Doubles

    def variances(self, weight: float) -> Doubles:
        """Of the noise in each direction, where that of the values is 1."""
        gains = np.maximum(self.gains, weight / (LOUDEST * (1 + LOUDEST)))
        made: Doubles = (np.sqrt(1 + 4 * weight / gains) - 1) / 2
        return made

    def factor(self, weight: float) -> Doubles:
        """L for this lambda."""
        made: Doubles = self.basis * np.sqrt(self.variances(weight))
        return made

    def bits(self, weight: float) -> float:
        """The bound I for this lambda, with the covariance that was estimated."""
        return float(np.log1p(1 / self.variances(weight)).sum() / 2 / math.log(2))


def directions_of(spread: Doubles, sensitivity: Doubles) -> Directions:
    """From the covariance C and the sensitivity G, both [n, n]."""
    whitening = np.linalg.cholesky(spread)
    gains, turned = np.linalg.eigh(whitening.T @ sensitivity @ whitening)
    return Directions(whitening @ turned, gains)


def _largest_weight(directions: Directions, points: Points) -> float:
    """Where the training items begin to lose what is allowed: near what the hold-out will say."""
    low, high = -25.0, 10.0
    for _ in range(10):
        middle = (low + high) / 2
        good = points.accuracy(points.values + _drawn(directions.factor(math.exp(middle)), points)) >= points.wanted
        low, high = (middle, high) if good else (low, middle)
    return math.exp(low)


def _drawn(factor: Doubles, points: Points) -> torch.Tensor:
    standard = torch.randn(len(points.values), len(factor), generator=points.generator)
    return standard @ torch.from_numpy(factor).float().T
