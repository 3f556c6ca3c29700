"""Joules per inference: measured by a meter, else from a model of the device's power, else nothing at all.

    E = t * (P_idle + (P_max - P_idle) * u)

with t the measured time of one inference and u the measured utilisation of all processors meanwhile. It is latency
rescaled, and labelled `modelled`.
"""

from __future__ import annotations

from .profile import Energy, PowerModel, Timing
from .result import MeterSaid, Spent

NOTHING_GIVEN = "no --power-idle-w and --power-max-w given"
UNAVAILABLE = Energy(energy_j=None, provenance="unavailable", source=f"no meter here, and {NOTHING_GIVEN}")


def energy(timing: Timing, spent: Spent | None, meter: MeterSaid, power: PowerModel | None) -> Energy:
    """Energy of one inference: what the meter read if it read anything, else modelled, else unavailable."""
    if spent is not None and spent.energy_j is not None:
        idle = f"idle {meter.idle_w:.3g} W included" if meter.idle_w is not None else "idle power included"
        return Energy(
            energy_j=spent.energy_j,
            above_idle_j=spent.above_idle_j,
            provenance="measured",
            source=f"{meter.source}: {spent.runs} runs in {spent.window_s:.3g} s, {idle}",
        )
    if power is not None:
        return modelled(timing, power)
    if spent is not None:
        reason = spent.note
    else:
        reason = f"not seen by the meter ({meter.source})" if meter.name is not None else meter.source
    return Energy(energy_j=None, provenance="unavailable", source=f"{reason}, and {NOTHING_GIVEN}")


def modelled(timing: Timing, power: PowerModel | None) -> Energy:
    """Energy of one inference in joules under `power`, or unavailable without one or without a utilisation."""
    if power is None:
        return UNAVAILABLE
    if timing.utilisation is None:
        reason = "the device's utilisation was not measured, so its powers say nothing of one inference"
        return Energy(energy_j=None, provenance="unavailable", source=reason)
    watts = power.power_w(timing.utilisation)
    return Energy(
        energy_j=timing.median_s * watts,
        provenance="modelled",
        source=(
            f"{timing.median_s * 1e3:.4g} ms measured x {watts:.3g} W at {timing.utilisation:.0%} use ({power.source})"
        ),
    )
