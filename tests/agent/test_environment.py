"""What a machine says of itself: recreated trees of /proc and /sys, and this machine against psutil."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgecut.agent import environment
from edgecut.agent.environment import available_bytes, physical_cores, processors, read_environment

MEMINFO = "MemTotal:        {total} kB\nMemFree:          100 kB\nMemAvailable:    {free} kB\nBuffers: 1 kB\n"
TX2_MODES = """
# FV: this is a comment
< PARAM TYPE=CLOCK NAME=CPU_DENVER_0 >
FREQ_TABLE /sys/devices/system/cpu/cpu1/cpufreq/scaling_available_frequencies

< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_1 1
< POWER_MODEL ID=1 NAME=MAXQ >
< POWER_MODEL ID=2 NAME=MAXP_CORE_ALL >
< POWER_MODEL ID=3 NAME=MAXP_CORE_ARM >
< PM_CONFIG DEFAULT=3 >
"""


def plant(root: Path, **files: str) -> str:
    """Files by path, with `__` for `/`."""
    return plant_at(root, {name.replace("__", "/"): text for name, text in files.items()})


def plant_at(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def zones(**temperatures: int | str) -> dict[str, str]:
    files = {}
    for number, (kind, value) in enumerate(temperatures.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        files |= {f"{folder}/type": kind.replace("_", "-") + "\n", f"{folder}/temp": f"{value}\n"}
    return files


def topology(cores: list[tuple[int, int]]) -> dict[str, str]:
    files = {}
    for number, (package, core) in enumerate(cores):
        folder = f"sys/devices/system/cpu/cpu{number}/topology"
        files |= {f"{folder}/physical_package_id": f"{package}\n", f"{folder}/core_id": f"{core}\n"}
    return files


@pytest.fixture
def tx2(tmp_path: Path) -> str:
    """L4T 32 in mode MAXP_CORE_ARM: the Denver cluster off, the PMIC's zone at its constant 100 degrees."""
    cpuinfo = "processor\t: 0\nmodel name\t: ARMv8 Processor rev 3 (v8l)\nFeatures\t: fp asimd evtstrm\n"
    return plant_at(
        tmp_path,
        {
            "proc/device-tree/model": "quill\0",
            "proc/cpuinfo": cpuinfo * 4,
            "proc/meminfo": MEMINFO.format(total=8040600, free=6100000),
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1267200\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
            "var/lib/nvpmodel/status": "pmode:0003 fmode:quiet",
            "etc/nvpmodel.conf": TX2_MODES,
            **zones(BCPU_therm=41500, MCPU_therm=41500, GPU_therm=39000, PMIC_Die=100000, thermal_fan_est=40700),
            **topology([(0, 0), (0, 1), (0, 2), (0, 3)]),
        },
    )


def test_jetson_tx2(tx2: str) -> None:
    made = read_environment({"onnxruntime": "1.10.0"}, tx2)
    assert made["processor"] == "quill"
    assert made["frequency_hz"] == 1267.2e6
    assert made["governor"] == "schedutil"
    assert made["power_mode"] == "3 MAXP_CORE_ARM"
    assert made["temperature_c"] == 41.5
    assert made["memory_bytes"] == 8040600 * 1024
    assert made["virtualised"] is None  # ARM has no flag for it
    assert made["versions"] == {"onnxruntime": "1.10.0", "numpy": np.__version__}
    assert available_bytes(tx2) == 6100000 * 1024


@pytest.mark.parametrize(
    ("status", "mode"),
    [
        ("pmode:0000 fmode:quiet", "0 MAXN"),
        ("pmode:0001", "1 MAXQ"),
        ("pmode:0007 fmode:cool", "7"),  # a mode that the file does not name
        ("fmode:quiet", None),
        ("", None),
    ],
)
def test_power_modes(status: str, mode: str | None, tx2: str) -> None:
    Path(tx2, "var/lib/nvpmodel/status").write_text(status)
    assert read_environment({}, tx2)["power_mode"] == mode


def test_power_mode_without_its_names(tx2: str) -> None:
    os.remove(Path(tx2, "etc/nvpmodel.conf"))
    assert read_environment({}, tx2)["power_mode"] == "3"


def test_raspberry_pi(tmp_path: Path) -> None:
    root = plant_at(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t: Raspberry Pi 4 Model B\n",
            "proc/meminfo": MEMINFO.format(total=3884000, free=3300000),
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            **zones(cpu_thermal=48199),
        },
    )
    made = read_environment({}, root)
    assert (made["processor"], made["governor"]) == ("Raspberry Pi 4 Model B Rev 1.4", "ondemand")
    assert (made["frequency_hz"], made["temperature_c"]) == (600e6, 48.199)
    assert made["power_mode"] is None and made["virtualised"] is None


def test_a_virtual_server(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\nmodel name\t: A processor @ 2.70GHz\ncpu MHz\t\t: 2700.123\nflags\t\t: fpu {}lm\n"
    root = plant(tmp_path, proc__cpuinfo=cpuinfo.format("hypervisor "))
    made = read_environment({}, root)
    assert made["processor"] == "A processor @ 2.70GHz"
    assert made["frequency_hz"] == pytest.approx(2700.123e6)
    assert made["virtualised"] is True
    plant(tmp_path, proc__cpuinfo=cpuinfo.format(""))
    assert read_environment({}, root)["virtualised"] is False


def test_nothing_at_all(tmp_path: Path) -> None:
    made = read_environment({}, str(tmp_path))
    assert made["processor"] in (platform.processor(), platform.machine())
    unknown = ("frequency_hz", "governor", "power_mode", "temperature_c", "virtualised")
    assert {made[name] for name in unknown} == {None}
    assert made["memory_bytes"] == 0
    assert available_bytes(str(tmp_path)) is None
    assert physical_cores(str(tmp_path)) == processors()


def test_garbage(tmp_path: Path) -> None:
    """Files of other content than expected are unknown, never a traceback."""
    names = [
        "proc/meminfo",
        "var/lib/nvpmodel/status",
        "etc/nvpmodel.conf",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "sys/class/thermal/thermal_zone0/temp",
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory.current",
    ]
    root = plant_at(tmp_path, dict.fromkeys(names, ""))
    for name in names:
        (tmp_path / name).write_bytes(b"\xff\xfe garbage\0")
    plant(tmp_path, proc__cpuinfo="cpu MHz\t: \nmodel name\n")
    made = read_environment({}, root)
    assert made["frequency_hz"] is None and made["temperature_c"] is None and made["power_mode"] is None
    assert available_bytes(root) is None


@pytest.mark.parametrize(("said", "celsius"), [("0", None), ("-40000", None), ("999999", None), ("45000", 45.0)])
def test_temperatures_that_cannot_be(said: str, celsius: float | None, tmp_path: Path) -> None:
    root = plant_at(tmp_path, zones(acpitz=said))
    assert read_environment({}, root)["temperature_c"] == celsius


GB = 1024**3
LIMITS = {
    "version 2": ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    "version 1": (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize("version", LIMITS)
def test_limits_of_a_container(version: str, tmp_path: Path) -> None:
    limit, used, statistics, kept = (LIMITS[version][i] for i in range(4))
    root = plant(tmp_path, proc__meminfo=MEMINFO.format(total=16 * GB // 1024, free=12 * GB // 1024))

    def left(**values: str) -> int | None:
        plant_at(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in values.items()})
        return available_bytes(root)

    assert (
        left(**{limit: "max\n" if version == "version 2" else "9223372036854771712\n", used: f"{3 * GB}\n"}) == 12 * GB
    )
    assert left(**{limit: f"{4 * GB}\n"}) == 1 * GB
    # Files read once and kept, such as a kit just copied, are given up when memory is needed.
    assert left(**{statistics: f"anon 5\n{kept} {2 * GB}\nworkingset 7\n"}) == 3 * GB
    assert left(**{statistics: "anon 5\n"}) == 1 * GB
    assert left(**{used: f"{5 * GB}\n"}) == 0
    assert left(**{limit: f"{64 * GB}\n", used: f"{GB}\n"}) == 12 * GB
    (tmp_path / "proc" / "meminfo").unlink()
    assert available_bytes(root) == 63 * GB


def test_physical_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant_at(tmp_path, topology([(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0)]))
    monkeypatch.setattr(environment, "processors", lambda: 6)
    assert physical_cores(root) == 3
    monkeypatch.setattr(environment, "processors", lambda: 2)
    assert physical_cores(root) == 2


def test_this_machine_against_psutil() -> None:
    made = read_environment({})
    assert made["processors"] == processors() == len(psutil.Process().cpu_affinity() or [])
    assert made["memory_bytes"] == psutil.virtual_memory().total
    assert 1 <= physical_cores() <= processors()
    physical = psutil.cpu_count(logical=False)
    if physical is not None:
        assert physical_cores() == min(physical, processors())
    assert made["python"] == platform.python_version()
    assert made["system"] == f"Linux {platform.release()} {platform.machine()}"
    assert made["load_1min"] >= 0
    free = available_bytes()
    assert free is not None and 0 < free <= psutil.virtual_memory().available * 1.5
    assert set(made) == {
        "processor",
        "processors",
        "frequency_hz",
        "governor",
        "power_mode",
        "temperature_c",
        "memory_bytes",
        "load_1min",
        "virtualised",
        "system",
        "python",
        "versions",
    }
