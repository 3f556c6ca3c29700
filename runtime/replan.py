"""A stored plan for other circumstances: costed anew from the profiles it came from, with the cut that it chose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..errors import BundleError
from ..partitioner.choose import plan as make_plan
from ..partitioner.limits import InfeasibleError
from ..partitioner.plan import Plan, Wire
from ..profiler.profile import Profile


def planned_for(plan: Plan, wire: Wire | None, profiles: Sequence[str | os.PathLike[str]]) -> Plan:
    """The plan for that wire, or itself where it is for it (None: whichever it is for).

    Raises BundleError where another wire is asked for and there are not both profiles.
    """
    if wire is None or wire == plan.wire:
        return plan
    if len(profiles) != 2:
        raise BundleError(
            f"the plan reckons with {plan.wire} on the wire; plan again with --wire {wire}, or give the profiles "
            "(--edge-profile and --cloud-profile), so that what it predicts is of what is sent"
        )
    edge, cloud = (Profile.load(path) for path in profiles)
    return replanned(plan, edge, cloud, wire=wire)


def replanned(stored: Plan, edge: Profile, cloud: Profile, **changes: Any) -> Plan:
    """The plan with some of `partitioner.choose.plan`'s arguments changed; the cut stays, whatever limits it breaks."""
    arguments: dict[str, Any] = {
        "link": stored.link,
        "objective": stored.objective,
        "weight_s_per_j": stored.weight_s_per_j,
        "risk": stored.risk,
        "leakage": {row.name: row.leakage_bits for row in stored.cuts if row.leakage_bits is not None},
        "wire": stored.wire,
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
