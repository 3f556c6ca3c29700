"""Reading what a measurement was taken on: processor, clocks, load, memory and versions. What is unknown is None."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

from .profile import Environment

PACKAGES = ("edgecut", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "grpcio")


def read_environment() -> Environment:
    """This machine and process, as far as they tell."""
    frequency = psutil.cpu_freq()
    return Environment(
        processor=_processor(),
        processors=len(os.sched_getaffinity(0)),
        frequency_hz=frequency.current * 1e6 if frequency and frequency.current else None,
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        temperature_c=_temperature(),
        memory_bytes=psutil.virtual_memory().total,
        load_1min=os.getloadavg()[0],
        virtualised=_virtualised(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in PACKAGES if (version := _version(name))},
    )


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def _cpuinfo(field: str) -> str | None:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return None


def _processor() -> str:
    return _cpuinfo("model name") or _text("/proc/device-tree/model") or platform.processor() or platform.machine()


def _virtualised() -> bool | None:
    flags = _cpuinfo("flags")
    return "hypervisor" in flags.split() if flags else None


def _temperature() -> float | None:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    values = [entry.current for entries in sensors.values() for entry in entries if entry.current]
    return max(values) if values else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
