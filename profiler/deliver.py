"""`edgecut kit`: what a device without ssh needs to measure a model, as a folder to carry there.

edgecut_edge.pyz    the agent, one file
kit/                the model's parts and what to do with them
README.txt          the commands, on the device and afterwards here
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..agent.main import RESULT
from ..artefacts import write_bytes
from ..errors import ArtefactError, DeviceError
from ..models.load import load_model
from .backends import TWIN_BACKENDS, check_backend
from .kit import OLD_OPSET, KitSettings, Progress, write_kit
from .pack import NAME, pack
from .run import SSH_BACKEND
from .timed import ALL, timed_cuts

README = """What an edge device needs to measure {model} for edgecut.

On the device (Python 3.6 or later with NumPy and {runtime}), in this folder:

    python3 {agent} check
    python3 {agent} profile kit

It writes kit/{result}. Bring that file back, and here:

    edgecut profile {reference} --device NAME --result {result}

The models are in opset {opset}; the result fits this model file alone ({digest}).
"""
RUNTIMES = {
    "onnxruntime-cpu": "ONNX Runtime 1.10 or later",
    "onnxruntime-cuda": "a GPU build of ONNX Runtime 1.11 or later",
    "tensorrt": "TensorRT 8.2 or later",
    "tensorrt-rtx": "TensorRT-RTX",
}


def kit(
    model: str,
    output: str | os.PathLike[str],
    *,
    backend: str = SSH_BACKEND,
    precision: str = "float32",
    threads: int | None = None,
    data: str | None = None,
    any_cut: bool = False,
    cuts: str | os.PathLike[str] = ALL,
    memory: bool = False,
    sizes: Mapping[str, int] | None = None,
    input_shapes: Sequence[tuple[int, ...]] = (),
    pause_s: float = 0.005,
    max_seconds: float | None = None,
    opset: int = OLD_OPSET,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the folder and return it. `opset` 13 is what every runtime reads; 0 keeps the model's own. `cuts` and
    `memory` are as in `profile`.

    Raises ArtefactError where `output` exists and `overwrite` is not given, DeviceError for a backend that no device
    has, ModelError for a model that cannot be read, cut or rewritten.
    """
    target = Path(output)
    check_backend(backend, "ssh://")
    if backend in TWIN_BACKENDS or backend not in RUNTIMES:
        raise DeviceError(f"a device cannot measure with {backend}; choose one of {', '.join(RUNTIMES)}")
    if opset not in (0, OLD_OPSET):
        raise DeviceError(f"a kit has opset {OLD_OPSET}, or with 0 the model's own, not {opset}")
    if target.exists() and not overwrite:
        raise ArtefactError(f"{target} exists; choose another folder, or give --overwrite")
    if target.exists() and not (target / NAME).is_file():
        raise ArtefactError(f"{target} is no folder that edgecut kit wrote, so --overwrite leaves it; choose another")
    loaded = load_model(model, data=data, any_cut=any_cut, sizes=sizes, input_shapes=input_shapes)
    settings = KitSettings(
        backend=backend,
        threads=threads,
        precision=precision,
        pause_s=pause_s,
        max_seconds=max_seconds,
        memory=memory,
    )
    timed = timed_cuts(loaded, cuts)
    text = README.format(
        model=loaded.spec.name,
        runtime=RUNTIMES[backend],
        agent=NAME,
        result=RESULT,
        reference=" ".join([shlex.quote(model), *_options(data, any_cut, cuts, sizes or {}, input_shapes)]),
        opset=opset or "the model's own",
        digest=loaded.spec.digest,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            (beside / "kit").mkdir()
            tell = progress or (lambda *_: None)
            write_kit(loaded, beside / "kit", settings, cuts=timed, opset=opset or None, progress=tell)
            pack(beside / NAME)
            write_bytes(beside / "README.txt", text.encode())
            beside.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            beside.rename(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise ArtefactError(f"{target} cannot be written ({error.strerror}); choose another output folder") from None
    return target


def _options(
    data: str | None,
    any_cut: bool,
    cuts: str | os.PathLike[str],
    sizes: Mapping[str, int],
    shapes: Sequence[tuple[int, ...]],
) -> Iterator[str]:
    """What the model must be named with afterwards, to be the same model at the same cuts."""
    if data is not None:
        yield f"--data {shlex.quote(data)}"
    if any_cut:
        yield "--any-cut"
    if cuts != ALL:
        yield f"--cuts {shlex.quote(os.fspath(cuts))}"
    yield from (f"--dim {shlex.quote(name)}={size}" for name, size in sizes.items())
    yield from (f"--input-shape {'x'.join(map(str, shape))}" for shape in shapes)
