"""Power of an NVIDIA Jetson module from its INA3221 sensors, with the rails that make up the whole on each board.

    L4T 28        /sys/devices/3160000.i2c/i2c-0/0-0041/iio_device/{rail_name_N, in_powerN_input}          mW
    L4T 32        /sys/bus/i2c/drivers/ina3221x/*/iio:device*/{rail_name_N, in_powerN_input}               mW
    JetPack 5, 6  /sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/{inN_label, inN_input, currN_input}          mV, mA

A number is the power of the module: the carrier board and what is plugged into it are not in it. Rail names deceive:
VDD_CPU_GPU_CV is not the processor, and a rail may lie inside another. So a board's sum is written down here, from
NVIDIA's developer guides and device trees as listed by energymon (jetson/JetsonPowerRails.md and energymon-jetson.c).
"""

import glob
import os
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from .meters import MeterError
from .sensors import Sampled, read_number

PERIOD_S = 0.05
LEAST_WINDOW_S = 2.0

OLD = ("sys/bus/i2c/drivers/ina3221x/*/iio:device*", "sys/devices/*.i2c/i2c-*/*-*/iio_device")
HWMON = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"


class Board(NamedTuple):
    """A module: how the device tree names it, the rails that add up to the whole, and those inside these."""

    name: str
    modules: str
    """Regular expression of NVIDIA's part numbers of the module; a carrier's number would say nothing."""
    names: str
    """Regular expression of the model's name, for device trees without a part number."""
    total: Tuple[str, ...]
    parts: Tuple[str, ...]
    """Inside the total: shown, never added."""


BOARDS = (
    Board("Jetson TX2 NX", "p3636", "TX2 NX", ("VDD_IN",), ("VDD_CPU_GPU", "VDD_SOC")),
    Board(
        "Jetson TX2",
        "p3310|p3489",
        "TX2|quill|p2771",
        ("VDD_IN",),
        ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_SYS_CPU", "VDD_SYS_DDR", "VDD_4V0_WIFI"),
    ),
    Board("Jetson Orin Nano or NX", "p3767", "Orin (Nano|NX)", ("VDD_IN",), ("VDD_CPU_GPU_CV", "VDD_SOC")),
    Board("Jetson AGX Orin", "p3701", "AGX Orin", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDDQ_VDD2_1V8AO",)),
    Board("Jetson Xavier NX", "p3668", "Xavier NX", ("VDD_IN",), ("VDD_CPU_GPU_CV", "VDD_SOC")),
    Board(
        "Jetson AGX Xavier", "p2888", "AGX Xavier|Jetson-AGX|p2972", ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), ()
    ),
    Board("Jetson Nano", "p3448", "Jetson Nano|p3450", ("POM_5V_IN",), ("POM_5V_GPU", "POM_5V_CPU")),
)
WHOLE = ("VDD_IN", "POM_5V_IN")
"""Rails whose name says on any board that they feed the whole module."""


class Rail(NamedTuple):
    """The files of one rail: one in milliwatts, or one in millivolts and one in milliamperes."""

    power: Optional[str]
    voltage: str
    current: str

    def read_w(self) -> float:
        """Watts now. Raises MeterError."""
        if self.power is not None:
            return read_number(self.power) / 1e3
        return read_number(self.voltage) * read_number(self.current) / 1e6


class Ina3221(Sampled):
    """The module's power, and that of the rails inside it."""

    name = "ina3221"
    covers = ("processor", "gpu")
    least_window_s = LEAST_WINDOW_S

    def __init__(self, board: str, total: Tuple[str, ...], rails: Dict[str, Rail]) -> None:
        super().__init__(PERIOD_S)
        self.summed = total
        self.source = "INA3221 of {}: {}, read every {:g} s".format(board, " + ".join(total), PERIOD_S)
        self._rails = rails

    def read_w(self) -> Dict[str, float]:
        return {name: rail.read_w() for name, rail in self._rails.items()}


def open_meter(root: str = "/") -> Ina3221:
    """The meter of the board under `root`, read once. Raises MeterError."""
    seen = find_rails(root)
    if not seen:
        raise MeterError(
            "no INA3221 power sensor under {}sys: only NVIDIA Jetson modules have one, the Nano 2GB has none".format(
                os.path.join(root, "")
            )
        )
    board = find_board(root)
    if board is None:
        total = tuple(name for name in WHOLE if name in seen)[:1]
        if not total:
            raise MeterError(
                "the rails of this board are not known to add up to the whole module, so none is summed; "
                "it has {}".format(", ".join(sorted(seen)))
            )
        return _opened("an unknown board", total, (), seen)
    missing = [name for name in board.total if name not in seen]
    if missing:
        raise MeterError(
            "a {} should have the rails {}, but {} is missing; it has {}".format(
                board.name, ", ".join(board.total), ", ".join(missing), ", ".join(sorted(seen))
            )
        )
    return _opened(board.name, board.total, board.parts, seen)


def find_board(root: str = "/") -> Optional[Board]:
    """The Jetson board that the device tree under `root` names, by its module's part number before its model's name."""
    texts = [_strings(os.path.join(root, "proc/device-tree", name)) for name in ("compatible", "model")]
    told = " ".join(text for found in texts for text in found)
    for patterns in ([board.modules for board in BOARDS], [board.names for board in BOARDS]):
        for board, pattern in zip(BOARDS, patterns):
            if re.search(pattern, told):
                return board
    return None


def find_rails(root: str = "/") -> Dict[str, Rail]:
    """Every named rail of every INA3221 under `root`. Numbers of devices change between boots, so names are read."""
    rails = {}  # type: Dict[str, Rail]
    for folder in [folder for pattern in OLD for folder in _folders(root, pattern)]:
        for channel in "012":
            power, voltage, current = [
                os.path.join(folder, "in_{}{}_input".format(kind, channel)) for kind in ("power", "voltage", "current")
            ]
            for name in _strings(os.path.join(folder, "rail_name_" + channel)):
                rails.setdefault(name, Rail(power if os.path.exists(power) else None, voltage, current))
    for folder in _folders(root, HWMON):
        # Channels 1 to 3 only: in4 to in6 are shunts, in7 is a sum of shunts.
        for channel in "123":
            voltage, current = [os.path.join(folder, kind + channel + "_input") for kind in ("in", "curr")]
            for name in _strings(os.path.join(folder, "in{}_label".format(channel))):
                rails.setdefault(name, Rail(None, voltage, current))
    return {name: rail for name, rail in rails.items() if name.upper() != "NC"}


def _opened(board: str, total: Tuple[str, ...], parts: Tuple[str, ...], seen: Dict[str, Rail]) -> Ina3221:
    meter = Ina3221(board, total, {name: seen[name] for name in total + parts if name in seen})
    meter.read_w()
    return meter


def _folders(root: str, pattern: str) -> List[str]:
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)))


def _strings(path: str) -> List[str]:
    """The strings in a file of sysfs or of the device tree, where each ends in a zero byte; none without the file."""
    try:
        with open(path, "rb") as file:
            content = file.read().decode("ascii", "replace")
    except OSError:
        return []
    return [text.strip() for text in content.split("\0") if text.strip()]
