"""Joules of a task, from a device's own meters: one small protocol, a window around repeated runs, one file a meter.

    idle    meter.begin()  sleep                meter.end()     watts while this process does nothing
    task    meter.begin()  run run run ... run  meter.end()     joules of all runs / number of runs

A number is everything that the meter's rails drew between begin() and end(), other programs and idle power included;
`above_idle_j` takes the idle power off. Sensors are slow and noisy, so one run is never metered alone: runs are
repeated back to back over seconds. None means that nothing can be said, and the note says why; it never becomes 0 J.

A meter's module has `open_meter(root) -> Meter`; it raises MeterError, one sentence with what to do, where the meter
cannot be used. `root` is the folder that /sys and /proc are looked for in.
"""

import importlib
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

METERS = {"ina3221": ".ina3221", "pmic": ".pmic"}
"""Names of the agent's own meters and the modules of this package they live in."""

Clock = Callable[[], float]


class MeterError(Exception):
    """A meter is not here or cannot be read; the message is one sentence for a person."""


class Reading(NamedTuple):
    """Joules of one window, None where nothing can be said; `rails` has the parts, also those not summed."""

    energy_j: Optional[float]
    window_s: float
    readings: int
    note: str
    rails: Dict[str, float]


class Meter:
    """Joules between begin() and end(). Only `summed` rails add up to the energy; other rails are shown beside it."""

    name = ""
    source = ""
    """For a person: which rails or counters, through what, how often."""
    least_window_s = 0.0
    """Shorter windows say nothing, and read None."""
    summed = ()  # type: Tuple[str, ...]
    covers = ("processor",)  # type: Tuple[str, ...]
    """What of the device it sees: `processor`, `gpu`, or both. Work elsewhere is not in its joules."""

    def begin(self) -> None:
        """Open a window. A fault is kept for end() to tell."""
        raise NotImplementedError

    def end(self) -> Reading:
        """Close the window. Never raises for a sensor at fault: the reading is None and says why."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the meter holds."""

    def reading(self, rails: Dict[str, float], window_s: float, readings: int, fault: str) -> Reading:
        """What end() returns for joules per rail: None where there is a fault, the window is short or nothing moved."""
        if not fault and window_s < self.least_window_s:
            fault = "a window of {:.3g} s is too short for {}, which needs {:.3g} s".format(
                window_s, self.name, self.least_window_s
            )
        if fault:
            return Reading(None, window_s, readings, fault, {})
        energy_j = sum(rails[rail] for rail in self.summed)
        if not energy_j > 0:
            fault = "{} summed up to {:.3g} J in {:.3g} s, so the sensor is off or its counter did not move".format(
                self.name, energy_j, window_s
            )
            return Reading(None, window_s, readings, fault, {})
        return Reading(energy_j, window_s, readings, "", rails)


class Idle(NamedTuple):
    """Mean watts while this process slept; None with a note where nothing can be said."""

    power_w: Optional[float]
    window_s: float
    note: str


class PerRun(NamedTuple):
    """Joules of one run: `energy_j` with idle power in it, `above_idle_j` without, as measured, even below 0."""

    energy_j: Optional[float]
    above_idle_j: Optional[float]
    runs: int
    window_s: float
    note: str


def idle_power(meter: Meter, seconds: float, sleep: Callable[[float], Any] = time.sleep) -> Idle:
    """Mean power over at least the meter's shortest window while this process sleeps, but others may not."""
    meter.begin()
    try:
        # A little longer, so that a clock's rounding makes no window too short.
        sleep(1.01 * max(seconds, meter.least_window_s))
    finally:
        reading = meter.end()
    if reading.energy_j is None:
        return Idle(None, reading.window_s, reading.note)
    return Idle(reading.energy_j / reading.window_s, reading.window_s, "")


def per_run(
    meter: Meter,
    task: Callable[[], Any],
    seconds: float,
    idle_w: Optional[float] = None,
    clock: Clock = time.perf_counter,
) -> PerRun:
    """Joules of one run of `task`, which ends when its work is done, repeated back to back over one window.

    The window is at least `seconds` and at least what the meter needs. One run before it is not counted.
    """
    task()
    least_s, runs = max(seconds, meter.least_window_s), 0
    meter.begin()
    try:
        start = clock()
        while not runs or clock() - start < least_s:
            task()
            runs += 1
    finally:
        reading = meter.end()
    if reading.energy_j is None:
        return PerRun(None, None, runs, reading.window_s, reading.note)
    if idle_w is None:
        return PerRun(reading.energy_j / runs, None, runs, reading.window_s, "idle power is not known")
    above_j = (reading.energy_j - idle_w * reading.window_s) / runs
    note = "" if above_j >= 0 else "drew less than at idle: the difference is below what the meter can tell"
    return PerRun(reading.energy_j / runs, above_j, runs, reading.window_s, note)


def open_meter(name: str, root: str = "/", known: Mapping[str, str] = METERS) -> Meter:
    """A meter by name. Raises MeterError where it is unknown or cannot be used here."""
    if name not in known:
        raise MeterError("unknown meter '{}'; known: {}".format(name, ", ".join(sorted(known))))
    meter = importlib.import_module(known[name], __package__).open_meter(root)  # type: Meter
    return meter


def find_meters(root: str = "/", known: Mapping[str, str] = METERS) -> List[Meter]:
    """Every meter that can be used here."""
    return [found for found, _ in _try_all(root, known).values() if found is not None]


def probe(root: str = "/", known: Mapping[str, str] = METERS) -> List[Tuple[str, bool, str]]:
    """(name, usable, its source or one sentence why not and what to do) of every known meter."""
    lines = []
    for name, (found, reason) in _try_all(root, known).items():
        lines.append((name, found is not None, reason))
        if found is not None:
            found.close()
    return lines


def _try_all(root: str, known: Mapping[str, str]) -> Dict[str, Tuple[Optional[Meter], str]]:
    tried = {}  # type: Dict[str, Tuple[Optional[Meter], str]]
    for name in known:
        try:
            meter = open_meter(name, root, known)
            tried[name] = (meter, meter.source)
        except MeterError as error:
            tried[name] = (None, str(error))
    return tried
