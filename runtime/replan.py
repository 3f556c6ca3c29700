"""A stored plan for other circumstances: costed anew from the profiles it came from, with the cut that it chose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..errors import BundleError
from ..noise_kernels.mechanism import Noise
from ..partitioner.choose import plan as make_plan
from ..partitioner.limits import InfeasibleError
from ..partitioner.noises import counted as counted_noise
from ..partitioner.plan import Plan, Wire
from ..profiler.profile import Profile


def planned_for(plan: Plan, wire: Wire | None, noise: Noise, profiles: Sequence[str | os.PathLike[str]]) -> Plan:
    """The plan for that wire and noise, or itself where it is for them (a wire of None: whichever it is for).

    Raises BundleError where the plan reckons with something else and there are not both profiles.
    """
    cut = plan.cut
    counted = next((known.sent_values for known in plan.noises if known.cut == cut.name), cut.elements)
    # Noise of another cut or model is refused later, by what is wrong with it.
    mine = counted_noise(noise, cut) if noise.cut == cut.name and noise.model_digest == plan.model.digest else None
    other_noise = mine is not None and mine.sent_values != counted
    other_wire = wire is not None and wire != plan.wire
    if not other_noise and not other_wire:
        return plan
    if len(profiles) != 2:
        found, again = f"{plan.wire} on the wire", f"--wire {wire}"
        if mine is not None and other_noise:
            found = f"{counted} values sent after {cut.name}, and this {mine.mechanism} sends {mine.sent_values}"
            again = "--noise and this file"
        raise BundleError(
            f"the plan reckons with {found}; plan again with {again}, or give the profiles (--edge-profile and "
            "--cloud-profile), so that what it predicts is of what is sent"
        )
    edge, cloud = (Profile.load(path) for path in profiles)
    others = [known for known in plan.noises if known.cut != cut.name]
    noises = plan.noises if mine is None else [*others, mine]
    return replanned(plan, edge, cloud, wire=wire or plan.wire, noises=noises)


def replanned(stored: Plan, edge: Profile, cloud: Profile, **changes: Any) -> Plan:
    """The plan with some of `partitioner.choose.plan`'s arguments changed; the cut stays, whatever limits it breaks."""
    arguments: dict[str, Any] = {
        "link": stored.link,
        "objective": stored.objective,
        "weight_s_per_j": stored.weight_s_per_j,
        "risk": stored.risk,
        "leakage": {row.name: row.leakage_bits for row in stored.cuts if row.leakage_bits is not None},
        "wire": stored.wire,
        "noises": stored.noises,
        "edge_slowdown": stored.edge_slowdown,
        "cloud_load": stored.cloud_load,
        "jpeg_bytes": stored.jpeg_bytes,
        "consider": [stored.model.cut(row.name) for row in stored.cuts if row.basis == "layers"],
        "serving": stored.serving,
        **changes,
    }
    try:
        anew = make_plan(edge, cloud, limits=stored.limits, **arguments)
    except InfeasibleError as error:
        anew, here = make_plan(edge, cloud, **arguments), str(error)
    else:
        here = f"a cut after {anew.choice} is predicted to be cheaper"
        if anew.choice == stored.choice:
            return anew
    reason = f"The bundle is cut after {stored.choice}; here {here}."
    # What was said of another choice does not hold of the bundle's.
    return anew.model_copy(update={"choice": stored.choice, "reason": reason, "changes": ()})
