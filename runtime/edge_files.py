"""The files of a bundle's edge side: the models as the target needs them, the noise, its kernels and the agent.

edge.onnx         the edge partition
fallback.onnx     the cloud partition, where the device may run it itself
noise.npz         the noise, with noise.c and noise.cu, which the device's own compilers build
edge-rtx.engine   an engine built ahead for GPUs that are known already
edgecut_edge.pyz  the agent, which any Python from 3.6 on runs
"""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import onnx

from ..agent import tensorrt_rtx
from ..agent.backends import BackendError
from ..errors import BundleError, DeviceError, ModelError
from ..models.downgrade import TARGETS as WRITABLE
from ..models.downgrade import downgrade
from ..models.load import Model
from ..models.spec import CutSpec
from ..models.split import partitions
from ..noise_kernels.mechanism import Noise
from ..profiler import pack
from .attach import with_input_map, with_map, with_restored
from .manifest import EDGE_MODEL, FALLBACK, NOISE, EdgeTarget, Engine, Precision
from .precision import as_in_float16, to_float16
from .targets import Target, foreign_operators

ENGINE = "edge-rtx.engine"
RTX = "tensorrt-rtx"
KERNELS = ("noise.c", "noise.cu")
_CAPABILITY = re.compile(r"([1-9][0-9]?)\.([0-9])")


class EdgeModels(NamedTuple):
    """The models of an edge side.

    `edge` and `fallback` are stored. `computed` is the edge partition as this machine's processor computes it in the
    device's arithmetic, `typed` as a runtime takes it that computes in its model's own types; all three are one in
    float32. `cloud` is the cloud partition for any runtime. A mechanism's map is part of them all; `unmapped` are the
    two halves without it, in float32 and for any runtime, None where there is no map.
    """

    edge: bytes
    computed: bytes
    typed: bytes
    fallback: bytes | None
    cloud: bytes
    written: EdgeTarget
    unmapped: tuple[bytes, bytes] | None = None


def edge_models(
    model: Model, cut: CutSpec, target: Target, precision: Precision, fallback: bool, noise: Noise
) -> EdgeModels:
    """Cut the model and write its halves for a target. Raises ModelError where an operator has no form there."""
    name = model.spec.name
    if model.spec.batch not in (None, 1):
        raise ModelError(
            f"{name} was exported for a batch of {model.spec.batch}, and devices send one item or any number; export "
            "it with a dynamic batch, or a batch of 1"
        )
    weights = model.graph.weights
    edge, cloud = partitions(model.graph, cut)
    unmapped = None
    if noise.map is not None:
        unmapped = weights.embed(edge).SerializeToString(), weights.embed(cloud).SerializeToString()
        if noise.place == "input":
            edge = with_input_map(edge, model.spec.input, noise.map)
        else:
            edge = with_map(edge, cut.tensors, noise.map)
            cloud = with_restored(cloud, cut.tensors, noise.map)
    written = _written(edge, target, f"the edge half of {name}")
    rest = _written(cloud, target, f"the cloud half of {name}") if fallback else None
    stored, beside = (
        None if half is None else weights.embed(half).SerializeToString(deterministic=True) for half in (written, rest)
    )
    assert stored is not None
    computed = typed = stored
    if precision == "float16":
        computed, typed = as_in_float16(stored, name), to_float16(stored, name)
        if target.float16 == "model":
            stored = typed
            beside = to_float16(beside, name) if beside is not None else None
    described = EdgeTarget(
        name=target.name,
        runtime=target.runtimes[0],
        opset=next(entry.version for entry in written.opset_import if entry.domain in ("", "ai.onnx")),
        ir_version=written.ir_version,
        precision=precision,
        batch=target.batch or model.spec.batch,
    )
    whole = weights.embed(cloud).SerializeToString(deterministic=True)
    return EdgeModels(stored, computed, typed, beside, whole, described, unmapped)


def _written(skeleton: onnx.ModelProto, target: Target, what: str) -> onnx.ModelProto:
    """A half in the newest form that the target reads: the target's opset, or an older one that avoids an operator."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(skeleton)
    if target.batch is not None:
        for value in [*fixed.graph.input, *fixed.graph.output]:
            value.type.tensor_type.shape.dim[0].dim_value = target.batch
    if target.opset is None or target.ir_version is None or target.operators is None:
        return fixed
    first: tuple[onnx.ModelProto, list[str]] | None = None
    for opset in range(target.opset, WRITABLE.start - 1, -1):
        try:
            older = downgrade(fixed, opset=opset, ir_version=target.ir_version)
        except ModelError:
            if first is None:
                raise
            break
        foreign = foreign_operators(older.graph.node, target.operators)
        if not foreign:
            return older
        first = first or (older, foreign)
    assert first is not None
    raise ModelError(
        f"{what} needs {', '.join(first[1])}, which {target.parser} does not read; cut the model before, or choose "
        "another target"
    )


def write_edge(folder: Path, models: EdgeModels, noise: bytes, engine_for: tuple[str, ...]) -> tuple[Engine, ...]:
    """Write the side's files into `folder`, all but its manifest, and return the engines. Raises BundleError."""
    try:
        folder.mkdir()
        (folder / EDGE_MODEL).write_bytes(models.edge)
        (folder / NOISE).write_bytes(noise)
        if models.fallback is not None:
            (folder / FALLBACK).write_bytes(models.fallback)
        for name in KERNELS:
            shutil.copyfile(pack.ROOT / "noise_kernels" / name, folder / name)
        pack.pack(folder / pack.NAME)
        return _engines(folder, models, engine_for)
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be written ({error.strerror}); free some space or choose another folder"
        ) from None


def check_engines(engine_for: tuple[str, ...], target: Target) -> None:
    """Raise BundleError where engines cannot be built ahead for these compute capabilities and this target."""
    if engine_for and RTX not in target.runtimes:
        raise BundleError(f"engines are built ahead for the target tensorrt only, not for {target.name}")
    for capability in engine_for:
        if not _CAPABILITY.fullmatch(capability):
            raise BundleError(f"'{capability}' is no compute capability; give them as 8.6,8.9")


def _engines(folder: Path, models: EdgeModels, engine_for: tuple[str, ...]) -> tuple[Engine, ...]:
    """An engine of TensorRT-RTX, which computes in the types that its model has."""
    if not engine_for:
        return ()
    capabilities = [(int(major), int(minor)) for major, minor in (text.split(".") for text in engine_for)]
    with tempfile.TemporaryDirectory(prefix="edgecut-") as scratch:
        path = Path(scratch) / EDGE_MODEL
        path.write_bytes(models.typed)
        try:
            engine = tensorrt_rtx.build_ahead(str(path), models.written.precision, capabilities)
        except BackendError as error:
            raise DeviceError(str(error)) from None
    (folder / ENGINE).write_bytes(engine)
    version = str(import_module("tensorrt_rtx").__version__)
    return (Engine(file=ENGINE, runtime=RTX, compute_capabilities=engine_for, version=version),)
