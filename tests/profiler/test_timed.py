"""Profiles of all cuts, of none and of a plan's, and joining them: what is kept, noted and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent.main import main as agent
from edgecut.cli import app
from edgecut.errors import ArtefactError, DeviceError, EdgecutError, ModelError
from edgecut.models.cuts import cut_of
from edgecut.models.load import Model, load_model
from edgecut.partitioner.plan import Plan
from edgecut.profiler import timed
from edgecut.profiler.deliver import kit
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile
from edgecut.profiler.timed import joined, timed_cuts, with_cuts
from edgecut.reports.terminal import profile_table
from edgecut.terminal import console

QUICK: dict[str, Any] = {"threads": 1, "max_seconds": 0.3, "pause_s": 0.0, "meter": "none"}


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A product, three branches, and a product of their sum: the middle branch alone is no first layers."""
    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.standard_normal((8, 8), np.float32), f"{n}.weight") for n in "abcde"]
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
        *(helper.make_node("MatMul", ["a", f"{name}.weight"], [name]) for name in "bcd"),
        helper.make_node("Sum", ["b", "c", "d"], ["s"]),
        helper.make_node("MatMul", ["s", "e.weight"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in "xy"]
    path = tmp_path_factory.mktemp("branched") / "branched.onnx"
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return load_model(str(path))


WritePlan = Callable[..., Path]


@pytest.fixture
def write_plan(planned: Plan, branched: Model, tmp_path: Path) -> WritePlan:
    """A plan file of the branched model, whose candidate is the cut after a and c."""

    def write(choice: str = "a", candidates: tuple[str, ...] = ("{c}",), **changes: Any) -> Path:
        spec = with_cuts(branched.spec, [cut_of(branched.spec, (0, 2))])
        made = planned.model_copy(update={"model": spec, "choice": choice, "candidates": candidates, **changes})
        return made.save(tmp_path / "p.plan.json")

    return write


@pytest.fixture(scope="module")
def bare(branched: Model) -> Profile:
    return profile(str(branched.path), cuts="layers", **QUICK)


def test_the_format_that_is_read_is_the_planners() -> None:
    assert (timed._Planned.KIND, timed._Planned.VERSION) == (Plan.KIND, Plan.VERSION)


def test_layers_times_no_cut(bare: Profile, branched: Model, tmp_path: Path) -> None:
    assert bare.cuts == () and bare.model == branched.spec
    assert bare.whole.count > 0 and any(layer.latency_s is not None for layer in bare.layers)
    assert Profile.load(bare.save(tmp_path / "bare.profile.json")).to_json() == bare.to_json()
    terminal = console()
    with terminal.capture() as shown:
        terminal.print(profile_table(bare))
    assert "whole model" in shown.get()


def test_a_plan_times_its_candidates_and_its_choice(branched: Model, write_plan: WritePlan) -> None:
    made = profile(str(branched.path), cuts=write_plan(), **QUICK)
    assert [cut.name for cut in made.cuts] == ["a", "{c}"]
    assert [cut.name for cut in made.model.cuts] == ["a", "b", "{c}", "c", "d"]  # shallow first
    cut = made.model.cut("{c}")
    assert cut == cut_of(branched.spec, (0, 2)) and [tensor.name for tensor in cut.tensors] == ["a", "c"]
    assert all(min(part.median_s for part in (c.prefix, c.suffix, c.noise, c.add)) > 0 for c in made.cuts)


@pytest.mark.parametrize("device", ["jetson-tx2", "h100"])
def test_predicted_devices_know_any_cut(branched: Model, write_plan: WritePlan, device: str) -> None:
    made = profile(str(branched.path), device=device, cuts=write_plan())
    assert [cut.name for cut in made.cuts] == ["a", "{c}"] and made.provenance == "modelled"
    first, both = made.cuts
    assert both.prefix.median_s > first.prefix.median_s and both.suffix.median_s < first.suffix.median_s
    every = profile(str(branched.path), device=device)
    assert joined(every, made, "p").cut("a") == every.cut("a")


def test_joining_keeps_what_was_and_tells_the_drift(bare: Profile, branched: Model, write_plan: WritePlan) -> None:
    later = profile(str(branched.path), cuts=write_plan(), **QUICK)
    made = joined(bare, later, "bare")
    assert made.cuts == later.cuts and made.model == later.model
    assert (made.whole, made.layers, made.measured_at) == (bare.whole, bare.layers, bare.measured_at)
    assert made.notes[: len(bare.notes)] == bare.notes
    drift = later.whole.median_s / bare.whole.median_s - 1
    assert made.notes[-1].startswith(f"timed later, at {later.measured_at}: a, {{c}}; the whole took ")
    assert made.notes[-1].endswith(f"at first ({drift:+.1%})")
    assert made.elapsed_s == bare.elapsed_s + later.elapsed_s
    # What is timed again replaces what was, and nothing else changes.
    other = later.model_copy(update={"cuts": later.cuts[1:]})
    again = joined(made.model_copy(update={"cuts": made.cuts[:1]}), other, "made")
    assert again.cuts == (made.cuts[0], later.cuts[1])
    slow = later.cuts[0].model_copy(update={"prefix": later.whole})
    assert joined(made, later.model_copy(update={"cuts": (slow,)}), "made").cuts == (slow, made.cuts[1])
    lazy = later.model_copy(update={"converged": False})
    assert not joined(bare.model_copy(update={"converged": True}), lazy, "bare").converged


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": "cuda"}, "has the device cuda and this measurement cpu"),
        ({"backend": "torch-cpu"}, "has the backend torch-cpu"),
        ({"precision": "float16"}, "has the precision float16"),
        ({"threads": 2}, "has the threads 2 and this measurement 1"),
        ({"pause_s": 0.005}, "has the pause 0.005 and this measurement 0.0"),
        ({"provenance": "modelled"}, "has the provenance modelled"),
    ],
)
def test_what_was_measured_otherwise_is_refused_at_once(
    bare: Profile, branched: Model, change: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bare.model_copy(update=change).save(tmp_path / "old.profile.json")
    before = path.read_bytes()
    monkeypatch.setattr("edgecut.profiler.run._measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ArtefactError, match=words):
        profile(str(branched.path), add_to=path, output=path, **QUICK)
    with pytest.raises(ArtefactError, match=words):
        joined(bare.model_copy(update=change), bare, "old")
    assert path.read_bytes() == before


def test_other_models_and_processors_are_refused(bare: Profile, profiled: Profile, tmp_path: Path) -> None:
    path = bare.save(tmp_path / "old.profile.json")
    with pytest.raises(ArtefactError, match="is a profile of another model"):
        profile("lenet5", add_to=path, **QUICK)
    elsewhere = bare.environment.model_copy(update={"processor": "Cortex-A57"})
    with pytest.raises(ArtefactError, match="was measured on Cortex-A57"):
        joined(bare.model_copy(update={"environment": elsewhere}), bare, "old")


def test_plans_that_do_not_fit(branched: Model, lenet: Model, write_plan: WritePlan, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"of another model .branched. than lenet5"):
        timed_cuts(lenet, write_plan())
    with pytest.raises(ModelError, match="unknown cut"):
        timed_cuts(branched, write_plan(candidates=("nowhere",)))
    spec = with_cuts(branched.spec, [cut_of(branched.spec, (0, 2))])
    raw = spec.cut("{c}").model_copy(update={"tensors": (spec.input,)})
    forged = spec.model_copy(update={"cuts": (*branched.spec.cuts, raw)})
    with pytest.raises(ModelError, match="profile and plan it again"):
        timed_cuts(branched, write_plan(model=forged))
    path = write_plan()
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "version": Plan.VERSION + 1}))
    with pytest.raises(ArtefactError, match="format version"):
        timed_cuts(branched, path)
    for cuts in ("some", tmp_path / "none.json"):
        with pytest.raises(EdgecutError, match=r"says no cuts to time|there is no file"):
            timed_cuts(branched, cuts)


def test_a_kit_of_a_plans_cuts_and_the_way_back(branched: Model, write_plan: WritePlan, tmp_path: Path) -> None:
    path = write_plan()
    settings = {name: QUICK[name] for name in ("threads", "max_seconds", "pause_s")}
    made = kit(str(branched.path), tmp_path / "carry", cuts=path, memory=True, **settings)
    assert f"--cuts {path} --device NAME" in (made / "README.txt").read_text()
    assert agent(["profile", str(made / "kit")]) == 0
    result = made / "kit" / "result.json"
    there = profile(str(branched.path), device="board", cuts=path, result=result)
    assert [cut.name for cut in there.cuts] == ["a", "{c}"] and all(cut.prefix_memory_bytes for cut in there.cuts)
    with pytest.raises(DeviceError, match="did not measure"):
        profile(str(branched.path), device="board", result=result)
    assert profile(str(branched.path), device="board", result=result, cuts="layers").cuts == ()


def test_the_command_line_adds_in_place(
    bare: Profile, branched: Model, write_plan: WritePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bare.save(tmp_path / "old.profile.json")
    arguments = ["profile", str(branched.path), "--cuts", str(write_plan()), "--add-to", str(path)]
    app([*arguments, "--pause-ms", "0", "--max-seconds", "0.3", "--meter", "none", "--memory"], standalone_mode=False)
    made = Profile.load(path)
    assert [cut.name for cut in made.cuts] == ["a", "{c}"]
    assert all((cut.prefix_memory_bytes or 0) > 1e6 for cut in made.cuts) and (made.whole_memory_bytes or 0) > 1e6
    assert made.threads == 1  # as the earlier one, without saying so
    assert f"wrote {path}" in capsys.readouterr().err
