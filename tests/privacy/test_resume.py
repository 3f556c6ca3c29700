"""Killed and gone on with: real processes, and a collection that is the same to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.partitioner.plan import Plan

pytest.importorskip("torch")

# Snapshots all the time and groups of two, so that a kill hits finished groups and a snapshot alike.
RUN = """
import sys, time
from edgecut.privacy import activations, learn, optimise, settings
optimise.SNAPSHOT_EVERY_S = 0.05
optimise.group_sizes = lambda tasks, used: [2, 2]
activations.MEMORY_BYTES = 0
plan, output, pause, steps = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
def slowly(what, share):
    if "learning" in what:
        print(what, flush=True)
        time.sleep(pause)
used = settings.Settings(distributions=4, steps=steps, max_accuracy_loss=10.0)
made = learn.learn(plan, model="lenet5", settings=used, output=output, progress=slowly)
print("notes", *made.notes, made.kept, flush=True)
"""


def started(plan: Path, output: Path, pause_s: float, steps: int = 200) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", RUN, str(plan), str(output), str(pause_s), str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def plan_file(planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planned.save(tmp_path_factory.mktemp("plan") / "p.json")


def finish(plan: Path, output: Path, steps: int = 200) -> str:
    out, err = started(plan, output, 0.0, steps).communicate(timeout=120)
    assert "Traceback" not in err and "notes" in out, err
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]
    return out.splitlines()[-1]


@pytest.fixture(scope="module")
def whole(plan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("whole") / "x.npz"
    assert finish(plan_file, output) == "notes disk"
    return output.read_bytes()


@pytest.mark.deep
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_gone_on_with(number: signal.Signals, plan_file: Path, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    folder = Path(f"{output}.partial")
    for stop in ("group-0-snapshot.npz", "group-1-snapshot.npz"):
        with started(plan_file, output, 0.15) as process:
            assert process.stdout is not None
            end = time.monotonic() + 90
            while not (folder / stop).exists():
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(number)
            process.stdout.read()
            process.wait(30)
        assert not output.exists() and (folder / "training.f32").exists()
    state = np.load(folder / "group-1-snapshot.npz")
    assert (folder / "group-0.npz").exists() and 0 < int(state["step"]) < 200
    assert finish(plan_file, output) == f"notes went on from the unfinished work in {folder} disk"
    assert output.read_bytes() == whole


@pytest.mark.deep
def test_other_settings_start_anew(plan_file: Path, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    with started(plan_file, output, 0.3, steps=201) as process:
        while not list(Path(f"{output}.partial").glob("group-0*.npz")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert "held unfinished work of other settings, model or data, which was replaced" in finish(plan_file, output)
    assert output.read_bytes() == whole


@pytest.mark.deep
def test_an_older_collection_stays_until_the_new_one_is_there(plan_file: Path, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    output.write_bytes(b"an older one")
    with started(plan_file, output, 5.0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        second = started(plan_file, output, 0.0)
        _, err = second.communicate(timeout=60)
        assert "another process is learning" in err.splitlines()[-1]
        assert output.read_bytes() == b"an older one"
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()
        process.wait(30)
    finish(plan_file, output)
    assert output.read_bytes() == whole and NoiseCollection.load(output).distributions == 4
