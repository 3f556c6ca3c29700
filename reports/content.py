"""What a report holds, as `report.json` spells it: a `Report` and the records in it, without how they are made.

Every number carries its unit in its name and is per inference of batch 1; `speedup` is a baseline's latency over the
split's, `energy_ratio` a baseline's joules over the split's. Measured values stand under `measured`, the plan's under
`modelled`; None always comes with a sentence saying why. `provenance` says how each figure came about.
"""

from __future__ import annotations

from ..artefacts import Artefact, Record
from ..models.spec import TensorSpec
from ..partitioner.link import Link
from ..partitioner.plan import CutCost, Limits, Objective, Risk, Role, Sweep, Wire
from ..profiler.profile import Energy, Environment, PowerModel, Provenance, Timing
from ..runtime.accuracy import Accuracy
from ..runtime.manifest import Leakage
from .provenance import Note


class Spread(Record):
    """A measured time: median, 95 % interval of the median, 95th percentile, and how much was measured."""

    median_s: float
    low_s: float
    high_s: float
    p95_s: float
    rounds: int
    runs: int

    @classmethod
    def of(cls, timing: Timing) -> Spread:
        """Without the raw samples, which stay in the profile and measurement files."""
        return cls(
            median_s=timing.median_s,
            low_s=timing.low_s,
            high_s=timing.high_s,
            p95_s=timing.p95_s,
            rounds=timing.rounds,
            runs=timing.count,
        )


class Measured(Record):
    """One way to run the model, end to end. `prediction_error` is (modelled - measured) / measured."""

    latency: Spread
    edge_s: float
    add_s: float
    noise_s: float
    wait_s: float
    uplink_bytes: float
    downlink_bytes: float
    energy: Energy
    wrong_answers: int
    prediction_error: float


class Way(Record):
    """One way to run the model: what the plan modelled and, where it was run, what was measured."""

    label: str
    role: Role
    chosen: bool
    modelled: CutCost
    modelled_energy_missing: str | None
    measured: Measured | None


class Comparison(Record):
    """The split against one measured baseline. The interval is of the speedup, from both latencies at their worst."""

    baseline: str
    role: Role
    baseline_latency_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    verdict: str
    energy_ratio: float | None
    energy_provenance: Provenance
    energy_source: str


class AccuracySummary(Record):
    """Shares of right answers with 95 % intervals, and the loss to the noise in percentage points."""

    data: str
    draws: int
    without_noise: Accuracy
    without_noise_share: float
    with_noise: Accuracy
    with_noise_share: float
    loss_points: float
    loss_low_points: float
    loss_high_points: float


class CutHalves(Record):
    """A cut as profiled: both parts, the noise and adding it, before any slow-down or load is applied."""

    name: str
    payload_bytes: int
    edge_prefix: Spread
    edge_noise: Spread
    edge_add: Spread
    edge_prefix_energy: Energy
    cloud_suffix: Spread | None


class LayerRow(Record):
    """One layer on both devices; None where the runtime's profiler did not show it."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int
    edge_s: float | None
    cloud_s: float | None


class Side(Record):
    """What was profiled on one device. `layer_gap_share` is the layers' sum over the whole, less 1."""

    device: str
    backend: str
    threads: int | None
    provenance: Provenance
    pause_s: float
    environment: Environment
    power: PowerModel | None
    measured_at: str
    elapsed_s: float
    converged: bool
    whole: Spread
    whole_energy: Energy
    layers_seen: int
    layer_sum_s: float | None
    layer_gap_s: float | None
    layer_gap_share: float | None


class Planned(Record):
    """What the plan was asked for, what it says beside its choice, and what planning again needs.

    `idle_w` is the edge's power while it waits, `best_share` how likely the choice is the best cut under the measured
    spread. `pareto` names the splits that no other beats in both latency and energy, `candidates` cuts that nothing
    timed and that could be cheaper.
    """

    link: Link
    edge_slowdown: float
    idle_w: float | None
    weight_s_per_j: float | None
    limits: Limits
    risk: Risk
    wire: Wire
    best_share: float | None
    pareto: tuple[str, ...]
    changes: tuple[str, ...]
    sweeps: tuple[Sweep, ...]
    candidates: tuple[str, ...]


class ModelSummary(Record):
    """The model's identity and size, counted from its file."""

    name: str
    digest: str
    parameters: int
    flops: int
    input: TensorSpec
    output: TensorSpec


class Report(Artefact):
    """All a report shows."""

    KIND = "report"
    VERSION = 3

    headline: str
    noise_cost: str
    warnings: tuple[str, ...]
    model: ModelSummary
    bundle_id: str
    measured_at: str
    elapsed_s: float
    requests: int
    converged: bool
    edge_slowdown: float
    cloud_load: float
    emulated_edge: bool
    emulated_link: bool
    link_kind: str
    pause_s: float
    link: Link
    objective: Objective
    choice: str
    reason: str
    planned: Planned
    missing_baselines: tuple[str, ...]
    environment: Environment
    edge: Side
    cloud: Side
    ways: tuple[Way, ...]
    comparisons: tuple[Comparison, ...]
    accuracy: AccuracySummary | None
    accuracy_missing: str | None
    leakage: Leakage | None = None
    cuts: tuple[CutHalves, ...]
    layers: tuple[LayerRow, ...]
    provenance: tuple[Note, ...]

    @property
    def split(self) -> Way:
        """The way that was deployed and measured."""
        return next(way for way in self.ways if way.chosen)
