"""A Profile of a device that is not at hand: every time modelled from the device's description, with its interval.

The whole, the prefix and the suffix of every cut are predicted as sub-models of their own (`predict.py`); layer times
are their shares. Noise is made by the compiled sampler on the device's processor: its time here, by its portable way
(benchmarks/results/noise_time.json), times the ratio of the clocks, which is rough and says so.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ..errors import DeviceError, unknown
from ..models.spec import CutSpec, LayerSpec, ModelSpec
from ..models.work import Operation
from .description import DeviceDescription, Precision, load_device
from .figures import Copies
from .predict import RUNTIMES, Prediction, layer_seconds, predict
from .profile import CutProfile, Energy, Environment, LayerProfile, PowerModel, Profile, Timing

DEFAULT_RUNTIMES = {"jetson": "tensorrt", "raspberry-pi": "onnxruntime-cpu", "gpu": "onnxruntime-cuda"}
PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16"}
NOISE_FIXED_S, NOISE_PER_VALUE_S = 1.86e-4, 9.7e-9
ADD_FIXED_S, ADD_PER_VALUE_S = 5.1e-5, 1.5e-9
NOISE_CLOCK_HZ = 2.0e9
"""One thread of the processor that benchmarks/results/noise_time.json names, and its clock."""
CROSSING_SHARE = 0.25
"""Of the memory's peak, what copying an activation out of or into an integrated GPU's memory reaches: assumed, a read
and a write at half the peak."""
CROSSING_BYTES_PER_S = 12e9
"""The same for a GPU on PCI Express 3.0 x16 (15.75 GB/s by its specification): assumed, three quarters of that.

Published latencies hold only the copy of the input, with what the host does to it, so they say nothing of these."""
NOISE_DOUBT = 2.0
"""The interval of predicted noise: half to twice, since processors differ in more than their clocks."""


def predict_profile(
    spec: ModelSpec,
    device: str,
    *,
    runtime: str | None,
    precision: str,
    cuts: Sequence[CutSpec] | None = None,
) -> Profile:
    """Predict a model on a described device (`NAME` or `NAME:MODE`) under a runtime, by default the family's usual one.

    At `cuts`, by default all that the model lists. Raises DeviceError for an unknown device, mode or runtime, and where
    the description lacks the precision.
    """
    described = load_device(device)
    chosen = runtime or DEFAULT_RUNTIMES[described.family]
    if chosen not in RUNTIMES:
        raise DeviceError(unknown("runtime to predict", chosen, RUNTIMES))
    timed = spec.cuts if cuts is None else cuts
    of = _Predictor(spec, described, chosen, PRECISIONS[precision])
    whole, whole_energy = of.part(spec.layers, of.input_elements, of.output_elements)
    seconds = layer_seconds([layer.work for layer in spec.layers], described, chosen, PRECISIONS[precision])
    first = of.prediction(spec.layers, of.input_elements, of.output_elements)
    return Profile(
        model=spec,
        device=described.reference,
        backend=chosen,
        precision="float16" if precision == "float16" else "float32",
        provenance="modelled",
        threads=None,
        pause_s=0.0,
        notes=_notes(first, timed),
        environment=Environment(processor=described.title),
        power=power_of(described),
        whole=whole,
        whole_energy=whole_energy,
        layers=tuple(map(LayerProfile.of, spec.layers, seconds)),
        cuts=tuple(of.cut(cut) for cut in timed),
        converged=True,
        elapsed_s=0.0,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def power_of(device: str | DeviceDescription) -> PowerModel:
    """The powers of a described device (`NAME` or `NAME:MODE`). Raises DeviceError for an unknown one."""
    figures = load_device(device).figures
    return PowerModel(
        idle_w=figures.idle_w.value,
        max_w=figures.max_w.value,
        source=f"idle: {figures.idle_w.source}; busy: {figures.max_w.source}",
    )


class _Predictor:
    """One model on one device under one runtime."""

    def __init__(self, spec: ModelSpec, device: DeviceDescription, runtime: str, precision: Precision) -> None:
        self.spec, self.device, self.runtime, self.precision = spec, device, runtime, precision
        self.input_elements = sum(tensor.elements for tensor in spec.inputs)
        self.output_elements = sum(tensor.elements for tensor in spec.outputs)
        clock = device.figures.cpu_clock_hz
        self.slower = 1.0 if clock is None else NOISE_CLOCK_HZ / clock.value
        # A processor computes where the values lie; a GPU gets them from the host and gives them back.
        self.copies: Copies = "excluded" if RUNTIMES[runtime].processor == "cpu" else "included"
        integrated = device.family != "gpu"
        memory = device.figures.memory_bytes_per_s.value
        self.crossing_bytes_per_s = CROSSING_SHARE * memory if integrated else CROSSING_BYTES_PER_S

    def prediction(self, layers: Sequence[LayerSpec], into: int, out: int) -> Prediction:
        work: list[Operation] = [operation for layer in layers for operation in layer.work]
        return predict(
            work,
            self.device,
            self.runtime,
            self.precision,
            copies=self.copies,
            input_elements=into,
            output_elements=out,
        )

    def part(self, layers: Sequence[LayerSpec], into: int, out: int, crossing: int = 0) -> tuple[Timing, Energy]:
        """Layers as a model of their own, which takes or gives `crossing` elements of activation besides."""
        made, figures = self.prediction(layers, into, out), self.device.figures
        copied_s = 0.0 if self.copies == "excluded" else crossing * 4 / self.crossing_bytes_per_s
        timing = predicted_timing(
            made.latency_s + copied_s, made.low_s + copied_s, made.high_s + copied_s, made.utilisation
        )
        return timing, Energy(
            energy_j=made.energy_j + copied_s * figures.idle_w.value,
            provenance="modelled",
            source=(
                f"{made.latency_s * 1e3:.4g} ms modelled, {figures.idle_w.value:g} W idle and "
                f"{figures.max_w.value:g} W busy at {made.utilisation:.0%} use, 90 % interval "
                f"{made.energy_low_j * 1e3:.3g} to {made.energy_high_j * 1e3:.3g} mJ"
            ),
        )

    def cut(self, cut: CutSpec) -> CutProfile:
        edge, cloud = self.spec.sides(cut)
        prefix, prefix_energy = self.part(edge, self.input_elements, 0, cut.elements)
        suffix, suffix_energy = self.part(cloud, 0, self.output_elements, cut.elements)
        noise, add = beside(cut.elements, self.slower)
        return CutProfile(
            name=cut.name,
            prefix=prefix,
            suffix=suffix,
            noise=noise,
            add=add,
            prefix_energy=prefix_energy,
            suffix_energy=suffix_energy,
            noise_energy=self._noise_energy(noise.median_s),
        )

    def _noise_energy(self, seconds: float) -> Energy:
        figures = self.device.figures
        cores = figures.cpu_cores.value if figures.cpu_cores is not None else 1.0
        watts = figures.idle_w.value + (figures.max_w.value - figures.idle_w.value) / cores
        return Energy(
            energy_j=seconds * watts,
            provenance="modelled",
            source=f"{seconds * 1e3:.3g} ms modelled x {watts:.3g} W: idle and one core's share of the rest",
        )


def beside(elements: int, slower: float) -> tuple[Timing, Timing]:
    """Making and adding noise of a size, on a processor that takes `slower` times as long as the one measured."""
    made = (NOISE_FIXED_S + NOISE_PER_VALUE_S * elements, ADD_FIXED_S + ADD_PER_VALUE_S * elements)
    noise, add = (
        predicted_timing(slower * each, slower * each / NOISE_DOUBT, slower * each * NOISE_DOUBT, None) for each in made
    )
    return noise, add


def predicted_timing(seconds: float, low_s: float, high_s: float, utilisation: float | None) -> Timing:
    """A modelled time with its 90 % interval; the 95th percentile is its upper end."""
    return Timing(
        median_s=seconds,
        low_s=low_s,
        high_s=high_s,
        p95_s=high_s,
        rounds=0,
        count=0,
        utilisation=utilisation,
        samples_s=(),
        provenance="modelled",
    )


def _notes(made: Prediction, cuts: Sequence[CutSpec]) -> tuple[str, ...]:
    notes = [
        f"predicted, not measured: {made.source}",
        "noise: the compiled sampler's time here, scaled by the processors' clocks",
    ]
    if made.recalled:
        notes.append(f"figures that nobody verified: {', '.join(made.recalled)}")
    if any(not cut.aligned for cut in cuts):
        notes.append("cuts within a layer are predicted as if all of the layer ran on the edge")
    return tuple(notes)
