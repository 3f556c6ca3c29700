"""What an evaluation of regressors found, as values.

Errors are |predicted / measured - 1| on held-out rows; coverage is the share of them inside their 90 % intervals.
"""

from __future__ import annotations

from typing import Literal

from ..artefacts import Record

Holdout = Literal["random", "largest"]
POOLED = "all kinds"


class Errors(Record):
    """Shares from 0 to 1: rows within +-10 %, the mean and the median of the relative error."""

    within_10: float
    mape: float
    median: float


class EvaluationRow(Record):
    """One kind, or all, on one hold-out of `rows` rows; `linear` is Neurosurgeon's linear regression."""

    kind: str
    holdout: Holdout
    rows: int
    errors: Errors
    coverage: float
    linear: Errors


class Evaluation(Record):
    """All rows of the evaluation, the pooled ones last, and what was left out."""

    table_rows: int
    rows: tuple[EvaluationRow, ...]
    notes: tuple[str, ...]

    def row(self, kind: str, holdout: Holdout) -> EvaluationRow:
        """The row of a kind, or of `all kinds`."""
        return next(row for row in self.rows if (row.kind, row.holdout) == (kind, holdout))


class KindSummary(Record):
    """Layers of a kind in a calibration, and the shortest and longest of them in seconds."""

    kind: str
    layers: int
    shortest_s: float
    longest_s: float


class CalibrationSummary(Record):
    """What a person wants to know of a calibration; `run_s` is the time of a run that does nothing."""

    device: str
    backend: str
    kinds: tuple[KindSummary, ...]
    run_s: float
    interrupted: bool
