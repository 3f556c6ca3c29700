"""Turning what a user names as a model into an ONNX file on disk, its graph, and where one exists its torch twin.

A named network is trained once per data set and seed and kept in the user's cache folder, as `model.onnx` and
`twin.pt2` (the exported program the ONNX file was made from). The folder is called after the ONNX file's digest, so
a profile or plan that names the digest finds the same weights again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import platformdirs

from ..artefacts import Artefact, digest, read_bytes, write_bytes, writing
from ..errors import ArtefactError, DeviceError, ModelError, unknown
from .catalogue import CATALOGUE, Entry, entry
from .data import load_data
from .graph import NAME_KEY, ModelGraph, set_metadata
from .spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int, str], None]
MAX_MODEL_BYTES = 2 * 1024**3
OPSET = 18
TRAINING_REVISION = 1
"""Raised when training changes, so that an older cache is not taken for the new result."""


class Trained(Artefact):
    """The cache's note that a network was trained on some data: which ONNX file came out, and how good it is."""

    KIND = "trained"

    name: str
    data: str
    data_digest: str
    seed: int
    model_digest: str
    test_accuracy: float


@dataclass(frozen=True)
class Model:
    """A model on disk: `path` of the ONNX file, `twin` of the torch program it was exported from, if any."""

    path: Path
    graph: ModelGraph
    spec: ModelSpec
    twin: Path | None

    def read(self) -> bytes:
        """The ONNX file's bytes."""
        return read_bytes(self.path, limit=MAX_MODEL_BYTES)


def cache_folder() -> Path:
    """`$EDGECUT_CACHE`, or edgecut's folder in the user's cache."""
    return Path(os.environ.get("EDGECUT_CACHE") or platformdirs.user_cache_dir("edgecut"))


def load_model(
    reference: str, *, data: str | None = None, seed: int = 0, any_cut: bool = False, progress: Progress | None = None
) -> Model:
    """A model by catalogue name (trained on `data`, its own data set by default) or by the path of an .onnx file.

    Raises ModelError for unknown names and unusable files, DeviceError where training needs torch.
    """
    if reference.endswith(".onnx"):
        return _from_file(Path(reference), any_cut)
    known = entry(reference) if "/" not in reference else None
    if known is None:
        raise ModelError(unknown("model", reference, CATALOGUE, "; or give the path of an .onnx file"))
    trained = _trained(reference, known, data or known.data, seed, progress or (lambda *_: None))
    return _open(_folder(trained.model_digest), any_cut)


def _from_file(path: Path, any_cut: bool) -> Model:
    if not path.is_file():
        raise ModelError(f"there is no model file {path}; check the path, or name one of {', '.join(CATALOGUE)}")
    raw = read_bytes(path, limit=MAX_MODEL_BYTES)
    graph = _graph(raw, path)
    twin = _folder(graph.digest) / "twin.pt2"
    return Model(path=path, graph=graph, spec=graph.spec(any_cut=any_cut), twin=twin if twin.is_file() else None)


def _open(folder: Path, any_cut: bool) -> Model:
    path = folder / "model.onnx"
    graph = _graph(read_bytes(path, limit=MAX_MODEL_BYTES), path)
    return Model(path=path, graph=graph, spec=graph.spec(any_cut=any_cut), twin=folder / "twin.pt2")


def _graph(raw: bytes, path: Path) -> ModelGraph:
    try:
        proto = onnx.load_model_from_string(raw)
    except Exception as error:  # protobuf's DecodeError and relatives
        raise ModelError(f"{path} is not an ONNX file ({error}); export the model again") from None
    names = [entry.value for entry in proto.metadata_props if entry.key == NAME_KEY]
    return ModelGraph(proto, names[0] if names else path.stem, digest(raw))


def _folder(model_digest: str) -> Path:
    return cache_folder() / "models" / model_digest.removeprefix("sha256:")


def _trained(name: str, known: Entry, source: str, seed: int, progress: Progress) -> Trained:
    data = load_data(source)
    key = f"{name}-{data.digest.removeprefix('sha256:')[:16]}-{seed}-{TRAINING_REVISION}"
    note = cache_folder() / "trained" / f"{key}.json"
    with contextlib.suppress(ArtefactError):  # not trained yet, or the note is damaged: then train again
        trained = Trained.load(note)
        if (_folder(trained.model_digest) / "model.onnx").is_file():
            return trained
    try:
        from .training import train
    except ImportError:
        raise DeviceError(f"training {name} needs torch; install edgecut[torch], or give an .onnx file") from None
    module, accuracy = train(known, data, seed, progress)
    model_digest = export(module, known, name)
    trained = Trained(
        name=name,
        data=data.name,
        data_digest=data.digest,
        seed=seed,
        model_digest=model_digest,
        test_accuracy=accuracy,
    )
    trained.save(note)
    return trained


def export(module: nn.Module, known: Entry, name: str) -> str:
    """Export a torch network with a dynamic batch into the cache, and return the ONNX file's digest."""
    import torch

    example = torch.zeros(2, *known.input_shape)
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    proto: onnx.ModelProto = program.model_proto
    set_metadata(proto, name, known.pixels)
    raw = proto.SerializeToString(deterministic=True)
    folder = _folder(digest(raw))
    exported = program.exported_program
    # An example input would be stored as a pickle, which nobody should have to load.
    exported._example_inputs = None
    with writing(folder / "twin.pt2") as beside, open(beside, "wb") as file:
        torch.export.save(exported, file)
    refuse_pickles(folder / "twin.pt2")
    write_bytes(folder / "model.onnx", raw)
    return digest(raw)


def refuse_pickles(path: Path) -> None:
    """Raise ModelError where a .pt2 archive holds anything that torch would unpickle, or machine code.

    Torch finds members whatever their case, and unpickles payloads by the start of their name, too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(info.filename.lower(), info.file_size) for info in archive.infolist()]
            configs = [
                json.loads(archive.read(info))
                for info in archive.infolist()
                if info.filename.lower().endswith("_config.json")
            ]
            payloads = [payload for config in configs for payload in config["config"].values()]
            pickles = [p for p in payloads if p["use_pickle"] or not p["path_name"].startswith(("weight_", "tensor_"))]
    except Exception as error:  # zip, compression and JSON faults are of many types
        raise ModelError(f"{path} is not a readable .pt2 archive ({error}); export the model again") from None
    # Without example inputs torch still writes their file, empty.
    if pickles or any(size and (name.endswith((".pt", ".pkl")) or "/aotinductor/" in name) for name, size in members):
        raise ModelError(f"{path} holds pickled payloads, which are never loaded; export it without example inputs")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's deprecation warnings are of torch's own parts and say nothing to a user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
