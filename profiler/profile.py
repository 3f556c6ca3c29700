"""What profiling a model on a device gives: the Profile file.

Every time is wall time of one inference of batch 1, measured in sub-models as they will be deployed, in turns
(see `agent/timing.py` for the protocol); `median_s` is the median of the rounds' medians and [low_s, high_s] its 95 %
interval. Layer times come from the runtime's own profiler, which slows what it watches: they explain, the prefixes
and suffixes decide. Energy is joules per inference with its provenance, and None, never 0, where nothing measured it.
A device that is not at hand is predicted: such a profile says `modelled`, has no samples, and its intervals are those
of the prediction, 90 %.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..agent import timing
from ..artefacts import Artefact, Record
from ..errors import ModelError, unknown
from ..models.spec import LayerSpec, ModelSpec

Provenance = Literal["measured", "modelled", "published", "unavailable"]
KEPT_SAMPLES = 400
"""Raw samples kept per quantity in the file, spread evenly over all that were taken."""


Seconds = Annotated[float, Field(ge=0, le=1e9)]
Memory = Annotated[int, Field(ge=0, le=2**60)]


class Timing(Record):
    """Seconds per inference: median of round medians, its 95 % interval, 95th percentile, and raw samples.

    `utilisation` is None where nobody measured it, as on a GPU or in a prediction.
    """

    median_s: Seconds
    low_s: Seconds
    high_s: Seconds
    p95_s: Seconds
    rounds: int
    count: int
    utilisation: float | None
    samples_s: tuple[Seconds, ...]
    provenance: Provenance = "measured"

    @classmethod
    def of(cls, samples: timing.Samples, processors: int) -> Timing:
        """Summarise one task's samples; `utilisation` is processor time over wall time and `processors`."""
        medians = [timing.median(block) for block in samples.rounds]
        low, high = timing.median_interval(medians)
        every = np.asarray([value for block in samples.rounds for value in block])
        kept = every[np.linspace(0, len(every) - 1, min(len(every), KEPT_SAMPLES)).astype(int)]
        return cls(
            median_s=timing.median(medians),
            low_s=low,
            high_s=high,
            p95_s=float(np.percentile(every, 95)),
            rounds=len(medians),
            count=len(every),
            utilisation=min(1.0, samples.cpu_s / samples.wall_s / processors),
            samples_s=tuple(round(float(value), 9) for value in kept),
        )


class Energy(Record):
    """Joules per inference. `energy_j` is None exactly where `provenance` is `unavailable`; `source` says from what.

    `energy_j` has the device's idle power in it; `above_idle_j` is what it drew beyond that, where idle was measured.
    """

    energy_j: float | None
    provenance: Provenance
    source: str
    above_idle_j: float | None = None


class PowerModel(Record):
    """A device's power in watts when idle and when busy, and where the two figures come from."""

    idle_w: float
    max_w: float
    source: str
    provenance: Provenance = "published"

    def power_w(self, utilisation: float) -> float:
        """P = idle + (max - idle) * utilisation, in watts."""
        return self.idle_w + (self.max_w - self.idle_w) * utilisation


class Environment(Record):
    """What the figures were taken on; None where the machine does not tell."""

    processor: str
    processors: int | None = None
    frequency_hz: float | None = None
    governor: str | None = None
    power_mode: str | None = None
    temperature_c: float | None = None
    memory_bytes: int | None = None
    load_1min: float | None = None
    virtualised: bool | None = None
    system: str | None = None
    python: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class LayerProfile(Record):
    """One layer: its share of the work and, where the runtime's profiler saw it, its time in seconds."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int
    latency_s: float | None

    @classmethod
    def of(cls, layer: LayerSpec, latency_s: float | None) -> LayerProfile:
        """What the model says of a layer, and the time it took."""
        return cls(
            name=layer.name,
            kind=layer.kind,
            output_shape=layer.output.shape,
            parameters=layer.parameters,
            flops=layer.flops,
            latency_s=latency_s,
        )


class CutProfile(Record):
    """One cut, measured: both halves of the model, and making and adding noise of the cut's size.

    `prefix_memory_bytes` is the most resident memory that opening the prefix and running it once took, None where that
    was not measured.
    """

    name: str
    prefix: Timing
    suffix: Timing
    noise: Timing
    add: Timing
    prefix_energy: Energy
    suffix_energy: Energy
    noise_energy: Energy
    prefix_memory_bytes: Memory | None = None


class Profile(Artefact):
    """A model measured on a device; every run came `pause_s` seconds after the one before.

    `cuts` has those that were timed, which may be none, and `model.cuts` all that are known by name. `threads` is None
    for a predicted device. `groups` tells how many groups the sub-models were opened in because all together did not
    fit into memory, `whole_memory_bytes` is as in `CutProfile`, `notes` what a reader should know of this measurement.
    """

    KIND = "profile"
    VERSION = 2

    model: ModelSpec
    device: str
    backend: str
    precision: Literal["float32", "float16"] = "float32"
    provenance: Provenance = "measured"
    threads: int | None
    pause_s: float
    groups: int = 1
    meter: str | None = None
    notes: tuple[str, ...] = ()
    environment: Environment
    power: PowerModel | None
    whole: Timing
    whole_energy: Energy
    whole_memory_bytes: Memory | None = None
    layers: tuple[LayerProfile, ...]
    cuts: tuple[CutProfile, ...]
    converged: bool
    elapsed_s: float
    measured_at: str

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        names = [cut.name for cut in self.cuts]
        if len(set(names)) < len(names):
            raise ValueError("a cut was measured twice")
        if not self.whole.median_s > 0:
            raise ValueError("the whole model took no time")
        return self

    @property
    def layer_sum_s(self) -> float | None:
        """The layer times' sum in seconds; its gap to `whole` says how far layer times can be trusted."""
        known = [layer.latency_s for layer in self.layers if layer.latency_s is not None]
        return sum(known) if known else None

    def cut(self, name: str) -> CutProfile:
        """The measured cut called `name`. Raises ModelError naming the known ones."""
        for cut in self.cuts:
            if cut.name == name:
                return cut
        raise ModelError(unknown(f"cut of the profile of {self.model.name}", name, [cut.name for cut in self.cuts]))
