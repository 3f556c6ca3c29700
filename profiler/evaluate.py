"""Predicting rows that a fit has not seen: `edgecut calibrate --evaluate`.

Two hold-outs, each a tenth of a kind's rows: a random one, and the largest by FLOPs, which tells how far sizes beyond
the trained ones can be trusted. Beside them the same for linear regression on Neurosurgeon's own features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .evaluation import POOLED, Errors, Evaluation, EvaluationRow, Holdout
from .features import Shapes, Vector, neurosurgeon_features
from .layer_table import LayerRow, LayerTable
from .regress import Regressors, check_sklearn

HOLDOUTS: tuple[Holdout, ...] = ("random", "largest")
SHARE = 0.1
NEAR = 0.1
SEED = 0
LEAST_ROWS = 10
"""Kinds with fewer rows are not evaluated: a tenth of them is nothing."""


class _Held:
    """Held-out rows of one kind: measured and predicted seconds, by the regressors and by the baseline."""

    def __init__(self, kind: str, rows: tuple[LayerRow, ...], held: npt.NDArray[np.bool_]) -> None:
        trained = [row for row, out in zip(rows, held, strict=True) if not out]
        unseen = [row.operation() for row, out in zip(rows, held, strict=True) if out]
        self.measured = np.array([row.latency_s for row, out in zip(rows, held, strict=True) if out])
        found = Regressors(LayerTable(rows=tuple(trained)), pooled=False).estimate(kind, unseen)
        self.predicted = found.latency_s
        self.covered = (found.low_s <= self.measured) & (self.measured <= found.high_s)
        features = neurosurgeon_features(kind, Shapes.of([row.operation() for row in trained]))
        seconds = np.array([row.latency_s for row in trained])
        weights = np.linalg.lstsq(features, seconds, rcond=None)[0]
        self.linear = neurosurgeon_features(kind, Shapes.of(unseen)) @ weights


def evaluate(table: LayerTable, progress: Callable[[str, float], None] | None = None) -> Evaluation:
    """Fit without each hold-out and predict it. Raises DataError where no kind has enough rows."""
    check_sklearn()
    kinds = [kind for kind in table.kinds() if len(table.of_kind(kind).rows) >= LEAST_ROWS]
    left = [kind for kind in table.kinds() if kind not in kinds]
    if not kinds:
        raise DataError(f"no kind has the {LEAST_ROWS} rows that holding out a tenth needs; measure more layers")
    rows: list[EvaluationRow] = []
    for place, holdout in enumerate(HOLDOUTS):
        parts: list[_Held] = []
        for index, kind in enumerate(kinds):
            if progress is not None:
                progress(f"holding out {kind}, {holdout}", (place + index / len(kinds)) / len(HOLDOUTS))
            of_kind = table.of_kind(kind).rows
            parts.append(_Held(kind, of_kind, _held_out(of_kind, holdout)))
            rows.append(_row(kind, holdout, parts[-1:]))
        rows.append(_row(POOLED, holdout, parts))
    ordered = sorted(rows, key=lambda row: row.kind == POOLED)
    notes = tuple(f"{kind}: fewer than {LEAST_ROWS} rows, not evaluated" for kind in left)
    return Evaluation(table_rows=len(table.rows), rows=tuple(ordered), notes=(*table.notes, *notes))


def _held_out(rows: tuple[LayerRow, ...], holdout: Holdout) -> npt.NDArray[np.bool_]:
    count = max(1, round(SHARE * len(rows)))
    if holdout == "random":
        chosen = np.random.default_rng(SEED).permutation(len(rows))[:count]
    else:
        chosen = np.argsort([row.operation().flops for row in rows], kind="stable")[-count:]
    held = np.zeros(len(rows), bool)
    held[chosen] = True
    return held


def _row(kind: str, holdout: Holdout, parts: list[_Held]) -> EvaluationRow:
    measured = np.concatenate([part.measured for part in parts])
    return EvaluationRow(
        kind=kind,
        holdout=holdout,
        rows=len(measured),
        errors=_errors(np.concatenate([part.predicted for part in parts]), measured),
        coverage=float(np.concatenate([part.covered for part in parts]).mean()),
        linear=_errors(np.concatenate([part.linear for part in parts]), measured),
    )


def _errors(predicted: Vector, measured: Vector) -> Errors:
    error = np.abs(predicted / measured - 1)
    return Errors(within_10=float((error <= NEAR).mean()), mape=float(error.mean()), median=float(np.median(error)))
