"""The choice against brute force over random profiles, the baselines, and what cannot be planned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecut.errors import ArtefactError, EdgecutError, LinkError, ModelError
from edgecut.partitioner.choose import plan
from edgecut.partitioner.link import PRESETS
from edgecut.partitioner.plan import Plan
from edgecut.partitioner.serving import SERVING
from edgecut.profiler.energy import modelled
from edgecut.profiler.profile import PowerModel, Profile, Timing

SECONDS = st.floats(1e-6, 0.5)
TIMES = st.lists(SECONDS, min_size=17, max_size=17)


def with_times(profile: Profile, times: list[float], power: PowerModel | None) -> Profile:
    """The profile with other medians: the whole, then prefix, suffix, noise and add of every cut."""
    left = iter(times)

    def timed(timing: Timing) -> Timing:
        return timing.model_copy(update={"median_s": next(left), "utilisation": 0.5})

    whole = timed(profile.whole)
    cuts = []
    for cut in profile.cuts:
        parts = {part: timed(getattr(cut, part)) for part in ("prefix", "suffix", "noise", "add")}
        energies = {f"{part}_energy": modelled(parts[part], power) for part in ("prefix", "suffix", "noise")}
        cuts.append(cut.model_copy(update={**parts, **energies}))
    update = {"whole": whole, "whole_energy": modelled(whole, power), "cuts": tuple(cuts), "power": power}
    return profile.model_copy(update=update)


def brute_force(edge: Profile, cloud: Profile, link: str, slow: float, load: float) -> dict[str, tuple[float, float]]:
    """Seconds and joules after every cut, written out again from DESIGN section 5."""
    rates, watts = PRESETS[link], edge.power
    assert watts and rates.radio_tx_w and rates.radio_rx_w
    found = {}
    for mine, theirs, spec in zip(edge.cuts, cloud.cuts, edge.model.cuts, strict=True):
        sent = 4 * sum(tensor.elements for tensor in spec.tensors) + SERVING.request_framing_bytes
        got = 40 + SERVING.answer_framing_bytes
        up, down = 8 * sent / rates.uplink_bps, 8 * got / rates.downlink_bps
        request = SERVING.fixed_s + SERVING.session_s + SERVING.per_byte_s * (sent + got)
        wait = rates.rtt_s + up + down + request + load * theirs.suffix.median_s
        noise, prefix = slow * mine.noise.median_s, slow * mine.prefix.median_s
        half_use = (watts.idle_w + watts.max_w) / 2
        energy = half_use * (noise + prefix) + rates.radio_tx_w * up + rates.radio_rx_w * down
        energy += watts.idle_w * max(0.0, wait - noise)
        found[spec.name] = (prefix + slow * mine.add.median_s + max(wait, noise), energy)
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edge_times=TIMES,
    cloud_times=TIMES,
    link=st.sampled_from(sorted(PRESETS)),
    slow=st.floats(1, 50),
    load=st.floats(1, 50),
    idle=st.floats(0.1, 5),
)
def test_choice_is_the_brute_force_minimum(
    profiled: Profile,
    edge_times: list[float],
    cloud_times: list[float],
    link: str,
    slow: float,
    load: float,
    idle: float,
) -> None:
    edge = with_times(profiled, edge_times, PowerModel(idle_w=idle, max_w=3 * idle, source="a test"))
    cloud = with_times(profiled, cloud_times, None)
    expected = brute_force(edge, cloud, link, slow, load)
    for number, objective in enumerate(("latency", "energy")):
        made = plan(edge, cloud, link=link, objective=objective, edge_slowdown=slow, cloud_load=load)
        for row in made.cuts:
            assert (row.total_s, row.energy_j) == pytest.approx(expected[row.name], rel=1e-9)
        least = min(costs[number] for costs in expected.values())
        assert expected[made.choice][number] == pytest.approx(least, rel=1e-9)
        assert made.cut.tensors
        assert all(tensor.name != made.model.input.name for tensor in made.cut.tensors)
        assert made.chosen.role == "split"
        faster = [row.name for row in made.baselines if row.total_s < made.chosen.total_s]
        if objective == "latency" and faster:
            assert f"; {' and '.join(faster)} would be faster." in made.reason
        if objective == "latency" and not faster:
            assert made.reason.endswith("; it beats them all.")


def test_reason_speaks_of_its_objective(profiled: Profile) -> None:
    """The energy plan's sentence compares joules: a split may be slower than a baseline and yet need less."""
    edge = with_times(profiled, [0.001] * 17, PowerModel(idle_w=1, max_w=3, source="a test"))
    made = plan(edge, edge, link="wifi", objective="energy")
    cheapest = min(made.cuts, key=lambda row: row.energy_j or 0)
    assert made.choice == cheapest.name
    assert f"{(cheapest.energy_j or 0) * 1e3:.2f} mJ" in made.reason
    less = [row.name for row in made.baselines if (row.energy_j or 0) < (cheapest.energy_j or 0)]
    assert "edge-only" in less
    assert f"; {' and '.join(less)} would need less." in made.reason


def test_slow_down_and_load_scale(profiled: Profile) -> None:
    one, many = plan(profiled, profiled), plan(profiled, profiled, edge_slowdown=7, cloud_load=3)
    for before, after in zip((*one.cuts, *one.baselines), (*many.cuts, *many.baselines), strict=True):
        for field in ("edge_s", "noise_s", "add_s", "edge_j"):
            assert getattr(after, field) == pytest.approx(7 * getattr(before, field))
        assert after.cloud_s == pytest.approx(3 * before.cloud_s)
        assert (after.uplink_s, after.request_s, after.radio_j) == (before.uplink_s, before.request_s, before.radio_j)


def test_baselines_and_their_absence(profiled: Profile) -> None:
    made = plan(profiled, profiled, jpeg_bytes=777)
    assert {row.name: row.payload_bytes for row in made.baselines} == {
        "edge-only": 0,
        "cloud-only float32": 4096,
        "cloud-only uint8": 1024,
        "cloud-only JPEG": 777,
    }
    assert made.missing_baselines == ()
    assert all(row.edge_s == 0 and row.edge_j == 0 for row in made.baselines[1:])
    assert all(row.cloud_s == profiled.whole.median_s for row in made.baselines[1:])
    digits = plan(profiled, profiled)
    assert digits.missing_baselines == ("cloud-only JPEG: the model's inputs are no photographs",)
    pixels = profiled.model.pixels
    assert pixels is not None
    photos = model_with(profiled, pixels=pixels.model_copy(update={"photograph": True}))
    assert "give the mean size of an input as JPEG (--jpeg-bytes)" in plan(photos, photos).missing_baselines[0]
    bare = model_with(profiled, pixels=None)
    assert [text.split(":")[0] for text in plan(bare, bare).missing_baselines] == [
        "cloud-only uint8",
        "cloud-only JPEG",
    ]
    assert [row.name for row in plan(bare, bare).baselines] == ["edge-only", "cloud-only float32"]


def model_with(profile: Profile, **changes: Any) -> Profile:
    return profile.model_copy(update={"model": profile.model.model_copy(update=changes)})


def test_energy_needs_powers(profiled: Profile) -> None:
    without = with_times(profiled, [0.01] * 17, None)
    assert all(row.energy_j is None for row in plan(without, profiled).cuts)
    with pytest.raises(EdgecutError, match=r"energy cannot be minimised .* --power-idle-w and --power-max-w"):
        plan(without, profiled, objective="energy")
    silent = PRESETS["wifi"].model_copy(update={"radio_tx_w": None})
    with pytest.raises(EdgecutError, match="unavailable in the edge profile or the link"):
        plan(profiled, profiled, objective="energy", link=silent)


def test_what_cannot_be_planned(profiled: Profile, tmp_path: Path) -> None:
    other = model_with(profiled, digest="sha256:" + "1" * 64, name="other")
    with pytest.raises(
        ArtefactError, match=r"edge profile is of other \(1{12}\), the cloud profile of lenet5 .*same model"
    ):
        plan(other, profiled)
    with pytest.raises(ArtefactError, match="no cut in common; profile both sides with the same --any-cut"):
        plan(
            profiled.model_copy(update={"cuts": profiled.cuts[:2]}),
            profiled.model_copy(update={"cuts": profiled.cuts[2:]}),
        )
    for changes, error, message in [
        ({"link": "5g"}, LinkError, "unknown link '5g'; known: 3g, lte, wifi"),
        ({"objective": "speed"}, EdgecutError, "unknown objective 'speed'; known: edp, energy, latency, weighted"),
        ({"edge_slowdown": 0.5}, EdgecutError, "factors of at least 1"),
        ({"cloud_load": 0}, EdgecutError, "factors of at least 1"),
        ({"edge_slowdown": float("nan")}, EdgecutError, "factors of at least 1"),
        ({"cloud_load": float("inf")}, EdgecutError, "factors of at least 1"),
        ({"jpeg_bytes": 0}, EdgecutError, "an input of 0 bytes as JPEG cannot be"),
    ]:
        with pytest.raises(error, match=message):
            plan(profiled, profiled, output=tmp_path / "p.json", **changes)
    assert not list(tmp_path.iterdir())


def test_common_cuts_are_planned(profiled: Profile) -> None:
    fewer = profiled.model_copy(update={"cuts": profiled.cuts[1:3]})
    for edge, cloud in ((fewer, profiled), (profiled, fewer)):
        timed = [row.name for row in plan(edge, cloud).cuts if row.basis == "sub-models"]
        assert timed == ["conv2", "conv3"]
    alone = profiled.model_copy(update={"cuts": profiled.cuts[:1]})
    assert "against" not in plan(alone, profiled).reason


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edgecut", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder)


def test_same_file_on_both_sides_and_round_trip(profiled: Profile, tmp_path: Path) -> None:
    profiled.save(tmp_path / "p.json")
    ended = command(tmp_path, "plan", "p.json", "p.json", "--link", "lte", "-o", "lenet.plan.json", "--json")
    assert (ended.returncode, ended.stderr) == (0, "wrote lenet.plan.json\n")
    made = Plan.load(tmp_path / "lenet.plan.json")
    expected = plan(profiled, profiled, link="lte")
    assert made == expected.model_copy(update={"kind": "plan", "version": 2})
    assert json.loads(ended.stdout)["choice"] == made.choice
    for arguments in (
        ["--edge-slowdown", "inf"],
        ["--link", "wfi"],
        ["--link", "p.json"],
        ["-o", "p.json/x/plan.json"],
    ):
        ended = command(tmp_path, "plan", "p.json", "p.json", *arguments)
        assert (ended.returncode, ended.stderr[:9], ended.stderr.count("\n")) == (2, "edgecut: ", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lenet.plan.json", "p.json"]


def test_plan_with_a_cut_its_model_lacks(planned: Plan, tmp_path: Path) -> None:
    path = planned.save(tmp_path / "edited.plan.json")
    path.write_text(path.read_text().replace('"choice": "conv3"', '"choice": "conv8"'))
    edited = Plan.load(path)
    with pytest.raises(ModelError, match=r"unknown cut of model lenet5 'conv8'.*known: conv1, conv2, conv3, fc1$"):
        _ = edited.cut
    with pytest.raises(ModelError, match=r"unknown cut of the plan 'conv8'.*cloud-only float32.*conv1"):
        _ = edited.chosen
    ended = command(tmp_path, "learn", str(path), "--model", "lenet5", "-o", "n.noise.npz")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "known: conv1, conv2, conv3, fc1" in ended.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["edited.plan.json"]


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (("cuts", 1, "layers"), [0, 99], "cut conv2 has a layer that is none of the model's 5"),
        (("cuts", 1, "layers"), [-1, 0], "not places in ascending order"),
        (("cuts", 1, "layers"), [0, 3], "needs one in the cloud"),
        (("cuts", 1, "depth"), -1, "says -1 layers"),
        (("cuts", 1, "name"), "conv1", "two cuts have the same name"),
        (("cuts", 1, "tensors"), [], "sends no tensors"),
        (("cuts", 1, "tensors", 0, "shape"), [10**30], "of a size that can be"),
        (("graph", "values", 1, "consumers"), [99], "between layers that are none, or backwards"),
        (("graph", "values", 1, "tensor", "shape"), [-1], "has a size that cannot be"),
        (("graph", "last"), [7], "pins a layer that is none"),
    ],
)
def test_a_profile_whose_model_contradicts_itself(
    profiled: Profile, place: tuple[str | int, ...], value: object, fault: str
) -> None:
    text = json.loads(profiled.to_json())
    inner = text["model"]
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(ArtefactError, match=f"here is not a usable profile file .*{fault}"):
        Profile.from_json(json.dumps(text), where="here")


@pytest.mark.parametrize("seconds", [-1, 1e308])
def test_a_profile_with_times_that_cannot_be(profiled: Profile, seconds: float) -> None:
    text = json.loads(profiled.to_json())
    text["cuts"][0]["prefix"]["median_s"] = seconds
    with pytest.raises(ArtefactError, match=r"cuts.0.prefix.median_s"):
        Profile.from_json(json.dumps(text), where="here")
    text["cuts"] = 2 * json.loads(profiled.to_json())["cuts"]
    with pytest.raises(ArtefactError, match="measured twice"):
        Profile.from_json(json.dumps(text), where="here")
