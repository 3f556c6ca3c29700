"""The planned sweep behind `edgecut calibrate`: which layers are timed on a device, and how.

A layer alone in a session pays for the session, and for bringing its input and output into the runtime's own layout;
inside a network it does not. So layers are timed in short random chains, as networks are made of them:

    chain   = conv -> depthwise conv -> pool -> ... -> linear        about eight layers, drawn from a Sobol sequence
    whole   = the chain's time as a profile takes it, with the same pause between runs
    rows    = the runtime's own times of the chain's layers, scaled as all nodes sum to `whole` less an empty run

A runtime without layer times is given the chain's prefixes instead, in turns; a row is then the difference of two.
Chains are independent and each covers the range of sizes, so that a sweep may end after any of them.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from ..agent.backends import Runner, Settings
from ..agent.timing import Task, measure, median
from ..artefacts import Record
from .chains import Chain, Layer, chain_feed, chain_model, chain_plan, layer_of_node
from .layer_table import LayerRow

Progress = Callable[[str, float], None]
LayerTimes = Callable[[str, dict[str, Any], Settings], list[tuple[str, float]]]
CHAIN_SECONDS = 1.2
"""The longest that one chain is timed."""
GROUP = 3
"""Chains timed in turns, so that a disturbance hits several a little rather than one in full."""
RELATIVE_WIDTH = 0.02
MEMORY_SHARE = 8
"""A chain's weights may take this part of the free memory; larger chains of the plan are passed over."""
SMALLEST = Chain(-1, (Layer("softmax", 1, 8, 8),))
"""Does next to nothing: what is left is the cost of a run."""


class Backend(Protocol):
    """What a sweep needs of a module of `agent/`. `layer_times(path, feed, settings)` is optional there."""

    def open_runner(self, path: str, feed: dict[str, Any], settings: Settings) -> Runner:
        """An opened model with its inputs in place."""


class ChainTiming(Record):
    """One timed chain: its place in the plan, the seconds of the whole, and what its layers took of it."""

    index: int
    whole_s: float
    rows: tuple[LayerRow, ...]


class Swept(Record):
    """A sweep that came to the end of its budget or was interrupted; `run_s` is the time of a run that does nothing."""

    run_s: float
    chains: tuple[ChainTiming, ...]
    elapsed_s: float
    interrupted: bool = False


def sweep(
    backend: Backend | None,
    settings: Settings,
    *,
    budget_s: float,
    pause_s: float,
    start: int = 0,
    progress: Progress | None = None,
    make_bench: Callable[[Path], Bench] | None = None,
) -> Swept:
    """Time chains of the plan until `budget_s` is used up, beginning at place `start`.

    At least one group of chains is timed whatever the budget; Ctrl-C ends the sweep and keeps what was timed.
    `make_bench` gives another bench than one on this machine.
    """
    tell: Progress = progress or (lambda *_: None)
    begin = time.perf_counter()
    made: list[ChainTiming] = []
    run_s, interrupted = 0.0, False
    with tempfile.TemporaryDirectory(prefix="edgecut-") as folder:
        bench = make_bench(Path(folder)) if make_bench else Bench(backend, settings, pause_s, Path(folder))
        try:
            run_s = bench.run_seconds()
            plan = (chain for chain in chain_plan(start) if _fits(chain))
            while True:
                made += bench.group(list(itertools.islice(plan, GROUP)), run_s)
                used = (time.perf_counter() - begin) / budget_s
                tell(f"timing layers, {sum(len(chain.rows) for chain in made)} so far", min(1.0, used))
                if used >= 1:
                    break
        except KeyboardInterrupt:
            interrupted = True
    return Swept(run_s=run_s, chains=tuple(made), elapsed_s=time.perf_counter() - begin, interrupted=interrupted)


def _fits(chain: Chain) -> bool:
    return 4 * chain.parameters * MEMORY_SHARE <= psutil.virtual_memory().available


class Bench:
    """Opens chains on a backend and times them."""

    def __init__(self, backend: Backend | None, settings: Settings, pause_s: float, folder: Path) -> None:
        self._backend, self._settings, self._pause_s, self._folder = backend, settings, pause_s, folder

    def run_seconds(self) -> float:
        """What a run costs that does next to nothing."""
        return self.times({"empty": (SMALLEST, 1)}, CHAIN_SECONDS)["empty"]

    def group(self, chains: Sequence[Chain], run_s: float) -> list[ChainTiming]:
        """Time some chains in turns. A chain whose layers cannot be told apart has no rows."""
        layer_times: LayerTimes | None = getattr(self._backend, "layer_times", None)
        if layer_times is None:
            return [self._by_prefixes(chain, run_s) for chain in chains]
        wholes = self.times({str(chain.index): (chain, len(chain.layers)) for chain in chains}, CHAIN_SECONDS)
        return [self._by_layer_times(layer_times, chain, wholes[str(chain.index)], run_s) for chain in chains]

    def _by_layer_times(self, layer_times: LayerTimes, chain: Chain, whole_s: float, run_s: float) -> ChainTiming:
        """The runtime's own layer times, scaled to what the whole takes without its profiler."""
        path = self.write(chain, len(chain.layers))
        nodes = layer_times(path, chain_feed(chain), self._settings)
        Path(path).unlink()
        owners = [layer_of_node(node) for node, _ in nodes]
        taken = [
            sum(s for owner, (_, s) in zip(owners, nodes, strict=True) if owner == k) for k in range(len(chain.layers))
        ]
        # What the runtime puts around a chain, to bring values into its own layout and back, a network has only once.
        scale = max(0.0, whole_s - run_s) / (sum(seconds for _, seconds in nodes) or 1.0)
        return _timing(chain, whole_s, [seconds * scale for seconds in taken])

    def _by_prefixes(self, chain: Chain, run_s: float) -> ChainTiming:
        """Differences between the chain's prefixes, timed in turns."""
        count = len(chain.layers)
        ends = self.times({str(end): (chain, end) for end in range(1, count + 1)}, CHAIN_SECONDS)
        times = [run_s, *(ends[str(end)] for end in range(1, count + 1))]
        return _timing(chain, times[-1], [after - before for before, after in itertools.pairwise(times)])

    def times(self, chains: dict[str, tuple[Chain, int]], seconds_each: float) -> dict[str, float]:
        """Seconds of each chain's first layers, by name, all in turns."""
        assert self._backend is not None
        runners: dict[str, Runner] = {}
        try:
            for name, (chain, layers) in chains.items():
                path = self.write(chain, layers)
                runners[name] = self._backend.open_runner(path, chain_feed(chain), self._settings)
                Path(path).unlink()
            tasks: dict[str, Task] = {name: runner.run for name, runner in runners.items()}
            result = measure(
                tasks, max_seconds=seconds_each * len(tasks), relative_width=RELATIVE_WIDTH, pause_s=self._pause_s
            )
        finally:
            for runner in runners.values():
                runner.close()
        return {name: median([median(block) for block in one.rounds]) for name, one in result.samples.items()}

    def write(self, chain: Chain, layers: int) -> str:
        """The path of a model of a chain's first layers."""
        path = self._folder / f"chain{chain.index}-{layers}.onnx"
        path.write_bytes(chain_model(chain, layers))
        return str(path)


def _timing(chain: Chain, whole_s: float, seconds: Sequence[float]) -> ChainTiming:
    """Layers that the runtime fused away, or that noise made negative, have no row."""
    rows = tuple(layer.row(s) for layer, s in zip(chain.layers, seconds, strict=True) if s > 0)
    return ChainTiming(index=chain.index, whole_s=whole_s, rows=rows)
