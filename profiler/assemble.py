"""From an agent's result to a Profile."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ..agent.tasks import WHOLE
from ..errors import DeviceError
from ..models.graph import ModelGraph
from ..models.spec import CutSpec, ModelSpec
from .backends import DEVICES, GPU_BACKENDS
from .energy import energy
from .environment import package_versions
from .layer_times import layer_times
from .profile import CutProfile, Energy, Environment, LayerProfile, PowerModel, Profile, Timing
from .result import AgentResult

BUSY_LOAD = 0.5
"""Runnable processes per processor before measuring, from which on a profile says that the machine was busy."""


def assemble(
    spec: ModelSpec,
    graph: ModelGraph,
    device: str,
    result: AgentResult,
    *,
    power: PowerModel | None,
    cuts: Sequence[CutSpec] | None = None,
    notes: tuple[str, ...] = (),
) -> Profile:
    """The Profile of a model on `device`, at `cuts`, by default all that `spec` lists.

    Raises DeviceError where the result is of another model or lacks a task.
    """
    timed = spec.cuts if cuts is None else tuple(cuts)
    if result.model_digest != spec.digest:
        raise DeviceError(f"{device} measured another model than {spec.name}; profile it again")
    missing = _expected(timed) - set(result.tasks)
    if missing:
        raise DeviceError(f"{device} did not measure {', '.join(sorted(missing)[:5])}; profile it again")
    of, seconds = _Tasks(result, power), layer_times(graph, result.nodes)
    return Profile(
        model=spec,
        device=device,
        backend=result.backend,
        precision=result.precision,
        threads=result.threads,
        environment=_stamped(result.environment, device),
        pause_s=result.pause_s,
        groups=result.groups,
        meter=result.meter.source if result.meter.name is not None else None,
        notes=(*notes, *_notes(result, of)),
        power=of.power(),
        whole=of.timing(WHOLE),
        whole_energy=of.energy(WHOLE),
        whole_memory_bytes=result.memory_bytes.get(WHOLE),
        layers=tuple(LayerProfile.of(layer, seconds.get(layer.name)) for layer in spec.layers),
        cuts=tuple(_cut(cut, of) for cut in timed),
        converged=result.converged,
        elapsed_s=result.elapsed_s,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _expected(cuts: Sequence[CutSpec]) -> set[str]:
    names = {WHOLE}
    for cut in cuts:
        names |= {f"prefix:{cut.name}", f"suffix:{cut.name}", f"noise:{cut.elements}", f"add:{cut.elements}"}
    return names


def _stamped(environment: Environment, device: str) -> Environment:
    """With the versions here that made what was measured; on this machine, of everything."""
    versions = package_versions()
    known = versions if device in DEVICES else {"edgecut": versions["edgecut"]}
    return environment.model_copy(update={"versions": {**known, **environment.versions}})


class _Tasks:
    """Timings and energies of a result, by the task's name."""

    def __init__(self, result: AgentResult, power: PowerModel | None) -> None:
        self.result, self._given = result, power
        self._timings: dict[str, Timing] = {}

    def timing(self, name: str) -> Timing:
        if name not in self._timings:
            processors = self.result.environment.processors or 1
            made = Timing.of(self.result.tasks[name].samples(), processors)
            # What the processor does while a GPU computes says nothing about the GPU.
            unknown = self.result.backend in GPU_BACKENDS and not name.startswith(("noise:", "add:"))
            self._timings[name] = made.model_copy(update={"utilisation": None}) if unknown else made
        return self._timings[name]

    def energy(self, name: str) -> Energy:
        return energy(self.timing(name), self.result.energy.get(name), self.result.meter, self._given)

    def power(self) -> PowerModel | None:
        """Measured where idle was: the mean power of the busiest task beside it."""
        meter = self.result.meter
        watts = [s.energy_j * s.runs / s.window_s for s in self.result.energy.values() if s.energy_j is not None]
        if meter.idle_w is None or not watts:
            return self._given
        source = f"{meter.source}; idle over {meter.idle_window_s:.3g} s"
        return PowerModel(idle_w=meter.idle_w, max_w=max(watts), source=source, provenance="measured")


def _notes(result: AgentResult, of: _Tasks) -> tuple[str, ...]:
    found = []
    load, processors = result.environment.load_1min, result.environment.processors
    if load is not None and processors and load > BUSY_LOAD * processors:
        found.append(f"the machine was busy when measuring began: load {load:.1f} on {processors} processors")
    if result.groups > 1:
        found.append(
            f"the sub-models did not fit into memory together and were measured in {result.groups} groups, so cuts of "
            "different groups did not take turns"
        )
    if result.layer_note:
        found.append(f"no layer times: {result.layer_note}")
    if result.meter.name is not None and result.meter.note:
        found.append(f"idle power: {result.meter.note}")
    if result.memory_note:
        found.append(result.memory_note)
    return tuple(found)


def _cut(cut: CutSpec, of: _Tasks) -> CutProfile:
    prefix, suffix = f"prefix:{cut.name}", f"suffix:{cut.name}"
    noise, add = f"noise:{cut.elements}", f"add:{cut.elements}"
    return CutProfile(
        name=cut.name,
        prefix=of.timing(prefix),
        suffix=of.timing(suffix),
        noise=of.timing(noise),
        add=of.timing(add),
        prefix_energy=of.energy(prefix),
        suffix_energy=of.energy(suffix),
        noise_energy=of.energy(noise),
        prefix_memory_bytes=of.result.memory_bytes.get(prefix),
    )
