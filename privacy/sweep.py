"""`edgecut audit --sweep`: leakage of each mechanism against the accuracy it costs, and of each cut against its depth.

The paper's Figures 7 and 8, with bounds and retrained attackers in the place of its estimate. Each point is a fit on
the training data and a quick audit on unseen items, with one seed. Points are kept in OUTPUT.partial as they come, so
that an interrupted sweep goes on where it was.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..artefacts import check_output, digest, installed_versions
from ..errors import ArtefactError, DataError, EdgecutError, unknown
from ..models.catalogue import CATALOGUE
from ..models.data import DataSet, load_data
from ..models.load import Model, load_model
from ..models.spec import CutSpec
from ..noise_kernels.mechanism import MECHANISMS as MECHANISMS
from ..partitioner.plan import Plan
from ..runtime.bundle import check_same_model
from .audit import VERSIONS, audit_noise
from .audit_items import check_labels
from .audit_settings import AuditSettings, quick
from .audited import Audit, Floors, LeakageSweep, SweepPoint
from .settings import FitSettings

Progress = Callable[[str, float], None]
LOSSES = (0.5, 1.0, 2.0, 4.0)
ALL = "all"
FIT_SHARE = 0.5
"""Of a point's time, roughly."""


class _Task(NamedTuple):
    mechanism: str
    cut: CutSpec
    loss_points: float


def sweep(
    plan: Plan | str | os.PathLike[str],
    *,
    model: str,
    data: str | None = None,
    private: str | None = None,
    mechanisms: Sequence[str] = MECHANISMS,
    losses: Sequence[float] = LOSSES,
    cuts: Sequence[str] = (),
    settings: AuditSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> LeakageSweep:
    """Fit and audit every mechanism at every loss (points of accuracy) at the plan's cut, and at `cuts` at the first.

    `cuts` are names, or "all" that the plan has. A mechanism that cannot be fitted somewhere has a point that says why.
    With `output` the sweep is written there, and `OUTPUT.partial` is what an interrupted one goes on from. Raises
    EdgecutError for unknown names, and DataError without labelled data.
    """
    began_s = time.perf_counter()
    tell = progress or (lambda *_: None)
    used = settings or quick()
    used.check()
    _check(mechanisms, losses)
    chosen = plan if isinstance(plan, Plan) else Plan.load(plan)
    wanted = _cuts(chosen, cuts)
    if output is not None:
        check_output(output, LeakageSweep.KIND)
    loaded = load_model(model, data=data, any_cut=not all(cut.aligned for cut in (chosen.cut, *wanted)))
    check_same_model(loaded, chosen)
    labelled = _data(loaded, data, private)
    tasks = list(_tasks(chosen.cut, mechanisms, losses, wanted))
    empty = _empty(loaded, chosen, labelled, mechanisms, losses, wanted, used)
    unfinished = None if output is None else Path(f"{os.fspath(output)}.partial")
    made = _resumed(unfinished, empty)
    for number, task in enumerate(tasks):
        if any(_is(point, task) for point in made.points):
            continue

        def told(text: str, share: float, task: _Task = task, number: int = number) -> None:
            name = f"{number + 1} of {len(tasks)}: {task.mechanism} at {task.cut.name}, {task.loss_points:g} points"
            tell(f"{name}; {text}", (number + min(1.0, share)) / len(tasks))

        since_s = time.perf_counter()
        point, floors = _point(loaded, labelled, task, used, told)
        taken_s = time.perf_counter() - since_s
        changes: dict[str, Any] = {"points": (*made.points, point), "seconds": made.seconds + taken_s}
        if floors is not None and task.cut.name == made.cut_name:
            changes["floors"] = floors
        made = made.model_copy(update=changes)
        if unfinished is not None:
            made.save(unfinished)
    spent_s = time.perf_counter() - began_s
    made = made.model_copy(update={"seconds": max(made.seconds, spent_s), "points": _in_order(made, tasks)})
    if output is not None and unfinished is not None:
        made.save(output)
        unfinished.unlink(missing_ok=True)
    return made


def _check(mechanisms: Sequence[str], losses: Sequence[float]) -> None:
    for name in mechanisms:
        if name not in MECHANISMS:
            raise EdgecutError(unknown("mechanism", name, MECHANISMS))
    if not mechanisms or not losses:
        raise EdgecutError("a sweep needs at least one mechanism and one loss; give --mechanisms and --losses")
    for loss in losses:
        if not (math.isfinite(loss) and loss > 0):
            raise EdgecutError(f"a loss of {loss} points is none to fit to; give points above 0, such as 1.5")


def _cuts(plan: Plan, names: Sequence[str]) -> tuple[CutSpec, ...]:
    """The cuts called so, in the model's order. Raises ModelError naming the known ones."""
    if ALL in names:
        return tuple(sorted(plan.model.cuts, key=lambda cut: cut.depth))
    found = {name: plan.model.cut(name) for name in names}
    return tuple(sorted(found.values(), key=lambda cut: cut.depth))


def _data(model: Model, source: str | None, private: str | None) -> DataSet:
    name = model.spec.name
    named = source or (CATALOGUE[name].data if name in CATALOGUE else None)
    if named is None:
        raise DataError(f"sweeping {name} needs labelled data; give --data FILE.npz")
    data = load_data(named, private)
    check_labels(data, model.spec)
    return data


def _tasks(
    cut: CutSpec, mechanisms: Sequence[str], losses: Sequence[float], cuts: Sequence[CutSpec]
) -> Iterator[_Task]:
    """Each once: noise that is none costs the same at every loss, but stands beside the others as their baseline."""
    for mechanism in dict.fromkeys(mechanisms):
        for loss in dict.fromkeys(losses):
            if mechanism != "none" or loss == losses[0]:
                yield _Task(mechanism, cut, loss)
    for other in cuts:
        if other.name != cut.name:
            for mechanism in dict.fromkeys(mechanisms):
                yield _Task(mechanism, other, losses[0])


def _empty(
    model: Model,
    plan: Plan,
    data: DataSet,
    mechanisms: Sequence[str],
    losses: Sequence[float],
    cuts: Sequence[CutSpec],
    used: AuditSettings,
) -> LeakageSweep:
    """The sweep without its points. Its key leaves the mechanisms, losses and cuts out: more of them can be added."""
    private = None if data.private is None else data.private.name
    versions = installed_versions(VERSIONS)
    depends = [
        model.spec.digest,
        plan.choice,
        data.digest,
        private,
        asdict(used),
        losses[0],
        versions,
        "fitted without private labels",
    ]
    return LeakageSweep(
        key=digest(json.dumps(depends).encode()),
        model_name=model.spec.name,
        model_digest=model.spec.digest,
        cut_name=plan.choice,
        data=data.name,
        private=private,
        mechanisms=tuple(dict.fromkeys(mechanisms)),
        losses_points=tuple(dict.fromkeys(losses)),
        cuts=tuple(cut.name for cut in cuts),
        depth_loss_points=losses[0],
        seed=used.seed,
        attacks=used.attacks,
        floors=None,
        points=(),
        seconds=0.0,
        versions=versions,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _resumed(unfinished: Path | None, empty: LeakageSweep) -> LeakageSweep:
    """With the points of an interrupted sweep of the same things; those that failed are tried again."""
    if unfinished is None or not unfinished.is_file():
        return empty
    try:
        found = LeakageSweep.load(unfinished)
    except ArtefactError:  # of an older edgecut, or damaged: its points are made again
        return empty
    if found.key != empty.key:
        return empty
    return empty.model_copy(
        update={
            "points": tuple(p for p in found.points if p.failed is None),
            "floors": found.floors,
            "seconds": found.seconds,
        }
    )


def _is(point: SweepPoint, task: _Task) -> bool:
    return (point.mechanism, point.cut_name, point.allowed_loss_points) == (
        task.mechanism,
        task.cut.name,
        task.loss_points,
    )


def _in_order(made: LeakageSweep, tasks: Sequence[_Task]) -> tuple[SweepPoint, ...]:
    return tuple(point for task in tasks for point in made.points if _is(point, task))


def _point(
    model: Model, data: DataSet, task: _Task, used: AuditSettings, tell: Progress
) -> tuple[SweepPoint, Floors | None]:
    from .mechanisms.fitting import fit

    point = SweepPoint(
        mechanism=task.mechanism,
        cut_name=task.cut.name,
        depth=task.cut.depth,
        allowed_loss_points=task.loss_points,
        elements=task.cut.elements,
    )
    since_s = time.perf_counter()
    try:
        cut = model.graph.check_cut(task.cut)
        fitted = fit(
            model,
            cut,
            replace(data, private=None),  # what is to be hidden is not known when noise is learned
            task.mechanism,
            FitSettings(max_accuracy_loss=task.loss_points, seed=used.seed),
            progress=lambda text, share: tell(text, FIT_SHARE * share),
        )
        fit_s = time.perf_counter() - since_s
        found = audit_noise(
            model,
            cut,
            fitted.noise,
            data,
            settings=used,
            progress=lambda text, share: tell(text, FIT_SHARE + (1 - FIT_SHARE) * share),
        )
    except EdgecutError as error:
        return point.model_copy(update={"failed": str(error)}), None
    return _filled(point, found, fit_s), found.floors


def _filled(point: SweepPoint, found: Audit, fit_s: float) -> SweepPoint:
    return point.model_copy(
        update={
            "accuracy": found.accuracy,
            "values_sent": found.values_sent,
            "upper": found.upper,
            "lower": found.lower,
            "private_accuracy": found.private_accuracy,
            "ssim_p95": found.ssim_p95,
            "fit_s": fit_s,
            "audit_s": found.seconds,
            "missing": found.missing,
        }
    )
