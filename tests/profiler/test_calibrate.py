"""Calibrations as files, predictions of networks from them, and the evaluation on hold-outs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgecut.errors import ArtefactError, DataError, DeviceError
from edgecut.models.work import Operation
from edgecut.profiler import calibrate as calibrating
from edgecut.profiler import sweep as sweeping
from edgecut.profiler.calibrate import Calibration, calibrate, calibration_of, fused, predict_operations
from edgecut.profiler.evaluate import evaluate
from edgecut.profiler.evaluation import POOLED
from edgecut.profiler.layer_table import LayerRow, LayerTable, TableKind
from edgecut.reports.calibration import evaluation_table


def roofline(row: LayerRow) -> float:
    """A device of 100 GFLOP/s and 10 GB/s with 20 us a layer, in seconds."""
    work = row.operation()
    return 2e-5 + work.flops / 1e11 + work.bytes() / 1e10


def table(counts: dict[TableKind, int], noise: float = 0.03, seed: int = 0) -> LayerTable:
    """Rows of random sizes on that device with log-normal noise."""
    random = np.random.default_rng(seed)
    rows = []
    for kind, count in counts.items():
        for _ in range(count):
            taken = int(np.exp(random.uniform(2, 6)))
            row = LayerRow(
                kind=kind,
                input_hw=1 if kind == "linear" else int(random.integers(4, 64)),
                in_channels=taken,
                out_channels=int(np.exp(random.uniform(2, 6))) if kind in ("conv", "linear") else taken,
                kernel=int(random.choice([1, 3])) if kind in ("conv", "maxpool") else 1,
                latency_s=1.0,
            )
            rows.append(
                row.model_copy(update={"latency_s": roofline(row) * float(np.exp(noise * random.standard_normal()))})
            )
    return LayerTable(rows=tuple(rows))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibration_of(table({"conv": 150, "linear": 60, "maxpool": 30}))


CONV = LayerRow(kind="conv", input_hw=28, in_channels=32, out_channels=64, kernel=3, latency_s=1)
POOL = LayerRow(kind="maxpool", input_hw=28, in_channels=64, out_channels=64, kernel=3, latency_s=1)
DENSE = LayerRow(kind="linear", in_channels=256, out_channels=100, latency_s=1)


def elementwise(operator: str) -> Operation:
    kind = "batchnorm" if operator == "BatchNormalization" else "elementwise"
    return Operation(kind=kind, operator=operator, flops=64, input_elements=64, output_elements=64, parameters=0)


def test_file_gives_the_same_predictions_and_no_pickle(calibration: Calibration, tmp_path: Path) -> None:
    path = calibration.save(tmp_path / "x.calibration.json")
    content = json.loads(path.read_text())
    assert content["kind"] == "calibration" and content["layers"][0].startswith("kind,input_hw")
    assert "scikit-learn" in content["versions"]
    again = Calibration.load(path)
    operations = [row.operation() for row in (CONV, POOL, DENSE)]
    assert predict_operations(again, operations) == predict_operations(calibration, operations)


def test_altered_rows_are_refused(calibration: Calibration) -> None:
    lines = list(calibration.layers)
    lines[3] = lines[3].replace(lines[3].split(",")[-1], "0.001")
    with pytest.raises(ArtefactError, match="calibrate again"):
        _ = Calibration.model_validate({**calibration.model_dump(), "layers": lines}).table


def test_network_is_the_sum_of_its_layers_and_one_run(calibration: Calibration) -> None:
    rows = [CONV, POOL, DENSE]
    found = predict_operations(calibration.model_copy(update={"run_s": 1e-4}), [row.operation() for row in rows])
    assert found.latency_s == pytest.approx(1e-4 + sum(one.latency_s for one in found.operations))
    assert found.latency_s == pytest.approx(1e-4 + sum(roofline(row) for row in rows), rel=0.1)
    assert 1e-4 < found.low_s < found.latency_s < found.high_s and not found.warnings
    # Errors that are not all the same partly cancel.
    assert found.high_s - found.latency_s < sum(one.high_s - one.latency_s for one in found.operations)


def test_fused_operations_cost_nothing(calibration: Calibration) -> None:
    conv, pool, dense = (row.operation() for row in (CONV, POOL, DENSE))
    with_more = [conv, elementwise("BatchNormalization"), elementwise("Relu"), pool, dense, elementwise("Relu")]
    assert fused(with_more) == (False, True, True, False, False, True)
    assert fused([elementwise("Relu"), pool, elementwise("BatchNormalization")]) == (False, False, False)
    found = predict_operations(calibration, with_more)
    assert found.latency_s == pytest.approx(predict_operations(calibration, [conv, pool, dense]).latency_s)
    assert [one.latency_s for one in found.operations if one.fused] == [0.0, 0.0, 0.0]


def test_warns_of_other_kinds_and_sizes(calibration: Calibration) -> None:
    huge = CONV.model_copy(update={"input_hw": 512, "in_channels": 2048}).operation()
    recurrent = Operation(
        kind="recurrent", operator="LSTM", flops=10**6, input_elements=100, output_elements=100, parameters=10**5
    )
    found = predict_operations(calibration, [huge, CONV.operation(), recurrent])
    assert any("1 of 2 conv layers lie outside" in warning for warning in found.warnings)
    assert any("no recurrent layer was measured" in warning for warning in found.warnings)
    assert not predict_operations(calibration, [CONV.operation()]).warnings
    assert predict_operations(calibration, []).latency_s == 0.0


def test_evaluation_against_the_law() -> None:
    found = evaluate(table({"conv": 200, "linear": 80, "maxpool": 9}))
    assert [row.kind for row in found.rows if row.holdout == "random"] == ["conv", "linear", POOLED]
    assert found.notes == ("maxpool: fewer than 10 rows, not evaluated",)
    for holdout in ("random", "largest"):
        pooled = found.row(POOLED, holdout)
        assert pooled.rows == 28
        assert pooled.errors.within_10 > 0.8 and pooled.errors.mape < 0.08
        assert pooled.coverage >= 0.75
        assert pooled.linear.mape > 3 * pooled.errors.mape
    assert evaluate(table({"conv": 200, "linear": 80, "maxpool": 9})) == found


def test_evaluation_of_noise_is_bad() -> None:
    """Negative control: where sizes say nothing of the time, nothing is predicted within 10 %."""
    rows = table({"conv": 200}).rows
    random = np.random.default_rng(0)
    shuffled = tuple(row.model_copy(update={"latency_s": float(np.exp(random.normal(-8, 2)))}) for row in rows)
    found = evaluate(LayerTable(rows=shuffled)).row("conv", "random")
    assert found.errors.within_10 < 0.3
    assert found.coverage >= 0.7, "wide intervals say so"


def test_too_few_rows_to_evaluate() -> None:
    with pytest.raises(DataError, match="10 rows"):
        evaluate(table({"conv": 9}))


def test_table_for_a_terminal() -> None:
    console = Console(width=100, file=None, record=True)
    with console.capture() as capture:
        console.print(evaluation_table(evaluate(table({"conv": 60, "linear": 5}))))
    text = capture.get()
    assert "65 layers" in text and "extrapolation" in text and "all kinds" in text
    assert "linear: fewer than 10 rows" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_real_calibration_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second on ONNX Runtime: rows, then more rows after them, and a prediction in the right order of magnitude."""
    monkeypatch.setattr(sweeping, "CHAIN_SECONDS", 0.1)
    monkeypatch.setattr(
        sweeping, "_fits", lambda chain: sum(layer.row(1).operation().flops for layer in chain.layers) < 2e7
    )
    path = tmp_path / "cpu.calibration.json"
    first = calibrate(budget_s=0.01, pause_s=0.0, output=path)
    more = calibrate(budget_s=0.01, pause_s=0.0, output=path, resume=path)
    assert Calibration.load(path).to_json() == more.to_json()
    assert more.table.rows[: len(first.table.rows)] == first.table.rows
    assert len(more.table.rows) > len(first.table.rows) and more.chains > first.chains
    assert more.environment is not None and more.backend == "onnxruntime-cpu"
    found = predict_operations(more, [CONV.operation(), POOL.operation()])
    assert 1e-6 < found.latency_s < 1.0
    with pytest.raises(ArtefactError, match="resume"):
        calibrate(budget_s=0.01, threads=2, resume=path)


def test_refuses_what_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        calibrate("tpu")
    with pytest.raises(DeviceError, match="budget"):
        calibrate(budget_s=0)
    monkeypatch.setattr(calibrating, "_usable", lambda name: (_ for _ in ()).throw(DeviceError("not here")))
    with pytest.raises(DeviceError, match="not here"):
        calibrate()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DeviceError, match=r"edgecut\[calibrate\]"):
        calibrate()
    with pytest.raises(DeviceError, match=r"edgecut\[calibrate\]"):
        evaluate(table({"conv": 60}))
