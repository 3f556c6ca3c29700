"""Regressors of layer latency, one for each kind of layer.

    prediction = base * exp(correction)

The base is a sum of cost terms (features.py) with weights of at least zero, fitted to relative errors: positive, and it
extrapolates. The correction is gradient boosting on the logarithm of what the base leaves; outside the trained range it
keeps the value of the range's edge. Kinds with few rows, and those that only pass over values, have the base alone.

Predictions are monotone over round sizes: 1, 2, 3, 4, 6, 8, 12, 16, ... (2**n and 3 * 2**n) for channels and for the
side of the picture, there also 7 * 2**n. Of two layers of one kind, kernel and stride, the larger is never predicted
faster where a layer of round sizes lies between them, or is one of them. Closer than that devices themselves are not
monotone (128 channels are often faster than 127), and the prediction follows what was measured.

Intervals hold 90 % of layers: quantiles of errors on rows that a fit had not seen, in folds inside the trained range,
and on the largest decile for a fit without it outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ..artefacts import Record
from ..errors import DeviceError
from ..models.work import Operation
from .features import SHAPELESS, Shapes, Vector, cost_terms, plain_terms, shape_features
from .layer_table import KINDS, LayerRow, LayerTable

POOLED = "any kind"
"""The regressor of kinds that have no rows: the plain terms over all rows."""
CORRECTED_FROM = 40
"""Rows from which on a kind has all terms and a correction."""
COVERAGE = 0.9
FOLDS = 4
SEED = 0
WORST_FACTOR = 2.0
"""Half-width of an interval as a factor where too few rows say anything."""
EDGE_OCTAVES = 0.14
"""A layer counts as outside the trained range from a tenth beyond it."""
WIDENING = 0.1
"""How much wider intervals become with each octave outside, as a share."""
GROUPS = 3
"""Inside the trained range, errors are taken by thirds of size: small layers scatter more."""


class IntervalParameters(Record):
    """Log half-widths: for layers up to each bound of the base in seconds, and outside the trained range."""

    bounds_s: tuple[float, ...]
    inside: tuple[float, ...]
    outside: float


class KindParameters(Record):
    """What is stored of a regressor beside its rows."""

    kind: str
    rows: int
    corrected: bool
    weights: tuple[float, ...]
    interval: IntervalParameters


@dataclass(frozen=True)
class Estimates:
    """Predicted seconds of some layers with their 90 % intervals, and whether each lies outside the trained range."""

    latency_s: Vector
    low_s: Vector
    high_s: Vector
    outside: npt.NDArray[np.bool_]


def check_sklearn() -> None:
    """Raise DeviceError where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise DeviceError("calibrating needs scikit-learn; install edgecut[calibrate]") from None


class Regressor:
    """The fitted regressor of one kind."""

    def __init__(self, kind: str, rows: Sequence[LayerRow]) -> None:
        self.kind = kind
        self._shapes = Shapes.of([row.operation() for row in rows])
        self._latency_s = np.array([row.latency_s for row in rows])
        self.corrected = kind not in (POOLED, *SHAPELESS) and len(rows) >= CORRECTED_FROM
        self.weights = fit_weights(self._terms(self._shapes), self._latency_s)
        base_s = self._base(self._shapes)
        self._trees = (
            _boost(shape_features(self._shapes, base_s), np.log(self._latency_s / base_s)) if self.corrected else None
        )
        self._low, self._high = _range(self._shapes)
        self._most = self._high
        self._lattices: dict[tuple[float, float], Vector] = {}

    def _terms(self, shapes: Shapes) -> Vector:
        return cost_terms(self.kind, shapes) if self.corrected else plain_terms(shapes)

    def _base(self, shapes: Shapes) -> Vector:
        return np.maximum(self._terms(shapes) @ self.weights, 1e-9)

    def raw(self, shapes: Shapes) -> Vector:
        """Seconds before monotonicity is seen to."""
        base_s = self._base(shapes)
        if self._trees is None:
            return base_s
        with _one_thread():
            return np.asarray(base_s * np.exp(self._trees.predict(shape_features(shapes, base_s))))

    def latency(self, operations: Sequence[Operation]) -> Vector:
        """Predicted seconds."""
        shapes = Shapes.of(operations)
        seconds = self.raw(shapes)
        return self._between_round_sizes(shapes, seconds) if self.corrected else seconds

    def octaves_outside(self, shapes: Shapes) -> Vector:
        """By how many octaves a layer is smaller or larger than every row, in the respect where it is most."""
        columns = _respects(shapes)
        return np.asarray(np.log2(np.maximum(columns / self._high, self._low / columns)).max(axis=1).clip(0))

    def _between_round_sizes(self, shapes: Shapes, seconds: Vector) -> Vector:
        axes = self._axes(shapes)
        bounded = seconds.copy()
        windows = np.stack([shapes.window, shapes.stride], 1)
        for window, stride in {(float(w), float(s)) for w, s in windows}:
            chosen = (shapes.window == window) & (shapes.stride == stride)
            if (window, stride) not in self._lattices:
                self._lattices[window, stride] = self._lattice(axes, window, stride)
            lattice = self._lattices[window, stride]
            sizes = [_side(shapes)[chosen], shapes.in_channels[chosen], shapes.out_channels[chosen]]
            pairs = list(zip(axes, sizes, strict=True))
            below = tuple(np.maximum(np.searchsorted(axis, size + 1e-6) - 1, 0) for axis, size in pairs)
            above = tuple(np.minimum(np.searchsorted(axis, size - 1e-6), len(axis) - 1) for axis, size in pairs)
            bounded[chosen] = np.clip(seconds[chosen], lattice[below], lattice[above])
        return bounded

    def _axes(self, shapes: Shapes) -> tuple[Vector, Vector, Vector]:
        """Round sides, input and output channels to beyond all asked so far; 1 alone where a size follows another."""
        most = np.maximum(self._most, _range(shapes)[1])
        if (most > self._most).any():
            self._most = most
            self._lattices.clear()
        # Between a size and twice that size there is always a round one.
        sides, taken, made = _round(2 * most[1] ** 0.5, (1, 3, 7)), _round(2 * most[2]), _round(2 * most[3])
        return sides, taken, made if self.kind in ("conv", "linear") else np.ones(1)

    def _lattice(self, axes: tuple[Vector, Vector, Vector], window: float, stride: float) -> Vector:
        """For every combination of round sizes, the slowest of all that are no larger in any respect."""
        grid = np.meshgrid(*axes, indexing="ij")
        rows = _round_layers(self.kind, grid, window, stride)
        seconds = self.raw(rows).reshape(grid[0].shape)
        for axis in range(3):
            seconds = np.maximum.accumulate(seconds, axis=axis)
        return seconds


def fit_weights(terms: Vector, latency_s: Vector) -> Vector:
    """Weights of at least zero with small relative errors, rows far off counting less: about the median's fit."""
    scale = np.maximum(terms.max(axis=0), 1e-300)
    relative = terms / scale / latency_s[:, None]
    emphasis = np.ones(len(latency_s))
    weights = np.zeros(terms.shape[1])
    for _ in range(8):
        weights, _ = nnls(relative * emphasis[:, None], emphasis, maxiter=50 * terms.shape[1])
        missed = np.abs(np.log(np.maximum(relative @ weights, 1e-9)))
        emphasis = 1 / np.sqrt(np.maximum(missed, 0.03))
    return np.asarray(weights / scale)


def _boost(features: Vector, target: Vector) -> Any:
    check_sklearn()
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        max_iter=120,
        learning_rate=0.12,
        max_leaf_nodes=31,
        max_bins=96,
        min_samples_leaf=max(3, min(8, len(target) // 40)),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=SEED,
    )
    with _one_thread():
        return trees.fit(features, target)


def _one_thread() -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _side(shapes: Shapes) -> Vector:
    return np.asarray(np.sqrt(shapes.pixels_in))


def _respects(shapes: Shapes) -> Vector:
    return np.stack(
        [shapes.flops, shapes.pixels_in, shapes.in_channels, shapes.out_channels, shapes.window, shapes.stride], 1
    )


def _range(shapes: Shapes) -> tuple[Vector, Vector]:
    columns = _respects(shapes)
    return columns.min(axis=0), columns.max(axis=0)


def _round(most: float, factors: tuple[int, ...] = (1, 3)) -> Vector:
    return np.array(sorted({factor * 2**n for n in range(40) for factor in factors if factor * 2**n <= most}), float)


def _round_layers(kind: str, grid: Sequence[Vector], window: float, stride: float) -> Shapes:
    side, taken, made = (size.ravel() for size in grid)
    made = made if kind in ("conv", "linear") else taken
    pixels = np.ceil(side / stride) ** 2
    per_value = {"conv": 2 * window * taken, "linear": 2 * taken, "depthwise_conv": 2 * window, "batchnorm": 2.0}
    weights = {
        "conv": (window * taken + 1) * made,
        "linear": (taken + 1) * made,
        "depthwise_conv": (window + 1) * made,
        "batchnorm": 2 * made,
    }
    values = made * pixels
    flops = values * per_value.get(kind, {"softmax": 3.0, "movement": 0.0, "elementwise": 1.0}.get(kind, window))
    full = np.ones_like(side)
    return Shapes(
        flops=np.maximum(flops, 1.0),
        taken=taken * side**2 * (2 if kind == "elementwise" else 1),
        made=values,
        parameters=weights.get(kind, 0 * full),
        pixels_in=side**2,
        pixels_out=pixels,
        in_channels=taken,
        out_channels=made,
        window=window * full,
        stride=stride * full,
    )


def fit_interval(kind: str, rows: Sequence[LayerRow]) -> IntervalParameters:
    """Quantiles of the errors on rows that a fit had not seen."""
    if len(rows) < 5:
        return IntervalParameters(bounds_s=(), inside=(math.log(WORST_FACTOR),), outside=2 * math.log(WORST_FACTOR))
    order = np.random.default_rng(SEED).permutation(len(rows))
    missed, size = np.zeros(len(rows)), np.zeros(len(rows))
    for held in np.array_split(order, min(FOLDS if len(rows) >= CORRECTED_FROM else 10, len(rows))):
        mask = np.ones(len(rows), bool)
        mask[held] = False
        missed[held], size[held] = _missed(kind, rows, mask)
    groups = np.array_split(np.argsort(size, kind="stable"), GROUPS if len(rows) >= 3 * CORRECTED_FROM else 1)
    inside = [_quantile(missed[group]) for group in groups]
    work = np.array([row.operation().flops for row in rows])
    largest = np.argsort(work, kind="stable")[-max(1, len(rows) // 10) :]
    mask = np.ones(len(rows), bool)
    mask[largest] = False
    beyond, _ = _missed(kind, rows, mask)
    return IntervalParameters(
        bounds_s=tuple(float(size[group].max()) for group in groups[:-1]),
        inside=tuple(inside),
        outside=max(_quantile(beyond), *inside),
    )


def _missed(kind: str, rows: Sequence[LayerRow], mask: npt.NDArray[np.bool_]) -> tuple[Vector, Vector]:
    """Absolute log errors on the rows not in `mask` of a fit to those in it, and the predictions."""
    fitted = Regressor(kind, [row for row, kept in zip(rows, mask, strict=True) if kept])
    held = [row for row, kept in zip(rows, mask, strict=True) if not kept]
    # Without the bounds of round sizes, which take longer than the fit and seldom matter.
    predicted = fitted.raw(Shapes.of([row.operation() for row in held]))
    return np.abs(np.log(predicted / np.array([row.latency_s for row in held]))), predicted


def _quantile(missed: Vector) -> float:
    """The conformal quantile: the ceil(0.9 (n + 1))-th smallest, or the largest where there are too few."""
    place = min(len(missed), math.ceil(COVERAGE * (len(missed) + 1)))
    return float(np.sort(missed)[place - 1])


class Regressors:
    """One regressor for each kind of a table, and the pooled one; fitted on construction."""

    def __init__(self, table: LayerTable, intervals: Sequence[KindParameters] = (), *, pooled: bool = True) -> None:
        check_sklearn()
        known = {one.kind: one.interval for one in intervals}
        groups = {kind: table.of_kind(kind).rows for kind in table.kinds()} | ({POOLED: table.rows} if pooled else {})
        self._rows = {kind: len(rows) for kind, rows in groups.items()}
        self._of = {kind: Regressor(kind, rows) for kind, rows in groups.items()}
        self._interval = {kind: known.get(kind) or fit_interval(kind, rows) for kind, rows in groups.items()}

    def parameters(self) -> tuple[KindParameters, ...]:
        """What to store beside the rows."""
        return tuple(
            KindParameters(
                kind=kind,
                rows=self._rows[kind],
                corrected=one.corrected,
                weights=tuple(float(weight) for weight in one.weights),
                interval=self._interval[kind],
            )
            for kind, one in self._of.items()
        )

    def knows(self, kind: str) -> bool:
        """Whether the kind has rows of its own."""
        return kind in self._of and kind in KINDS

    def estimate(self, kind: str, operations: Sequence[Operation]) -> Estimates:
        """Latencies of operations of one kind, by the pooled regressor where the kind has no rows."""
        name = kind if self.knows(kind) else POOLED
        fitted, interval = self._of[name], self._interval[name]
        seconds = fitted.latency(operations)
        octaves = fitted.octaves_outside(Shapes.of(operations))
        outside = (octaves > EDGE_OCTAVES) | (name == POOLED)
        width = np.array(interval.inside)[np.searchsorted(interval.bounds_s, seconds)]
        width = np.where(outside, interval.outside * (1 + octaves * WIDENING), width)
        return Estimates(seconds, seconds * np.exp(-width), seconds * np.exp(width), outside)
