"""The Measurement file: what each way to run the model took, end to end, beside what the plan predicted.

Times are wall times of whole requests of batch 1 in seconds, taken in turns over one link by real processes. With
`edge_slowdown` above 1 the edge is this machine, held back: an emulated edge, and every reader must say so.
"""

from __future__ import annotations

from typing import Literal

from ..artefacts import Artefact, Record
from ..partitioner.link import Link
from ..partitioner.plan import CutCost, Plan, Role
from ..profiler.profile import Energy, Environment, Timing
from .accuracy import NoiseAccuracy


class Variant(Record):
    """One way to run the model. Parts are medians in seconds; `predicted` is the plan's row of the same name.

    `edge_s`: the edge partition and adding the noise, `add_s` of it the latter; `noise_s`: making the next noise,
    while waiting; `wait_s`: from the request handed over to the answer in hand. Bytes are those the relay carried, per
    request.
    """

    name: str
    role: Role
    latency: Timing
    edge_s: float
    add_s: float
    noise_s: float
    wait_s: float
    uplink_bytes: float
    downlink_bytes: float
    energy: Energy
    predicted: CutCost
    wrong_answers: int


class Measurement(Artefact):
    """All variants, measured in one run.

    An emulated link was made by a relay of TCP's bytes ("relay"), or by a relay of packets between two network
    namespaces ("tun"), over the kernel's own TCP with the congestion control named.
    """

    KIND = "measurement"
    VERSION = 2

    bundle_id: str
    plan: Plan
    link: Link
    edge_slowdown: float
    emulated_link: bool
    link_emulation: Literal["relay", "tun"] = "relay"
    congestion_control: str | None = None
    pause_s: float
    environment: Environment
    variants: tuple[Variant, ...]
    requests: int
    accuracy: NoiseAccuracy | None
    converged: bool
    elapsed_s: float
    measured_at: str

    @property
    def split(self) -> Variant:
        """The split's row."""
        return next(variant for variant in self.variants if variant.role == "split")

    @property
    def noise_shares(self) -> tuple[float, float]:
        """What the noise adds to a request, and all the work it makes, over the time the link takes to carry the split.

        Making it adds nothing while it is done before the answer is there. The Shredder paper gives the second ratio
        (section 6.2.1: 0.03 on average). Times and bytes are measured, rates and round trip the link's.
        """
        split = self.split
        sending_s = self.link.uplink_s(split.uplink_bytes) + self.link.downlink_s(split.downlink_bytes)
        added_s = split.add_s + max(0.0, split.noise_s - split.wait_s)
        carried_s = self.link.rtt_s + sending_s
        return added_s / carried_s, (split.add_s + split.noise_s) / carried_s

    def speedup(self, baseline: Variant) -> float:
        """The baseline's median latency over the split's."""
        return baseline.latency.median_s / self.split.latency.median_s

    def speedup_interval(self, baseline: Variant) -> tuple[float, float]:
        """Bounds of the speedup from the two 95 % intervals, taken at their worst."""
        mine, theirs = self.split.latency, baseline.latency
        return theirs.low_s / mine.high_s, theirs.high_s / mine.low_s

    def energy_ratio(self, baseline: Variant) -> float | None:
        """The baseline's joules over the split's, None where either is unavailable."""
        mine, theirs = self.split.energy.energy_j, baseline.energy.energy_j
        return None if mine is None or theirs is None or mine == 0 else theirs / mine
