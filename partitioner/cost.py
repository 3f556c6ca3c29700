"""What one inference costs in seconds and joules when a model is run one way or another (DESIGN section 5).

    latency = edge + add + max(wait, noise)     wait = rtt + up + request + load * cloud + down
    energy  = edge_j + noise_j + radio_tx_w * up + radio_rx_w * down
              + idle_w * max(0, wait - noise)

The noise does not depend on the activation, so the edge makes the next request's noise while it waits for the
current answer: it costs time only where it takes longer than that wait. `amounts` holds for numbers and for arrays
alike, so that sweeps and draws of the measured spread reckon with the same formula. Pure functions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..profiler.profile import PowerModel, Provenance, Timing
from .link import Link
from .plan import Basis, CutCost, Role, Serving

Number = float | NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A piece of work on a device as it is: median seconds, joules (None is unknown), and whose spread it shares."""

    seconds: float = 0.0
    energy_j: float | None = 0.0
    timing: Timing | None = None


@dataclass(frozen=True)
class Way:
    """One way to run a model, before any circumstances: what it computes where, and what it sends."""

    name: str
    role: Role
    sends: str
    payload_bytes: int
    answer_bytes: int
    edge: Part = Part()
    noise: Part = Part()
    add: Part = Part()
    cloud: Part = Part()
    basis: Basis = "sub-models"
    depth: int | None = None
    edge_memory_bytes: int | None = None
    memory_provenance: Provenance = "unavailable"
    leakage_bits: float | None = None

    @property
    def crosses(self) -> bool:
        """Whether anything goes over the link."""
        return self.role != "edge-only"


@dataclass(frozen=True)
class Circumstances:
    """What a way runs under. The first five may be arrays: a sweep varies them."""

    uplink_bps: Number
    downlink_bps: Number
    rtt_s: Number
    edge_slowdown: Number
    cloud_load: Number
    radio_tx_w: float | None
    radio_rx_w: float | None
    idle_w: float | None
    serving: Serving

    @classmethod
    def of(cls, link: Link, serving: Serving, power: PowerModel | None, slowdown: float, load: float) -> Circumstances:
        """The link as it is given, the edge's power when idle, and the factors on both sides' times."""
        return cls(
            uplink_bps=link.uplink_bps,
            downlink_bps=link.downlink_bps,
            rtt_s=link.rtt_s,
            edge_slowdown=slowdown,
            cloud_load=load,
            radio_tx_w=link.radio_tx_w,
            radio_rx_w=link.radio_rx_w,
            idle_w=None if power is None else power.idle_w,
            serving=serving,
        )


@dataclass(frozen=True)
class Factors:
    """By how much each part of one request differs from its median; numbers, or arrays of draws."""

    edge: Number = 1.0
    noise: Number = 1.0
    add: Number = 1.0
    cloud: Number = 1.0
    uplink: Number = 1.0
    downlink: Number = 1.0
    rtt: Number = 1.0


@dataclass(frozen=True)
class Amounts:
    """Seconds and joules of one inference, part by part, and in all."""

    edge_s: Number
    noise_s: Number
    add_s: Number
    uplink_s: Number
    downlink_s: Number
    rtt_s: Number
    request_s: Number
    cloud_s: Number
    total_s: Number
    edge_j: Number | None
    radio_j: Number | None
    idle_j: Number | None
    energy_j: Number | None


AS_MEASURED = Factors()


def amounts(way: Way, under: Circumstances, drawn: Factors = AS_MEASURED) -> Amounts:
    """What `way` costs. A slow-down or a draw of an edge time holds the edge's power: the same for a longer time."""
    up_bytes, down_bytes = wire_bytes(way, under.serving)
    up = up_bytes * 8 / under.uplink_bps * drawn.uplink
    down = down_bytes * 8 / under.downlink_bps * drawn.downlink
    rtt = under.rtt_s * drawn.rtt if way.crosses else 0.0
    request = under.serving.fixed_s + under.serving.per_byte_s * (up_bytes + down_bytes) if way.crosses else 0.0
    request += under.serving.session_s if way.role == "split" else 0.0
    slower, noise_slower = under.edge_slowdown * drawn.edge, under.edge_slowdown * drawn.noise
    edge, noise = way.edge.seconds * slower, way.noise.seconds * noise_slower
    beside = way.add.seconds * under.edge_slowdown * drawn.add
    cloud = way.cloud.seconds * under.cloud_load * drawn.cloud
    wait = rtt + up + down + request + cloud
    edge_j = total([_times(way.edge.energy_j, slower), _times(way.noise.energy_j, noise_slower)])
    radio_j = total([_times(under.radio_tx_w, up), _times(under.radio_rx_w, down)]) if way.crosses else 0.0
    idle_j = _times(under.idle_w, np.maximum(0.0, wait - noise))
    return Amounts(
        edge_s=edge,
        noise_s=noise,
        add_s=beside,
        uplink_s=up,
        downlink_s=down,
        rtt_s=rtt,
        request_s=request,
        cloud_s=cloud,
        total_s=edge + beside + np.maximum(wait, noise),
        edge_j=edge_j,
        radio_j=radio_j,
        idle_j=idle_j,
        energy_j=total([edge_j, radio_j, idle_j]),
    )


def cost(way: Way, under: Circumstances) -> CutCost:
    """The cost of one way to run a model with every part at its median."""
    found = amounts(way, under)
    up_bytes, down_bytes = wire_bytes(way, under.serving)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        values[field.name] = None if value is None else float(value)
    return CutCost(
        name=way.name,
        role=way.role,
        sends=way.sends,
        payload_bytes=way.payload_bytes if way.crosses else 0,
        uplink_bytes=up_bytes,
        downlink_bytes=down_bytes,
        basis=way.basis,
        depth=way.depth,
        edge_memory_bytes=way.edge_memory_bytes,
        memory_provenance=way.memory_provenance,
        leakage_bits=way.leakage_bits,
        **values,
    )


def wire_bytes(way: Way, serving: Serving) -> tuple[int, int]:
    """What crosses the link up and down, framing included."""
    if not way.crosses:
        return 0, 0
    return way.payload_bytes + serving.request_framing_bytes, way.answer_bytes + serving.answer_framing_bytes


def _times(value: float | None, factor: Number) -> Number | None:
    return None if value is None else value * factor


def total(parts: list[Number | None]) -> Number | None:
    """The sum, or None as soon as one part is unknown."""
    known = [part for part in parts if part is not None]
    return reduce(add, known, 0.0) if len(known) == len(parts) else None
