"""A Gaussian test channel: noise and shrinking in coordinates that tell apart what the answer needs, for any size.

In coordinates y of variance 1 (those of `coordinates`, scaled), where g is how sensitive the answer is to each, the
accuracy's cost g * nu / 2 of a coordinate that arrives with the error nu is weighed against the -1/2 ln nu that can
then be learned from it. That gives nu = min(1, lambda / g), in closed form: rate distortion theory's reverse
water-filling.

    sent = sqrt(1 - nu) y + sqrt(nu) z,    restored = sqrt(1 - nu) sent      z: standard normal, independent

A coordinate of nu = 1 carries nothing and is not sent, so that fewer values cross than the activation has. What is
sent has variance 1. It is a Wiener filter behind additive noise, with the filter on both sides of the link.

* `diagonal`: each coordinate on its own.
* `eigen`: the coordinates that matter most (see `mattering`) are whitened together and turned to the eigenvectors of
  their joint sensitivity; the others are dropped. Stronger, and its two matrices become part of the halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg

from ...noise_kernels.element_noise import ElementNoise
from ...noise_kernels.linear_map import LinearMap
from ..activations import Rows
from ..bench import Bench
from ..settings import FitSettings
from .coordinates import Coordinates, coordinates_of
from .proposal import Proposal
from .sensitivity import Doubles, Points, points_of

Floats = npt.NDArray[np.float32]
FEW, MOST = 1600, 4096
"""Coordinates taken together: the most sensitive FEW, or as many as each on its own would be sent, but never more than
MOST: the four float64 matrices of that size that are needed at once take half a gigabyte."""
ITEMS = 6000
"""Training items that variances and covariances are taken from."""
MEMORY_BYTES = 256 << 20
"""Of their activations; more of them go to a file."""
SHRINKAGE = 0.3
"""Of K / (K + count): the share of a K x K matrix, estimated from so many, that is replaced by its diagonal."""
ROUNDS, DRAWS = 2, 2
CHUNK = 250
WIDEST = 25.0
"""Natural logarithm of the greatest over the smallest lambda that is tried."""
DEAD = 1e-9
"""Coordinates of less than this share of the mean variance are taken for constant."""


@dataclass(frozen=True)
class Channel:
    """Sensitivities `gains` [K] of unit-variance coordinates, and how those come from `index` [K] of all and back.

    `whiten` and `colour` are float64 [K] for each coordinate on its own, else float32 [K, K].
    """

    coordinates: Coordinates
    index: npt.NDArray[np.int64]
    gains: Doubles
    whiten: Doubles | Floats
    colour: Doubles | Floats

    def errors(self, weight: float) -> Doubles:
        """nu of every coordinate for this lambda."""
        with np.errstate(divide="ignore"):
            made: Doubles = np.minimum(1.0, weight / self.gains)
        return made

    def bits(self, weight: float) -> float:
        """-1/2 sum log2 nu: what can be learned from an item, where its coordinates are normal."""
        return float(-0.5 * np.log2(self.errors(weight)).sum())

    def parts(self, weight: float) -> tuple[LinearMap, Floats]:
        """The map and the noise's scales for this lambda."""
        errors = self.errors(weight)
        sent = np.flatnonzero(errors < 1)
        if not len(sent):  # a message needs a value, even one that tells next to nothing
            sent = np.array([int(np.argmax(self.gains))])
            errors[sent] = 1 - 1e-6
        kept, scales = np.sqrt(1 - errors[sent]), np.sqrt(errors[sent]).astype(np.float32)
        if self.whiten.ndim == 1:
            own, forward, backward = self.index[sent], kept * self.whiten[sent], kept * self.colour[sent]
            order = np.argsort(own)
            return self.coordinates.map(own[order], forward[order], backward[order]), scales[order]
        forward, backward = self.whiten[sent], self.colour[:, sent]
        forward *= kept[:, None]
        backward *= kept
        return self.coordinates.map(self.index, forward, backward), scales


def propose(bench: Bench, settings: FitSettings) -> Proposal:
    """Both variants, or the one asked for, of which the one that tells less is kept; the knob is lambda."""
    assert settings.images is not None
    points = points_of(bench, settings.images)
    channel, weight = _fitted(bench, points, settings)
    n = bench.cut.elements

    def noise(knob: float) -> ElementNoise:
        map, scales = channel.parts(knob)
        return ElementNoise(
            "channel",
            "normal",
            np.zeros(len(scales)),
            scales,
            [(tensor.name, tensor.shape) for tensor in bench.cut.tensors],
            bench.model.spec.digest,
            bench.cut.name,
            map=map,
        )

    joint = channel.whiten.ndim == 2
    return Proposal(
        noise=noise,
        name="lambda",
        meaning="weight of what can be learned against accuracy",
        deviation=bench.deviation,
        start=weight,
        least=weight * 1e-9,
        most=max(weight, float(channel.gains.max())),
        precision=1.03,
        bits=channel.bits,
        learnable=n + (2 * channel.whiten.size if joint else 2 * n),
        notes=(f"basis {'eigen' if joint else 'diagonal'}",),
        kept=points.kept,
    )


def _fitted(bench: Bench, points: Points, settings: FitSettings) -> tuple[Channel, float]:
    """The better channel, and the lambda at which the training items begin to lose what is allowed."""
    rows, chunk = bench.training(ITEMS, MEMORY_BYTES), bench.edge.chunk
    bench.stages.start("learning")
    coordinates = coordinates_of(bench.cut, [piece.numpy() for piece in points.values.split(chunk)])
    variances = _variances(coordinates, rows, chunk)
    noisy = points.values
    for done in range(ROUNDS):
        bench.stages.tell("looking at what the cloud partition is sensitive to", done / (ROUNDS + 1))
        each = diagonal(coordinates, variances, _sensitivities(coordinates, points, noisy))
        weight = _largest_weight(each, points)
        noisy = _through(each, weight, points)
    if settings.basis == "diagonal":
        return each, weight
    bench.stages.tell("turning to the eigenvectors of the sensitivity", ROUNDS / (ROUNDS + 1))
    index = mattering(each, weight)
    colour = root(_covariance(coordinates, rows, index, chunk), rows.count)

    def turned(noisy: torch.Tensor) -> tuple[Channel, float]:
        made = eigen(coordinates, index, colour, _jacobian(coordinates, points, noisy, index))
        return made, _largest_weight(made, points)

    for _ in range(ROUNDS - 1):  # none of these is kept: two at once take too much memory
        noisy = _through(*turned(noisy), points)
    joint, best = turned(noisy)
    # Where more than MOST coordinates matter, what the joint channel drops may cost too much at any lambda.
    least = float(joint.gains.max()) * math.exp(-WIDEST)
    enough = points.accuracy(_through(joint, least, points)) >= points.wanted
    if settings.basis == "eigen" or (enough and joint.bits(best) <= each.bits(weight)):
        return joint, best
    return each, weight


def mattering(each: Channel, weight: float) -> npt.NDArray[np.int64]:
    """The coordinates to be turned together: what a diagonal channel does not send tells the cloud next to nothing."""
    count = min(max(FEW, int((each.errors(weight) < 1).sum())), MOST)
    return each.index[np.sort(np.argsort(-each.gains, kind="stable")[:count])]


def diagonal(coordinates: Coordinates, variances: Doubles, sensitivity: Doubles) -> Channel:
    """Each coordinate on its own; those that are constant, or that nothing depends on, are left out."""
    alive = (variances > DEAD * variances.mean()) & (sensitivity > 0)
    index = np.flatnonzero(alive)
    deviations = np.sqrt(variances[index])
    return Channel(coordinates, index, sensitivity[index] * variances[index], 1 / deviations, deviations)


def root(spread: Doubles, count: int) -> Doubles:
    """The Cholesky factor of a covariance matrix from so many items, made out of it in place."""
    # The transpose of a symmetric matrix is itself in Fortran's order, which LAPACK needs to work in place.
    made: Doubles = linalg.cholesky(shrunk(spread, count).T, lower=True, overwrite_a=True)
    return made


def eigen(coordinates: Coordinates, index: npt.NDArray[np.int64], colour: Doubles, jacobian: Floats) -> Channel:
    """Coordinates `index` together, from their covariance's `root` and their columns of the Jacobian's rows.

    Matrices of thousands of coordinates are the most memory that a fit takes: they are overwritten where they can be.
    """
    rows = jacobian.astype(np.float64)
    joint = rows.T @ rows
    joint /= len(rows)
    joint = colour.T @ shrunk(joint, len(rows))
    joint = joint @ colour
    gains, vectors = linalg.eigh(joint.T, overwrite_a=True, driver="evr")
    del joint
    back = (colour @ vectors).astype(np.float32)
    whiten = linalg.solve_triangular(colour, vectors, lower=True, trans="T", overwrite_b=True).T.astype(np.float32)
    return Channel(coordinates, index, np.maximum(gains, 0)[::-1], whiten[::-1], back[:, ::-1])


def shrunk(matrix: Doubles, count: int) -> Doubles:
    """A covariance matrix from so many items, less far from its diagonal (see SHRINKAGE), in place."""
    own = np.diag(matrix).copy()
    matrix *= 1 - SHRINKAGE * len(matrix) / (len(matrix) + count)
    np.fill_diagonal(matrix, own)
    return matrix


def _through(channel: Channel, weight: float, points: Points) -> torch.Tensor:
    """What the cloud partition is given for these items, under fresh noise."""
    map, scales = channel.parts(weight)
    made = []
    for piece in points.values.split(CHUNK):
        sent = torch.from_numpy(map.sent(piece.numpy()))
        sent += torch.from_numpy(scales) * torch.randn(sent.shape, generator=points.generator)
        made.append(torch.from_numpy(map.restored(sent.numpy())))
    return torch.cat(made)


def _largest_weight(channel: Channel, points: Points) -> float:
    """Where the training items begin to lose what is allowed: near what the hold-out will say."""
    high = math.log(float(channel.gains.max()))
    low = high - WIDEST
    for _ in range(9):
        middle = (low + high) / 2
        good = points.accuracy(_through(channel, math.exp(middle), points)) >= points.wanted
        low, high = (middle, high) if good else (low, middle)
    return math.exp(low)


def _sensitivities(coordinates: Coordinates, points: Points, noisy: torch.Tensor) -> Doubles:
    """Of every coordinate, at these activations."""
    total = np.zeros(len(coordinates.centre))
    for piece in points.rows(noisy):
        total += np.square(coordinates.of_directions(piece.numpy())).sum(0, dtype=np.float64)
    return total / len(noisy)


def _jacobian(coordinates: Coordinates, points: Points, noisy: torch.Tensor, index: npt.NDArray[np.int64]) -> Floats:
    """Rows over some of the coordinates, DRAWS for each of these activations."""
    pieces = [coordinates.of_directions(piece.numpy())[:, index] for _ in range(DRAWS) for piece in points.rows(noisy)]
    made: Floats = np.concatenate(pieces)
    return made


def _variances(coordinates: Coordinates, rows: Rows, chunk: int) -> Doubles:
    total = np.zeros(len(coordinates.centre))
    for _, piece in rows.chunks(chunk):
        total += np.square(coordinates.of(piece.numpy())).sum(0, dtype=np.float64)
    return total / rows.count


def _covariance(coordinates: Coordinates, rows: Rows, index: npt.NDArray[np.int64], chunk: int) -> Doubles:
    total = np.zeros((len(index), len(index)))
    for _, piece in rows.chunks(chunk):
        some = coordinates.of(piece.numpy())[:, index]
        total += some.T @ some
    total /= rows.count
    return total
