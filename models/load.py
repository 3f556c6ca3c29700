"""Turning what a user names as a model into an ONNX file on disk, its graph, and where one exists its torch twin.

A model is a network by name, the path of an .onnx or .pt2 file, or `package.module:factory`. What comes from torch is
exported once and kept in the user's cache folder (see `exporting`); a named network is trained once per data set and
seed where edgecut has data for it, and has seeded, untrained weights where it has none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import platformdirs

from ..artefacts import Artefact, digest, file_digest, read_bytes
from ..errors import ArtefactError, DeviceError, ModelError, unknown
from .catalogue import CATALOGUE, Entry
from .data import load_data
from .graph import NAME_KEY, ModelGraph
from .spec import ModelSpec

Progress = Callable[[int, int, str], None]
MAX_MODEL_BYTES = 2 * 1024**3
REVISION = 3
"""Raised when training or exporting changes, so that an older cache is not taken for the new result."""
FORMS = "; or give the path of an .onnx or .pt2 file, or package.module:factory"


class Exported(Artefact):
    """The cache's note of what came from where: which ONNX file was made, and how good it is where it was trained."""

    KIND = "exported"

    name: str
    data: str | None = None
    data_digest: str | None = None
    seed: int = 0
    model_digest: str
    test_accuracy: float | None = None


@dataclass(frozen=True)
class Model:
    """A model on disk: `path` of the ONNX file, `twin` of the torch program it was exported from, if any."""

    path: Path
    graph: ModelGraph
    spec: ModelSpec
    twin: Path | None

    def read(self) -> bytes:
        """The ONNX file's bytes. Raises ModelError where its weights lie in other files."""
        if any(not isinstance(source, bytes) for source in self.graph.weights.sources.values()):
            raise ModelError(
                f"{self.path} keeps its weights in another file: it can be profiled and planned; to deploy it, save it "
                "as one file of less than 2 GB (onnx.save)"
            )
        return read_bytes(self.path, limit=MAX_MODEL_BYTES)


def cache_folder() -> Path:
    """`$EDGECUT_CACHE`, or edgecut's folder in the user's cache."""
    return Path(os.environ.get("EDGECUT_CACHE") or platformdirs.user_cache_dir("edgecut"))


def load_model(
    reference: str,
    *,
    data: str | None = None,
    seed: int = 0,
    any_cut: bool = False,
    sizes: Mapping[str, int] | None = None,
    input_shapes: Sequence[tuple[int, ...]] = (),
    progress: Progress | None = None,
) -> Model:
    """A model by catalogue name (trained on `data`, its own data set by default), by path or by factory.

    `sizes` fixes named dimensions of an .onnx file's inputs; `input_shapes`, without the batch, are for factories that
    return a module alone. Raises ModelError for unknown names and unusable files, DeviceError where torch is needed.
    """
    if input_shapes and ":" not in reference:
        raise ModelError(f"only a factory's inputs can be given a shape with --input-shape, and '{reference}' is none")
    if reference.endswith(".onnx"):
        return _from_file(Path(reference), any_cut, sizes)
    if sizes:
        raise ModelError(f"only an .onnx file's dimensions can be fixed with --dim, and '{reference}' is none")
    if reference.endswith(".pt2"):
        return _from_program(Path(reference), any_cut)
    if ":" in reference:
        return _open(_folder(_exporting().from_factory(reference, models_folder(), input_shapes)), any_cut)
    known = CATALOGUE.get(reference)
    if known is None:
        raise ModelError(unknown("model", reference, CATALOGUE, FORMS))
    exported = _named(reference, known, data, seed, progress or (lambda *_: None))
    return _open(_folder(exported.model_digest), any_cut)


def _from_file(path: Path, any_cut: bool, sizes: Mapping[str, int] | None) -> Model:
    if not path.is_file():
        raise ModelError(f"there is no model file {path}; check the path, or name one of {', '.join(CATALOGUE)}")
    graph = _graph(path, sizes)
    twin = _folder(graph.digest) / "twin.pt2"
    return Model(path=path, graph=graph, spec=graph.spec(any_cut=any_cut), twin=twin if twin.is_file() else None)


def _from_program(path: Path, any_cut: bool) -> Model:
    if not path.is_file():
        raise ModelError(f"there is no model file {path}; check the path, or name one of {', '.join(CATALOGUE)}")
    note = _note(f"{path.stem}-{file_digest(path).removeprefix('sha256:')[:16]}")
    exported = _noted(note)
    if exported is None:
        exporting = _exporting()
        exported = Exported(name=path.stem, model_digest=exporting.from_program(path, models_folder()))
        exported.save(note)
    return _open(_folder(exported.model_digest), any_cut)


def _open(folder: Path, any_cut: bool) -> Model:
    path = folder / "model.onnx"
    graph = _graph(path, None)
    return Model(path=path, graph=graph, spec=graph.spec(any_cut=any_cut), twin=folder / "twin.pt2")


def _graph(path: Path, sizes: Mapping[str, int] | None) -> ModelGraph:
    raw = read_bytes(path, limit=MAX_MODEL_BYTES)
    try:
        proto = onnx.load_model_from_string(raw)
    except Exception as error:  # protobuf's DecodeError and relatives
        raise ModelError(f"{path} is not an ONNX file ({error}); export the model again") from None
    names = [entry.value for entry in proto.metadata_props if entry.key == NAME_KEY]
    name = names[0] if names else path.stem
    graph = ModelGraph(proto, name, digest(raw), folder=path.parent, sizes=sizes)
    graph.digest = _identity(graph, sizes)
    return graph


def _identity(graph: ModelGraph, sizes: Mapping[str, int] | None) -> str:
    """The digest of the file; where it does not say all, of the file, its files of weights and the sizes chosen."""
    sources = graph.weights.sources.values()
    files = sorted({source.path for source in sources if not isinstance(source, bytes)})
    if not files and not sizes:
        return graph.digest
    chosen = [f"{name}={size}" for name, size in sorted((sizes or {}).items())]
    return digest(" ".join([graph.digest, *(file_digest(file) for file in files), *chosen]).encode())


def models_folder() -> Path:
    """Where exported models are kept, a folder for each."""
    return cache_folder() / "models"


def _note(key: str) -> Path:
    return cache_folder() / "exported" / f"{key}-{REVISION}.json"


def _noted(note: Path) -> Exported | None:
    """What a note says, if its model is there; None where nothing was exported yet or the note is damaged."""
    with contextlib.suppress(ArtefactError):
        exported = Exported.load(note)
        if (_folder(exported.model_digest) / "model.onnx").is_file():
            return exported
    return None


def _folder(model_digest: str) -> Path:
    return models_folder() / model_digest.removeprefix("sha256:")


def _named(name: str, known: Entry, source: str | None, seed: int, progress: Progress) -> Exported:
    source = source or known.data
    if source is None:
        return _untrained(name, known, seed)
    data = load_data(source)
    note = _note(f"{name}-{data.digest.removeprefix('sha256:')[:16]}-{seed}")
    exported = _noted(note)
    if exported is not None:
        return exported
    try:
        from .training import train
    except ImportError:
        raise DeviceError(f"training {name} needs torch; install edgecut[torch], or give an .onnx file") from None
    module, accuracy = train(known, data, seed, progress)
    model_digest = _exporting().export(models_folder(), module, name, [known.example(2)], known.pixels)
    exported = Exported(
        name=name,
        data=data.name,
        data_digest=data.digest,
        seed=seed,
        model_digest=model_digest,
        test_accuracy=accuracy,
    )
    exported.save(note)
    return exported


def _untrained(name: str, known: Entry, seed: int) -> Exported:
    """The network with its initial weights: enough to profile, plan and size, useless for answers."""
    note = _note(f"{name}-untrained-{seed}")
    exported = _noted(note)
    if exported is None:
        exporting = _exporting()
        from .training import untrained

        network = untrained(known, seed)
        model_digest = exporting.export(models_folder(), network, name, [known.example(2)], known.pixels)
        exported = Exported(name=name, seed=seed, model_digest=model_digest)
        exported.save(note)
    return exported


def _exporting() -> Any:
    try:
        from . import exporting
    except ImportError as error:
        missing = error.name or "torch"
        raise DeviceError(
            f"exporting a model from torch needs {missing}; install edgecut[torch], or give an .onnx file"
        ) from None
    return exporting
