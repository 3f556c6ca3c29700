"""From a model and its data to a noise collection and what it costs: the stages of learning, one after the other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import EdgecutError
from ..models.data import DataSet
from ..models.load import Model
from ..models.spec import CutSpec
from ..models.training import one_thread
from ..noise_kernels.collection import NoiseCollection
from ..runtime.accuracy import NoiseAccuracy
from .bench import Bench
from .fit import fit
from .mechanisms.fitted import Fitted, Knob
from .optimise import Aim, Descended, Task, descend, group_sizes
from .search import PRECISION, largest_scale
from .settings import Settings
from .snapshot import WorkFolder
from .stages import Stages

Floats = npt.NDArray[np.float32]


@one_thread()
def collect(
    model: Model,
    cut: CutSpec,
    data: DataSet,
    settings: Settings,
    stages: Stages,
    folder: WorkFolder | None,
    scratch: Path,
) -> Fitted:
    """Learn, search and judge; large files go to `scratch`, snapshots to `folder`."""
    bench = Bench(model, cut, data, settings, stages, scratch)
    aim = bench.aim(settings)
    descended = _descend_all(aim, cut, stages, folder)
    kept, items = aim.public.rows.place, aim.public.rows.count
    del aim  # and with it the training activations
    values = np.concatenate([one.values for one in descended])
    if settings.equation is not None:
        found = _from_values(bench, settings, values)
    else:
        start = float(np.exp(np.mean([np.log(one.scale) for one in descended])))
        found = _from_orders(bench, settings, np.argsort(values, axis=1, kind="stable"), start)
    epochs = settings.steps * settings.batch / items
    return dataclasses.replace(found, kept=kept, epochs=epochs)


def _descend_all(aim: Aim, cut: CutSpec, stages: Stages, folder: WorkFolder | None) -> list[Descended]:
    stages.start("learning")
    tasks: list[Task] = [aim.public] + ([aim.private] if aim.private is not None else [])
    sizes, found = group_sizes(tasks, aim.settings), []
    for group, count in enumerate(sizes):

        def tell(step: int, accuracy: float, scale: float, group: int = group, count: int = count) -> None:
            steered = f" at scale {scale:.2f}" if aim.settings.equation is None else ""
            done = (sum(sizes[:group]) + count * step / aim.settings.steps) / sum(sizes)
            stages.tell(f"learning {sum(sizes)} tensors{steered}, accuracy {accuracy:.1%}", done)

        found.append(descend(aim, cut.elements, count, group, folder, tell))
    return found


def _from_orders(bench: Bench, used: Settings, orders: npt.NDArray[np.int64], start: float) -> Fitted:
    """The sampled recipe: what was learned is an order; the scale is given, or searched from `start`."""
    count = len(orders)

    def at(scale: float) -> NoiseCollection:
        return bench.collection(np.zeros(count), np.full(count, scale), orders)

    if used.scale is not None:
        collection, tries = at(used.scale * bench.deviation), 1
        bench.release()
        held = bench.on_hold_out(collection)
        if held.loss_points > used.max_accuracy_loss:
            raise EdgecutError(
                f"sampled noise costs {held.loss_points:.2f} points on the hold-out at scale {used.scale:g}, more than "
                f"the {used.max_accuracy_loss:g} allowed; allow more, leave out --scale to have the largest searched, "
                "or choose a deeper cut"
            )
        return _found(bench, collection, held, tries)
    scale, tries = _searched(bench, at(1.0), start)
    bench.release()
    while True:
        collection = at(scale * bench.deviation)
        held = bench.on_hold_out(collection)
        if held.loss_points <= used.max_accuracy_loss:
            return _found(bench, collection, held, tries)
        # The deployed halves round otherwise than torch, and an item or two may fall to the other side.
        scale, tries = scale / PRECISION, tries + 1


def _searched(bench: Bench, unit: NoiseCollection, start: float) -> tuple[float, int]:
    """The largest scale in deviations that loses no more than is allowed, and how many were tried."""
    bench.stages.start("search")
    trial = bench.trial(unit)
    clean = trial.accuracy(0.0)

    def loss_points(scale: float) -> float:
        loss = 100 * (clean - trial.accuracy(scale * bench.deviation))
        bench.stages.tell(f"searching, {loss:.2f} points lost at scale {scale:.3f}", 0.5)
        return loss

    return largest_scale(loss_points, start, bench.settings.max_accuracy_loss)


def _from_values(bench: Bench, used: Settings, tensors: Floats) -> Fitted:
    """The paper's recipe: a Laplace distribution fitted to each tensor, and whatever that gives."""
    fits = [fit(tensor) for tensor in tensors]
    good = [i for i, one in enumerate(fits) if used.max_sse is None or one.sse <= used.max_sse]
    if not good:
        raise EdgecutError(
            f"no tensor is within {used.max_sse:g} of its fitted distribution, the least is at "
            f"{min(one.sse for one in fits):.3g}; allow more (--max-sse), or learn longer"
        )
    notes = [f"{len(fits) - len(good)} of {len(fits)} tensors were dropped for their SSE"] * (len(good) < len(fits))
    fits, tensors = [fits[i] for i in good], tensors[good]
    collection = bench.collection(
        np.array([one.loc for one in fits]),
        np.array([one.scale for one in fits]),
        np.stack([one.order for one in fits]),
    )
    bench.release()
    held = bench.on_hold_out(collection)
    if held.loss_points > used.max_accuracy_loss:
        notes.append(
            f"sampled noise costs {held.loss_points:.2f} points on the hold-out, more than the "
            f"{used.max_accuracy_loss:g} allowed; it was written all the same, as the recipe paper has no search"
        )
    made = _found(bench, collection, held, 1, tensors)
    return dataclasses.replace(made, sse=tuple(one.sse for one in fits), notes=tuple(notes))


def _found(
    bench: Bench, collection: NoiseCollection, held: NoiseAccuracy, tries: int, tensors: Floats | None = None
) -> Fitted:
    accuracy, replay, private = bench.on_unseen(collection, tensors)
    scale = float(collection.scale.mean(dtype=np.float64)) / bench.deviation
    return Fitted(
        noise=collection,
        knob=Knob(name="scale", value=scale, meaning="Laplace b in standard deviations of the activation"),
        accuracy=accuracy,
        hold_out=held,
        replay=replay,
        private=private,
        deviation=bench.deviation,
        tries=tries,
        learnable=bench.cut.elements,
    )
