"""Joules per inference where there is no meter: a model of the processor's power, or nothing at all.

    E = t * (P_idle + (P_max - P_idle) * u)

with t the measured time of one inference and u the measured utilisation of all processors meanwhile. It is latency
rescaled, and labelled `modelled`.
"""

from __future__ import annotations

from .profile import Energy, PowerModel, Timing

UNAVAILABLE = Energy(
    energy_j=None,
    provenance="unavailable",
    source="no meter here, and no --power-idle-w and --power-max-w given",
)


def modelled(timing: Timing, power: PowerModel | None) -> Energy:
    """Energy of one inference in joules under `power`, or unavailable without one."""
    if power is None:
        return UNAVAILABLE
    watts = power.power_w(timing.utilisation)
    return Energy(
        energy_j=timing.median_s * watts,
        provenance="modelled",
        source=(
            f"{timing.median_s * 1e3:.4g} ms measured x {watts:.3g} W at {timing.utilisation:.0%} use ({power.source})"
        ),
    )
