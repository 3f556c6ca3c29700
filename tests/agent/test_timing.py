"""The median's interval against the binomial law and by simulation; the loop under a clock of our own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgecut.agent import timing
from edgecut.agent.timing import measure, median, median_interval

SIZES = [6, 7, 12, 20, 51, 200]
LAWS: dict[str, tuple[Callable[..., np.ndarray], float]] = {
    "normal": (lambda g, size: g.standard_normal(size), 0.0),
    "exponential": (lambda g, size: g.exponential(size=size), float(np.log(2))),
    "lognormal": (lambda g, size: g.lognormal(0, 2, size), 1.0),
    "cauchy": (lambda g, size: g.standard_cauchy(size), 0.0),
}
TRIALS = 4000


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_median_against_numpy(values: list[float]) -> None:
    assert median(values) == pytest.approx(float(np.median(values)), abs=1e-9)


def test_median_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median([])


@pytest.mark.parametrize("n", [*range(1, 60), 500, 1074, 1075, 1076, 3001])
def test_interval_is_the_narrowest_of_its_kind(n: int) -> None:
    """[X(l), X(n+1-l)] misses the median with 2 P(B < l), B binomial: the largest l with at most 5 %."""
    low, high = median_interval(list(range(1, n + 1)))
    below = stats.binom.cdf(np.arange(n), n, 0.5)
    expected = max(1, int((below <= 0.025).sum()))
    assert (low, high) == (expected, n + 1 - expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("law", LAWS)
def test_coverage(law: str, n: int) -> None:
    draw, truth = LAWS[law]
    samples = draw(np.random.default_rng(n), (TRIALS, n))
    intervals = np.array([median_interval(list(row)) for row in samples])
    covered = float(((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean())
    assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / TRIALS)
    narrower = np.sort(samples)[:, [n // 2 - n // 8 - 1, n // 2 + n // 8]]
    if n == 51:  # the negative control: a too narrow interval of the same kind, and one of the mean
        assert float(((narrower[:, 0] <= truth) & (truth <= narrower[:, 1])).mean()) < 0.94
        if law in ("exponential", "lognormal"):
            half = 2.01 * samples.std(1, ddof=1) / np.sqrt(n)
            assert float((np.abs(samples.mean(1) - truth) <= half).mean()) < 0.8


class Clock:
    """Time that passes only when a task runs or somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.worked, self.slept = 100.0, 0.0, 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.worked / 2  # every task keeps half a processor busy

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def task(self, name: str, seconds: Iterator[float]) -> timing.Task:
        def run() -> None:
            took = next(seconds)
            self.now += took
            self.worked += took
            self.calls.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    fake = SimpleNamespace(perf_counter=made.perf_counter, process_time=made.process_time, sleep=made.sleep)
    monkeypatch.setattr(timing, "time", fake)
    return made


def constant(clock: Clock) -> dict[str, timing.Task]:
    seconds = {"a": 0.0005, "b": 0.004, "c": 1e-5}
    return {name: clock.task(name, itertools.repeat(each)) for name, each in seconds.items()}


def test_constant_tasks_converge_at_once(clock: Clock) -> None:
    told: list[float] = []
    result = measure(constant(clock), progress=told.append)
    assert result.converged
    assert result.elapsed_s == pytest.approx(clock.now - 100)
    for name, each in {"a": 0.0005, "b": 0.004, "c": 1e-5}.items():
        rounds = result.samples[name].rounds
        assert len(rounds) == 12
        assert np.allclose(rounds, each, rtol=1e-6)
        assert result.samples[name].cpu_s / result.samples[name].wall_s == pytest.approx(0.5)
    assert [len(result.samples[name].rounds[0]) for name in "abc"] == [pytest.approx(4, abs=1), 2, 64]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) == 13


@pytest.mark.parametrize("pause_s", [0.0, 0.005])
def test_tasks_take_turns(clock: Clock, pause_s: float) -> None:
    result = measure(constant(clock), pause_s=pause_s, min_rounds=5)
    turns = [name for name, _ in itertools.groupby(clock.calls)]
    assert turns == ["a", "b", "c"] * (1 + 5)  # the warm-up, then the rounds
    blocks = [len(list(block)) for _, block in itertools.groupby(clock.calls)][3:6]
    counted = [len(result.samples[name].rounds[0]) for name in "abc"]
    assert blocks == [count + (pause_s == 0) for count in counted]
    assert clock.slept == pytest.approx(pause_s * 5 * sum(counted))
    assert np.allclose(result.samples["b"].rounds, 0.004)  # the pause is not part of a run


def test_never_converging_tasks_end(clock: Clock) -> None:
    """Times over many orders of magnitude: neither the warm-up nor the rounds go on past the bound and a round."""
    generator = np.random.default_rng(1)

    def wild() -> Iterator[float]:
        while True:
            yield float(0.001 * generator.lognormal(0, 1.5))

    told: list[float] = []
    tasks = {name: clock.task(name, wild()) for name in "abcdefghijkl"}
    result = measure(tasks, max_seconds=2.0, progress=told.append)
    longest = max(sum(sum(s.rounds[i]) for s in result.samples.values()) for i in range(len(told) - 1))
    assert not result.converged
    assert 2.0 < result.elapsed_s < 2.0 + 2 * longest
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len({len(s.rounds) for s in result.samples.values()}) == 1


def test_restless_warm_up_is_bounded(clock: Clock) -> None:
    """Every block is twice as slow as the one before or half as slow, so no two in a row agree."""
    tasks = {name: clock.task(name, itertools.cycle([0.001] * 3 + [0.002] * 3)) for name in [str(i) for i in range(40)]}
    assert measure(tasks, max_seconds=1.0).elapsed_s < 2.0


def test_drift_hits_all_alike(clock: Clock) -> None:
    """A machine that slows down to half its speed: medians of two equal tasks still agree."""

    def drifting() -> Iterator[float]:
        while True:
            yield 0.001 * (1 + min(1.0, (clock.now - 100) / 2))

    tasks = {name: clock.task(name, drifting()) for name in "abc"}
    result = measure(tasks, max_seconds=4.0, relative_width=0.0)
    medians = [median([median(block) for block in s.rounds]) for s in result.samples.values()]
    assert max(medians) / min(medians) < 1.02


def test_a_task_tells_its_own_seconds(clock: Clock) -> None:
    """As a GPU's events do: its float counts, whatever the clock says; other results are no seconds."""
    slow = clock.task("slow", itertools.repeat(0.01))

    def told() -> float:
        slow()
        return 0.002

    tasks = {"told": told, "counted": lambda: (slow(), 7)[1], "array": lambda: (slow(), np.float32(0.5))[1]}
    result = measure(tasks, min_rounds=3)
    assert np.allclose(result.samples["told"].rounds, 0.002, rtol=0, atol=0)
    for name in ("counted", "array"):
        assert np.allclose(result.samples[name].rounds, 0.01)
    told_samples = result.samples["told"]
    assert told_samples.wall_s == pytest.approx(sum(map(sum, told_samples.rounds)))


def test_told_seconds_may_be_numpys(clock: Clock) -> None:
    """float64 is a float; the samples stay plain numbers that JSON can hold."""
    run = clock.task("t", itertools.repeat(0.01))
    result = measure({"t": lambda: (run(), np.float64(0.003))[1]}, min_rounds=2, max_seconds=1.0)
    assert result.samples["t"].rounds[0][0] == 0.003


def test_a_long_run_is_a_block_of_its_own(clock: Clock) -> None:
    seconds = {"short": 0.249, "long": 0.251, "told": 0.3}
    tasks = {name: clock.task(name, itertools.repeat(each)) for name, each in seconds.items()}
    result = measure(tasks, max_seconds=5.0)
    sizes = {name: {len(block) for block in result.samples[name].rounds} for name in tasks}
    assert sizes == {"short": {2}, "long": {1}, "told": {1}}


def test_a_pause_makes_a_run_long_too(clock: Clock) -> None:
    result = measure({"t": clock.task("t", itertools.repeat(0.01))}, max_seconds=5.0, pause_s=0.3)
    assert {len(block) for block in result.samples["t"].rounds} == {1}


@pytest.mark.parametrize(
    ("each_s", "tasks", "bound_s"),
    [(0.05, 1, 30.0), (0.05, 4, 30.0), (0.5, 6, 45.0), (1.0, 10, 150.0), (4.0, 9, 300.0), (400.0, 1, 300.0)],
)
def test_the_bound_is_some_rounds(each_s: float, tasks: int, bound_s: float, clock: Clock) -> None:
    """Where none is given: 15 rounds' worth, from 30 to 300 s. Noise that never settles runs into it."""
    generator = np.random.default_rng(0)

    def wild() -> Iterator[float]:
        yield from (each_s, each_s)  # what the warm-up sizes blocks by
        while True:
            yield each_s * float(generator.uniform(0.5, 1.5))

    result = measure({str(i): clock.task(str(i), wild()) for i in range(tasks)}, relative_width=0.0)
    sizes = [len(s.rounds[0]) for s in result.samples.values()]
    # A round, its uncounted runs included, and a warm-up of a few blocks may come on top.
    over_s = 1.5 * each_s * (sum(sizes) + tasks) + 1.5 * each_s * tasks * (2 + 2 * max(sizes)) + 0.5
    assert not result.converged
    assert bound_s < result.elapsed_s <= bound_s + over_s


def test_a_given_bound_is_kept_however_long_the_runs(clock: Clock) -> None:
    tasks = {name: clock.task(name, itertools.cycle([1.0, 3.0])) for name in "ab"}
    result = measure(tasks, max_seconds=20.0, relative_width=0.0)
    assert 20.0 < result.elapsed_s < 20.0 + 8.0 + 1.0


def test_real_time_is_measured() -> None:
    """Two real tasks, one ten times the other's work, under the real clock."""
    numbers = np.arange(20_000.0)
    tasks = {"one": lambda: np.sqrt(numbers), "ten": lambda: [np.sqrt(numbers) for _ in range(10)]}
    result = measure(tasks, max_seconds=0.5)
    one, ten = (median([median(block) for block in result.samples[name].rounds]) for name in ("one", "ten"))
    assert 2 < ten / one < 60
    assert all(s.cpu_s > 0 for s in result.samples.values())


def test_a_floor_ends_what_no_share_of_the_median_would() -> None:
    times = itertools.cycle([0.0, 3e-4])

    def jittery() -> None:
        time.sleep(next(times))

    wide = measure({"task": jittery}, max_seconds=0.3, relative_width=0.0)
    floored = measure({"task": jittery}, max_seconds=20.0, relative_width=0.0, floor_s=1.0)
    assert not wide.converged
    assert floored.converged
