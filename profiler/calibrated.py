"""A Profile of a model that was never run on a device, from layers that were measured there (`edgecut calibrate`).

The whole, and the prefix and suffix of every cut, are sums over their operations and one run's overhead, with 90 %
intervals; layer times are their shares. Energy is unavailable: a calibration holds times alone.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..models.spec import CutSpec, LayerSpec, ModelSpec
from ..models.work import Operation
from .calibrate import Calibration, Prediction, predict_operations
from .energy import modelled
from .predicted import NOISE_CLOCK_HZ, beside, predicted_timing
from .profile import CutProfile, Energy, Environment, LayerProfile, PowerModel, Profile, Timing


def calibrated_profile(
    spec: ModelSpec,
    calibration: Calibration | str | os.PathLike[str],
    *,
    power: PowerModel | None = None,
    cuts: Sequence[CutSpec] | None = None,
) -> Profile:
    """Predict a model on the calibrated device, at `cuts` or all that it lists.

    Raises DeviceError without scikit-learn, ArtefactError for the file.
    """
    given = calibration if isinstance(calibration, Calibration) else Calibration.load(Path(calibration))
    whole = predict_operations(given, _work(spec.layers))
    frequency = given.environment.frequency_hz if given.environment else None
    slower = NOISE_CLOCK_HZ / frequency if frequency else 1.0
    timing, energy = _part(whole, power)
    return Profile(
        model=spec,
        device=given.device,
        backend=given.backend,
        precision="float16" if given.precision == "float16" else "float32",
        provenance="modelled",
        threads=given.threads,
        pause_s=given.pause_s,
        notes=(
            f"predicted, not measured: from {len(given.layers) - 1} layers measured there at {given.measured_at}",
            "noise: the compiled sampler's time here, scaled by the processors' clocks",
            *whole.warnings,
        ),
        environment=given.environment or Environment(processor="unknown: the layers came as a table"),
        power=power,
        whole=timing,
        whole_energy=energy,
        layers=tuple(_layers(spec, whole)),
        cuts=tuple(_cut(cut, spec, given, power, slower) for cut in (spec.cuts if cuts is None else cuts)),
        converged=True,
        elapsed_s=0.0,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _work(layers: Sequence[LayerSpec]) -> list[Operation]:
    return [operation for layer in layers for operation in layer.work]


def _part(made: Prediction, power: PowerModel | None) -> tuple[Timing, Energy]:
    timing = predicted_timing(made.latency_s, made.low_s, made.high_s, 1.0)
    return timing, modelled(timing, power)


def _cut(cut: CutSpec, spec: ModelSpec, given: Calibration, power: PowerModel | None, slower: float) -> CutProfile:
    edge, cloud = spec.sides(cut)
    prefix, prefix_energy = _part(predict_operations(given, _work(edge)), power)
    suffix, suffix_energy = _part(predict_operations(given, _work(cloud)), power)
    noise, add = beside(cut.elements, slower)
    return CutProfile(
        name=cut.name,
        prefix=prefix,
        suffix=suffix,
        noise=noise,
        add=add,
        prefix_energy=prefix_energy,
        suffix_energy=suffix_energy,
        noise_energy=modelled(noise.model_copy(update={"utilisation": 1.0}), power),
    )


def _layers(spec: ModelSpec, whole: Prediction) -> Iterator[LayerProfile]:
    seconds = iter(operation.latency_s for operation in whole.operations)
    for layer in spec.layers:
        yield LayerProfile.of(layer, sum(next(seconds) for _ in layer.work))
