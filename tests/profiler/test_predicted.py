"""Profiles of devices that are not at hand: from a description, from a calibration and what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecut.errors import ArtefactError, DeviceError
from edgecut.models.load import Model
from edgecut.partitioner.choose import plan
from edgecut.profiler.calibrate import Calibration, calibration_of, predict_operations
from edgecut.profiler.calibrated import calibrated_profile
from edgecut.profiler.description import load_device
from edgecut.profiler.layer_table import parse_csv
from edgecut.profiler.predict import predict
from edgecut.profiler.predicted import beside, power_of, predict_profile
from edgecut.profiler.profile import PowerModel, Profile, Timing
from edgecut.profiler.run import profile
from edgecut.reports.words import modelled


def timings(made: Profile) -> list[Timing]:
    return [made.whole, *(getattr(c, w) for c in made.cuts for w in ("prefix", "suffix", "noise", "add"))]


@pytest.mark.parametrize("device", ["jetson-tx2", "tx2:maxq", "titan-xp", "h100:pcie", "raspberry-pi-4"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_described_device(device: str, precision: str, lenet: Model) -> None:
    if (device, precision) == ("raspberry-pi-4", "float16"):
        with pytest.raises(DeviceError, match="has no fp16 figures for the cpu"):
            predict_profile(lenet.spec, device, runtime=None, precision=precision)
        return
    made = predict_profile(lenet.spec, device, runtime=None, precision=precision)
    assert (made.provenance, made.precision, made.threads) == ("modelled", precision, None)
    assert made.device == load_device(device).reference
    assert [cut.name for cut in made.cuts] == [cut.name for cut in lenet.spec.cuts]
    for timing in timings(made):
        assert timing.provenance == "modelled"
        assert (timing.rounds, timing.count, timing.samples_s) == (0, 0, ())
        assert 0 < timing.low_s < timing.median_s < timing.high_s
    energies = [made.whole_energy, *(e for c in made.cuts for e in (c.prefix_energy, c.suffix_energy, c.noise_energy))]
    assert {energy.provenance for energy in energies} == {"modelled"}
    assert all(energy.energy_j and energy.energy_j > 0 for energy in energies)
    assert all(layer.latency_s and layer.latency_s > 0 for layer in made.layers)
    assert any("predicted, not measured" in note for note in made.notes)


def test_the_whole_is_the_prediction_of_all_operations(lenet: Model) -> None:
    work = [operation for layer in lenet.spec.layers for operation in layer.work]
    expected = predict(work, "titan-xp", "pytorch", "fp32", input_elements=1024, output_elements=10)
    made = predict_profile(lenet.spec, "titan-xp", runtime="pytorch", precision="float32")
    assert (made.whole.low_s, made.whole.median_s, made.whole.high_s) == (
        expected.low_s,
        expected.latency_s,
        expected.high_s,
    )
    assert made.whole_energy.energy_j == expected.energy_j


def test_deeper_cuts_leave_more_on_the_edge(lenet: Model) -> None:
    made = predict_profile(lenet.spec, "raspberry-pi-4", runtime=None, precision="float32")
    edge = [cut.prefix.median_s for cut in made.cuts]
    cloud = [cut.suffix.median_s for cut in made.cuts]
    assert edge == sorted(edge) and cloud == sorted(cloud, reverse=True)


def test_noise_scales_with_size_and_clock() -> None:
    (small, _), (large, add) = beside(1000, 1.0), beside(100_000, 1.0)
    assert small.median_s < large.median_s and add.median_s < large.median_s
    assert beside(1000, 2.0)[0].median_s == pytest.approx(2 * small.median_s)


def test_a_plan_says_what_was_predicted(profiled: Profile, lenet: Model) -> None:
    edge = predict_profile(lenet.spec, "tx2", runtime=None, precision="float32")
    made = plan(edge, profiled)
    assert (made.edge.provenance, made.cloud.provenance) == ("modelled", "measured")
    assert modelled(made) == "modelled from parts of which the edge's are predicted"
    assert modelled(plan(edge, edge)) == "modelled from predicted parts"
    assert modelled(plan(profiled, profiled)) == "modelled from measured parts"


def test_bad_names(lenet: Model, tmp_path: Path) -> None:
    for device, message in (
        ("tx3", r"unknown device description 'tx3'.*jetson-tx2.*or give cpu, cuda or ssh://"),
        ("tx2:turbo", r"unknown mode of jetson-tx2 'turbo'.*maxn, maxp-core-all"),
    ):
        with pytest.raises(DeviceError, match=message):
            profile("lenet5", device=device, output=tmp_path / "p.json")
    with pytest.raises(DeviceError, match=r"unknown runtime to predict 'caffe2'.*tensorrt"):
        profile("lenet5", device="tx2", backend="caffe2")
    assert not list(tmp_path.iterdir())


def test_as_a_command(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "edgecut", "profile", "lenet5", "--device", "tx2", "-o", "p.json", "--json"]
    ended = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["provenance"] == "modelled"
    assert Profile.load(tmp_path / "p.json").device == "jetson-tx2:maxn"


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Layers that follow a law: 10 microseconds and 10 GFLOP/s."""
    generator = np.random.default_rng(0)
    lines = ["kind,input_hw,in_channels,out_channels,kernel,stride,latency_ms"]
    for _ in range(60):
        side, taken, made = (int(v) for v in (generator.integers(5, 40), *generator.integers(1, 130, 2)))
        lines.append(f"conv,{side},{taken},{made},5,1,{0.01 + 2 * 25 * side**2 * taken * made / 1e7:.6f}")
        lines.append(f"linear,,{taken},{made},,,{0.01 + 2 * taken * made / 1e7:.6f}")
    return calibration_of(parse_csv("\n".join(lines), "a test"))


def test_a_calibrated_device(calibration: Calibration, lenet: Model) -> None:
    power = PowerModel(idle_w=1.0, max_w=5.0, source="a test")
    made = calibrated_profile(lenet.spec, calibration, power=power)
    whole = predict_operations(calibration, [operation for layer in lenet.spec.layers for operation in layer.work])
    assert made.whole.median_s == whole.latency_s
    assert made.layer_sum_s == pytest.approx(whole.latency_s - calibration.run_s)
    assert made.whole_energy.energy_j == pytest.approx(5.0 * whole.latency_s)
    assert (made.provenance, made.device, made.backend) == ("modelled", "elsewhere", "table")
    assert any("maxpool" in note for note in made.notes)  # nobody measured one
    assert calibrated_profile(lenet.spec, calibration).whole_energy.energy_j is None
    assert plan(made, made).choice in {cut.name for cut in lenet.spec.cuts}


def test_a_calibration_file(calibration: Calibration, profiled: Profile, tmp_path: Path) -> None:
    path = calibration.save(tmp_path / "c.calibration.json")
    assert profile("lenet5", calibration=path).provenance == "modelled"
    with pytest.raises(ArtefactError, match="is a profile file, but a calibration file is needed here"):
        profile("lenet5", calibration=profiled.save(tmp_path / "p.json"))


def test_powers_of_a_described_device() -> None:
    figures = load_device("tx2:maxq").figures
    power = power_of("tx2:maxq")
    assert (power.idle_w, power.max_w, power.provenance) == (figures.idle_w.value, figures.max_w.value, "published")
    made = profile("lenet5", threads=1, max_seconds=0.2, meter="none", power=power)
    assert made.whole_energy.provenance == "modelled" and figures.max_w.source in made.whole_energy.source
    assert made.whole.utilisation is not None
    assert made.whole_energy.energy_j == pytest.approx(made.whole.median_s * power.power_w(made.whole.utilisation))
