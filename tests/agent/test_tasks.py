"""Groups that fit into memory, opening and closing, and noise; a real profile that is forced into groups."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecut.agent import main as agent_main
from edgecut.agent import profile as agent_profile
from edgecut.agent import tasks
from edgecut.agent.backends import BackendError, Runner, Settings
from edgecut.agent.kit import Part, read_kit
from edgecut.agent.tasks import SESSION_BYTES, SESSION_FACTOR, SHARE, group, noise_tasks, open_parts
from edgecut.models.load import Model
from edgecut.profiler.assemble import assemble
from edgecut.profiler.result import read_result

MB = 1_000_000


def part(name: str, weight_bytes: int) -> Part:
    return Part(name, f"{name}.onnx", (), weight_bytes)


def needed(parts: list[Part]) -> int:
    return sum(SESSION_FACTOR * each.weight_bytes + SESSION_BYTES for each in parts)


weights = st.integers(0, 400 * MB)


@given(weights, st.lists(weights, min_size=1, max_size=30), st.integers(0, 4000 * MB))
def test_groups(whole_bytes: int, sizes: list[int], free: int) -> None:
    """Each part once, in order, beside the whole model, within the room; refused exactly where one has none."""
    whole = part("whole", whole_bytes)
    others = [part(f"p{number}", size) for number, size in enumerate(sizes)]
    room = int(SHARE * free)
    if any(needed([whole, other]) > room for other in others):
        with pytest.raises(BackendError, match=r"need about .* GB together, and .* GB are free"):
            group([whole, *others], free)
        return
    groups = group([whole, *others], free)
    assert all(found[0] == whole and needed(found) <= room for found in groups)
    assert [each for found in groups for each in found[1:]] == others
    assert all(len(found) > 1 for found in groups)
    for before, after in itertools.pairwise(groups):  # no group ends earlier than it must
        assert needed([*before, after[1]]) > room


def test_unknown_memory_is_one_group() -> None:
    parts = [part("whole", 10**12), part("a", 10**12)]
    assert group(parts, None) == [parts]


def test_the_refusal_names_the_part_and_both_sizes() -> None:
    parts = [part("whole", 100 * MB), part("small", MB), part("prefix:fc1", 400 * MB)]
    with pytest.raises(BackendError, match=r"prefix:fc1 and the whole model need about 1\.1 GB .* 1\.0 GB are free"):
        group(parts, 1000 * MB)


class _Counting(Runner):
    open = 0

    def __init__(self) -> None:
        type(self).open += 1

    def close(self) -> None:
        type(self).open -= 1


class _Backend:
    """Opens so many sub-models and then fails."""

    def __init__(self, most: int) -> None:
        self.most = most

    def open_runner(self, path: str, feed: Any, settings: Settings) -> Runner:
        if _Counting.open == self.most:
            raise BackendError("no more")
        return _Counting()


def test_what_was_opened_is_closed_where_one_fails(kit_folder: Path) -> None:
    kit = read_kit(str(kit_folder))
    told: list[str] = []
    with pytest.raises(BackendError, match="no more"):
        open_parts(kit, kit.parts, _Backend(3), Settings(), told.append)
    assert _Counting.open == 0
    assert told == [each.name for each in kit.parts[:4]]
    runners = open_parts(kit, kit.parts, _Backend(99), Settings(), told.append)
    assert list(runners) == [each.name for each in kit.parts] and _Counting.open == len(kit.parts)
    tasks.close_all(runners)
    assert _Counting.open == 0


def test_noise_is_made_and_added() -> None:
    make, add = noise_tasks(4000)
    first, second = make(), make()
    assert first.shape == (1, 4000) and first.dtype == np.float32
    assert not np.array_equal(first, second)
    # Laplace(0, 1): mean |x| is 1, its standard deviation 1; six of the mean's.
    assert abs(float(np.abs(first).mean()) - 1) < 6 / np.sqrt(4000)
    assert add().shape == (1, 4000) and np.array_equal(add(), add())


def test_a_profile_in_groups(small: Model, kit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the whole model and one more: as many groups as halves, and the whole model timed in each."""
    kit = read_kit(str(kit_folder))
    room = max(needed([kit.parts[0], each]) for each in kit.parts[1:])
    monkeypatch.setattr(agent_profile, "available_bytes", lambda: int(room / SHARE) + 10)
    said: list[str] = []
    values = agent_profile.profile_kit(kit, lambda what, share: said.append(what))
    assert values["groups"] == len(kit.parts) - 1 == 4
    assert {f"measuring, cuts in turns, group {n} of 4" for n in (1, 2, 3, 4)} <= set(said)
    result = read_result(json.loads(json.dumps(values)), "here")
    rounds = {name: len(taken.rounds) for name, taken in result.tasks.items()}
    assert rounds["whole"] == sum(count for name, count in rounds.items() if name.startswith(("prefix:", "suffix:")))
    made = assemble(small.spec, small.graph, "cpu", result, power=None)
    assert made.groups == 4
    assert any("did not fit into memory together and were measured in 4 groups" in note for note in made.notes)
    monkeypatch.setattr(agent_profile, "available_bytes", lambda: int(room / SHARE) - 10 * MB)
    with pytest.raises(BackendError, match="close other programs"):
        agent_profile.profile_kit(kit, lambda *_: None)
    assert agent_main.RESULT not in [path.name for path in kit_folder.iterdir()]
