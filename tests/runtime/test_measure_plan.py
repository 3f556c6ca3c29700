"""The plan beside a measurement: the bundle's own, or costed anew for another link or slow-down, cut as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgecut.errors import EdgecutError
from edgecut.partitioner.choose import plan
from edgecut.partitioner.link import PRESETS
from edgecut.partitioner.plan import Limits, Plan
from edgecut.profiler.profile import Profile
from edgecut.runtime.measure import _plan


def bundled(folder: Path, profiled: Profile, made: Plan) -> Any:
    """What `_plan` reads of a verified bundle."""
    (folder / "profile").mkdir()
    made.save(folder / "profile" / "plan.json")
    for side in ("edge", "cloud"):
        profiled.save(folder / "profile" / f"{side}.profile.json")
    return SimpleNamespace(folder=folder)


def test_everything_that_was_asked_of_the_plan_is_asked_again(profiled: Profile, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "objective": "weighted",
        "weight_s_per_j": 0.25,
        "risk": "p95",
        "wire": "int8",
        "limits": Limits(min_depth=2, leakage_bits=9),
        "leakage": {"conv2": 3.0, "conv3": 2.0},
        "jpeg_bytes": 500,
        "cloud_load": 2.0,
    }
    made = plan(profiled, profiled, link="wifi", **asked)
    anew = _plan(bundled(tmp_path, profiled, made), "3g", None)
    expected = plan(profiled, profiled, link="3g", **asked)
    assert anew.cuts == expected.cuts
    assert (anew.baselines, anew.limits, anew.wire) == (expected.baselines, asked["limits"], "int8")
    assert (anew.choice, anew.link) == (made.choice, PRESETS["3g"])
    assert {row.name for row in anew.cuts if row.broken} == {"conv1", "fc1"}
    assert _plan(SimpleNamespace(folder=tmp_path), None, None) == Plan.load(tmp_path / "profile" / "plan.json")


def test_limits_that_no_cut_keeps_on_another_link_are_told(profiled: Profile, tmp_path: Path) -> None:
    made = plan(profiled, profiled, link="wifi", limits=Limits(latency_s=0.090))
    anew = _plan(bundled(tmp_path, profiled, made), "3g", None)
    assert anew.choice == made.choice
    assert anew.reason.startswith(
        f"The bundle is cut after {made.choice}; here no cut keeps to the limit of at most 90 ms of latency: "
    )
    assert anew.changes == ()


def test_a_cut_that_nothing_timed_is_costed_again(profiled: Profile, tmp_path: Path) -> None:
    layers = profiled.model_copy(update={"cuts": ()})
    made = plan(layers, layers, link="wifi")
    anew = _plan(bundled(tmp_path, layers, made), "lte", 3.0)
    assert {row.name for row in anew.cuts} >= {row.name for row in made.cuts}
    assert anew.chosen.basis == "layers"
    with pytest.raises(EdgecutError, match="no slow-down"):
        _plan(SimpleNamespace(folder=tmp_path), None, 0.5)
