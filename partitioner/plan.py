"""The Plan file: what every cut and every baseline would cost on a pair of devices over a link, and the choice.

All costs are predictions from measured parts: `modelled`. Seconds and joules are per inference of batch 1; None
means that nothing measured or described the part, and every sum with such a part is None too.
"""

from __future__ import annotations

from typing import Literal

from ..artefacts import Artefact, Record
from ..errors import ModelError, unknown
from ..models.spec import CutSpec, ModelSpec
from ..profiler.profile import PowerModel, Provenance
from .link import Link

Objective = Literal["latency", "energy"]
Role = Literal["split", "edge-only", "cloud-only"]


class Serving(Record):
    """What a request costs beside the link and the model: `fixed_s + per_byte_s * bytes`, and its framing in bytes."""

    fixed_s: float
    per_byte_s: float
    request_framing_bytes: int
    answer_framing_bytes: int
    source: str


class CutCost(Record):
    """One way to run the model. `wait_s` is the time the edge waits: link, request overhead and cloud."""

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


class Plan(Artefact):
    """Costs of all cuts and baselines, and the cut chosen."""

    KIND = "plan"

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
