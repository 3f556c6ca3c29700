"""What `edgecut calibrate` prints: what was measured, and with --evaluate the errors on layers held out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from ..profiler.evaluation import CalibrationSummary, Errors, Evaluation
from . import units
from .terminal import Rows

TITLES = {"random": "a random tenth held out", "largest": "the largest tenth by FLOPs held out (extrapolation)"}


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    """A table for each hold-out; every figure is a percentage of held-out layers or of their measured time."""
    parts: list[RenderableType] = [
        Text(f"{units.count(evaluation.table_rows)} layers measured; errors of layers not trained on")
    ]
    for holdout, title in TITLES.items():
        rows = [row for row in evaluation.rows if row.holdout == holdout]
        headers = (
            "layer kind",
            "layers",
            "within\n10 %",
            "MAPE\n%",
            "median\n%",
            "in 90 %\ninterval",
            "linear:\nwithin",
            "linear:\nMAPE",
        )
        table = Rows(
            headers,
            tuple(
                (
                    row.kind,
                    units.count(row.rows),
                    *_shown(row.errors),
                    f"{row.errors.median * 100:.1f}",
                    f"{row.coverage * 100:.0f}",
                    *_shown(row.linear),
                )
                for row in rows
            ),
        )
        parts += ["", Text(title), table]
    parts += ["", Text("linear: linear regression on Neurosurgeon's own features, fitted to the same layers")]
    return Group(*parts, *(Text(units.printable(note)) for note in evaluation.notes))


def calibration_table(calibration: CalibrationSummary) -> RenderableType:
    """What was measured for a calibration, kind by kind."""
    rows = []
    for kind in calibration.kinds:
        scale = units.times([kind.shortest_s, kind.longest_s])
        rows.append(
            (kind.kind, units.count(kind.layers), f"{scale.interval(kind.shortest_s, kind.longest_s)} {scale.unit}")
        )
    layers = sum(kind.layers for kind in calibration.kinds)
    head = f"{units.count(layers)} layers measured on {calibration.device} ({calibration.backend})"
    notes = [f"an empty run takes {calibration.run_s * 1e6:.0f} µs"] if calibration.run_s else []
    if calibration.interrupted:
        notes.append("interrupted: --resume goes on from here")
    return Group(Text(units.printable(head)), "", Rows(("kind", "layers", "measured"), tuple(rows)), *map(Text, notes))


def _shown(errors: Errors) -> tuple[str, str]:
    return f"{errors.within_10 * 100:.1f}", f"{errors.mape * 100:.1f}" if errors.mape < 10 else units.count(
        round(errors.mape * 100)
    )
