"""Triton's model repository: `<root>/<model>/config.pbtxt` and `<root>/<model>/<version>/model.onnx`.

The same folder serves a Triton server and ours. A version is a positive integer, the highest is the one served to
clients that name none. Configurations are written with max_batch_size 0 and the batch as an explicit -1 in dims:
Triton then accepts any batch size and any tensor whose first size is not a batch (a cut may have one), and fills in
nothing of its own, because inputs and outputs are both given. A folder from elsewhere may use max_batch_size > 0.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..artefacts import Record, read_bytes, write_bytes
from ..errors import ArtefactError, BundleError
from .oip import message
from .tensors import DTYPES, TensorSpec

CONFIG = "config.pbtxt"
MODEL = "model.onnx"
PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
MAX_CONFIG_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class StoredModel(Record):
    """One model of a repository. `inputs` and `outputs` are empty where its configuration leaves them to the model.

    `max_batch_size` 0 means no bound; otherwise the first size of every tensor is a batch of at most so many.
    """

    name: str
    folder: Path
    versions: tuple[int, ...]
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def latest(self) -> int:
        """The version served where none is asked for."""
        return self.versions[-1]

    def onnx_path(self, version: int) -> Path:
        """The model file of a version, inside the repository. Raises BundleError where it is missing or outside."""
        path = self.folder / str(version) / MODEL
        return _inside(path, self.folder.parent)

    def check(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        """Hold the configuration against what the model file has; a size of -1 agrees with any. Raises BundleError."""
        for stated, found in ((self.inputs, inputs), (self.outputs, outputs)):
            for spec in stated:
                if not _agree(spec, found.get(spec.name)):
                    real = found.get(spec.name, "no such tensor")
                    raise BundleError(
                        f"model '{self.name}' is configured with '{spec.name}' {spec}, its file has {real}"
                    )
            if stated and len(stated) != len(found):
                names = [spec.name for spec in stated]
                raise BundleError(f"model '{self.name}' is configured with {names}, its file has {list(found)}")


def read_repository(root: str | os.PathLike[str]) -> tuple[StoredModel, ...]:
    """All models below `root`, by name; files and folders that start with a dot are skipped.

    Raises BundleError: the folder is missing, unreadable or empty, or one of its models is unusable.
    """
    try:
        names = sorted(
            entry.name for entry in Path(root).iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise BundleError(f"model repository {root} cannot be read ({error.strerror}); check the path") from None
    if not names:
        raise BundleError(f"model repository {root} has no model; it needs <model>/{CONFIG} and <model>/1/{MODEL}")
    return tuple(read_model(root, name) for name in names)


def read_model(root: str | os.PathLike[str], name: str) -> StoredModel:
    """One model's configuration and versions; its ONNX files are located, not read.

    Raises BundleError: a bad name, a missing, damaged or foreign configuration, no version, a link out of `root`.
    """
    base = Path(root).absolute()
    folder = base / check_name(name)
    config = _read_config(_inside(folder / CONFIG, base))
    if config.name not in ("", name):
        raise BundleError(f"{folder / CONFIG} is of model '{config.name}', but its folder is called '{name}'")
    if (config.backend or BACKEND) != BACKEND or (config.platform or PLATFORM) != PLATFORM:
        raise BundleError(
            f"model '{name}' needs backend '{config.backend or config.platform}', only {BACKEND} is served here"
        )
    return StoredModel(
        name=name,
        folder=folder,
        versions=_versions(folder, base),
        max_batch_size=max(0, config.max_batch_size),
        inputs=_specs(config.input, config),
        outputs=_specs(config.output, config),
    )


def write_model(
    root: str | os.PathLike[str],
    name: str,
    onnx_bytes: bytes,
    inputs: Sequence[tuple[str, str, Sequence[int]]],
    outputs: Sequence[tuple[str, str, Sequence[int]]],
    *,
    version: int = 1,
    batch: int = -1,
) -> Path:
    """Write a model and its configuration and return the model's folder.

    Args:
        root: The repository, made where missing.
        name: The model's name, of A-Z a-z 0-9 _ . - and not starting with a dot.
        onnx_bytes: The model file.
        inputs: (name, data type such as "TYPE_FP32", sizes without the batch, -1 for any size) of each input.
        outputs: The same of each output.
        version: The version to write; others stay.
        batch: The first size of every tensor, -1 for any.

    Raises:
        BundleError: a bad name, version or tensor, or the folder cannot be written.
    """
    folder = Path(root).absolute() / check_name(name)
    if not _VERSION.fullmatch(str(version)):
        raise BundleError(f"model '{name}' cannot have version {version}; a version is a positive integer")
    if not inputs or not outputs:
        raise BundleError(f"model '{name}' needs at least one input and one output")
    config = message("ModelConfig")(name=name, platform=PLATFORM, backend=BACKEND)
    for field, specs in ((config.input, inputs), (config.output, outputs)):
        for tensor, data_type, dims in specs:
            _add(field, name, tensor, data_type, (batch, *dims))
    try:
        write_bytes(folder / str(version) / MODEL, onnx_bytes)
        write_bytes(folder / CONFIG, config_text(config).encode())
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    return folder


def config_text(config: Any) -> str:
    """A ModelConfig message as config.pbtxt. max_batch_size is spelled out, so that 0 reads as meant."""
    from google.protobuf import text_format

    text = text_format.MessageToString(config)
    return text if config.max_batch_size else f"max_batch_size: 0\n{text}"


def check_name(name: str) -> str:
    """The name itself. Raises BundleError where it could leave its folder or is not a name Triton takes."""
    if not _NAME.fullmatch(name):
        raise BundleError(f"'{name}' is no model name; use A-Z a-z 0-9 _ . - and do not start with a dot")
    return name


def _read_config(path: Path) -> Any:
    from google.protobuf import text_format

    config = message("ModelConfig")()
    try:
        text = read_bytes(path, limit=MAX_CONFIG_BYTES).decode()
        return text_format.Parse(text, config, allow_unknown_field=True)
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is no model configuration ({' '.join(str(error).split())})") from None


def _versions(folder: Path, base: Path) -> tuple[int, ...]:
    try:
        entries = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError as error:
        raise BundleError(f"{folder} cannot be read ({error.strerror}); check its permissions") from None
    found = sorted(int(name) for name in entries if _VERSION.fullmatch(name))
    if not found:
        raise BundleError(f"model '{folder.name}' has no version; it needs {folder / '1' / MODEL}")
    for version in found:
        _inside(folder / str(version) / MODEL, base)
    return tuple(found)


def _specs(tensors: Any, config: Any) -> tuple[TensorSpec, ...]:
    """What the configuration says of inputs or outputs, with the batch that max_batch_size > 0 leaves unsaid."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    names = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    return tuple(
        TensorSpec(
            name=tensor.name,
            datatype=names[tensor.data_type].name.removeprefix("TYPE_") if tensor.data_type in names else "INVALID",
            shape=(*batch, *tensor.dims),
        )
        for tensor in tensors
    )


def _add(field: Any, model: str, tensor: str, data_type: str, dims: tuple[int, ...]) -> None:
    if data_type.removeprefix("TYPE_") not in DTYPES or not data_type.startswith("TYPE_"):
        raise BundleError(f"model '{model}' has tensor '{tensor}' of {data_type}; known: TYPE_{', TYPE_'.join(DTYPES)}")
    if not tensor or any(size < -1 or size == 0 for size in dims):
        raise BundleError(f"model '{model}' has tensor '{tensor}' with sizes {list(dims)}; positive or -1 is needed")
    field.add(name=tensor, data_type=data_type, dims=dims)


def _agree(stated: TensorSpec, found: TensorSpec | None) -> bool:
    return (
        found is not None
        and stated.datatype == found.datatype
        and len(stated.shape) == len(found.shape)
        and all(a == b or -1 in (a, b) for a, b in zip(stated.shape, found.shape, strict=True))
    )


def _inside(path: Path, base: Path) -> Path:
    """`path` with its links followed. Raises BundleError where it is missing or ends outside of `base`."""
    try:
        real = path.resolve(strict=True)
        outside = not real.is_relative_to(base.resolve(strict=True))
    except (OSError, RuntimeError):
        raise BundleError(f"there is no file {path}; write the bundle again") from None
    if outside:
        raise BundleError(f"{path} leads out of {base}, which is not followed; copy the file there instead")
    return real
