"""What a measurement was taken on: processor, clocks, power mode, load, memory, versions. What is unknown is None."""

import glob
import os
import platform
import re
from typing import Any, Dict, Mapping, Optional

import numpy as np

MAX_TEXT = 65536
GROUP_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Where control groups of version 2 and 1 say how much memory this process and its relatives may take, and take.

What they take includes files read once and kept, the last two entries: that is given up when it is needed.
"""
CONSTANT_ZONES = ("PMIC",)
"""Thermal zones whose type begins so always tell the same: a Jetson TX2's PMIC-Die reads 100 degrees, cold or hot."""


def read_environment(versions: Mapping[str, str], root: str = "/") -> Dict[str, Any]:
    """This machine and process, as far as they tell; `versions` are those of the runtime in use."""
    return {
        "processor": _processor(root),
        "processors": processors(),
        "frequency_hz": _frequency(root),
        "governor": _text(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "power_mode": _power_mode(root),
        "temperature_c": _temperature(root),
        "memory_bytes": _memory(root, "MemTotal") or 0,
        "load_1min": os.getloadavg()[0],
        "virtualised": _virtualised(root),
        "system": " ".join([platform.system(), platform.release(), platform.machine()]),
        "python": platform.python_version(),
        "versions": dict(versions, numpy=np.__version__),
    }


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def physical_cores(root: str = "/") -> int:
    """Physical cores, at most as many as this process may use."""
    cores = set()
    for folder in glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/topology")):
        place = os.path.relpath(folder, root)
        package, core = (_text(root, os.path.join(place, name)) for name in ("physical_package_id", "core_id"))
        if core is not None:
            cores.add((package, core))
    return max(1, min(processors(), len(cores) or processors()))


def available_bytes(root: str = "/") -> Optional[int]:
    """Memory that can be had without swapping: what the system says, or what is left of this process's own limit."""
    free = _memory(root, "MemAvailable")
    for limit, used, statistics, kept in GROUP_LIMITS:
        most, now, text = (_text(root, os.path.join("sys/fs/cgroup", name)) for name in (limit, used, statistics))
        if most is not None and now is not None and most.isdigit() and now.isdigit():
            found = re.search(r"^{} (\d+)$".format(kept), text or "", re.MULTILINE)
            left = max(0, int(most) - int(now) + (int(found.group(1)) if found else 0))
            free = left if free is None else min(free, left)
    return free


def _text(root: str, path: str) -> Optional[str]:
    try:
        with open(os.path.join(root, path), errors="replace") as file:
            return file.read(MAX_TEXT).strip("\0 \n") or None
    except OSError:
        return None


def _cpuinfo(root: str, field: str) -> Optional[str]:
    for line in (_text(root, "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return None


def _processor(root: str) -> str:
    board = _text(root, "proc/device-tree/model")
    return board or _cpuinfo(root, "model name") or platform.processor() or platform.machine()


def _frequency(root: str) -> Optional[float]:
    kilohertz = _text(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if kilohertz is not None and kilohertz.isdigit():
        return int(kilohertz) * 1e3
    megahertz = _cpuinfo(root, "cpu MHz")
    return float(megahertz) * 1e6 if megahertz else None


def _power_mode(root: str) -> Optional[str]:
    """A Jetson's nvpmodel, whose status file names the mode by its number."""
    status = _text(root, "var/lib/nvpmodel/status")
    number = re.search(r"pmode:0*(\d+)", status or "")
    if number is None:
        return None
    modes = dict(re.findall(r"<\s*POWER_MODEL ID=(\d+) NAME=(\S+?)\s*>", _text(root, "etc/nvpmodel.conf") or ""))
    return "{} {}".format(number.group(1), modes.get(number.group(1), "")).strip()


def _memory(root: str, field: str) -> Optional[int]:
    match = re.search(r"^{}:\s+(\d+) kB".format(field), _text(root, "proc/meminfo") or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _virtualised(root: str) -> Optional[bool]:
    flags = _cpuinfo(root, "flags")
    return "hypervisor" in flags.split() if flags else None


def _temperature(root: str) -> Optional[float]:
    """The hottest zone in degrees Celsius, of those that say something that can be."""
    values = []
    for path in glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp")):
        place = os.path.relpath(path, root)
        if (_text(root, os.path.join(os.path.dirname(place), "type")) or "").startswith(CONSTANT_ZONES):
            continue
        text = _text(root, place)
        if text is not None and text.lstrip("-").isdigit() and 0 < int(text) < 150000:
            values.append(int(text) / 1000)
    return max(values) if values else None
