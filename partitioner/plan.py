"""The Plan file: what every cut and every baseline would cost on a pair of devices over a link, and the choice.

All costs are predictions from measured parts: `modelled`. Seconds and joules are per inference of batch 1; None
means that nothing measured or described the part, and every sum with such a part is None too. `mean_s`, `p95_s` and
`best_share` come from drawing the parts from what was measured, with a fixed seed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..artefacts import Artefact, Record
from ..errors import ModelError, unknown
from ..models.spec import CutSpec, ModelSpec
from ..profiler.profile import PowerModel, Provenance
from .link import Link

Objective = Literal["latency", "energy", "weighted", "edp"]
Risk = Literal["median", "mean", "p95"]
Wire = Literal["float32", "int8"]
Basis = Literal["sub-models", "layers"]
Role = Literal["split", "edge-only", "cloud-only"]
DRAWS = 4_000
"""Draws of the measured spread behind a mean, a percentile or a likelihood."""
Quantity = Literal["uplink", "downlink", "rtt", "edge-slowdown", "cloud-load"]


class Serving(Record):
    """What a request costs beside the link and the model: `fixed_s + per_byte_s * bytes`, and its framing in bytes.

    A split's request costs `session_s` more, which the edge's session takes to check it and to have noise drawn.
    """

    fixed_s: float
    per_byte_s: float
    request_framing_bytes: int
    answer_framing_bytes: int
    source: str
    session_s: float = 0.0


class Limits(Record):
    """What the chosen cut must keep to; None is no limit.

    Memory is the edge partition's, energy the edge's with its radio per inference, `latency_s` in the plan's measure of
    risk, `min_depth` the fewest compute layers on the edge, `leakage_bits` by the figures that the user gave.
    """

    edge_memory_bytes: int | None = Field(default=None, ge=1)
    edge_energy_j: float | None = Field(default=None, gt=0)
    latency_s: float | None = Field(default=None, gt=0)
    min_depth: int | None = Field(default=None, ge=1)
    leakage_bits: float | None = Field(default=None, ge=0)


class PlannedNoise(Record):
    """A mechanism that was fitted at a cut: it adds noise to `values` values, and `sent_values` of them cross.

    The two differ where the noise is added to the model's input.
    """

    cut: str
    mechanism: str
    values: int = Field(ge=1)
    sent_values: int = Field(ge=1)


class CutCost(Record):
    """One way to run the model. `wait_s` is the time the edge waits: link, request overhead and cloud.

    `basis` says whether both halves were timed as sub-models or are sums of layer times. `edge_memory_bytes` is
    measured where the profile has it, else computed, and `leakage_bits` is what the user gave. `best_share` is how
    often this split is the best of all when every part is drawn from its interval; `broken` names the limits it breaks.
    """

    name: str
    role: Role
    sends: str
    payload_bytes: int
    uplink_bytes: int
    downlink_bytes: int
    edge_s: float
    noise_s: float
    add_s: float
    uplink_s: float
    downlink_s: float
    rtt_s: float
    request_s: float
    cloud_s: float
    total_s: float
    edge_j: float | None
    radio_j: float | None
    idle_j: float | None
    energy_j: float | None
    basis: Basis = "sub-models"
    depth: int | None = None
    edge_memory_bytes: int | None = None
    memory_provenance: Provenance = "unavailable"
    leakage_bits: float | None = None
    mean_s: float | None = None
    p95_s: float | None = None
    best_share: float | None = None
    broken: tuple[str, ...] = ()

    @property
    def link_s(self) -> float:
        """Seconds spent on the link: round trip and both transfers."""
        return self.rtt_s + self.uplink_s + self.downlink_s

    @property
    def wait_s(self) -> float:
        """Seconds between the edge's last byte handed over and the answer in hand."""
        return self.link_s + self.request_s + self.cloud_s


class Device(Record):
    """Which profile stands for one of the two sides; `provenance` says whether it was measured or predicted."""

    device: str
    backend: str
    processor: str
    threads: int | None
    measured_at: str
    power: PowerModel | None
    provenance: Provenance = "measured"


class BreakPoint(Record):
    """At this value of a swept quantity the choice moves from one cut to another."""

    at: float
    before: str
    after: str


class Sweep(Record):
    """The choice while one quantity goes from `low` to `high`: `first` at `low`, then as `points` say, ascending.

    Rates are in bit/s, the round trip in seconds; slow-down and load are factors. A name is empty where no cut keeps
    to the limits.
    """

    quantity: Quantity
    low: float
    high: float
    first: str
    points: tuple[BreakPoint, ...]


class Plan(Artefact):
    """Costs of all cuts and baselines, and the cut chosen.

    `pareto` names the splits that no other beats in both latency and energy, fastest first; `changes` are sentences on
    what would move the choice; `candidates` name cuts in `model.cuts` that nothing timed and that could be cheaper.
    `noises` are the mechanisms whose values were counted at their cuts, in place of the cut's own; what a mechanism's
    map takes to compute, on either side, is in no figure here.
    """

    KIND = "plan"
    VERSION = 2

    model: ModelSpec
    link: Link
    serving: Serving
    objective: Objective
    edge: Device
    cloud: Device
    edge_slowdown: float
    cloud_load: float
    cuts: tuple[CutCost, ...]
    baselines: tuple[CutCost, ...]
    missing_baselines: tuple[str, ...]
    choice: str
    reason: str
    weight_s_per_j: float | None = None
    limits: Limits = Limits()
    risk: Risk = "median"
    wire: Wire = "float32"
    pareto: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    candidates: tuple[str, ...] = ()
    jpeg_bytes: int | None = None
    noises: tuple[PlannedNoise, ...] = ()

    @property
    def cut(self) -> CutSpec:
        """The chosen cut. Raises ModelError where the plan names a cut its model lacks."""
        return self.model.cut(self.choice)

    @property
    def chosen(self) -> CutCost:
        """The chosen cut's cost."""
        return self.cost(self.choice)

    def cost(self, name: str) -> CutCost:
        """The cost of a cut or baseline by name. Raises ModelError naming the known ones."""
        rows = {row.name: row for row in (*self.baselines, *self.cuts)}
        if name not in rows:
            raise ModelError(unknown("cut of the plan", name, rows))
        return rows[name]
