"""From a learned noise tensor to what is kept of it: a Laplace distribution and an order (Shredder, section 2.5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]
BINS = 50


class Fit(NamedTuple):
    """`order[k]` is the element with the k-th smallest value; `sse` compares density histograms and has no scale."""

    loc: float
    scale: float
    order: npt.NDArray[np.int64]
    sse: float


def fit(tensor: Array) -> Fit:
    """Fit a Laplace to a learned tensor, float [n], by maximum likelihood (scipy), and note the order of its elements.

    `sse` is the sum of squared differences between the tensor's and the fitted distribution's density over 50 bins,
    which the paper gates on; it changes with the tensor's unit, so it is reported and nothing more.
    """
    values = np.asarray(tensor, np.float64).ravel()
    loc, scale = stats.laplace.fit(values)
    density, edges = np.histogram(values, bins=BINS, density=True)
    centres = (edges[:-1] + edges[1:]) / 2
    sse = float(((density - stats.laplace.pdf(centres, loc, scale)) ** 2).sum())
    return Fit(float(loc), float(scale), np.argsort(values, kind="stable"), sse)
