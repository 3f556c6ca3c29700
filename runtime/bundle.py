"""`edgecut bundle`: write what is deployed, an edge side that stays private and a cloud side that knows nothing.

The bundle is made in a folder beside the target and renamed to it when complete. Before that both stored halves are
run against the whole model, and accuracy is measured through them where labelled data is at hand.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..artefacts import digest, file_digest, read_bytes
from ..errors import ArtefactError, BundleError, DataError
from ..models.catalogue import CATALOGUE
from ..models.data import load_data, to_input
from ..models.load import Model, load_model
from ..models.session import open_session
from ..models.spec import CutSpec
from ..models.split import check_split, halves
from ..partitioner.plan import Plan
from ..profiler.environment import read_environment
from ..profiler.profile import Profile
from .accuracy import NoiseAccuracy, chunk_of, count_correct
from .manifest import (
    CLOUD,
    EDGE,
    EDGE_MODEL,
    MANIFEST,
    MAX_NOISE_BYTES,
    MECHANISM,
    NOISE,
    PROFILE,
    REPOSITORY,
    CloudManifest,
    EdgeManifest,
    Manifest,
    StoredFile,
)
from .protect import Protector, noisy_answer
from .repository import write_model
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
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Verified:
    """Write a bundle for the plan's cut and return it, verified.

    `model` is what was profiled, `noise` the collection learned at the plan's cut, `profiles` the files to keep with
    it. Accuracy is measured on `data`, or a named model's own data. Raises ModelError, ArtefactError or BundleError
    when the parts do not belong together, BundleError where `output` exists and `overwrite` is not given.
    """
    tell = progress or (lambda *_: None)
    chosen = plan if isinstance(plan, Plan) else Plan.load(plan)
    cut = chosen.cut
    loaded = load_model(model, data=data, any_cut=not cut.aligned, progress=lambda i, n, text: tell(text, i / n))
    check_same_model(loaded, chosen)
    cut = loaded.spec.cut(cut.name)
    stored_noise = _noise_for(noise, loaded, cut)
    target = Path(output)
    _check_target(target, overwrite)
    with _beside(target) as folder:
        tell("splitting", 0.0)
        edge, cloud, difference = _write_halves(folder, loaded, cut, stored_noise)
        _write_profiles(folder, chosen, profiles)
        tell("measuring accuracy", 0.2)
        accuracy, missing = _accuracy(loaded, edge, cloud, stored_noise, data, lambda share: tell("accuracy", share))
        _write_manifests(folder, loaded, cut, accuracy, missing, difference)
        verify(folder)
        _replace(folder, target)
    return verify(target)


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


def _noise_for(path: str | os.PathLike[str], model: Model, cut: CutSpec) -> bytes:
    data = read_bytes(path, limit=MAX_NOISE_BYTES)
    collection = Protector.load(data, str(path)).collection
    if collection.model_digest != model.spec.digest:
        raise ArtefactError(f"{path} was learned for another model than {model.spec.name}; learn the noise again")
    tensors = tuple((tensor.name, tensor.shape) for tensor in cut.tensors)
    if tuple((name, tuple(shape)) for name, shape in collection.tensors) != tensors:
        raise ArtefactError(
            f"{path} was learned at the cut {collection.cut}, the plan cuts after {cut.name}; learn it there"
        )
    return data


def _check_target(target: Path, overwrite: bool) -> None:
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


def _write_halves(folder: Path, model: Model, cut: CutSpec, noise: bytes) -> tuple[bytes, bytes, float]:
    edge, cloud = (half.SerializeToString(deterministic=True) for half in halves(model.graph, cut))
    difference = check_split(model.read(), edge, cloud, f"{model.spec.name} at {cut.name}")
    try:
        (folder / EDGE).mkdir()
        (folder / EDGE / EDGE_MODEL).write_bytes(edge)
        (folder / EDGE / NOISE).write_bytes(noise)
        write_model(
            folder / CLOUD / REPOSITORY,
            served_name(model.spec.name),
            cloud,
            [(tensor.name, "TYPE_FP32", tensor.shape) for tensor in cut.tensors],
            [(model.spec.output.name, "TYPE_FP32", model.spec.output.shape)],
        )
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be written ({error.strerror}); free some space or choose another folder"
        ) from None
    return edge, cloud, difference


def _write_profiles(folder: Path, plan: Plan, profiles: Sequence[str | os.PathLike[str]]) -> None:
    plan.save(folder / PROFILE / "plan.json")
    for path, side in zip(profiles, ("edge", "cloud"), strict=False):
        profile = Profile.load(path)
        if profile.model.digest != plan.model.digest:
            raise ArtefactError(
                f"{path} is a profile of another model than the plan; give the profiles it was made from"
            )
        profile.save(folder / PROFILE / f"{side}.profile.json")


def _accuracy(
    model: Model, edge: bytes, cloud: bytes, noise: bytes, data: str | None, progress: Callable[[float], None]
) -> tuple[NoiseAccuracy | None, str]:
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
    edge_session, cloud_session = open_session(edge), open_session(cloud)
    protector = Protector.load(noise, "the noise")

    def correct(added: Protector | None) -> int:
        def answer(items: Any) -> Any:
            return noisy_answer(edge_session, cloud_session, added, to_input(items, model.spec))

        return count_correct(answer, unseen.x_test, unseen.y_test, chunk_of(model.spec))

    clean, noisy = correct(None), 0
    for draw in range(DRAWS):
        noisy += correct(protector)
        progress((draw + 1) / DRAWS)
    return NoiseAccuracy.of(unseen.name, clean, noisy, len(unseen.x_test), DRAWS), ""


def _stored(side: Path) -> tuple[StoredFile, ...]:
    files = sorted(path for path in side.rglob("*") if path.is_file() and path.name != MANIFEST)
    return tuple(
        StoredFile(path=path.relative_to(side).as_posix(), size_bytes=path.stat().st_size, digest=file_digest(path))
        for path in files
    )


def _write_manifests(
    folder: Path, model: Model, cut: CutSpec, accuracy: NoiseAccuracy | None, missing: str, difference: float
) -> None:
    EdgeManifest(
        model_name=served_name(model.spec.name),
        input=model.spec.input,
        pixels=model.spec.pixels,
        cut=cut.tensors,
        answer=model.spec.output,
        mechanism=MECHANISM,
        files=_stored(folder / EDGE),
    ).save(folder / EDGE / MANIFEST)
    CloudManifest(
        model_name=served_name(model.spec.name),
        inputs=cut.tensors,
        outputs=(model.spec.output,),
        files=_stored(folder / CLOUD),
    ).save(folder / CLOUD / MANIFEST)
    Manifest(
        model_name=model.spec.name,
        model_digest=model.spec.digest,
        cut_name=cut.name,
        edge_digest=digest((folder / EDGE / MANIFEST).read_bytes()),
        cloud_digest=digest((folder / CLOUD / MANIFEST).read_bytes()),
        files=tuple(file.model_copy(update={"path": f"{PROFILE}/{file.path}"}) for file in _stored(folder / PROFILE)),
        accuracy=accuracy,
        accuracy_missing=missing,
        largest_difference=difference,
        versions=read_environment().versions,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    ).save(folder / MANIFEST)
