"""A real profile of LeNet-5: what is in it, its file, its energy, and the ways it can be damaged or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent.timing import Samples
from edgecut.errors import ArtefactError, DeviceError, EdgecutError, ModelError
from edgecut.models.load import Model
from edgecut.partitioner.plan import Plan
from edgecut.profiler.energy import modelled
from edgecut.profiler.profile import PowerModel, Profile, Timing
from edgecut.profiler.run import profile


def timings(made: Profile) -> dict[str, Timing]:
    named = {
        f"{what} {cut.name}": getattr(cut, what) for cut in made.cuts for what in ("prefix", "suffix", "noise", "add")
    }
    return {"whole": made.whole, **named}


def test_every_cut_is_measured(profiled: Profile, lenet: Model) -> None:
    assert profiled.model == lenet.spec
    assert [cut.name for cut in profiled.cuts] == ["conv1", "conv2", "conv3", "fc1"]
    assert len(timings(profiled)) == 17
    for name, timing in timings(profiled).items():
        assert min(timing.samples_s) > 0, name
        assert 0 < timing.low_s <= timing.median_s <= timing.high_s, name
        assert min(timing.samples_s) <= timing.median_s <= max(timing.samples_s), name
        assert timing.p95_s >= np.percentile(timing.samples_s, 50), name
        assert 0 < len(timing.samples_s) <= min(400, timing.count), name
        assert 0 <= timing.utilisation <= 1, name
    assert len({timing.rounds for timing in timings(profiled).values()}) == 1
    assert profiled.threads == 1


def test_layer_times_explain(profiled: Profile, lenet: Model) -> None:
    names = [layer.name for layer in profiled.layers]
    assert names == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    times = [layer.latency_s for layer in profiled.layers]
    assert all(each is not None and each > 0 for each in times)
    assert profiled.layer_sum_s == pytest.approx(sum(each for each in times if each))
    assert [layer.flops for layer in profiled.layers] == [layer.flops for layer in lenet.spec.layers]
    unseen = tuple(layer.model_copy(update={"latency_s": None}) for layer in profiled.layers)
    assert profiled.model_copy(update={"layers": unseen}).layer_sum_s is None
    assert profiled.model_copy(update={"layers": (*unseen[:4], profiled.layers[4])}).layer_sum_s == times[4]


def test_environment(profiled: Profile) -> None:
    environment = profiled.environment
    assert environment.processor
    assert environment.processors == len(os.sched_getaffinity(0))
    assert environment.memory_bytes == psutil.virtual_memory().total
    assert environment.python == sys.version.split()[0]
    assert environment.system.startswith("Linux ")
    assert environment.load_1min >= 0
    assert {"edgecut", "numpy", "onnx", "onnxruntime"} <= set(environment.versions)
    assert environment.versions["numpy"] == np.__version__
    for value in (environment.temperature_c, environment.frequency_hz):
        assert value is None or value > 0


def test_round_trip(profiled: Profile, tmp_path: Path) -> None:
    path = profiled.save(tmp_path / "deep" / "lenet.profile.json")
    again = Profile.load(path)
    assert again == profiled.model_copy(update={"kind": "profile", "version": 2})
    assert again.to_json() == path.read_text()
    assert list(json.loads(path.read_text()))[:2] == ["kind", "version"]


def test_summary_of_samples() -> None:
    """Median of the rounds' medians, 95th percentile and use of the processors, against NumPy."""
    rounds = [list(row) for row in np.random.default_rng(0).gamma(2, 1e-3, (30, 20))]
    timing = Timing.of(Samples(rounds, cpu_s=3.0, wall_s=2.0), processors=4)
    medians = np.sort(np.median(rounds, axis=1))
    assert timing.median_s == pytest.approx(np.median(medians))
    assert (timing.low_s, timing.high_s) == (medians[9], medians[20])  # the 10th of 30: 2 P(B < 10) = 4.3 %
    assert timing.p95_s == pytest.approx(np.percentile(rounds, 95))
    assert (timing.rounds, timing.count, len(timing.samples_s)) == (30, 600, 400)
    assert timing.utilisation == 3 / 2 / 4
    assert Timing.of(Samples(rounds, 30.0, 2.0), 4).utilisation == 1.0
    assert set(timing.samples_s) <= {round(float(v), 9) for row in rounds for v in row}


def test_modelled_energy_by_hand(profiled: Profile) -> None:
    """The fixture's powers are 2 W idle and 8 W busy."""
    pairs = [(profiled.whole, profiled.whole_energy)]
    for cut in profiled.cuts:
        pairs += [(cut.prefix, cut.prefix_energy), (cut.suffix, cut.suffix_energy), (cut.noise, cut.noise_energy)]
    for timing, energy in pairs:
        assert energy.energy_j == pytest.approx(timing.median_s * (2 + 6 * timing.utilisation), rel=1e-12)
        assert energy.provenance == "modelled"
        assert "a test" in energy.source
    half = profiled.whole.model_copy(update={"median_s": 0.25, "utilisation": 0.5})
    assert modelled(half, PowerModel(idle_w=3, max_w=7, source="")).energy_j == 0.25 * 5


def test_without_powers_energy_is_unavailable() -> None:
    made = profile("lenet5", threads=2, max_seconds=0.2)
    energies = [
        made.whole_energy,
        *(getattr(c, f"{w}_energy") for c in made.cuts for w in ("prefix", "suffix", "noise")),
    ]
    assert {(energy.energy_j, energy.provenance) for energy in energies} == {(None, "unavailable")}
    assert made.power is None
    assert made.threads == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "0 threads cannot be used; give a number from 1 to 1024"),
        ({"threads": -3}, "-3 threads cannot be used"),
        ({"threads": 5000}, "5000 threads cannot be used"),
        ({"device": "gpu"}, r"unknown device.*'gpu'.*jetson-tx2.*cpu, cuda or ssh://user@host"),
        ({"device": "jetson-tx2:turbo"}, "unknown mode of jetson-tx2 'turbo'"),
        ({"backend": "coreml"}, "unknown backend 'coreml'.*known: onnxruntime-cpu"),
        (
            {"backend": "torch-cuda"},
            "torch-cuda does not run on the device cpu; choose one of onnxruntime-cpu, torch-cpu",
        ),
        ({"device": "cuda", "backend": "torch-cpu"}, "torch-cpu does not run on the device cuda; choose one of"),
        ({"precision": "int8"}, "unknown precision 'int8'; known: float16, float32"),
        ({"precision": "float16"}, "in float32; leave the precision out"),
        ({"meter": "wattson"}, "unknown meter 'wattson'.*known: auto, ina3221, none, nvml, pmic, rapl"),
        ({"energy_seconds": 0}, "an energy window of 0 s"),
        ({"energy_seconds": float("nan")}, "an energy window of nan s"),
        ({"max_seconds": 0}, "a time bound of 0 s leaves no time to measure"),
        ({"max_seconds": float("nan")}, "a time bound of nan s"),
        ({"max_seconds": float("inf")}, "a time bound of inf s"),
        ({"pause_s": -1}, "a pause of -1 s cannot be used"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=message):
        profile("lenet5", output=tmp_path / "p.json", **arguments)
    assert not list(tmp_path.iterdir())


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edgecut", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize(
    "arguments",
    [["--threads", "0"], ["--max-seconds", "nan"], ["--power-idle-w", "3"], ["--device", "tpu"]],
    ids=" ".join,
)
def test_command_line_refuses(arguments: list[str], tmp_path: Path) -> None:
    ended = command(tmp_path, "profile", "lenet5", *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("edgecut: ")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_damaged_files(profiled: Profile, planned: Plan, tmp_path: Path) -> None:
    good = profiled.save(tmp_path / "good.profile.json").read_text()
    half = tmp_path / "half.profile.json"
    for size in (0, 1, len(good) // 2, len(good) - 3):
        half.write_text(good[:size])
        with pytest.raises(ArtefactError, match=r"half\.profile\.json is not a usable profile file \(.*write it again"):
            Profile.load(half)
    half.unlink()
    planned.save(half)
    with pytest.raises(ArtefactError, match=r"half\.profile\.json is a plan file, but a profile file is needed here"):
        Profile.load(half)
    ended = command(tmp_path, "plan", str(half), "good.profile.json", "-o", "plan.json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"edgecut: {half} is a plan file, but a profile file is needed here\n"
    assert not (tmp_path / "plan.json").exists()


def test_unknown_cut_names_the_known(profiled: Profile) -> None:
    with pytest.raises(ModelError, match=r"'conv7'.*known: conv1, conv2, conv3, fc1"):
        profiled.cut("conv7")


def fixed_batch(path: Path, batch: int = 1) -> str:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in "xy"]
    nodes = [helper.make_node("MatMul", pair, [out]) for pair, out in ((["x", "w"], "a"), (["a", "w"], "y"))]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, path)
    return str(path)


def test_models_that_cannot_be_measured(tmp_path: Path) -> None:
    """Sound files that fit nothing: a sentence, not the runtime's traceback."""
    with pytest.raises(EdgecutError, match="a batch of 3, and a profile is of batch 1; export it with a dynamic batch"):
        profile(fixed_batch(tmp_path / "three.onnx", 3), threads=1, max_seconds=0.1)


def test_a_fixed_batch_of_one_is_measured(tmp_path: Path) -> None:
    made = profile(fixed_batch(tmp_path / "one.onnx"), threads=1, max_seconds=0.1)
    assert made.model.batch == 1
    assert len(made.cuts) == 1 and made.cuts[0].prefix.median_s > 0


def agents() -> list[psutil.Process]:
    """The agents this process has started; the other tests' servers are its children, too."""
    return [child for child in psutil.Process().children() if "edgecut.profiler.worker" in child.cmdline()]


def test_progress_and_a_process_of_its_own(tmp_path: Path) -> None:
    """The agent is a child of this process, and gone afterwards."""
    told: list[tuple[str, float]] = []
    children: set[int] = set()

    def progress(what: str, share: float) -> None:
        told.append((what, share))
        children.update(child.pid for child in agents())

    profile("lenet5", threads=1, max_seconds=0.3, progress=progress)
    assert all(0 <= share <= 1 for _, share in told)
    assert {"splitting at conv1", "opening whole", "measuring, cuts in turns", "layer times"} <= {w for w, _ in told}
    assert children and not [pid for pid in children if psutil.pid_exists(pid)]


def test_the_agent_is_killed(tmp_path: Path) -> None:
    """As the kernel does when memory runs out: the earlier file stays, and no temporary one does."""
    (tmp_path / "p.json").write_bytes(b"an earlier one")

    def kill(what: str, share: float) -> None:
        if what.startswith("measuring, cuts"):
            for child in agents():
                child.kill()

    with pytest.raises(DeviceError, match="this machine: the agent was killed, most likely as memory ran out"):
        profile("lenet5", threads=1, max_seconds=60, progress=kill, output=tmp_path / "p.json")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("p.json", b"an earlier one")]


def test_notes_of_a_busy_machine(profiled: Profile) -> None:
    load, processors = profiled.environment.load_1min, profiled.environment.processors
    assert load is not None and processors
    assert any("the machine was busy" in note for note in profiled.notes) == (load > 0.5 * processors)
