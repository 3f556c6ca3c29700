"""Zeus' own code over recreated RAPL files and over a driver library that answers as NVML does."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecut.agent.meters import Meter, MeterError
from edgecut.profiler import meters

pytest.importorskip("zeus", reason="the extra energy is not installed")
pynvml = pytest.importorskip("pynvml", reason="the extra energy is not installed")

PACKAGE_RANGE_UJ = 262_143_328_850


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def on_a_clock(meter: Meter) -> Clock:
    clock = Clock()
    meter._clock = clock
    return clock


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZEUSD_SOCK_PATH", "ZEUSD_HOST_PORT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty RAPL folder that Zeus looks into."""
    from zeus.device.cpu import rapl

    folder = tmp_path / "intel-rapl"
    folder.mkdir()
    monkeypatch.setattr(rapl, "RAPL_DIR", str(folder))
    rapl.rapl_is_available.cache_clear()
    yield folder
    rapl.rapl_is_available.cache_clear()


def zone(folder: Path, name: str, joules: float, range_uj: int = PACKAGE_RANGE_UJ) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return draw(folder, joules)


def draw(folder: Path, joules: float) -> Path:
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    return folder


def test_rapl_adds_packages_and_memory_and_not_the_platform(powercap: Path) -> None:
    first = zone(powercap / "intel-rapl:0", "package-0", 1000)
    zone(first / "intel-rapl:0:0", "core", 700)
    memory = zone(first / "intel-rapl:0:1", "dram", 100, 65_712_999_613)
    second = zone(powercap / "intel-rapl:1", "package-1", 2000)
    platform = zone(powercap / "intel-rapl:2", "psys", 5000)
    meter = meters.open_meter("rapl")
    clock = on_a_clock(meter)
    meter.begin()
    clock.now += 2
    for folder, joules in ((first, 1030), (memory, 104), (second, 2020), (platform, 5090)):
        draw(folder, joules)
    reading = meter.end()
    assert reading.energy_j == pytest.approx(30 + 4 + 20)
    assert reading.rails == pytest.approx({"package-0": 30, "dram-0": 4, "package-1": 20, "psys": 90})
    assert reading.window_s == pytest.approx(2)
    assert "package-0 + dram-0 + package-1, all programs" in meter.source and "Zeus 0." in meter.source
    # Zeus' own reading would have started a process for every counter.
    assert multiprocessing.active_children() == []


def test_rapl_wraps_at_the_range_of_each_counter(powercap: Path) -> None:
    package = zone(powercap / "intel-rapl:0", "package-0", 262_140)
    memory = zone(package / "intel-rapl:0:0", "dram", 65_710, 65_712_999_613)
    meter = meters.open_meter("rapl")
    clock = on_a_clock(meter)
    meter.begin()
    clock.now += 1
    draw(package, 40)
    draw(memory, 2)
    assert meter.end().rails == pytest.approx({"package-0": 40 + 3.32885, "dram-0": 2 + 2.999613})


@pytest.mark.parametrize(("text", "word"), [("", "no number"), ("n/a", "no number"), (None, "No such file")])
def test_rapl_at_fault_within_the_window(text: str | None, word: str, powercap: Path) -> None:
    package = zone(powercap / "intel-rapl:0", "package-0", 10)
    meter = meters.open_meter("rapl")
    clock = on_a_clock(meter)
    meter.begin()
    clock.now += 1
    path = package / "energy_uj"
    path.unlink() if text is None else path.write_text(text)
    reading = meter.end()
    assert reading.energy_j is None and word in reading.note


def test_rapl_for_root_alone(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(powercap / "intel-rapl:0", "package-0", 10)
    real = builtins.open

    def guarded(path: Any, *rest: Any, **named: Any) -> Any:
        if os.path.basename(str(path)) == "energy_uj":
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **named)

    monkeypatch.setattr(builtins, "open", guarded)
    with pytest.raises(MeterError, match=r"root alone since kernel 5\.10.*sudo chmod -R a\+r"):
        meters.open_meter("rapl")


def test_rapl_that_is_damaged(powercap: Path) -> None:
    with pytest.raises(MeterError, match="no processor package"):
        meters.open_meter("rapl")
    package = zone(powercap / "intel-rapl:0", "package-0", 10)
    (package / "energy_uj").write_text("broken")
    with pytest.raises(MeterError, match="cannot be read through Zeus"):
        meters.open_meter("rapl")


def test_rapl_that_is_missing(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeus.device.cpu import rapl

    powercap.rmdir()
    monkeypatch.setattr(rapl, "CONTAINER_RAPL_DIR", str(powercap))
    with pytest.raises(MeterError, match="is missing: no RAPL"):
        meters.open_meter("rapl")


class Daemon:
    """What Zeus' daemon answers: microjoules, already unwrapped."""

    cpu_ids = (0,)
    dram_available = (True,)

    def __init__(self, config: object) -> None:
        self.joules = {"cpu_energy_uj": 5e6, "dram_energy_uj": 1e6}

    def get_cpu_energy(self, indices: list[int], cpu: bool, dram: bool) -> dict[int, Any]:
        return {0: types.SimpleNamespace(**self.joules)}


def test_rapl_through_the_daemon_of_zeus(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeus.device.cpu import rapl

    zone(powercap / "intel-rapl:0", "package-0", 10)
    daemon = Daemon(None)
    monkeypatch.setenv("ZEUSD_SOCK_PATH", "/run/zeusd.sock")
    monkeypatch.setattr(rapl, "ZeusdClient", lambda config: daemon)
    monkeypatch.setattr(rapl, "require_capabilities", lambda *_, **__: None)
    meter = meters.open_meter("rapl")
    clock = on_a_clock(meter)
    meter.begin()
    clock.now += 1
    daemon.joules = {"cpu_energy_uj": 25e6, "dram_energy_uj": 4e6}
    assert meter.end().rails == pytest.approx({"package-0": 20, "dram-0": 3})
    daemon.joules = {"cpu_energy_uj": None, "dram_energy_uj": None}
    meter.begin()
    clock.now += 1
    reading = meter.end()
    assert reading.energy_j is None and "daemon" in reading.note


class Nvml:
    """NVML's functions as Zeus calls them, on a clock: the energy counter steps every 0.1 s."""

    def __init__(self, energy: bool = True, power: bool = True, gpus: int = 1) -> None:
        self.clock = Clock()
        self.energy, self.power, self.gpus, self.open, self.offset_j = energy, power, gpus, 0, 40_000.0
        self.watts = 100.0

    def refuse(self, code: int) -> None:
        raise pynvml.NVMLError(code)

    def check(self, supported: bool = True) -> None:
        if not self.open:
            self.refuse(pynvml.NVML_ERROR_UNINITIALIZED)
        if not supported:
            self.refuse(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def total(self, handle: object) -> int:
        self.check(self.energy)
        steps = int((self.clock.now + 1e-9) * 10)
        return round((self.offset_j + steps / 10 * self.watts) * 1e3)

    def field(self, handle: object, fields: list[Any]) -> list[Any]:
        self.check()
        code = pynvml.NVML_SUCCESS if self.power else pynvml.NVML_ERROR_NOT_SUPPORTED
        assert fields == [(pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_POWER_SCOPE_GPU)]
        return [types.SimpleNamespace(nvmlReturn=code, value=types.SimpleNamespace(uiVal=round(self.watts * 1e3)))]

    def opened(self) -> None:
        self.open += 1

    def closed(self) -> None:
        self.open -= 1


def replay(monkeypatch: pytest.MonkeyPatch, nvml: Nvml) -> Nvml:
    functions = {
        "nvmlInit": nvml.opened,
        "nvmlShutdown": nvml.closed,
        "nvmlDeviceGetCount": lambda: nvml.gpus,
        "nvmlDeviceGetHandleByIndex": lambda index: nvml.check() or f"gpu {index}",
        "nvmlDeviceGetC2cModeInfoV": lambda handle: nvml.check(supported=False),
        "nvmlDeviceGetName": lambda handle: nvml.check() or "NVIDIA Test GPU",
        "nvmlSystemGetDriverVersion": lambda: nvml.check() or "570.1",
        "nvmlDeviceGetTotalEnergyConsumption": nvml.total,
        "nvmlDeviceGetFieldValues": nvml.field,
    }
    for name, function in functions.items():
        monkeypatch.setattr(pynvml, name, function)
    return nvml


def test_nvml_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = replay(monkeypatch, Nvml())
    meter = meters.open_meter("nvml")
    meter._clock = nvml.clock
    nvml.clock.now = 60.05
    meter.begin()
    nvml.clock.now = 64.02
    reading = meter.end()
    # 60.0 to 64.0 by the counter's steps, against 3.97 s of the clock.
    assert reading.energy_j == pytest.approx(400)
    assert reading.window_s == pytest.approx(3.97)
    assert reading.energy_j / reading.window_s == pytest.approx(100, rel=0.1 / 3.97)
    assert "NVIDIA Test GPU, driver 570.1" in meter.source and "counter" in meter.source


def test_nvml_windows_shorter_than_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = replay(monkeypatch, Nvml())
    meter = meters.open_meter("nvml")
    meter._clock = nvml.clock
    meter.begin()
    nvml.clock.now += 0.15
    reading = meter.end()
    assert reading.energy_j is None and "too short" in reading.note


def test_nvml_faults_within_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = replay(monkeypatch, Nvml())
    meter = meters.open_meter("nvml")
    meter._clock = nvml.clock
    meter.begin()
    nvml.clock.now += 4
    nvml.offset_j = -5000.0
    assert "reset" in meter.end().note
    meter.begin()
    nvml.clock.now += 4
    nvml.watts, nvml.offset_j = 0.0, nvml.total(None) / 1e3
    meter.begin()
    nvml.clock.now += 4
    reading = meter.end()
    assert reading.energy_j is None and "did not move" in reading.note
    meter.begin()
    nvml.clock.now += 4
    nvml.energy = False
    reading = meter.end()
    assert reading.energy_j is None and "NVML gives no energy" in reading.note


def test_nvml_of_an_older_card_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = replay(monkeypatch, Nvml(energy=False))
    meter = meters.open_meter("nvml")
    assert "NVML power" in meter.source
    meter._clock = nvml.clock
    meter.period_s = 3600.0
    meter.begin()
    for watts in [150.0] * 20:
        nvml.clock.now += 0.2
        nvml.watts = watts
        meter.sample()
    # Half the first step lies between 100 W and 150 W.
    assert meter.end().energy_j == pytest.approx(150 * 4 - 50 * 0.2 / 2)


def test_nvml_on_a_jetson_answers_that_it_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    replay(monkeypatch, Nvml(energy=False, power=False))
    with pytest.raises(MeterError, match=r"neither energy nor power \(.*Not Supported.*ina3221"):
        meters.open_meter("nvml")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("NVML_ERROR_LIBRARY_NOT_FOUND", "no NVIDIA driver"),
        ("NVML_ERROR_DRIVER_NOT_LOADED", "no NVIDIA driver"),
        ("NVML_ERROR_LIB_RM_VERSION_MISMATCH", "mismatch"),
    ],
)
def test_nvml_that_does_not_start(code: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = replay(monkeypatch, Nvml())
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: nvml.refuse(getattr(pynvml, code)))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: nvml.refuse(pynvml.NVML_ERROR_UNINITIALIZED))
    with pytest.raises(MeterError, match=word):
        meters.open_meter("nvml")


def test_nvml_without_a_gpu_or_with_gpus_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    replay(monkeypatch, Nvml(gpus=0))
    with pytest.raises(MeterError, match="finds 0 GPUs"):
        meters.open_meter("nvml")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5a3b")
    with pytest.raises(MeterError, match="by number"):
        meters.open_meter("nvml")


def test_probe_says_one_sentence_a_meter(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay(monkeypatch, Nvml(energy=False, power=False))
    zone(powercap / "intel-rapl:0", "package-0", 10)
    told = {name: (usable, reason) for name, usable, reason in meters.probe()}
    assert set(told) == set(meters.METERS) == {"ina3221", "pmic", "rapl", "nvml"}
    assert told["rapl"][0] and "package-0" in told["rapl"][1]
    assert not told["nvml"][0]
    assert [meter.name for meter in meters.find_meters() if meter.name in ("rapl", "nvml")] == ["rapl"]


def test_without_zeus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(meters, "importlib", types.SimpleNamespace(import_module=missing))
    for name in ("rapl", "nvml"):
        with pytest.raises(MeterError, match=r"pip install 'edgecut\[energy\]'"):
            meters.open_meter(name)


def test_another_root_is_not_answered_with_this_machine(tmp_path: Path) -> None:
    for name in ("rapl", "nvml"):
        with pytest.raises(MeterError, match="running machine"):
            meters.open_meter(name, str(tmp_path))
