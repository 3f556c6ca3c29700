"""Gaussian densities for what is sent, fitted to clean values with the noise's covariance added: what bounds need.

A bound in bits holds for any density; how near it comes is a matter of the fit. Covariances are a matrix, or for many
values a few directions and a diagonal (Woodbury's identity then spares the matrix).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, solve_triangular
from scipy.special import logsumexp

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RANK = 256
ROWS = 512
LEAST_DIAGONAL = 1e-12


@dataclass(frozen=True)
class Spread:
    """A covariance: factor @ factor.T + diag(diagonal), and `dense` added where there is one."""

    factor: Array
    diagonal: Floats
    dense: Floats | None = None

    @classmethod
    def of_dense(cls, dense: Floats) -> Spread:
        """A covariance that is given whole."""
        return cls(np.zeros((len(dense), 0)), np.zeros(len(dense)), dense)

    def plus(self, other: Spread) -> Spread:
        """Of the sum of two independent parts."""
        dense = self.dense if other.dense is None else other.dense if self.dense is None else self.dense + other.dense
        return Spread(np.hstack([self.factor, other.factor]), self.diagonal + other.diagonal, dense)

    def mixed(self, other: Spread, share: float) -> Spread:
        """(1 - share) of this one and `share` of the other."""
        return self.scaled(1 - share).plus(other.scaled(share))

    def scaled(self, by: float) -> Spread:
        """Times a number."""
        dense = None if self.dense is None else by * self.dense
        return Spread((math.sqrt(by) * self.factor).astype(self.factor.dtype), by * self.diagonal, dense)

    def whitening(self) -> tuple[Callable[[Floats], Floats], float]:
        """A linear map of rows to rows with this covariance turned into the identity, and half this one's ln det."""
        if self.dense is not None:
            factor = self.factor.astype(np.float64)
            return _triangular(self.dense + factor @ factor.T + np.diag(self.diagonal))
        root = np.sqrt(np.maximum(self.diagonal, LEAST_DIAGONAL))
        scaled = self.factor / root[:, None]
        values, vectors = np.linalg.eigh(scaled.T @ scaled)
        kept = values > 1e-10 * max(1.0, float(values.max(initial=0.0)))
        values, directions = values[kept], (scaled @ vectors[:, kept]) / np.sqrt(values[kept])
        shrink = 1 - 1 / np.sqrt(1 + values)

        def apply(rows: Floats) -> Floats:
            straight = rows / root
            made: Floats = straight - ((straight @ directions) * shrink) @ directions.T
            return made

        return apply, float(np.log(root).sum() + np.log1p(values).sum() / 2)


def _triangular(matrix: Floats) -> tuple[Callable[[Floats], Floats], float]:
    slack = 0.0
    while True:
        try:
            lower = np.tril(cho_factor(matrix + slack * np.eye(len(matrix)), lower=True)[0])
            break
        except np.linalg.LinAlgError:
            # Rounding made it indefinite. A larger covariance is another valid density.
            slack = max(10 * slack, 1e-13 * float(np.trace(matrix)))

    def apply(rows: Floats) -> Floats:
        made: Floats = solve_triangular(lower, rows.T, lower=True, check_finite=False).T
        return made

    return apply, float(np.log(np.diag(lower)).sum())


@dataclass(frozen=True)
class Gaussians:
    """A mixture of Gaussians for clean values: `shares` and `means` [K, n], one covariance for all or one for each.

    Covariances of classes are mixed with `common` in the share `mixed`, since a class has few items.
    """

    words: str
    shares: Floats
    means: Floats
    spreads: tuple[Spread, ...]
    common: Spread | None = None
    mixed: float = 0.0

    def log_density(self, values: Array, noise_mean: Floats, noise: Spread) -> Floats:
        """ln q of rows of noisy values, where the noise has that mean and covariance."""
        logs = np.full((len(values), len(self.shares)), -np.inf)
        origin = self.means.mean(0) + noise_mean
        for number, own in enumerate(self.spreads):
            spread = own if self.common is None else own.mixed(self.common, self.mixed)
            apply, half_logdet = spread.plus(noise).whitening()
            which = slice(None) if len(self.spreads) == 1 else slice(number, number + 1)
            centres = apply(self.means[which] + noise_mean - origin)
            constant = half_logdet + values.shape[1] / 2 * math.log(2 * math.pi)
            for start in range(0, len(values), ROWS):
                rows = slice(start, start + ROWS)
                white = apply(values[rows].astype(np.float64) - origin)
                squared = (white**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * white @ centres.T
                logs[rows, which] = np.log(self.shares[which]) - squared / 2 - constant
        made: Floats = logsumexp(logs, axis=1)
        return made


def covariance(centred: Array) -> Floats:
    """The covariance matrix of centred rows, over their number."""
    total = np.zeros((centred.shape[1], centred.shape[1]))
    for start in range(0, len(centred), 8 * ROWS):
        rows = centred[start : start + 8 * ROWS].astype(np.float64, copy=False)
        total += rows.T @ rows
    made: Floats = total / len(centred)
    return made


def few_directions(centred: Array, rank: int, seed: int) -> Spread:
    """The covariance of centred rows as its main directions, in falling order, and what else each value varies.

    By subspace iteration from random directions (Halko, Martinsson and Tropp, 2011).
    """
    items, n = centred.shape
    rank = min(rank, items - 1, n)
    variances = np.einsum("ij,ij->j", centred, centred, dtype=np.float64) / items
    if rank < 1:
        return Spread(np.zeros((n, 0)), variances)
    start = np.random.default_rng(seed).standard_normal((n, min(rank + 16, n))).astype(centred.dtype)
    basis = np.linalg.qr(start)[0]
    for _ in range(3):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    _, sizes, turns = np.linalg.svd(centred @ basis, full_matrices=False)
    factor = (basis @ turns[:rank].T) * (sizes[:rank] / math.sqrt(items))
    rest = variances - np.einsum("ij,ij->i", factor, factor, dtype=np.float64)
    return Spread(factor, np.maximum(rest, 0.0))
