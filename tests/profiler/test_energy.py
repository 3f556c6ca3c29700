"""Joules of a profile: measured where a meter read them, else modelled, else unavailable, and never 0."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgecut.agent import main as agent_main
from edgecut.agent import profile as agent_profile
from edgecut.agent.kit import Kit
from edgecut.agent.meters import Meter, MeterError, Reading
from edgecut.agent.timing import Samples
from edgecut.models.load import Model
from edgecut.profiler.assemble import assemble
from edgecut.profiler.backends import BACKENDS
from edgecut.profiler.energy import energy, modelled
from edgecut.profiler.kit import KitSettings, write_kit
from edgecut.profiler.profile import PowerModel, Profile, Timing
from edgecut.profiler.result import MeterSaid, Spent, read_result

POWER = PowerModel(idle_w=2.0, max_w=8.0, source="a data sheet")
TIMING = Timing.of(Samples([[0.25]] * 6, cpu_s=1.5, wall_s=1.5), processors=2)
METER = MeterSaid(name="m", source="a rail", idle_w=3.0, idle_window_s=2.0, note="")
NO_METER = MeterSaid(name=None, source="no meter that can be read here", idle_w=None, idle_window_s=0, note="")
SPENT = Spent(energy_j=0.75, above_idle_j=0.5, runs=8, window_s=2.0, note="")


def test_what_a_meter_read_is_measured() -> None:
    for power in (None, POWER):  # a model never replaces a measurement
        made = energy(TIMING, SPENT, METER, power)
        assert (made.energy_j, made.above_idle_j, made.provenance) == (0.75, 0.5, "measured")
        assert made.source == "a rail: 8 runs in 2 s, idle 3 W included"
    unknown = METER.model_copy(update={"idle_w": None})
    made = energy(TIMING, SPENT.model_copy(update={"above_idle_j": None}), unknown, None)
    assert made.above_idle_j is None
    assert made.source.endswith("idle power included")


def test_what_a_meter_could_not_read_is_modelled_or_unavailable() -> None:
    failed = Spent(energy_j=None, above_idle_j=None, runs=3, window_s=1.0, note="the sensor is off")
    made = energy(TIMING, failed, METER, POWER)
    assert (made.energy_j, made.provenance) == (pytest.approx(0.25 * (2 + 6 * 0.5)), "modelled")
    assert made.above_idle_j is None and "a data sheet" in made.source
    made = energy(TIMING, failed, METER, None)
    assert (made.energy_j, made.provenance) == (None, "unavailable")
    assert made.source == "the sensor is off, and no --power-idle-w and --power-max-w given"


def test_without_a_meter() -> None:
    assert energy(TIMING, None, NO_METER, POWER) == modelled(TIMING, POWER)
    made = energy(TIMING, None, NO_METER, None)
    assert (made.energy_j, made.provenance) == (None, "unavailable")
    assert made.source.startswith("no meter that can be read here, and no --power-idle-w")


def test_a_model_needs_a_utilisation() -> None:
    """A GPU's is not known, so nothing can be modelled from the processor's."""
    unknown = TIMING.model_copy(update={"utilisation": None})
    for made in (modelled(unknown, POWER), energy(unknown, None, NO_METER, POWER)):
        assert (made.energy_j, made.provenance) == (None, "unavailable")
        assert made.source.startswith("the device's utilisation was not measured")


class FakeMeter(Meter):
    """5 W while the process sleeps in a window, 20 W else; told by the time it slept."""

    name = "fake"
    source = "a test's rail"
    least_window_s = 0.01
    summed = ("all",)
    idle_readings = 1
    """How many windows at the beginning can be read; the first is idle."""
    fault = ""

    def __init__(self) -> None:
        self.windows, self.closed = 0, False

    def begin(self) -> None:
        self.start = time.perf_counter()

    def end(self) -> Reading:
        self.windows += 1
        window_s = time.perf_counter() - self.start
        watts = 5.0 if self.windows == 1 else 20.0
        fault = self.fault if self.windows > 1 else ("" if self.idle_readings else "somebody else was busy")
        return self.reading({"all": watts * window_s}, window_s, 9, fault)

    def close(self) -> None:
        self.closed = True


OPENED: list[FakeMeter] = []


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """One fake meter that works and one that does not, as modules."""
    for name in ("fake_meter", "broken_meter"):
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)

    def open_fake(root: str) -> Meter:
        OPENED.append(FakeMeter())
        return OPENED[-1]

    def open_broken(root: str) -> Meter:
        raise MeterError("the broken meter is not here; plug it in")

    monkeypatch.setattr(sys.modules["fake_meter"], "open_meter", open_fake, raising=False)
    monkeypatch.setattr(sys.modules["broken_meter"], "open_meter", open_broken, raising=False)
    monkeypatch.setattr(agent_profile, "IDLE_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGTERM)
    OPENED.clear()
    yield {"broken": "broken_meter", "fake": "fake_meter"}
    signal.signal(signal.SIGTERM, before)


def profiled(lenet: Model, folder: Path, meters: dict[str, str], meter: str, power: PowerModel | None) -> Profile:
    """As a worker does it, in this process."""
    settings = KitSettings("onnxruntime-cpu", 1, "float32", 0.0, 0.1, 0.5, 1.0, meter, 0.02)
    write_kit(lenet, folder, settings, progress=lambda *_: None)
    assert agent_main.main(["profile", str(folder)], BACKENDS, meters) == 0
    taken = read_result(json.loads((folder / "result.json").read_text()), "cpu")
    return assemble(lenet.spec, lenet.graph, "cpu", taken, power=power)


@pytest.mark.parametrize("meter", ["auto", "fake"])
def test_a_meter_through_to_the_profile(meter: str, lenet: Model, tmp_path: Path, meters: dict[str, str]) -> None:
    made = profiled(lenet, tmp_path, meters, meter, POWER)
    assert made.meter == "a test's rail"
    assert made.power is not None and made.power.provenance == "measured"
    assert made.power.idle_w == pytest.approx(5.0) and made.power.max_w == pytest.approx(20.0)
    assert made.power.source.startswith("a test's rail; idle over ")
    energies = [made.whole_energy]
    for cut in made.cuts:
        energies += [cut.prefix_energy, cut.suffix_energy, cut.noise_energy]
    for each in energies:
        assert each.provenance == "measured" and each.source.startswith("a test's rail: ")
        assert each.energy_j is not None and each.above_idle_j is not None
        assert each.above_idle_j == pytest.approx(each.energy_j * 15 / 20)  # 5 of 20 W are idle power
    assert len(OPENED) == 1 and OPENED[0].closed
    assert OPENED[0].windows == 1 + len({cut.elements for cut in made.model.cuts}) + 1 + 2 * len(made.cuts)
    assert not any("idle power" in note for note in made.notes)
    assert Profile.load(made.save(tmp_path / "p.json")).whole_energy == made.whole_energy


def test_idle_power_that_cannot_be_told(
    lenet: Model, tmp_path: Path, meters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMeter, "idle_readings", 0)
    made = profiled(lenet, tmp_path, meters, "auto", POWER)
    assert "idle power: somebody else was busy" in made.notes
    assert made.power == POWER
    assert made.whole_energy.provenance == "measured" and made.whole_energy.above_idle_j is None


def test_a_meter_that_fails_while_measuring(
    lenet: Model, tmp_path: Path, meters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMeter, "fault", "the sensor went away")
    made = profiled(lenet, tmp_path, meters, "auto", None)
    assert (made.whole_energy.energy_j, made.whole_energy.provenance) == (None, "unavailable")
    assert made.whole_energy.source.startswith("the sensor went away, and no --power-idle-w")
    assert made.power is None


def test_no_meter_asked_for_or_none_there(
    lenet: Model, tmp_path: Path, meters: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    made = profiled(lenet, tmp_path, meters, "none", POWER)
    assert made.meter is None and OPENED == []
    assert made.whole_energy.provenance == "modelled" and made.power == POWER
    capsys.readouterr()
    assert agent_main.main(["profile", str(tmp_path)], BACKENDS, {}) == 0  # still the kit without a meter
    values = json.loads((tmp_path / "kit.json").read_text())
    values["settings"]["meter"] = "broken"
    (tmp_path / "kit.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert agent_main.main(["profile", str(tmp_path)], BACKENDS, meters) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"error": "the broken meter is not here; plug it in"}


def test_a_meter_that_does_not_see_the_work_is_passed_over(
    lenet: Model,
    tmp_path: Path,
    meters: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A GPU's meter beside work of the processor would measure an idle card and call it the work's energy."""
    monkeypatch.setattr(FakeMeter, "covers", ("gpu",))
    made = profiled(lenet, tmp_path, meters, "auto", None)
    assert made.meter is None and made.whole_energy.energy_j is None
    assert made.whole_energy.source.startswith("no meter of the processor that can be read here, and no --power-idle")
    assert [meter.closed for meter in OPENED] == [True]
    capsys.readouterr()
    settings = KitSettings("onnxruntime-cpu", 1, pause_s=0.0, max_seconds=0.1, meter="fake")
    kit = tmp_path / "chosen"
    kit.mkdir()
    write_kit(lenet, kit, settings, progress=lambda *_: None)
    assert agent_main.main(["profile", str(kit)], BACKENDS, meters) == 2
    assert "the meter fake does not see the processor, where onnxruntime-cpu runs" in capsys.readouterr().out
    assert [meter.closed for meter in OPENED] == [True, True]


def test_a_whole_board_before_a_chip(meters: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    card, board, host = FakeMeter(), FakeMeter(), FakeMeter()
    card.covers, board.covers = ("gpu",), ("processor", "gpu")
    monkeypatch.setattr(agent_profile, "find_meters", lambda known: [card, host, board])
    assert agent_profile._meter("auto", "onnxruntime-cuda", meters) == (board, "")
    assert [card.closed, host.closed, board.closed] == [True, True, False]


def test_noise_is_not_measured_by_a_meter_of_the_gpu() -> None:
    unseen = energy(TIMING, None, METER, None)
    assert (unseen.energy_j, unseen.provenance) == (None, "unavailable")
    assert unseen.source.startswith(f"not seen by the meter ({METER.source}), and no --power-idle-w")
    run: list[str] = []
    tasks = {name: (lambda name=name: run.append(name)) for name in ("whole", "noise:8", "add:8")}
    card = FakeMeter()
    card.covers = ("gpu",)
    idle = agent_profile.Idle(5.0, 1.0, "")
    kit = Kit("", "m", "d", (), (), {"energy_seconds": 0.001})
    assert set(agent_profile._energy(tasks, set(), card, idle, kit, lambda *_: None)) == {"whole"}
    assert set(run) == {"whole"}
