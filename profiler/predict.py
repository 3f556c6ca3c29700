"""Latency and energy of a model on a device that is not at hand: modelled from its description, never measured.

    t = host + copies + sum over operations of max(compute, memory) + overhead
    compute = FLOP / (peak * efficiency * outputs / (outputs + fill * lanes))
    memory  = bytes / (peak bandwidth * bandwidth share)

The constants of a device under a runtime are fitted to latencies that others published (`constants.py`,
docs/prediction.md); where there are none, those of the runtime on other devices stand in, with a wider interval. An
interval [low, high] is meant to hold the true value nine times in ten, and reaches at least 20 % to either side,
which is how far independent sources differ on the same network, device and runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..artefacts import Record
from ..errors import DeviceError, ModelError, unknown
from ..models.work import Operation
from .constants import Basis, Calibration, Constants, load_calibration
from .description import DeviceDescription, Precision, Processor, load_device
from .figures import Copies

VALUE_BYTES: dict[Precision, int] = {"fp32": 4, "tf32": 4, "fp16": 2}
COPIED: dict[Copies, float] = {"included": 1.0, "excluded": 0.0, "not stated": 0.5}
"""The share of the copies in a figure. What a source does not state is half included, to err least either way."""
FREE_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
FUSED_KINDS = ("batchnorm", "elementwise")
LAUNCH_DOUBT = math.log(2.0)
"""Half-width, on the log scale, of time spent launching instead of working: no source tells it apart."""
Array = NDArray[np.float64]


class Runtime(Record):
    """What matters of an inference runtime. `fuses`: normalisation, activations and sums ride on the layer before, and
    concatenation is writing in place. `like` names the calibrated runtime that stands in for one without figures."""

    processor: Processor
    fuses: bool
    tensor_cores: bool
    like: str | None = None


RUNTIMES: dict[str, Runtime] = {
    "tensorrt": Runtime(processor="gpu", fuses=True, tensor_cores=True),
    "tf-trt": Runtime(processor="gpu", fuses=True, tensor_cores=True),
    "ncnn-vulkan": Runtime(processor="gpu", fuses=True, tensor_cores=False),
    "tensorflow": Runtime(processor="gpu", fuses=False, tensor_cores=True),
    "pytorch": Runtime(processor="gpu", fuses=False, tensor_cores=True),
    "torch7": Runtime(processor="gpu", fuses=False, tensor_cores=True),
    "caffe": Runtime(processor="gpu", fuses=False, tensor_cores=True),
    "onnxruntime-cuda": Runtime(processor="gpu", fuses=False, tensor_cores=True, like="pytorch"),
    "ncnn-cpu": Runtime(processor="cpu", fuses=True, tensor_cores=False),
    "onnxruntime-cpu": Runtime(processor="cpu", fuses=True, tensor_cores=False, like="ncnn-cpu"),
}


class Prediction(Record):
    """Seconds and joules per batch.

    `work_s` (computing and moving data), `overhead_s` (launching) and `host_s` (the host and the copies) add up to
    `latency_s`. Energy is latency times a power between idle and busy, by `utilisation`, the share of `work_s`; its
    interval also takes the utilisation for wrong by half. `recalled` names the device's figures that nobody verified.
    """

    latency_s: float
    low_s: float
    high_s: float
    work_s: float
    overhead_s: float
    host_s: float
    energy_j: float
    energy_low_j: float
    energy_high_j: float
    utilisation: float
    device: str
    runtime: str
    precision: Precision
    batch: int
    copies: Copies
    basis: Basis
    recalled: tuple[str, ...]
    provenance: Literal["modelled"] = "modelled"
    source: str


@dataclass(frozen=True)
class Rates:
    """What one processor can do: FLOP/s in single and in the asked precision, bytes/s, seconds a layer.

    What depends on the precision is a column where rows of several precisions are computed together.
    """

    single_flops: float
    bytes_per_s: float
    overhead_s: float
    peak_flops: float | Array
    value_bytes: float | Array


@dataclass(frozen=True)
class Work:
    """Operations as columns; the five kinds are 1 for those of that kind, else 0."""

    flops: Array
    elements: Array
    outputs: Array
    winograd: Array
    spatial: Array
    pointwise: Array
    depthwise: Array
    linear: Array
    launches: Array


def rates(device: DeviceDescription, runtime: str, precision: Precision) -> Rates:
    """The figures of `device` that `runtime` can use. Raises DeviceError where the description lacks them."""
    kind, figures = find_runtime(runtime), device.figures
    if kind.processor == "cpu":
        single, overhead = figures.cpu_fp32_flops, figures.cpu_layer_overhead_s
        candidates = {"fp32": [single], "fp16": [figures.cpu_fp16_flops], "tf32": []}[precision]
    else:
        single, overhead = figures.gpu_fp32_flops, figures.gpu_layer_overhead_s
        tensor = kind.tensor_cores
        candidates = {
            "fp32": [single],
            # Half the bytes even where half-precision arithmetic is slower, as on Pascal cards: FP32 does it then.
            "fp16": [single, figures.gpu_fp16_flops, figures.gpu_fp16_tensor_flops if tensor else None],
            "tf32": [figures.gpu_tf32_tensor_flops] if tensor else [],
        }[precision]
    peaks = [figure.value for figure in candidates if figure is not None]
    if single is None or overhead is None or not peaks:
        raise DeviceError(
            f"{device.reference} has no {precision} figures for the {kind.processor} that {runtime} uses; "
            "choose another precision or runtime"
        )
    return Rates(
        single_flops=single.value,
        peak_flops=max(peaks),
        bytes_per_s=figures.memory_bytes_per_s.value,
        overhead_s=overhead.value,
        value_bytes=VALUE_BYTES[precision],
    )


def find_runtime(runtime: str) -> Runtime:
    """The runtime called so. Raises DeviceError naming the known ones."""
    if runtime not in RUNTIMES:
        raise DeviceError(unknown("runtime to predict", runtime, RUNTIMES))
    return RUNTIMES[runtime]


def columns(operations: Iterable[Operation], fuses: bool, batch: int) -> Work:
    """The work of `operations` on a whole batch, one row each; what costs nothing is left out."""
    rows = [_row(operation, batch) for operation in operations if not _free(operation, fuses)]
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), 9)
    return Work(*table.T)


def _free(operation: Operation, fuses: bool) -> bool:
    fused = fuses and (operation.kind in FUSED_KINDS or operation.operator == "Concat")
    return fused or operation.operator in FREE_VIEWS


def _row(operation: Operation, batch: int) -> tuple[float, ...]:
    kind = operation.kind
    # A table is read only where it is looked up.
    elements = operation.bytes(batch, 1) - (operation.parameters if kind == "embedding" else 0)
    depthwise = kind == "depthwise_conv"
    window = kind == "conv" and operation.kernel != (1, 1)
    winograd = window and (operation.kernel, operation.stride, operation.groups) == ((3, 3), (1, 1), 1)
    dense = kind in ("conv", "linear", "matmul", "recurrent")
    return (
        float(operation.flops * batch if dense or depthwise else 0),
        float(elements),
        float(max(1, operation.output_elements * batch)),
        float(winograd),
        float(window and not winograd),
        float(dense and not window),
        float(depthwise),
        float(kind in ("linear", "recurrent")),
        1.0,
    )


def work_seconds(work: Work, hardware: Rates, constants: Constants) -> Array:
    """Seconds of each row, without its overhead."""
    gain = hardware.peak_flops / hardware.single_flops
    dense, depthwise = gain**constants.gain, gain**constants.depthwise_gain
    speed = hardware.single_flops * (
        (work.winograd * constants.winograd + work.spatial * constants.spatial + work.pointwise * constants.pointwise)
        * dense
        + work.depthwise * constants.depthwise * depthwise
    )
    # A billion FLOP/s stands for a lane: small outputs do not fill a wide device.
    filled = work.outputs / (work.outputs + constants.fill * hardware.single_flops * 1e-9 + 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        compute = np.where(work.flops > 0, work.flops / (speed * filled), 0.0)
    share = np.where(work.linear > 0, constants.stream, constants.bandwidth)
    memory = work.elements * hardware.value_bytes / (hardware.bytes_per_s * share)
    return np.maximum(compute, memory)


def overhead_seconds(hardware: Rates, constants: Constants) -> float:
    """Seconds that launching one operation costs."""
    return hardware.overhead_s * constants.overhead


def host_seconds(elements: float, copied: float, hardware: Rates, constants: Constants) -> float:
    """Seconds per inference outside the operations: the host's own, and `copied` times the copies of `elements`.

    Inputs and answers are float32 whatever the precision of the arithmetic.
    """
    host = constants.host * hardware.overhead_s
    return host + copied * elements * 4 / (hardware.bytes_per_s * constants.copy_share)


def predict(
    operations: Sequence[Operation],
    device: str | DeviceDescription,
    runtime: str,
    precision: Precision = "fp32",
    *,
    batch: int = 1,
    copies: Copies = "included",
    input_elements: int | None = None,
    output_elements: int | None = None,
    calibration: Calibration | None = None,
) -> Prediction:
    """Predict `operations`, run one after the other as a model of their own: a layer, a prefix, a suffix, the whole.

    What is copied is the first operation's input and the last one's output, unless their elements are given. Raises
    DeviceError for an unknown device, runtime or precision, ModelError where there is no operation.
    """
    if not operations:
        raise ModelError("there is no operation to predict; a prefix or suffix needs at least one layer")
    described = load_device(device)
    hardware = rates(described, runtime, precision)
    kind = find_runtime(runtime)
    chosen = (calibration or load_calibration()).choose(described, runtime, precision, batch, kind.like)
    work = columns(operations, kind.fuses, batch)
    work_s = float(work_seconds(work, hardware, chosen.constants).sum())
    overhead_s = float(work.launches.sum()) * overhead_seconds(hardware, chosen.constants)
    moved = operations[0].input_elements if input_elements is None else input_elements
    moved += operations[-1].output_elements if output_elements is None else output_elements
    host_s = host_seconds(moved * batch, COPIED[copies], hardware, chosen.constants)
    latency_s = work_s + overhead_s + host_s
    stretch = math.exp(half_width(chosen.half_width, 1 - work_s / latency_s))
    utilisation = work_s / latency_s
    low_s, high_s = latency_s / stretch, latency_s * stretch
    figures = described.figures
    dynamic_w = figures.max_w.value - figures.idle_w.value

    def energy_j(seconds: float, share: float) -> float:
        return seconds * (figures.idle_w.value + dynamic_w * min(1.0, share))

    return Prediction(
        latency_s=latency_s,
        low_s=low_s,
        high_s=high_s,
        work_s=work_s,
        overhead_s=overhead_s,
        host_s=host_s,
        energy_j=energy_j(latency_s, utilisation),
        energy_low_j=energy_j(low_s, utilisation / 2),
        energy_high_j=energy_j(high_s, utilisation * 1.5),
        utilisation=utilisation,
        device=described.reference,
        runtime=runtime,
        precision=precision,
        batch=batch,
        copies=copies,
        basis=chosen.basis,
        recalled=described.recalled(),
        source=_source(described, runtime, chosen.source),
    )


def layer_seconds(
    layers: Sequence[Sequence[Operation]],
    device: str | DeviceDescription,
    runtime: str,
    precision: Precision = "fp32",
    *,
    batch: int = 1,
    calibration: Calibration | None = None,
) -> tuple[float, ...]:
    """Seconds of each layer, a group of operations, within a whole inference: no host time and no copies."""
    described = load_device(device)
    hardware = rates(described, runtime, precision)
    kind = find_runtime(runtime)
    constants = (calibration or load_calibration()).choose(described, runtime, precision, batch, kind.like).constants
    each_s = overhead_seconds(hardware, constants)
    made = (columns(operations, kind.fuses, batch) for operations in layers)
    return tuple(float(work_seconds(work, hardware, constants).sum() + work.launches.sum() * each_s) for work in made)


def half_width(calibrated: float, idle_share: float) -> float:
    """Half the interval on the log scale: what the calibration left, and more where little of the time is work."""
    return max(math.log(1.2), math.hypot(calibrated, LAUNCH_DOUBT * idle_share))


def _source(device: DeviceDescription, runtime: str, basis: str) -> str:
    power = f"{device.figures.idle_w.value:g} W idle, {device.figures.max_w.value:g} W busy"
    return f"modelled for {device.title}, under {runtime}; {basis}; energy from {power}"
