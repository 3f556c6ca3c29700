"""`edgecut bundle`: write what is deployed, an edge side that stays private and a cloud side that knows nothing.

The bundle is made in a folder beside its place and renamed to it when complete. Before that both stored halves are
run against the whole model, and accuracy is measured through them where labelled data is at hand. The edge side is
written for a target (see `targets`); the cloud side is the same for all of them. A mechanism's map becomes part of the
models (`attach`): the edge partition ends with it, the cloud partition begins with the way back, and what the device
runs where the cloud is away is that same cloud partition, on what the map gives without noise.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..artefacts import digest, file_digest, read_bytes
from ..errors import ArtefactError, BundleError, DataError
from ..models.catalogue import CATALOGUE
from ..models.data import DataSet, load_data, to_input
from ..models.load import Model, load_model
from ..models.spec import CutSpec, TensorSpec
from ..models.split import check_halves, one_by_one, reference_runs
from ..noise_kernels.mechanism import Noise
from ..partitioner.plan import Plan
from ..partitioner.plan import Wire as WireDtype
from ..profiler.environment import read_environment
from ..profiler.profile import Profile
from .accuracy import NoiseAccuracy
from .attach import crossing
from .deployments import MAX_BATCH, write_deployments
from .edge_files import EdgeModels, check_engines, edge_models, write_edge
from .halves import Half, accuracy_through, check_finite
from .manifest import (
    CLOUD,
    EDGE,
    FALLBACK,
    MANIFEST,
    MAX_NOISE_BYTES,
    PROFILE,
    REPOSITORY,
    CloudManifest,
    EdgeManifest,
    Engine,
    Manifest,
    StoredFile,
    Wire,
)
from .mapped import check_sent, mapped_runs
from .precision import TOLERANCE
from .protect import Protector
from .replan import planned_for
from .repository import write_model
from .sent import Sent, sent_as
from .targets import find_target
from .verify import Verified, verify

DRAWS = 10
"""How often each unseen item is tried under fresh noise when accuracy is measured."""


def bundle(
    plan: Plan | str | os.PathLike[str],
    *,
    model: str,
    noise: str | os.PathLike[str],
    output: str | os.PathLike[str],
    profiles: Sequence[str | os.PathLike[str]] = (),
    data: str | None = None,
    target: str = "cpu",
    precision: str = "float32",
    engine_for: Sequence[str] = (),
    local_fallback: bool = False,
    wire: WireDtype | None = None,
    sticky: bool = False,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Verified:
    """Write a bundle for the plan's cut and return it, verified.

    `model` is what was profiled, `noise` a mechanism's file fitted at the plan's cut, `profiles` the files to keep with
    it. Accuracy is measured on `data`, or a named model's own data. `target` names what the edge side is for,
    `engine_for` the compute capabilities that a TensorRT-RTX engine is built for ahead; with `local_fallback` the
    device also gets the cloud partition, to run where the cloud is away. `wire` is what the noisy activations travel
    as, by default what the plan reckons with; for another one, and for a mechanism that sends another number of values
    than the plan reckons with, the plan is made anew from `profiles`. With `sticky` the device gives the same input
    always the same noise. Raises ModelError, ArtefactError or BundleError when the parts do not belong together or the
    target does not take them, BundleError where `output` exists and `overwrite` is not given.
    """
    tell = progress or (lambda *_: None)
    device = find_target(target)
    wanted, engines_for = device.precision(precision), tuple(engine_for)
    check_engines(engines_for, device)
    created = _now()
    given_noise = _read_noise(noise)
    chosen = planned_for(plan if isinstance(plan, Plan) else Plan.load(plan), wire, given_noise, profiles)
    cut = chosen.cut
    loaded = load_model(model, data=data, any_cut=not cut.aligned, progress=lambda i, n, text: tell(text, i / n))
    check_same_model(loaded, chosen)
    cut = loaded.graph.check_cut(cut)
    _check_noise(given_noise, str(noise), loaded, cut)
    deployed = given_noise.deployed()
    place = Path(output)
    _check_place(place, overwrite)
    with _beside(place) as folder:
        tell("splitting", 0.0)
        models = edge_models(loaded, cut, device, wanted, local_fallback, given_noise)
        difference = _largest_difference(loaded, cut, models, given_noise)
        engines = write_edge(folder / EDGE, models, deployed.to_bytes(), engines_for)
        _write_profiles(folder, chosen, profiles)
        tell("measuring accuracy", 0.2)
        labelled, missing = _labelled(loaded, data)
        tensors = crossing(cut.tensors, given_noise)
        sent = sent_as(chosen.wire, models, tensors, Protector(deployed), loaded.spec, labelled, missing)
        _write_cloud(folder / CLOUD, loaded, tensors, sent)
        accuracy = _accuracy(loaded, models, sent, labelled, lambda share: tell("accuracy", share))
        _write_side_manifests(folder, loaded, tensors, models, engines, sent, sticky)
        how = _how(models, sent.wire) if accuracy is not None else ""
        _write_manifest(folder, loaded, cut, accuracy, missing, how, difference, created)
        made = verify(folder)
        _replace(folder, place)
    return replace(made, folder=place)


def served_name(name: str) -> str:
    """A model's name as a server takes it: anything but letters, digits, `_`, `.` and `-` becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "model"


def check_same_model(model: Model, plan: Plan) -> None:
    """Raise ArtefactError where the model is not the one that was planned."""
    if model.spec.digest != plan.model.digest:
        raise ArtefactError(
            f"the plan is of {plan.model.name} ({plan.model.digest[7:19]}), but this {model.spec.name} is "
            f"{model.spec.digest[7:19]}; give the model that was profiled, or profile this one"
        )


def _read_noise(path: str | os.PathLike[str]) -> Noise:
    return Protector.load(read_bytes(path, limit=MAX_NOISE_BYTES), str(path)).noise


def _check_noise(noise: Noise, path: str, model: Model, cut: CutSpec) -> None:
    if noise.model_digest != model.spec.digest:
        raise ArtefactError(f"{path} was learned for another model than {model.spec.name}; learn the noise again")
    at_input = noise.place == "input"
    if at_input and model.spec.input.dtype != "float32":
        raise ArtefactError(
            f"{path} is noise for the model's input, which is {model.spec.input.dtype} in {model.spec.name}; noise is "
            "added to float32, so fit it at the cut"
        )
    tensors = tuple((tensor.name, tensor.shape) for tensor in ((model.spec.input,) if at_input else cut.tensors))
    if tuple((name, tuple(shape)) for name, shape in noise.tensors) != tensors or (at_input and noise.cut != cut.name):
        raise ArtefactError(
            f"{path} was learned at the cut {noise.cut}, the plan cuts after {cut.name}; learn it there"
        )


def _check_place(target: Path, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise BundleError(f"{target} exists already; choose another folder, or give --overwrite")
    if target.is_symlink() or not (target / MANIFEST).is_file():
        raise BundleError(f"{target} is no bundle, so it is not overwritten; choose another folder")


class _beside:
    """A temporary folder beside `target`, removed at the end whatever happened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent))
            self.folder.chmod(0o755)
        except OSError as error:
            raise BundleError(f"{self.target} cannot be written ({error.strerror}); choose another folder") from None
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _replace(folder: Path, target: Path) -> None:
    """Put the finished folder in the target's place; an older bundle is moved aside first and then removed."""
    aside = folder.with_name(folder.name + ".old")
    try:
        if target.exists():
            target.rename(aside)
        folder.rename(target)
    except OSError as error:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise BundleError(f"{target} cannot be written ({error.strerror}); choose another folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _largest_difference(model: Model, cut: CutSpec, models: EdgeModels, noise: Noise) -> float:
    """Of the stored halves from the whole model, with the noise's map in between where it has one.

    Raises ModelError where it is too large, or a value is not finite.
    """
    name = f"{model.spec.name} at {cut.name}"
    runs = reference_runs(model.read(), name, model.spec.inputs)
    if models.written.batch is not None:
        runs = [item for run in runs for item in one_by_one(run)]
    half = models.written.precision == "float16"
    if noise.map is not None and models.unmapped is not None:
        runs = mapped_runs(model, cut, noise, models.unmapped, runs, name)
        if noise.place == "cut":
            check_sent(runs, models.unmapped[0], models.computed, noise.map, name, TOLERANCE if half else 1e-4)
    if half:
        for feed, _ in runs:
            check_finite(Half(models.computed)(list(feed.values())), model.spec.name)
        check_halves(runs, models.typed, models.cloud, f"{name}, converted to float16,", TOLERANCE)
    if models.fallback is not None:
        check_halves(runs, models.edge, models.fallback, f"{name} on the device", TOLERANCE if half else 1e-4)
    return check_halves(runs, models.computed, models.cloud, name, TOLERANCE if half else 1e-4)


def _write_cloud(folder: Path, model: Model, tensors: tuple[TensorSpec, ...], sent: Sent) -> None:
    name, batch = served_name(model.spec.name), model.spec.batch
    taken = "TYPE_FP32" if sent.wire is None else "TYPE_INT8"
    inputs = [(tensor.name, taken, tensor.shape) for tensor in tensors]
    outputs = [(model.spec.output.name, "TYPE_FP32", model.spec.output.shape)]
    write_model(folder / REPOSITORY, name, sent.cloud, inputs, outputs, batch=batch or -1)
    write_deployments(folder, name, inputs, outputs, max_batch=batch or MAX_BATCH)


def _write_profiles(folder: Path, plan: Plan, profiles: Sequence[str | os.PathLike[str]]) -> None:
    plan.save(folder / PROFILE / "plan.json")
    for path, side in zip(profiles, ("edge", "cloud"), strict=False):
        profile = Profile.load(path)
        if profile.model.digest != plan.model.digest:
            raise ArtefactError(
                f"{path} is a profile of another model than the plan; give the profiles it was made from"
            )
        profile.save(folder / PROFILE / f"{side}.profile.json")


def _labelled(model: Model, data: str | None) -> tuple[DataSet | None, str]:
    """The data that was given, or the model's own; else why there is none."""
    source = data or (CATALOGUE[model.spec.name].data if model.spec.name in CATALOGUE else None)
    if source is None:
        return None, "no labelled data was given (--data)"
    try:
        unseen = load_data(source)
        to_input(unseen.x_test[:1], model.spec)
    except DataError as error:
        if data is not None:
            raise
        return None, str(error)
    return unseen, ""


def _accuracy(
    model: Model, models: EdgeModels, sent: Sent, labelled: DataSet | None, progress: Callable[[float], None]
) -> NoiseAccuracy | None:
    if labelled is None:
        return None
    return accuracy_through(
        models.computed,
        models.cloud,
        sent.protector,
        model.spec,
        labelled,
        DRAWS,
        progress,
        sent.cloud,
        models.unmapped,
    )


def _how(models: EdgeModels, wire: Wire | None) -> str:
    """What the accuracy is of, for a person."""
    where = "in ONNX Runtime on the processor that wrote the bundle"
    if wire is not None:
        where = f"with noise sent as {wire.dtype}, {where}"
    if models.written.precision == "float32":
        return f"the stored halves in float32, {where}"
    return f"the edge half with weights and every operator's outputs rounded to float16, sums in float32, {where}"


def _stored(side: Path) -> tuple[StoredFile, ...]:
    files = sorted(path for path in side.rglob("*") if path.is_file() and path.name != MANIFEST)
    return tuple(
        StoredFile(path=path.relative_to(side).as_posix(), size_bytes=path.stat().st_size, digest=file_digest(path))
        for path in files
    )


def _write_side_manifests(
    folder: Path,
    model: Model,
    tensors: tuple[TensorSpec, ...],
    models: EdgeModels,
    engines: tuple[Engine, ...],
    sent: Sent,
    sticky: bool,
) -> None:
    taken, wire = tensors, sent.wire
    if wire is not None:
        taken = tuple(tensor.model_copy(update={"dtype": wire.dtype}) for tensor in taken)
    EdgeManifest(
        model_name=served_name(model.spec.name),
        input=model.spec.input,
        pixels=model.spec.pixels,
        cut=tensors,
        answer=model.spec.output,
        mechanism=sent.protector.noise.mechanism,
        target=models.written,
        fallback=FALLBACK if models.fallback is not None else None,
        engines=engines,
        wire=wire,
        sticky=sticky,
        files=_stored(folder / EDGE),
    ).save(folder / EDGE / MANIFEST)
    CloudManifest(
        model_name=served_name(model.spec.name),
        inputs=taken,
        outputs=(model.spec.output,),
        files=_stored(folder / CLOUD),
    ).save(folder / CLOUD / MANIFEST)


def _write_manifest(
    folder: Path,
    model: Model,
    cut: CutSpec,
    accuracy: NoiseAccuracy | None,
    missing: str,
    how: str,
    difference: float,
    created: datetime.datetime,
) -> None:
    Manifest(
        model_name=model.spec.name,
        model_digest=model.spec.digest,
        cut_name=cut.name,
        edge_digest=digest((folder / EDGE / MANIFEST).read_bytes()),
        cloud_digest=digest((folder / CLOUD / MANIFEST).read_bytes()),
        files=tuple(file.model_copy(update={"path": f"{PROFILE}/{file.path}"}) for file in _stored(folder / PROFILE)),
        accuracy=accuracy,
        accuracy_missing=missing,
        accuracy_of=how,
        largest_difference=difference,
        versions=read_environment().versions,
        created_at=created.isoformat(timespec="seconds"),
    ).save(folder / MANIFEST)


def _now() -> datetime.datetime:
    """The time, or SOURCE_DATE_EPOCH's, the convention by which a build is made the same each time."""
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    if stated:
        try:
            return datetime.datetime.fromtimestamp(int(stated), datetime.UTC)
        except (ValueError, OverflowError, OSError):
            raise BundleError(
                f"SOURCE_DATE_EPOCH is '{stated[:50]}', which is no time in seconds since 1970; unset it"
            ) from None
    return datetime.datetime.now(datetime.UTC)
