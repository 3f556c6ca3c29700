"""Ctrl-C (and SIGTERM) on real commands at work: exit code 130, nothing half-written, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecut.models.data import load_data
from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned


class Started:
    """A command in a session of its own with temporary files of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.scratch = folder, folder / "tmp"
        self.scratch.mkdir()
        command = [sys.executable, "-P", "-m", "edgecut", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self.scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.seen: dict[int, psutil.Process] = {}

    def children(self) -> list[psutil.Process]:
        """Its children now; all that were ever seen are kept for the end."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update({child.pid: child for child in found})
        return found

    def wait_for(self, what: Any, within_s: float = 60.0) -> None:
        end = time.monotonic() + within_s
        while not what():
            assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else ""
            assert time.monotonic() < end
            time.sleep(0.05)

    def connected(self, port: int) -> bool:
        """Whether it has a connection to this port."""
        ends = psutil.Process(self.process.pid).net_connections("tcp")
        return any(end.raddr and end.raddr.port == port and end.status == psutil.CONN_ESTABLISHED for end in ends)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        self.children()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=40)
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=15)
        assert alive == [], "a child was left behind"
        assert list(self.scratch.iterdir()) == [], "a temporary file was left behind"
        self.scratch.rmdir()
        return self.process.returncode, out, err


@pytest.fixture
def files(tmp_path: Path, planned: Plan, learned: tuple[Learned, Path]) -> Path:
    load_data("mnist")
    planned.save(tmp_path / "p.json")
    return tmp_path


def stopped(started: Started, left: list[str], number: signal.Signals = signal.SIGINT, told: str = "") -> None:
    code, out, err = started.interrupt(number)
    assert code == 130 and "Traceback" not in err and out == "", err
    assert err.strip() == f"{told}edgecut: interrupted; nothing half-written was left behind"
    assert sorted(path.name for path in started.folder.iterdir()) == left


def test_profile(files: Path) -> None:
    started = Started(files, "profile", "lenet5", "-o", "e.json", "--max-seconds", "60")
    started.wait_for(lambda: len(started.children()) == 1)  # the agent, which measures
    time.sleep(1.0)
    stopped(started, ["p.json"])


def test_learn(files: Path) -> None:
    (files / "n.npz").write_bytes(b"an older one")
    started = Started(files, "learn", "p.json", "--model", "lenet5", "-o", "n.npz", "--steps", "100000")
    work = files / "n.npz.partial"
    started.wait_for(lambda: any(work.glob("*.npz")))
    told = "what was learned so far is in n.npz.partial; run the same command again to go on\n"
    stopped(started, ["n.npz", "n.npz.partial", "p.json"], told=told)
    assert (files / "n.npz").read_bytes() == b"an older one"
    assert all(path.suffix in (".npz", ".json") or path.name == "lock" for path in work.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.deep)])
def test_measure(number: signal.Signals, files: Path, bundle_folder: Path) -> None:
    started = Started(files, "measure", str(bundle_folder), "--model", "lenet5", "-o", "m.json", "--max-seconds", "60")
    # Two servers, the relay and the edge worker.
    started.wait_for(lambda: len(started.children()) == 4)
    time.sleep(1.0)
    stopped(started, ["p.json"], number)


def test_measure_while_its_servers_start(files: Path, bundle_folder: Path) -> None:
    started = Started(files, "measure", str(bundle_folder), "--model", "lenet5", "-o", "m.json", "--max-seconds", "60")
    started.wait_for(lambda: len(started.children()) >= 1)
    stopped(started, ["p.json"])


def test_bundle(files: Path, learned: tuple[Learned, Path]) -> None:
    arguments = ["bundle", "p.json", "--model", "lenet5", "--noise", str(learned[1]), "-o", "b"]
    started = Started(files, *arguments)
    started.wait_for(lambda: list(files.glob(".b.*/profile/plan.json")))
    stopped(started, ["p.json"])


def test_serve(files: Path, bundle_folder: Path) -> None:
    started = Started(files, "serve", str(bundle_folder / "cloud"), "--port", "0")
    assert started.process.stdout is not None and started.process.stdout.readline().startswith("serving lenet5")
    code, _, err = started.interrupt()
    assert code == 0 and err == ""


def test_infer_at_a_stopped_server(files: Path, bundle_folder: Path, serving: Any) -> None:
    import numpy as np

    np.save(files / "x.npy", load_data("mnist").x_test[:1])
    with serving(bundle_folder / "cloud") as (process, address):
        process.send_signal(signal.SIGSTOP)
        started = Started(files, "infer", str(bundle_folder), "x.npy", "--server", address, "--timeout-s", "60")
        started.wait_for(lambda: started.connected(int(address.rpartition(":")[2])))
        time.sleep(0.5)
        stopped(started, ["p.json", "x.npy"])
