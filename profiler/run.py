"""`edgecut profile`: measure every cut of a model on a device and write the Profile."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable
from pathlib import Path

import psutil

from ..agent.timing import Result, measure
from ..artefacts import check_output
from ..errors import DeviceError, unknown
from ..models.load import Model, load_model
from .energy import modelled
from .environment import read_environment
from .layer_times import layer_times
from .profile import CutProfile, LayerProfile, PowerModel, Profile, Timing

Progress = Callable[[str, float], None]
DEVICES = ("cpu",)
RELATIVE_WIDTH = 0.05
"""Half-width of each median's interval, as a share of the median, at which measuring ends."""
FLOOR_S = 50e-6
"""A half-width this small is enough whatever its share: it is a hundredth of the shortest preset's round trip."""


def profile(
    model: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    data: str | None = None,
    any_cut: bool = False,
    power: PowerModel | None = None,
    pause_s: float = 0.005,
    max_seconds: float = 30.0,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure `model` on `device` and return the Profile, also written to `output` where given.

    `threads` is the size of the runtime's pool, by default the physical cores this process may use. Every run comes
    `pause_s` after the last, as requests do; 0 measures a tight loop. `power` makes energy `modelled` instead of
    `unavailable`. `progress(what, share)` is called with a share from 0 to 1. Raises DeviceError for an unknown
    device, ModelError for a model that cannot be read, cut or run.
    """
    if device not in DEVICES:
        raise DeviceError(unknown("device", device, DEVICES))
    if threads is not None and not 1 <= threads <= 1024:
        raise DeviceError(f"{threads} threads cannot be used; give a number from 1 to 1024")
    if not 0 <= pause_s <= 60:
        raise DeviceError(f"a pause of {pause_s} s cannot be used; give 0 to 60 seconds")
    if not 0 < max_seconds < math.inf:
        raise DeviceError(f"a time bound of {max_seconds} s leaves no time to measure; give a positive one")
    tell: Progress = progress or (lambda *_: None)
    if output is not None:
        check_output(output)
    loaded = load_model(
        model,
        data=data,
        any_cut=any_cut,
        progress=lambda done, total, text: tell(f"training {model}, {text}", done / total),
    )
    used = threads or default_threads()
    result = _measure(loaded, used, pause_s, max_seconds, tell)
    measured = _assemble(loaded, device, used, power, pause_s, result)
    if output is not None:
        measured.save(output)
    return measured


def default_threads() -> int:
    """Physical cores, at most as many as this process may use."""
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, psutil.cpu_count(logical=False) or available))


def _measure(model: Model, threads: int, pause_s: float, max_seconds: float, tell: Progress) -> Result:
    try:
        from .onnxruntime_cpu import tasks
    except ImportError as error:
        raise DeviceError(f"the cpu device needs {error.name}; install edgecut[cpu]") from None
    total = max(1, len(model.spec.cuts))
    done = iter(range(total))
    made = tasks(model, threads, lambda cut: tell(f"splitting at {cut}", next(done) / total))
    return measure(
        made,
        max_seconds=max_seconds,
        relative_width=RELATIVE_WIDTH,
        floor_s=FLOOR_S,
        pause_s=pause_s,
        progress=lambda share: tell("measuring, cuts in turns", share),
    )


def _assemble(
    model: Model, device: str, threads: int, power: PowerModel | None, pause_s: float, result: Result
) -> Profile:
    from .onnxruntime_cpu import NAME

    environment = read_environment()
    times = {name: Timing.of(samples, environment.processors) for name, samples in result.samples.items()}
    per_layer = layer_times(model.graph, model.read(), threads)
    return Profile(
        model=model.spec,
        device=device,
        backend=NAME,
        threads=threads,
        environment=environment,
        pause_s=pause_s,
        power=power,
        whole=times["whole"],
        whole_energy=modelled(times["whole"], power),
        layers=tuple(
            LayerProfile(
                name=layer.name,
                kind=layer.kind,
                output_shape=layer.output.shape,
                parameters=layer.parameters,
                flops=layer.flops,
                latency_s=per_layer.get(layer.name),
            )
            for layer in model.spec.layers
        ),
        cuts=tuple(_cut(cut.name, times, power) for cut in model.spec.cuts),
        converged=result.converged,
        elapsed_s=result.elapsed_s,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _cut(name: str, times: dict[str, Timing], power: PowerModel | None) -> CutProfile:
    prefix, suffix, noise = (times[f"{what}:{name}"] for what in ("prefix", "suffix", "noise"))
    return CutProfile(
        name=name,
        prefix=prefix,
        suffix=suffix,
        noise=noise,
        add=times[f"add:{name}"],
        prefix_energy=modelled(prefix, power),
        suffix_energy=modelled(suffix, power),
        noise_energy=modelled(noise, power),
    )


def profile_path(model: str, device: str) -> Path:
    """The name `edgecut profile` gives its file when none is asked for."""
    return Path(f"{Path(model).stem}-{device}.profile.json")
