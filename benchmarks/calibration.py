"""How well do layers measured in a sweep predict layers and whole networks that the sweep has not seen?

A sweep of BUDGET_S seconds on this machine's processor under ONNX Runtime, one thread, with the pause of a profile.
Then: errors on held-out layers, and the catalogue's networks timed whole, before and after the sweep, beside the sum of
their predicted layers. Neurosurgeon's linear regression, fitted to the same rows, stands beside both. `disturbed` says
by how much a network's two timings differ: where that is large, so is any error.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result

from edgecut.agent.backends import Settings, load_backend
from edgecut.agent.timing import measure, median
from edgecut.models.load import Model, load_model
from edgecut.models.work import Operation
from edgecut.profiler.calibrate import Calibration, calibrate, fused, predict_operations
from edgecut.profiler.evaluate import evaluate
from edgecut.profiler.features import Shapes, neurosurgeon_features

NETWORKS = ("lenet5", "squeezenet1_1", "mobilenet_v2", "googlenet", "resnet18", "alexnet", "vgg16")
BUDGET_S = 420.0
PAUSE_S = 0.005
NETWORK_SECONDS = 6.0


def main() -> None:
    """Time, sweep, time again, and write the result."""
    budget_s = float(sys.argv[1]) if len(sys.argv) > 1 else BUDGET_S
    models = {name: load_model(name) for name in NETWORKS}
    before = whole_networks(models)
    calibration = calibrate("cpu", budget_s=budget_s, threads=1, pause_s=PAUSE_S, progress=lambda *_: None)
    after = whole_networks(models)
    rows = [_row(name, models[name], (before[name], after[name]), calibration) for name in NETWORKS]
    for row in rows:
        print(row)
    errors = [abs(row["error"]) for row in rows]
    print(f"median error of whole networks {statistics.median(errors):.1%}")
    evaluation = evaluate(calibration.table)
    for row in evaluation.rows:
        print(row.kind, row.holdout, row.errors, f"covered {row.coverage:.0%}", "linear", row.linear)
    write_result(
        "calibration",
        {
            "budget_s": budget_s,
            "pause_s": PAUSE_S,
            "threads": 1,
            "layers": len(calibration.table.rows),
            "chains": calibration.chains,
            "run_s": calibration.run_s,
            "networks": rows,
            "networks_median_error": statistics.median(errors),
            "networks_median_error_linear": statistics.median(abs(row["linear_error"]) for row in rows),
            "layers_held_out": [row.model_dump() for row in evaluation.rows],
        },
    )


def whole_networks(models: dict[str, Model]) -> dict[str, float]:
    """Median seconds of each network as a profile times it."""
    backend = load_backend("onnxruntime-cpu")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(model.read())
            tensor = model.spec.input
            feed = {tensor.name: np.random.default_rng(0).standard_normal((1, *tensor.shape)).astype(np.float32)}
            runner = backend.open_runner(str(path), feed, Settings(threads=1))
            samples = measure({name: runner.run}, max_seconds=NETWORK_SECONDS, pause_s=PAUSE_S).samples[name]
            runner.close()
            found[name] = median([median(block) for block in samples.rounds])
            print(f"{name}: {found[name] * 1e3:.3f} ms")
    return found


def _row(name: str, model: Model, measured: tuple[float, float], calibration: Calibration) -> dict[str, Any]:
    operations = [operation for layer in model.spec.layers for operation in layer.work]
    found = predict_operations(calibration, operations)
    # The calmer of the two: a disturbance only ever adds.
    seconds = min(measured)
    return {
        "network": name,
        "measured_s": seconds,
        "disturbed": max(measured) / seconds - 1,
        "predicted_s": found.latency_s,
        "low_s": found.low_s,
        "high_s": found.high_s,
        "error": found.latency_s / seconds - 1,
        "linear_error": _linear(calibration, operations) / seconds - 1,
        "warnings": found.warnings,
    }


def _linear(calibration: Calibration, operations: Sequence[Operation]) -> float:
    """The same sum by linear regression on Neurosurgeon's features, kind by kind."""
    total = calibration.run_s
    left = [one for one, gone in zip(operations, fused(operations), strict=True) if not gone]
    for kind in {one.kind for one in left}:
        rows = calibration.table.of_kind(kind).rows
        if not rows:
            continue
        features = neurosurgeon_features(kind, Shapes.of([row.operation() for row in rows]))
        weights = np.linalg.lstsq(features, np.array([row.latency_s for row in rows]), rcond=None)[0]
        chosen = neurosurgeon_features(kind, Shapes.of([one for one in left if one.kind == kind]))
        total += float((chosen @ weights).sum())
    return total


if __name__ == "__main__":
    main()
