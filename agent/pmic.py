"""Power of a Raspberry Pi 5 from its power management chip, through `vcgencmd pmic_read_adc`.

A number is the sum of volts times amperes over the rails that the chip feeds. What the chip itself loses in converting
5 V, and what the 5 V input feeds directly (USB, fan, HATs), is not in it: the socket gives more. The input has a
voltage but no current here. Every reading starts a program, so readings are few.
"""

import os
import re
import subprocess
from typing import Dict

from .meters import MeterError
from .sensors import Sampled

PERIOD_S = 0.2
LEAST_WINDOW_S = 4.0
COMMAND = ("vcgencmd", "pmic_read_adc")
LINE = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)([AV])")


class Pmic(Sampled):
    """Watts of every rail that the power management chip measures."""

    name = "pmic"
    least_window_s = LEAST_WINDOW_S

    def __init__(self) -> None:
        super().__init__(PERIOD_S)
        self.summed = tuple(sorted(self.read_w()))
        self.source = (
            "Raspberry Pi 5 power management chip: {} rails, by vcgencmd every {:g} s; "
            "losses before it and what 5 V feeds directly are not in it".format(len(self.summed), PERIOD_S)
        )

    def read_w(self) -> Dict[str, float]:
        try:
            done = subprocess.run(
                COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=2.0
            )
        except FileNotFoundError:
            raise MeterError("vcgencmd is not installed: sudo apt install raspi-utils") from None
        except (OSError, subprocess.SubprocessError) as error:
            raise MeterError("vcgencmd pmic_read_adc failed: {}".format(error)) from None
        if done.returncode:
            raise MeterError(
                "vcgencmd pmic_read_adc ended with {}: '{}'; a user must be in the group video: "
                "sudo usermod -aG video USER".format(done.returncode, done.stdout.strip()[:80])
            )
        return parse(done.stdout)


def open_meter(root: str = "/") -> Pmic:
    """The meter, read once. Raises MeterError where the device tree under `root` names no Raspberry Pi 5."""
    try:
        with open(os.path.join(root, "proc/device-tree/model"), "rb") as file:
            model = file.read().decode("ascii", "replace").strip("\0 \n")
    except OSError:
        model = ""
    if not re.match(r"Raspberry Pi (5|500|Compute Module 5)\b", model):
        raise MeterError("not a Raspberry Pi 5, the first with a power management chip that measures currents")
    return Pmic()


def parse(text: str) -> Dict[str, float]:
    """Watts of each rail with volts and amperes. Raises MeterError where a line or a rail's voltage is missing."""
    values = {"A": {}, "V": {}}  # type: Dict[str, Dict[str, float]]
    for line in filter(None, map(str.strip, text.splitlines())):
        found = LINE.fullmatch(line)
        if found is None or found.group(2) != found.group(4):
            raise MeterError("vcgencmd pmic_read_adc says '{}', which is no reading".format(line[:60]))
        values[found.group(2)][found.group(1)] = float(found.group(3))
    bare = sorted(set(values["A"]) - set(values["V"]))
    if bare or not values["A"]:
        raise MeterError(
            "vcgencmd pmic_read_adc gives no {}".format("volts of " + ", ".join(bare) if bare else "amperes")
        )
    return {rail: amperes * values["V"][rail] for rail, amperes in values["A"].items()}
