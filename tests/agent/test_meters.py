"""Windows of energy on a clock that the tests turn: integration, counters that wrap, joules of one run, refusals."""

from __future__ import annotations

import builtins
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecut.agent import meters
from edgecut.agent.meters import Meter, MeterError, Reading, idle_power, open_meter, per_run
from edgecut.agent.sensors import Counter, Sampled, integrate, read_number


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Waveform(Sampled):
    """Rails whose watts are functions of the time."""

    name = "waveform"
    summed = ("a", "b")

    def __init__(self, clock: Callable[[], float], period_s: float = 3600.0, **watts: Callable[[float], float]) -> None:
        super().__init__(period_s, clock)
        self.watts = watts

    def read_w(self) -> dict[str, float]:
        return {rail: power(self._clock()) for rail, power in self.watts.items()}


class Count(Counter):
    """A counter that the tests set."""

    name = "count"
    summed = ("a",)

    def __init__(self, clock: Clock, **ranges_j: float) -> None:
        super().__init__(ranges_j, clock)
        self.joules: dict[str, float] = {"a": 0.0}

    def read_j(self) -> dict[str, float]:
        return dict(self.joules)


def sampled(meter: Waveform, clock: Clock, steps: list[float]) -> Reading:
    meter.begin()
    for step in steps[:-1]:
        clock.sleep(step)
        meter.sample()
    clock.sleep(steps[-1])
    return meter.end()


@given(st.lists(st.floats(0.05, 0.1), min_size=12, max_size=40), st.floats(0, 20), st.floats(0.1, 20))
def test_ramps_integrate_exactly_whatever_the_instants(steps: list[float], start_w: float, slope: float) -> None:
    clock = Clock()
    meter = Waveform(clock, a=lambda t: start_w + slope * (t - 100), b=lambda t: 1.0, shown=lambda t: 50.0)
    reading = sampled(meter, clock, steps)
    seconds = clock.now - 100
    # The area of a trapezium and of a rectangle; what is only shown is not in it.
    assert reading.energy_j == pytest.approx(start_w * seconds + slope * seconds**2 / 2 + seconds)
    assert reading.window_s == pytest.approx(seconds)
    assert reading.rails["shown"] == pytest.approx(50 * seconds)
    assert reading.readings == len(steps) + 1 and reading.note == ""


def test_a_sine_integrates_to_its_closed_form() -> None:
    clock = Clock()
    meter = Waveform(clock, a=lambda t: 5 + 3 * math.sin(t - 100), b=lambda t: 0.0)
    reading = sampled(meter, clock, [0.01] * 700)
    assert reading.energy_j == pytest.approx(5 * 7 + 3 * (1 - math.cos(7)), rel=1e-4)


def test_integrate_by_hand() -> None:
    assert integrate([(0.0, {"a": 2.0}), (1.0, {"a": 4.0}), (4.0, {"a": 0.0})]) == {"a": 3.0 + 6.0}


def test_the_thread_samples_on_its_own_and_stops() -> None:
    meter = Waveform(time.perf_counter, 0.002, a=lambda t: 3.0, b=lambda t: 4.0)
    before = threading.active_count()
    meter.begin()
    deadline = time.monotonic() + 60
    while len(meter._samples) < 30 and time.monotonic() < deadline:
        time.sleep(0.005)
    meter.close()
    window = meter._samples[-1][0] - meter._samples[0][0]
    # Constant power has the same energy at whatever instants it is read.
    assert integrate(meter._samples) == pytest.approx({"a": 3 * window, "b": 4 * window})
    assert len(meter._samples) >= 30
    assert threading.active_count() == before


def test_a_second_window_knows_nothing_of_the_first() -> None:
    clock = Clock()
    meter = Waveform(clock, a=lambda t: 2.0, b=lambda t: 0.0)
    first = sampled(meter, clock, [0.1] * 10)
    clock.sleep(1000)
    second = sampled(meter, clock, [0.1] * 20)
    assert (first.energy_j, second.energy_j) == (pytest.approx(2.0), pytest.approx(4.0))


def nothing(reading: Reading, *words: str) -> None:
    """The reading says nothing, and why."""
    assert reading.energy_j is None
    assert reading.rails == {}
    for word in words:
        assert word in reading.note


def test_a_failing_rail_voids_the_window() -> None:
    clock = Clock()

    def dies(now: float) -> float:
        if now > 100.55:
            raise MeterError("rail b is gone")
        return 1.0

    nothing(sampled(Waveform(clock, a=lambda t: 1.0, b=dies), clock, [0.1] * 10), "rail b is gone")


def test_any_other_fault_of_a_sensor_is_a_note_too() -> None:
    clock = Clock()
    nothing(sampled(Waveform(clock, a=lambda t: 1.0, b=lambda t: 1 / 0), clock, [0.1] * 10), "division by zero")


def test_a_rail_that_vanishes_quietly_voids_the_window() -> None:
    clock = Clock()
    meter = Waveform(clock, a=lambda t: 1.0, b=lambda t: 1.0)
    meter.begin()
    clock.sleep(0.1)
    del meter.watts["b"]
    nothing(meter.end(), "came or went", "b")


def test_a_sensor_that_recovers_serves_the_next_window() -> None:
    clock = Clock()
    meter = Waveform(clock, a=lambda t: 1.0, b=lambda t: 1 / 0)
    assert sampled(meter, clock, [0.1] * 10).energy_j is None
    meter.watts["b"] = lambda t: 0.0
    assert sampled(meter, clock, [0.1] * 10).energy_j == pytest.approx(1.0)


def test_readings_at_the_ends_alone_say_nothing() -> None:
    clock = Clock()
    nothing(sampled(Waveform(clock, a=lambda t: 1.0, b=lambda t: 1.0), clock, [5.0]), "kept the sampling")


def test_a_sensor_that_is_off_is_not_zero_joules() -> None:
    clock = Clock()
    nothing(sampled(Waveform(clock, a=lambda t: 0.0, b=lambda t: 0.0), clock, [0.1] * 10), "off")


def test_a_sensor_that_hangs_does_not_hang_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    release, entered = threading.Event(), threading.Event()
    clock = Clock()
    meter = Waveform(clock, 0.001, a=lambda t: 1.0, b=lambda t: 1.0)
    meter.begin()

    def hang(now: float) -> float:
        entered.set()
        assert release.wait(60)
        return 1.0

    meter.watts["b"] = hang
    assert entered.wait(60)
    # The patience of five seconds, without spending it.
    monkeypatch.setattr(meter._thread, "join", lambda timeout: None)
    nothing(meter.end(), "did not answer")
    release.set()


def test_a_window_too_short_for_the_sensor() -> None:
    clock = Clock()
    meter = Waveform(clock, a=lambda t: 1.0, b=lambda t: 1.0)
    meter.least_window_s = 2.0
    nothing(sampled(meter, clock, [0.1] * 10), "too short", "waveform", "2 s")
    count = Count(clock)
    count.least_window_s = 2.0
    nothing(counted(count, clock, 5.0, 1.0), "too short", "count", "2 s")


def counted(meter: Count, clock: Clock, after_j: float, seconds: float = 1.0) -> Reading:
    meter.begin()
    clock.sleep(seconds)
    meter.joules = {**meter.joules, "a": after_j}
    return meter.end()


@given(st.floats(0, 65_000), st.floats(1.0, 900))
def test_a_counter_wraps(start_j: float, drawn_j: float) -> None:
    clock = Clock()
    meter = Count(clock, a=65_536.0)
    meter.joules = {"a": start_j}
    reading = counted(meter, clock, (start_j + drawn_j) % 65_536)
    assert reading.energy_j == pytest.approx(drawn_j, abs=1e-6)
    assert reading.window_s == pytest.approx(1.0)


def test_a_counter_without_a_range_that_falls_was_reset() -> None:
    clock = Clock()
    meter = Count(clock)
    meter.joules = {"a": 500.0}
    nothing(counted(meter, clock, 3.0), "reset", "a")


def test_a_counter_with_a_range_that_was_reset_is_not_taken_for_one_that_wrapped() -> None:
    clock = Clock()
    meter = Count(clock, a=65_536.0)
    meter.joules = {"a": 30_000.0}
    nothing(counted(meter, clock, 3.0), "reset", "a")


def test_a_jump_upwards_is_a_fault() -> None:
    clock = Clock()
    nothing(counted(Count(clock), clock, 5000.0), "jumped")


def test_a_window_that_may_pass_the_range_unnoticed() -> None:
    clock = Clock()
    nothing(counted(Count(clock, a=65_536.0), clock, 800.0, seconds=66.0), "range", "shorter")
    assert counted(Count(clock, a=65_536.0), clock, 800.0, seconds=65.0).energy_j == 800.0


def test_a_counter_that_does_not_move_is_not_zero_joules() -> None:
    clock = Clock()
    nothing(counted(Count(clock), clock, 0.0), "did not move")


def test_a_counter_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    meter = Count(clock)
    meter.begin()
    clock.sleep(1)
    monkeypatch.setattr(meter, "read_j", lambda: read_number("/nowhere/energy_uj"))
    nothing(meter.end(), "/nowhere/energy_uj")
    monkeypatch.undo()
    # A fault at the beginning is not made good by an end that works.
    monkeypatch.setattr(meter, "read_j", lambda: read_number("/nowhere/energy_uj"))
    meter.begin()
    monkeypatch.undo()
    clock.sleep(1)
    nothing(meter.end(), "/nowhere/energy_uj")


def test_a_counter_that_vanishes() -> None:
    clock = Clock()
    meter = Count(clock)
    meter.joules = {"a": 1.0, "b": 1.0}
    meter.begin()
    clock.sleep(1)
    meter.joules = {"a": 2.0}
    nothing(meter.end(), "came or went")


class Steady(Meter):
    """Watts that differ while a task runs; the clock is the tests'."""

    name = "steady"
    least_window_s = 3.0

    def __init__(self, clock: Clock, idle_w: float, fault: str = "") -> None:
        self.clock, self.idle_w, self.fault = clock, idle_w, fault
        self.extra_j, self.ended, self.runs = 0.0, 0, 0

    def begin(self) -> None:
        self.start, self.extra_j = self.clock(), 0.0

    def end(self) -> Reading:
        self.ended += 1
        window = self.clock() - self.start
        return Reading(None if self.fault else self.idle_w * window + self.extra_j, window, 2, self.fault, {})

    def task(self, seconds: float, extra_j: float) -> Callable[[], None]:
        def run() -> None:
            self.clock.sleep(seconds)
            self.extra_j += extra_j
            self.runs += 1

        return run


def test_joules_of_one_run() -> None:
    clock = Clock()
    meter = Steady(clock, idle_w=2.0)
    idle = idle_power(meter, 1.0, clock.sleep)
    assert idle.power_w == pytest.approx(2.0)
    assert idle.window_s >= meter.least_window_s
    run = per_run(meter, meter.task(0.25, 0.75), 1.0, idle.power_w, clock)
    # A quarter of a second at 2 W, and 0.75 J more; 12 runs fill the meter's 3 s, the one before is not counted.
    assert (run.runs, meter.runs) == (12, 13)
    assert run.window_s == pytest.approx(3.0)
    assert run.energy_j == pytest.approx(1.25)
    assert run.above_idle_j == pytest.approx(0.75)
    assert run.note == ""


def test_longer_windows_are_kept_and_long_tasks_run_once() -> None:
    clock = Clock()
    meter = Steady(clock, idle_w=2.0)
    assert per_run(meter, meter.task(0.5, 0), 10.0, 0.0, clock).runs == 20
    assert per_run(meter, meter.task(60.0, 0), 1.0, 0.0, clock).runs == 1
    assert idle_power(meter, 10.0, clock.sleep).window_s >= 10.0
    meter.least_window_s = 0.0
    assert per_run(meter, meter.task(0.5, 0), 0.0, 0.0, clock).runs == 1


def test_below_idle_is_reported_as_measured() -> None:
    clock = Clock()
    meter = Steady(clock, idle_w=2.0)
    run = per_run(meter, meter.task(0.25, 0.0), 1.0, 2.4, clock)
    assert run.above_idle_j == pytest.approx(-0.1)
    assert "less than at idle" in run.note


def test_without_idle_power_nothing_is_above_it() -> None:
    clock = Clock()
    meter = Steady(clock, idle_w=2.0)
    run = per_run(meter, meter.task(0.25, 0.0), 1.0, None, clock)
    assert run.energy_j == pytest.approx(0.5)
    assert run.above_idle_j is None
    assert "idle" in run.note


def test_none_stays_none() -> None:
    clock = Clock()
    meter = Steady(clock, idle_w=2.0, fault="the rail is gone")
    run = per_run(meter, meter.task(0.25, 0.0), 1.0, 2.0, clock)
    assert (run.energy_j, run.above_idle_j, run.note) == (None, None, "the rail is gone")
    idle = idle_power(meter, 1.0, clock.sleep)
    assert (idle.power_w, idle.note) == (None, "the rail is gone")


def test_a_task_that_fails_closes_the_window() -> None:
    clock = Clock()
    meter = Steady(clock, idle_w=2.0)
    runs = iter([None])

    def fails_later() -> None:
        next(runs)

    with pytest.raises(StopIteration):
        per_run(meter, fails_later, 1.0, 2.0, clock)
    assert meter.ended == 1


def test_numbers_in_files(tmp_path: Path) -> None:
    path = tmp_path / "in_power0_input"
    path.write_text("1876\n")
    assert read_number(str(path)) == 1876
    for garbage in ("", "off", "nan", "inf", "12 34"):
        path.write_text(garbage)
        with pytest.raises(MeterError, match="no number"):
            read_number(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MeterError, match="in_power0_input"):
        read_number(str(path))
    with pytest.raises(MeterError, match="No such file"):
        read_number(str(tmp_path / "absent"))


def test_permission_denied_names_the_file_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str, *_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(MeterError, match=r"permission denied.*sudo chmod a\+r /sys/x/energy_uj"):
        read_number("/sys/x/energy_uj")


def test_an_unknown_meter_names_the_known_ones() -> None:
    with pytest.raises(MeterError, match="unknown meter 'watt'; known: ina3221, pmic"):
        open_meter("watt")


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert meters.find_meters(str(tmp_path)) == []
    told = meters.probe(str(tmp_path))
    assert [(name, usable) for name, usable, _ in told] == [("ina3221", False), ("pmic", False)]
    assert all(reason for _, _, reason in told)
