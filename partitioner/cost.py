"""What one inference costs in seconds and joules when a model is run one way or another (DESIGN section 5).

    latency = edge + add + max(wait, noise)     wait = rtt + up + request + load * cloud + down
    energy  = edge_j + noise_j + radio_tx_w * up + radio_rx_w * down
              + idle_w * max(0, wait - noise)

The noise does not depend on the activation, so the edge makes the next request's noise while it waits for the
current answer: it costs time only where it takes longer than that wait. Pure functions of numbers.
"""

from __future__ import annotations

from ..profiler.profile import Energy, PowerModel
from .link import Link
from .plan import CutCost, Role, Serving


def cost(
    *,
    name: str,
    role: Role,
    sends: str,
    payload_bytes: int,
    answer_bytes: int,
    edge_s: float,
    noise_s: float,
    add_s: float,
    cloud_s: float,
    edge_energy: tuple[Energy, ...],
    link: Link,
    serving: Serving,
    power: PowerModel | None,
) -> CutCost:
    """The cost of one way to run a model.

    Times are seconds on the devices as they are (slow-down and load applied by the caller), `edge_energy` what the
    edge spends on computing. With `role` edge-only nothing crosses the link.
    """
    crosses = role != "edge-only"
    uplink_bytes = payload_bytes + serving.request_framing_bytes if crosses else 0
    downlink_bytes = answer_bytes + serving.answer_framing_bytes if crosses else 0
    up, down = link.uplink_s(uplink_bytes), link.downlink_s(downlink_bytes)
    rtt = link.rtt_s if crosses else 0.0
    request = serving.fixed_s + serving.per_byte_s * (uplink_bytes + downlink_bytes) if crosses else 0.0
    wait = rtt + up + down + request + cloud_s
    edge_j = total([energy.energy_j for energy in edge_energy])
    radio_j = _radio_j(link, up, down) if crosses else 0.0
    idle_j = None if power is None else power.idle_w * max(0.0, wait - noise_s)
    return CutCost(
        name=name,
        role=role,
        sends=sends,
        payload_bytes=payload_bytes if crosses else 0,
        uplink_bytes=uplink_bytes,
        downlink_bytes=downlink_bytes,
        edge_s=edge_s,
        noise_s=noise_s,
        add_s=add_s,
        uplink_s=up,
        downlink_s=down,
        rtt_s=rtt,
        request_s=request,
        cloud_s=cloud_s,
        total_s=edge_s + add_s + max(wait, noise_s),
        edge_j=edge_j,
        radio_j=radio_j,
        idle_j=idle_j,
        energy_j=total([edge_j, radio_j, idle_j]),
    )


def _radio_j(link: Link, up_s: float, down_s: float) -> float | None:
    if link.radio_tx_w is None or link.radio_rx_w is None:
        return None
    return link.radio_tx_w * up_s + link.radio_rx_w * down_s


def total(parts: list[float | None]) -> float | None:
    """The sum, or None as soon as one part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
