"""How sensors become joules: watts read again and again and integrated, or a counter read twice and subtracted."""

import math
import random
import threading
import time
from typing import Dict, List, Mapping, Tuple

import numpy as np

from .meters import Clock, Meter, MeterError, Reading


class Sampled(Meter):
    """Base of power sensors: a thread reads watts about every `period_s`, and end() integrates by the trapezoid rule.

    The first and the last instant of the window are sampled too. A single failed reading voids the window.
    """

    def __init__(self, period_s: float, clock: Clock = time.perf_counter) -> None:
        self.period_s = period_s
        self._clock = clock
        self._samples = []  # type: List[Tuple[float, Dict[str, float]]]
        self._fault = ""
        self._stop = threading.Event()
        self._thread = threading.Thread()  # not started, so there is nothing to wait for

    def read_w(self) -> Dict[str, float]:
        """Watts of every rail now. Raises MeterError."""
        raise NotImplementedError

    def sample(self) -> None:
        """Take one reading; the thread does this on its own, and tests do it by hand."""
        if self._fault:
            return
        samples = self._samples  # a reading that hangs belongs to its own window, not to the next
        try:
            before = self._clock()
            watts = self.read_w()
            instant = (before + self._clock()) / 2
            lost = set(samples[0][1]) ^ set(watts) if samples else set()
            if lost:
                raise MeterError("rails came or went within the window: {}".format(", ".join(sorted(lost))))
            samples.append((instant, watts))
        except Exception as error:  # a thread has nobody to raise to, and end() tells
            self._fault = str(error) or type(error).__name__

    def begin(self) -> None:
        self.close()
        self._samples, self._fault = [], ""
        self._stop = threading.Event()
        self.sample()
        self._thread = threading.Thread(target=self._keep_sampling, args=(self._stop,), daemon=True)
        self._thread.start()

    def end(self) -> Reading:
        self.close()
        self.sample()
        samples, fault = self._samples, self._fault
        window_s = samples[-1][0] - samples[0][0] if samples else 0.0
        gap_s = float(np.diff([instant for instant, _ in samples]).max()) if len(samples) > 1 else 0.0
        # Readings at both ends alone are those of a machine at rest: they would miss the task itself.
        if not fault and gap_s > window_s / 4:
            fault = "no reading for {:.3g} s of a window of {:.3g} s: the task kept the sampling from running".format(
                gap_s, window_s
            )
        return self.reading({} if fault else integrate(samples), window_s, len(samples), fault)

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
            if self._thread.is_alive():
                self._fault = self._fault or "the sensor did not answer for 5 s"

    def _keep_sampling(self, stop: threading.Event) -> None:
        # Uneven waits: an even beat could always meet the same moment of a task that repeats.
        while not stop.wait(self.period_s * random.uniform(0.5, 1.5)):
            self.sample()


class Counter(Meter):
    """Base of energy counters: joules after, less joules before, with a counter that wrapped put right."""

    most_w = 1000.0
    """No rail draws more. So a longer window may pass a counter's range unnoticed, and a larger step is a reset."""

    def __init__(self, ranges_j: Mapping[str, float], clock: Clock = time.perf_counter) -> None:
        """`ranges_j`: joules at which a counter starts again at 0, for the rails where that is known."""
        self._ranges_j = dict(ranges_j)
        self._clock = clock
        self._before = {}  # type: Dict[str, float]
        self._began_s = 0.0
        self._fault = ""

    def read_j(self) -> Dict[str, float]:
        """Joules on every rail's counter now. Raises MeterError."""
        raise NotImplementedError

    def begin(self) -> None:
        self._fault = ""
        self._before = self._read()
        self._began_s = self._clock()

    def end(self) -> Reading:
        window_s = self._clock() - self._began_s
        after = self._read()
        if not self._fault and set(after) != set(self._before):
            self._fault = "counters came or went within the window"
        rails = {}  # type: Dict[str, float]
        if not self._fault and window_s >= self.least_window_s:
            try:
                rails = {rail: self._moved(rail, after[rail], window_s) for rail in after}
            except MeterError as error:
                self._fault = str(error)
        return self.reading(rails, window_s, 2, self._fault)

    def _moved(self, rail: str, after_j: float, window_s: float) -> float:
        moved_j, range_j = after_j - self._before[rail], self._ranges_j.get(rail)
        if range_j is not None and window_s * self.most_w >= range_j:
            raise MeterError(
                "the counter of {} may pass its range of {:.0f} J unnoticed in {:.3g} s: take a shorter window".format(
                    rail, range_j, window_s
                )
            )
        if moved_j < 0 and range_j is not None:
            moved_j += range_j
        if moved_j < 0 or moved_j > self.most_w * window_s:
            raise MeterError(
                "the counter of {} jumped within the window: it was reset, or the driver restarted".format(rail)
            )
        return moved_j

    def _read(self) -> Dict[str, float]:
        try:
            return self.read_j()
        except MeterError as error:
            self._fault = self._fault or str(error)
            return {}


def integrate(samples: List[Tuple[float, Dict[str, float]]]) -> Dict[str, float]:
    """Joules of every rail from (instant in seconds, watts per rail), by the trapezoid rule."""
    seconds = np.diff([instant for instant, _ in samples])
    joules = {}
    for rail in samples[0][1]:
        watts = np.array([reading[rail] for _, reading in samples])
        joules[rail] = float(np.sum(seconds * (watts[1:] + watts[:-1]) / 2))
    return joules


def read_number(path: str) -> float:
    """The one number in a file of sysfs. Raises MeterError, with the remedy where reading is forbidden."""
    try:
        with open(path) as file:
            text = file.read().strip()
    except PermissionError:
        raise MeterError(
            "cannot read {0}: permission denied; run as root, or once: sudo chmod a+r {0}".format(path)
        ) from None
    except (OSError, ValueError) as error:
        raise MeterError("cannot read {}: {}".format(path, getattr(error, "strerror", None) or error)) from None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MeterError("{} says {!r}, which is no number".format(path, text[:40]))
    return value
