"""`edgecut learn`: the noise at a plan's cut, by any mechanism, on cached activations.

The network is frozen, so the edge activations are computed once; Shredder's noise is learned by one of two recipes
(`settings`), all distributions at once, and other mechanisms are fitted by `mechanisms`. A part of the training data
is held out: it decides whether SAMPLED noise, which is what is deployed, is accurate enough, and how large the noise
may be. A network's own training images are memorised, so that what is lost on them differs from what is lost on unseen
ones: for LeNet-5 on MNIST 1.5 points here were 1.2 there (benchmarks/learning_table.py). Both are reported with their
intervals, and nothing is chosen on unseen data.

With one seed, on one machine and with the same versions, the noise is the same to the last bit, interrupted or
not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..artefacts import check_output, installed_versions, write_bytes
from ..errors import DataError, DeviceError, EdgecutError, ModelError
from ..models.catalogue import CATALOGUE
from ..models.data import DataSet, load_data
from ..models.load import Model, load_model
from ..models.spec import CutSpec
from ..noise_kernels.collection import NoiseCollection
from ..noise_kernels.mechanism import Noise
from ..partitioner.plan import Plan
from ..runtime.bundle import check_same_model
from .result import Learned as Learned
from .settings import FitSettings as FitSettings
from .settings import Settings as Settings
from .settings import fit_settings, shredder_settings
from .snapshot import WorkFolder
from .stages import Progress, Stages

if TYPE_CHECKING:
    from .mechanisms.fitted import Fitted

Array = npt.NDArray[Any]
VERSIONS = ("edgecut", "torch", "numpy", "onnxruntime", "onnxruntime-gpu")


def learn(
    plan: Plan | str | os.PathLike[str],
    *,
    model: str,
    data: str | None = None,
    private: str | None = None,
    mechanism: str = "shredder",
    settings: Settings | FitSettings | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Learn the noise at the plan's cut and return it, the noise also written to `output` where given.

    `mechanism` is one of noise_kernels.mechanism.MECHANISMS. Shredder's takes Settings, the others FitSettings.

    Without `settings.scale` the largest scale is searched that costs at most `settings.max_accuracy_loss` points on
    the hold-out. `private` names labels that shall be hidden (equation 5). With `output`, an interrupted run of
    Shredder's leaves `OUTPUT.partial/` behind and goes on from there when called again in the same way. Raises
    DataError without labelled data, ModelError for a model that torch cannot run, EdgecutError where nothing is
    accurate enough.
    """
    stages = Stages(progress)
    used = _settings(mechanism, settings, private)
    if output is not None:
        check_output(output)
    stages.start("model")
    chosen = plan if isinstance(plan, Plan) else Plan.load(plan)
    cut = chosen.cut
    loaded = load_model(
        model,
        data=data,
        any_cut=not cut.aligned,
        progress=lambda i, n, text: stages.tell(f"training the network, {text}", i / n),
    )
    check_same_model(loaded, chosen)
    cut = loaded.graph.check_cut(cut)
    stages.start("data")
    labelled = _data(loaded, data, private)
    _check_torch(loaded)
    # What is fitted in seconds has nothing to go on from.
    kept_at = output if mechanism == "shredder" else None
    with _folder(kept_at, _key(loaded, cut, labelled, used)) as (folder, scratch):
        from .mechanisms.fitting import fit

        found = fit(loaded, cut, labelled, mechanism, used, stages=stages, scratch=scratch, folder=folder)
        if output is not None:
            write_bytes(output, found.noise.to_bytes())
    notes = (*_notes(folder), *found.notes)
    return _learned(loaded, cut, used, found, stages, notes)


def _settings(mechanism: str, settings: Settings | FitSettings | None, private: str | None) -> Settings | FitSettings:
    if mechanism == "shredder":
        return shredder_settings(settings or Settings())
    used = fit_settings(mechanism, settings or FitSettings())
    if private is not None:
        raise EdgecutError(
            f"the mechanism {mechanism} knows no labels to hide: it bounds what can be learned of anything; leave out "
            "--private, or take the mechanism shredder"
        )
    return used


def _data(model: Model, source: str | None, private: str | None) -> DataSet:
    named = source or (CATALOGUE[model.spec.name].data if model.spec.name in CATALOGUE else None)
    if named is None:
        raise DataError(f"learning noise for {model.spec.name} needs labelled data; give --data FILE.npz")
    data = load_data(named, private)
    largest, classes = max(int(data.y_train.max()), int(data.y_test.max())), model.spec.output.elements
    if largest >= classes:
        raise DataError(f"{named} has a label {largest}, but {model.spec.name} has {classes} classes; give its data")
    if len(data.x_train) < 2:
        raise DataError(f"{named} has 1 image to learn from, but some must be held out; give more")
    return data


def _check_torch(model: Model) -> None:
    if model.spec.batch is not None:
        raise ModelError(
            f"{model.spec.name} was exported with a fixed batch of {model.spec.batch}, but learning noise takes many "
            "batches at once; export it with a free batch dimension"
        )
    try:
        import torch  # noqa: F401 - said here in one sentence, not deep inside
    except ImportError:
        raise DeviceError("learning noise needs torch; install edgecut[torch]") from None


def _key(model: Model, cut: CutSpec, data: DataSet, settings: Settings | FitSettings) -> dict[str, Any]:
    """What a run's numbers depend on."""
    return {
        "model": model.spec.digest,
        "cut": cut.name,
        "data": data.digest,
        "private": data.private.name if data.private is not None else None,
        "settings": dataclasses.asdict(settings),
        "versions": installed_versions(VERSIONS),
    }


@contextlib.contextmanager
def _folder(output: str | os.PathLike[str] | None, key: dict[str, Any]) -> Iterator[tuple[WorkFolder | None, Path]]:
    """The work folder, and where large files go: the same place, or a temporary one where nothing is written."""
    if output is None:
        with tempfile.TemporaryDirectory(prefix="edgecut-learn-") as name:
            yield None, Path(name)
        return
    folder = WorkFolder(output, key)
    done = False
    try:
        yield folder, folder.path
        done = True
    except EdgecutError:
        done = True  # the same run would end in the same way, and another one has no use for this one's pieces
        raise
    finally:
        folder.close(finished=done)


def _notes(folder: WorkFolder | None) -> list[str]:
    if folder is not None and folder.stale:
        return [f"{folder.path} held unfinished work of other settings, model or data, which was replaced"]
    if folder is not None and folder.resumed:
        return [f"went on from the unfinished work in {folder.path}"]
    return []


def _learned(
    model: Model,
    cut: CutSpec,
    settings: Settings | FitSettings,
    found: Fitted,
    stages: Stages,
    notes: tuple[str, ...],
) -> Learned:
    noise = found.noise
    scale = _one_scale(noise)
    return Learned(
        noise=noise,
        mechanism=noise.mechanism,
        place=noise.place,
        recipe=settings.recipe if isinstance(settings, Settings) else None,
        distributions=noise.distributions if isinstance(noise, NoiseCollection) else None,
        elements=noise.n,
        values_sent=cut.elements if noise.place == "input" else noise.values,
        entropy_bits=noise.entropy_nats / math.log(2) if math.isfinite(noise.entropy_nats) else None,
        knob=found.knob,
        closed_form_bits=found.closed_form_bits,
        accuracy=found.accuracy,
        hold_out=found.hold_out,
        replay=found.replay,
        private=found.private,
        scale=None if scale is None else scale / found.deviation,
        scale_absolute=scale,
        deviation=found.deviation,
        tries=found.tries,
        sse=found.sse,
        epochs=found.epochs,
        learnable_parameters=found.learnable,
        model_parameters=model.spec.parameters,
        footprint_bytes=noise.footprint_bytes,
        elapsed_s=time.perf_counter() - stages.began_s,
        timings=stages.timings(),
        kept=found.kept,
        notes=notes,
    )


def _one_scale(noise: Noise) -> float | None:
    """The Laplace scale, where there is one for all values; the mean of a collection's."""
    if isinstance(noise, NoiseCollection) or noise.mechanism == "laplace":
        return float(noise.scale.mean(dtype=np.float64))
    return None
