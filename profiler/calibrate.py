"""`edgecut calibrate`: measure layers on a device within a time budget, and predict networks from them.

The Calibration file holds the measured rows as CSV lines and the regressors' plain parameters; regressors are fitted
again from the rows when the file is read, the same every time. A predicted latency is the sum over the operations of a
network and one run's overhead, in seconds for batch 1. Operations that runtimes fuse into the one before cost nothing.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..agent.backends import BackendError, Settings, load_backend
from ..artefacts import Artefact, Record, check_output, digest
from ..errors import ArtefactError, DeviceError, unknown
from ..models.work import Operation
from .agents import Address, SshAgent, parse_address
from .backends import BACKENDS, DEVICES, TWIN_BACKENDS, check_backend
from .environment import read_environment
from .evaluation import CalibrationSummary, KindSummary
from .layer_table import LayerTable, parse_csv
from .profile import Environment
from .regress import KindParameters, Regressors, check_sklearn
from .run import SSH_BACKEND
from .sweep import Bench, Progress, Swept, sweep

BUDGET_S = 600.0
SHARED_ERROR = 0.3
"""Correlation assumed between the errors of two layers of a network, when their intervals are added up."""
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "PRelu")
FUSED = {
    "conv": ("BatchNormalization", "Add", *ACTIVATIONS),
    "depthwise_conv": ("BatchNormalization", "Add", *ACTIVATIONS),
    "linear": ("Add", *ACTIVATIONS),
}
"""Operators that runtimes run within the operation before them."""
VANISHING = ("Identity", "Dropout")


class Calibration(Artefact):
    """Layers measured on a device and what was fitted to them; `run_s` is the cost of a run that does nothing."""

    KIND = "calibration"

    device: str
    backend: str
    threads: int
    precision: str
    pause_s: float
    run_s: float
    chains: int
    interrupted: bool
    elapsed_s: float
    measured_at: str
    environment: Environment | None
    versions: dict[str, str]
    layers: tuple[str, ...]
    layers_digest: str
    regressors: tuple[KindParameters, ...]

    @cached_property
    def table(self) -> LayerTable:
        """The measured layers. Raises ArtefactError where they are not those that were written."""
        text = "\n".join(self.layers)
        if digest(text.encode()) != self.layers_digest:
            raise ArtefactError("the layers of this calibration are not those it was written with; calibrate again")
        return parse_csv(text, "the calibration's layers")

    @cached_property
    def fitted(self) -> Regressors:
        """The regressors, fitted to the rows again. Raises DeviceError without scikit-learn."""
        return Regressors(self.table, self.regressors)


def summary(calibration: Calibration) -> CalibrationSummary:
    """Layers and times of a calibration, kind by kind."""
    table = calibration.table
    taken = {kind: [row.latency_s for row in table.of_kind(kind).rows] for kind in table.kinds()}
    return CalibrationSummary(
        device=calibration.device,
        backend=calibration.backend,
        kinds=tuple(
            KindSummary(kind=kind, layers=len(times), shortest_s=min(times), longest_s=max(times))
            for kind, times in taken.items()
        ),
        run_s=calibration.run_s,
        interrupted=calibration.interrupted,
    )


class OperationPrediction(Record):
    """One operation's modelled seconds with a 90 % interval; all 0 where the runtime fuses it into the one before."""

    operator: str
    kind: str
    latency_s: float
    low_s: float
    high_s: float
    fused: bool


class Prediction(Record):
    """A network's modelled seconds with a 90 % interval, its operations, and what should be known of them."""

    latency_s: float
    low_s: float
    high_s: float
    operations: tuple[OperationPrediction, ...]
    warnings: tuple[str, ...]


def calibrate(
    device: str = "cpu",
    *,
    backend: str | None = None,
    budget_s: float = BUDGET_S,
    threads: int = 1,
    precision: str = "float32",
    pause_s: float = 0.005,
    python: str = "python3",
    ssh_config: str | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Measure layers on `device` for about `budget_s` seconds, fit, and write the Calibration where asked.

    `device` is cpu or cuda for this machine, or ssh://[user@]host[:port]; `backend` measures, by default its usual one.
    `resume` names a Calibration of the same device and settings to go on from. Ctrl-C ends the measuring and keeps
    what there is. Raises DeviceError for a device that is unknown or cannot be used.
    """
    check_sklearn()
    address = parse_address(device) if device.startswith("ssh://") else None
    if address is None and device not in DEVICES:
        raise DeviceError(unknown("device", device, DEVICES, "; or give ssh://user@host[:port]"))
    name = check_backend(backend or (DEVICES[device] if address is None else SSH_BACKEND), device)
    if not 0 < budget_s < math.inf:
        raise DeviceError(f"a budget of {budget_s} s leaves no time to measure; give a positive one")
    if output is not None:
        check_output(output, Calibration.KIND)
    before = Calibration.load(resume) if resume is not None else None
    same = (name, threads, precision, pause_s)
    if before is not None and (before.backend, before.threads, before.precision, before.pause_s) != same:
        raise ArtefactError(
            f"{resume} was calibrated with {before.backend}, {before.threads} threads, {before.precision} and a pause "
            f"of {before.pause_s} s; resume with the same, or start anew"
        )
    settings = Settings(threads=threads, precision=precision, pause_s=pause_s)
    plan: dict[str, Any] = {
        "budget_s": budget_s,
        "pause_s": pause_s,
        "start": before.chains if before else 0,
        "progress": progress,
    }
    swept, environment, versions = (
        _swept_here(name, settings, plan)
        if address is None
        else _swept_there(address, name, settings, plan, python, ssh_config)
    )
    rows = (*(before.table.rows if before else ()), *(row for chain in swept.chains for row in chain.rows))
    if not rows:
        raise DeviceError(f"no layer was measured on {device} before the interruption; calibrate again")
    made = _made(LayerTable(rows=rows)).model_copy(
        update={
            "device": device,
            "backend": name,
            "threads": threads,
            "precision": precision,
            "pause_s": pause_s,
            "run_s": swept.run_s or (before.run_s if before else 0.0),
            "chains": max([before.chains if before else 0, *(chain.index + 1 for chain in swept.chains)]),
            "interrupted": swept.interrupted,
            "elapsed_s": swept.elapsed_s + (before.elapsed_s if before else 0.0),
            "environment": environment,
            "versions": {**versions, **_sklearn_version()},
        }
    )
    if output is not None:
        made.save(output)
    return made


def _swept_here(name: str, settings: Settings, plan: dict[str, Any]) -> tuple[Swept, Environment, dict[str, str]]:
    try:
        runtime = _usable(name)
        swept = sweep(runtime, settings, **plan)
        return swept, read_environment(), {str(key): str(value) for key, value in runtime.versions().items()}
    except BackendError as error:
        raise DeviceError(str(error)) from None


def _swept_there(
    address: Address, name: str, settings: Settings, plan: dict[str, Any], python: str, ssh_config: str | None
) -> tuple[Swept, Environment, dict[str, str]]:
    from .remote_sweep import RemoteBench

    with SshAgent(address, python=python, config=ssh_config) as agent:
        found = agent.check()
        backend = found["backends"].get(name, {})
        if not backend.get("usable"):
            raise DeviceError(f"{address.text}: {backend.get('reason') or f'its agent knows no backend {name}'}")

        def make_bench(folder: Path) -> Bench:
            return RemoteBench(agent, name, settings.precision, settings.threads, plan["pause_s"], folder)

        swept = sweep(None, settings, **plan, make_bench=make_bench)
    return swept, Environment.model_validate(found["environment"]), dict(backend["versions"])


def calibration_of(
    table: LayerTable, device: str = "elsewhere", output: str | os.PathLike[str] | None = None
) -> Calibration:
    """A Calibration of layers measured elsewhere; nothing is known of a run's overhead, the machine or its settings."""
    check_sklearn()
    if output is not None:
        check_output(output, Calibration.KIND)
    made = _made(table).model_copy(update={"device": device})
    if output is not None:
        made.save(output)
    return made


def _made(table: LayerTable) -> Calibration:
    lines = tuple(table.to_csv().splitlines())
    # Fitted to the rows as they are stored, so that reading the file gives the same.
    stored = parse_csv("\n".join(lines), "the calibration's layers")
    return Calibration(
        device="elsewhere",
        backend="table",
        threads=1,
        precision="float32",
        pause_s=0.0,
        run_s=0.0,
        chains=0,
        interrupted=False,
        elapsed_s=0.0,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=None,
        versions=_sklearn_version(),
        layers=lines,
        layers_digest=digest("\n".join(lines).encode()),
        regressors=Regressors(stored).parameters(),
    )


def _sklearn_version() -> dict[str, str]:
    import sklearn

    return {"scikit-learn": str(sklearn.__version__)}


def _usable(name: str) -> Any:
    if name in TWIN_BACKENDS:
        raise DeviceError(f"{name} runs torch programs, and layers are timed as ONNX models; choose another backend")
    backend = load_backend(name, BACKENDS)
    why_not = backend.usable()
    if why_not:
        raise DeviceError(why_not)
    return backend


def fused(operations: Sequence[Operation]) -> tuple[bool, ...]:
    """Which operations, in order of execution, cost nothing because the runtime runs them within the one before."""
    flags: list[bool] = []
    into = ""
    for one in operations:
        free = one.operator in VANISHING or one.operator in FUSED.get(into, ())
        flags.append(free)
        if not free:
            into = one.kind
    return tuple(flags)


def predict_operations(calibration: Calibration, operations: Sequence[Operation]) -> Prediction:
    """Predict a network from its operations in order of execution. Warns of what lies outside the measured range."""
    free = fused(operations)
    kinds = sorted({one.kind for one, gone in zip(operations, free, strict=True) if not gone})
    seconds = np.zeros((len(operations), 3))
    warnings = []
    for kind in kinds:
        places = [place for place, one in enumerate(operations) if one.kind == kind and not free[place]]
        found = calibration.fitted.estimate(kind, [operations[place] for place in places])
        seconds[places] = np.stack([found.latency_s, found.low_s, found.high_s], 1)
        if not calibration.fitted.knows(kind):
            warnings.append(f"no {kind} layer was measured: {len(places)} are predicted from all kinds together")
        elif found.outside.any():
            warnings.append(f"{int(found.outside.sum())} of {len(places)} {kind} layers lie outside the measured range")
    total = float(seconds[:, 0].sum())
    low, high = (_spread(np.abs(seconds[:, side] - seconds[:, 0])) for side in (1, 2))
    return Prediction(
        latency_s=calibration.run_s + total,
        low_s=calibration.run_s + max(0.0, total - low),
        high_s=calibration.run_s + total + high,
        operations=tuple(
            OperationPrediction(
                operator=one.operator, kind=one.kind, latency_s=row[0], low_s=row[1], high_s=row[2], fused=gone
            )
            for one, row, gone in zip(operations, seconds.tolist(), free, strict=True)
        ),
        warnings=tuple(warnings),
    )


def _spread(widths: Any) -> float:
    """Half-width of a sum from those of its parts, whose errors are partly the same."""
    return float(np.sqrt((1 - SHARED_ERROR) * (widths**2).sum() + SHARED_ERROR * widths.sum() ** 2))


def calibration_path(device: str) -> Path:
    """The name `edgecut calibrate` gives its file when none is asked for."""
    return Path(f"{device}.calibration.json")
