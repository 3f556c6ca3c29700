"""The timing loop, the same on a device and on this machine.

    warm-up:  every task runs until two successive blocks agree, or for a bounded time
    round 1:  task A  .a.a.a   task B  .b.b.b   task C  .c.c.c      (a block each; every run after a pause)
    round 2:  task A  .a.a.a   task B  .b.b.b   ...
    ...       until every task's interval is narrow enough, or the time is up

All tasks take turns, so that drift of the machine hits all alike. The pause is what lies between two requests: a
processor that has slept, and caches that others have used, make a small network several times slower than a tight
loop does. Without a pause the first run of a block is not counted. A number is the wall time of one run in seconds,
or what the task returns as its own seconds, as a GPU's events tell them; the interval is that of the median of the
rounds' medians, free of any assumption about the distribution.
"""

import functools
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

Task = Callable[[], Any]
LONG_S = 0.25
"""A run this long is a block of its own."""
ROUNDS_BOUND, LEAST_BOUND_S, MOST_BOUND_S = 15, 30.0, 300.0
"""The time bound where none is given: so many rounds' worth, between these two."""


class Samples(NamedTuple):
    """What was measured for one task: seconds per run, round by round; processor and wall time of all runs."""

    rounds: List[List[float]]
    cpu_s: float
    wall_s: float


class Result(NamedTuple):
    """All tasks' samples, whether every interval became narrow enough, and the seconds spent."""

    samples: Dict[str, Samples]
    converged: bool
    elapsed_s: float


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. Raises ValueError where there is none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples to take a median of")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_interval(values: Sequence[float]) -> Tuple[float, float]:
    """At least 95 % confidence interval of the median by order statistics (the sign test); the range for n < 6."""
    ordered = sorted(values)
    n = len(ordered)
    lowest = _lowest_rank(n)
    return ordered[lowest - 1], ordered[n - lowest]


@functools.lru_cache(maxsize=8)
def _lowest_rank(n: int) -> int:
    """The rank, from 1, of the interval's lower end; kept, since all tasks of a round ask for the same."""
    # Counted in whole numbers, of 2**n: as a float the chance of n > 1074 rounds would be 0.
    tail, chance, lowest = 0, 1, 0
    for k in range(n // 2):
        tail += chance
        if tail * 40 > 2**n:
            break
        lowest = k + 1
        chance = chance * (n - k) // (k + 1)
    return max(lowest, 1)


def measure(
    tasks: Dict[str, Task],
    max_seconds: Optional[float] = None,
    relative_width: float = 0.02,
    floor_s: float = 0.0,
    min_rounds: int = 12,
    block_seconds: float = 0.002,
    max_block: int = 64,
    pause_s: float = 0.0,
    progress: Optional[Callable[[float], None]] = None,
) -> Result:
    """Time every task in turn until each interval's half-width is at most `relative_width` of its median, or `floor_s`.

    A block has as many runs as fill `block_seconds` with their pauses, but 2 to `max_block`, and a long run alone.
    Never takes longer than about `max_seconds` plus one round; by default the time of some rounds, see ROUNDS_BOUND.
    `converged` says which of the two ended it. `progress` is called with the share of the time bound used, or 1.0 at
    the end.
    """
    start = time.perf_counter()
    patience_s = min(0.5, (LEAST_BOUND_S if max_seconds is None else max_seconds) / (4 * len(tasks)))
    blocks = {name: _warm_up(task, block_seconds, max_block, pause_s, patience_s) for name, task in tasks.items()}
    sizes = {name: size for name, (size, _) in blocks.items()}
    if max_seconds is None:
        round_s = sum(size * each for size, each in blocks.values())
        max_seconds = max(LEAST_BOUND_S, min(MOST_BOUND_S, ROUNDS_BOUND * round_s))
    rounds = {name: [] for name in tasks}  # type: Dict[str, List[List[float]]]
    spent = {name: [0.0, 0.0] for name in tasks}
    converged = False
    while not converged:
        for name, task in tasks.items():
            seconds, cpu = _block(task, sizes[name], pause_s)
            rounds[name].append(seconds)
            spent[name][0] += cpu
            spent[name][1] += sum(seconds)
        elapsed = time.perf_counter() - start
        if progress is not None:
            progress(min(1.0, elapsed / max_seconds))
        enough = len(next(iter(rounds.values()))) >= min_rounds
        converged = enough and all(_narrow(taken, relative_width, floor_s) for taken in rounds.values())
        if elapsed > max_seconds:
            break
    if progress is not None:
        progress(1.0)
    samples = {name: Samples(rounds[name], spent[name][0], spent[name][1]) for name in tasks}
    return Result(samples, converged, time.perf_counter() - start)


def _warm_up(task: Task, block_seconds: float, max_block: int, pause_s: float, patience_s: float) -> Tuple[int, float]:
    """Run until two blocks in a row agree within 10 %, or for `patience_s`.

    Returns the runs that fill a block, and the seconds of a run with its pause.
    """
    start = time.perf_counter()
    task()
    once = time.perf_counter()
    task()
    each = max(1e-9, time.perf_counter() - once + pause_s)
    size = 1 if each > LONG_S else max(2, min(max_block, int(block_seconds / each)))
    last = median(_block(task, size, 0.0)[0])
    while time.perf_counter() - start < patience_s:
        now = median(_block(task, size, 0.0)[0])
        if abs(now - last) <= 0.1 * last:
            break
        last = now
    return size, each


def _block(task: Task, size: int, pause_s: float) -> Tuple[List[float], float]:
    """Seconds of `size` runs, and the processor time they took."""
    if pause_s <= 0:
        task()
    clock, processor = time.perf_counter, time.process_time
    seconds, cpu_s = [], 0.0
    for _ in range(size):
        if pause_s > 0:
            time.sleep(pause_s)
        cpu, begin = processor(), clock()
        told = task()
        seconds.append(told if isinstance(told, float) else clock() - begin)
        cpu_s += processor() - cpu
    return seconds, cpu_s


def _narrow(blocks: List[List[float]], relative_width: float, floor_s: float) -> bool:
    medians = [median(block) for block in blocks]
    low, high = median_interval(medians)
    return (high - low) / 2 <= max(floor_s, relative_width * median(medians))
