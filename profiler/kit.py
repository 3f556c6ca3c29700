"""Writing a kit: a model and both halves of every cut, as the device that measures them needs them.

The graphs are small and share one file of weights, so that a kit is about as large as the model, however many cuts it
has. Every split is checked here, against the whole model in ONNX Runtime, before anything is timed. For old runtimes
the graphs are rewritten to the opset they know, and checked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ..agent.kit import FILE, KIND, VERSION
from ..agent.tasks import WHOLE
from ..artefacts import write_bytes
from ..errors import DeviceError, ModelError
from ..models.downgrade import downgrade
from ..models.load import Model
from ..models.spec import CutSpec, TensorSpec
from ..models.split import Run, check_halves, partitions, reference_runs, whole
from ..models.weights import refer

WEIGHTS = "weights.bin"
TWIN = "twin.pt2"
OLD_OPSET, OLD_IR = 13, 7
"""What ONNX Runtime 1.10 and TensorRT 8.2 read, the last for a Jetson TX2 or Nano."""
Progress = Callable[[str, float], None]


RELATIVE_WIDTH = 0.05
"""Half-width of each median's interval, as a share of the median, at which measuring ends."""
FLOOR_S = 50e-6
"""A half-width this small is enough whatever its share: it is a hundredth of the shortest preset's round trip."""


@dataclass(frozen=True)
class KitSettings:
    """How a device shall measure; `agent/profile.py` says what each means. `threads` None: all physical cores."""

    backend: str
    threads: int | None = None
    precision: str = "float32"
    pause_s: float = 0.005
    max_seconds: float | None = None
    relative_width: float = RELATIVE_WIDTH
    floor_s: float = FLOOR_S
    meter: str = "auto"
    energy_seconds: float = 1.0
    memory: bool = False


def write_kit(
    model: Model,
    folder: Path,
    settings: KitSettings,
    *,
    cuts: Sequence[CutSpec] | None = None,
    opset: int | None = None,
    progress: Progress,
) -> None:
    """Write and check the kit, at `cuts`, by default all that the model lists.

    `opset` rewrites the graphs for an old runtime, with a batch of 1.
    Raises ModelError where a half differs from the whole model or an operator has no form in that opset.
    """
    if model.spec.batch not in (None, 1):
        raise ModelError(
            f"{model.spec.name} was exported for a batch of {model.spec.batch}, and a profile is of batch 1; export it "
            "with a dynamic batch"
        )
    layout = model.graph.weights.write(folder / WEIGHTS)

    def store(skeleton: onnx.ModelProto, name: str) -> Path:
        written = refer(_downgraded(skeleton, opset), WEIGHTS, layout)
        return write_bytes(folder / name, written.SerializeToString(deterministic=True))

    complete = whole(model.graph)
    path = store(complete, "whole.onnx")
    parts = [_part(model, WHOLE, path.name, complete, model.spec.inputs)]
    runs = reference_runs(path, model.spec.name, model.spec.inputs)
    timed = model.spec.cuts if cuts is None else cuts
    for number, cut in enumerate(timed):
        progress(f"splitting at {cut.name}", number / len(timed))
        parts += _halves(model, cut, number, store, runs)
    _finish(model, folder, settings, timed, parts)


def _downgraded(skeleton: onnx.ModelProto, opset: int | None) -> onnx.ModelProto:
    if opset is None:
        return skeleton
    fixed = onnx.ModelProto()
    fixed.CopyFrom(skeleton)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return downgrade(fixed, opset=opset, ir_version=OLD_IR)


def _halves(
    model: Model, cut: CutSpec, number: int, store: Callable[[onnx.ModelProto, str], Path], runs: list[Run]
) -> Iterator[dict[str, Any]]:
    edge, cloud = partitions(model.graph, cut)
    first, second = store(edge, f"prefix-{number:02}.onnx"), store(cloud, f"suffix-{number:02}.onnx")
    check_halves(runs, first, second, f"{model.spec.name} at {cut.name}")
    yield _part(model, f"prefix:{cut.name}", first.name, edge, model.spec.inputs)
    yield _part(model, f"suffix:{cut.name}", second.name, cloud, cut.tensors)


def _part(
    model: Model, name: str, file: str, skeleton: onnx.ModelProto, inputs: tuple[TensorSpec, ...]
) -> dict[str, Any]:
    weights = {tensor.name for tensor in skeleton.graph.initializer}
    return {
        "name": name,
        "file": file,
        "weight_bytes": model.graph.weights.size_bytes(weights),
        "inputs": [{"name": i.name, "dtype": i.dtype, "shape": [1, *i.shape], "below": i.below} for i in inputs],
    }


def write_twin_kit(
    model: Model, folder: Path, settings: KitSettings, *, cuts: Sequence[CutSpec] | None = None, progress: Progress
) -> tuple[CutSpec, ...]:
    """A kit of the torch program the model came from; returns those of the cuts that the program has, too.

    Raises DeviceError for a model without such a program.
    """
    from ..models.twin import load_twin, values_of

    if model.twin is None or not model.twin.is_file():
        raise DeviceError(
            f"{model.spec.name} came as an ONNX file, and torch runs models that came from torch; give a network by "
            "name, a .pt2 file or a factory, or use the backend onnxruntime-cpu"
        )
    progress("reading the torch program", 0.0)
    known = values_of(load_twin(model.twin))
    wanted = model.spec.cuts if cuts is None else cuts
    had = tuple(cut for cut in wanted if {tensor.name for tensor in cut.tensors} <= known)
    (folder / TWIN).symlink_to(model.twin.resolve())
    parts = [_twin_part(model, folder, WHOLE, "whole.json", model.spec.inputs, model.spec.outputs)]
    for number, cut in enumerate(had):
        names = (f"prefix-{number:02}.json", f"suffix-{number:02}.json")
        parts.append(_twin_part(model, folder, f"prefix:{cut.name}", names[0], model.spec.inputs, cut.tensors))
        parts.append(_twin_part(model, folder, f"suffix:{cut.name}", names[1], cut.tensors, model.spec.outputs))
    _finish(model, folder, settings, had, parts)
    return had


def _twin_part(
    model: Model,
    folder: Path,
    name: str,
    file: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> dict[str, Any]:
    """A partition of the program: a file that says which of its values go in and out."""
    given = None if inputs == model.spec.inputs else [tensor.name for tensor in inputs]
    wanted = None if outputs == model.spec.outputs else [tensor.name for tensor in outputs]
    # The program's own outputs are called otherwise than the ONNX file's.
    text = json.dumps({"program": TWIN, "given": given, "wanted": wanted, "outputs": [t.name for t in outputs]})
    write_bytes(folder / file, text.encode())
    return {
        "name": name,
        "file": file,
        "weight_bytes": 0,  # all partitions share the program's weights
        "inputs": [{"name": i.name, "dtype": i.dtype, "shape": [1, *i.shape], "below": i.below} for i in inputs],
    }


def finish(
    folder: Path, name: str, digest: str, noise: Sequence[int], settings: KitSettings, parts: Sequence[dict[str, Any]]
) -> None:
    """Write kit.json over what lies in the folder. A part is a dict of `name`, `file`, `weight_bytes` and `inputs`."""
    kit = {
        "kind": KIND,
        "version": VERSION,
        "model": name,
        "digest": digest,
        "settings": asdict(settings),
        "noise": list(noise),
        "parts": list(parts),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    write_bytes(folder / FILE, (json.dumps(kit, indent=1) + "\n").encode())


def _finish(
    model: Model, folder: Path, settings: KitSettings, cuts: Sequence[CutSpec], parts: list[dict[str, Any]]
) -> None:
    noise = sorted({cut.elements for cut in cuts})
    finish(folder, model.spec.name, model.spec.digest, noise, settings, parts)
