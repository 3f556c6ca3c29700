"""Energy of an x86 processor from its RAPL counters, found through Zeus.

A number is what all packages drew, and the memory where the processor counts it, for every program on the machine. It
is the processor's own count, and not that of the socket in the wall. Some laptops also count the whole platform
(`psys`); packages lie inside it, so it is shown and never added.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..agent.meters import MeterError
from ..agent.sensors import Counter, read_number
from .meters import through, zeus

LEAST_WINDOW_S = 0.5
ALLOW = "sudo chmod -R a+r /sys/class/powercap/intel-rapl/"

Count = Callable[[], float]


class Rapl(Counter):
    """The processor's packages and memory."""

    name = "rapl"
    least_window_s = LEAST_WINDOW_S

    def __init__(self, counts: dict[str, Count], ranges_j: dict[str, float]) -> None:
        """`counts` give joules; `ranges_j` has those of the kernel's files, while Zeus' daemon unwraps its own."""
        super().__init__(ranges_j)
        self.summed = tuple(rail for rail in counts if not rail.startswith("psys"))
        self.source = f"RAPL counters {through()}: {' + '.join(self.summed)}, all programs, counted about every 1 ms"
        self._counts = counts

    def read_j(self) -> dict[str, float]:
        return {rail: count() for rail, count in self._counts.items()}


def open_meter(root: str = "/") -> Rapl:
    """The meter, read once. Raises MeterError."""
    rapl = zeus("device.cpu.rapl", root)
    common = zeus("device.cpu.common", root)
    try:
        cpus = rapl.RAPLCPUs().cpus
    except rapl.ZeusRAPLNotSupportedError:
        raise MeterError(f"{rapl.RAPL_DIR} is missing: no RAPL on this processor or in this virtual machine") from None
    except (common.ZeusCPUNoPermissionError, PermissionError):
        raise MeterError(
            f"{rapl.RAPL_DIR}/*/energy_uj is for root alone since kernel 5.10: run as root, or until the next start: "
            f"{ALLOW}"
        ) from None
    except Exception as error:  # Zeus passes on whatever a damaged file or its daemon makes of it
        raise MeterError(f"RAPL cannot be read {through()}: {type(error).__name__}: {error}") from None
    counts: dict[str, Count] = {}
    ranges_j: dict[str, float] = {}
    for cpu in cpus:
        if hasattr(cpu, "rapl_file"):
            _add_files(cpu, counts, ranges_j)
        else:
            _add_daemon(cpu, counts)
    if not counts:
        raise MeterError(f"{rapl.RAPL_DIR} has no processor package")
    meter = Rapl(counts, ranges_j)
    meter.read_j()
    return meter


def _add_files(cpu: Any, counts: dict[str, Count], ranges_j: dict[str, float]) -> None:
    """The kernel's files that Zeus found. Zeus' own read() would start a process to watch for wrapping counters, which
    runs a script again that has no guard of __main__; windows are too short to need it."""
    names = {cpu.rapl_file.name: cpu.rapl_file}
    if cpu.dram is not None:
        names[f"dram-{cpu.cpu_index}"] = cpu.dram
    for name, zone in names.items():
        counts[name] = functools.partial(_joules, zone.energy_uj_path)
        ranges_j[name] = zone.max_energy_range_uj / 1e6


def _joules(path: str) -> float:
    return read_number(path) / 1e6


def _add_daemon(cpu: Any, counts: dict[str, Count]) -> None:
    def read(field: str) -> float:
        try:
            return float(getattr(cpu.get_total_energy_consumption(), field)) / 1e3
        except Exception as error:  # the daemon is another program, reached over a socket
            raise MeterError(f"the Zeus daemon gives no energy: {error}") from None

    counts[f"package-{cpu.cpu_index}"] = lambda: read("cpu_mj")
    if cpu.supports_get_dram_energy_consumption():
        counts[f"dram-{cpu.cpu_index}"] = lambda: read("dram_mj")
