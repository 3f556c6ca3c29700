"""The sweep through an agent: the same chains, as kits, here by an agent on this machine."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edgecut.errors import DeviceError
from edgecut.profiler.agents import LocalAgent
from edgecut.profiler.calibrate import calibrate
from edgecut.profiler.chains import chain_plan
from edgecut.profiler.remote_sweep import RemoteBench
from edgecut.profiler.sweep import sweep


def test_prefixes_of_a_chain_come_back_in_seconds(tmp_path: Path) -> None:
    chain = next(chain for chain in chain_plan() if chain.parameters < 100_000)
    bench = RemoteBench(LocalAgent(), "onnxruntime-cpu", "float32", 1, 0.0, tmp_path)
    times = bench.times({"short": (chain, 1), "long": (chain, len(chain.layers))}, 0.2)
    assert set(times) == {"short", "long"}
    assert 0 < times["short"] < times["long"]


def test_a_sweep_makes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecut.profiler.sweep.GROUP", 1)
    monkeypatch.setattr("edgecut.profiler.sweep.CHAIN_SECONDS", 0.1)

    def make_bench(folder: Path) -> RemoteBench:
        return RemoteBench(LocalAgent(), "onnxruntime-cpu", "float32", 1, 0.0, folder)

    small = next(place for place, chain in enumerate(itertools.islice(chain_plan(), 200)) if chain.parameters < 100_000)
    made = sweep(None, None, budget_s=1e-9, pause_s=0.0, start=small, make_bench=make_bench)
    (chain,) = made.chains
    assert made.run_s > 0 and chain.rows and all(row.latency_s > 0 for row in chain.rows)


def test_an_address_that_is_none() -> None:
    with pytest.raises(DeviceError, match="is no address of a device; write ssh://user@host"):
        calibrate("ssh://")
    with pytest.raises(DeviceError, match=r"unknown device 'ssh:/x'.*or give ssh://user@host"):
        calibrate("ssh:/x")
