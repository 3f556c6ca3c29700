"""Energy of an NVIDIA GPU from the driver (NVML), through Zeus.

A number is what the whole card drew, memory included and the host not, for every program on it. GPUs since Volta count
joules; the count steps about every 0.1 s. Older ones (Titan Xp) give power only, which is sampled. Sensors look
at part of the time only on many cards (arXiv 2312.02741), so short windows say little.
"""

from __future__ import annotations

from typing import Any

from ..agent.meters import MeterError
from ..agent.sensors import Counter, Sampled
from .meters import through, zeus

LEAST_WINDOW_S = 2.0
PERIOD_S = 0.05


class NvmlCounter(Counter):
    """The energy counter of one GPU."""

    name = "nvml"
    covers = ("gpu",)
    least_window_s = LEAST_WINDOW_S
    summed = ("gpu",)
    most_w = 5000.0

    def __init__(self, gpu: Any, card: str, driver: Any) -> None:
        super().__init__({})
        self.source = f"NVML energy counter {through()}: {card}, whole card, steps about every 0.1 s"
        self._gpu = gpu
        self._driver = driver  # Zeus shuts NVML down with its last reference

    def read_j(self) -> dict[str, float]:
        try:
            return {"gpu": self._gpu.get_total_energy_consumption() / 1e3}
        except Exception as error:  # the driver may go away at any time
            raise MeterError(f"NVML gives no energy: {error}") from None


class NvmlPower(Sampled):
    """The power reading of one GPU without an energy counter."""

    name = "nvml"
    covers = ("gpu",)
    least_window_s = LEAST_WINDOW_S
    summed = ("gpu",)

    def __init__(self, gpu: Any, card: str, driver: Any) -> None:
        super().__init__(PERIOD_S)
        self.source = f"NVML power {through()}: {card}, whole card, read every {PERIOD_S:g} s"
        self._gpu = gpu
        self._driver = driver  # Zeus shuts NVML down with its last reference

    def read_w(self) -> dict[str, float]:
        try:
            return {"gpu": self._gpu.get_instant_power_usage() / 1e3}
        except Exception as error:  # the driver may go away at any time
            raise MeterError(f"NVML gives no power: {error}") from None


def open_meter(root: str = "/", index: int = 0) -> NvmlCounter | NvmlPower:
    """The meter of one of the GPUs that CUDA_VISIBLE_DEVICES leaves, read once. Raises MeterError."""
    nvidia = zeus("device.gpu.nvidia", root)
    common = zeus("device.gpu.common", root)
    try:
        driver = nvidia.NVIDIAGPUs()
        if index >= len(driver):
            raise MeterError(f"NVML finds {len(driver)} GPUs here, so none has the index {index}")
        gpu = driver.gpus[index]
        card = f"{gpu.get_name()}, driver {nvidia.pynvml.nvmlSystemGetDriverVersion()}"
    except MeterError:
        raise
    except (common.ZeusGPULibraryNotFoundError, common.ZeusGPUDriverNotLoadedError):
        raise MeterError("no NVIDIA driver is loaded here") from None
    except ValueError:
        raise MeterError("CUDA_VISIBLE_DEVICES must list GPUs by number for NVML, not by name") from None
    except Exception as error:  # Zeus and the driver have errors of many kinds; each is a reason
        raise MeterError(f"NVML cannot be used: {type(error).__name__}: {error}") from None
    for kind in (NvmlCounter, NvmlPower):
        meter = kind(gpu, card, driver)
        try:
            meter.read_j() if isinstance(meter, NvmlCounter) else meter.read_w()
            return meter
        except MeterError as error:
            refused = str(error)  # the error itself would keep NVML open
    raise MeterError(
        f"{card}: the driver offers neither energy nor power ({refused}); on a Jetson use the meter ina3221"
    )
