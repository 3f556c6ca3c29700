"""The agent as a real process: lines of JSON, exit codes, and the ways it is ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecut.agent import main as agent_main
from edgecut.profiler.kit import FILE

AGENT = [sys.executable, "-P", "-m", "edgecut.agent.main"]
TMPFS_BYTES = 256 * 1024


def agent(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AGENT, *arguments], capture_output=True, text=True, timeout=60, **options)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def endless(folder: Path) -> Path:
    """Have a kit measured for a minute, however narrow the intervals are."""
    values = json.loads((folder / FILE).read_text())
    values["settings"] |= {"max_seconds": 60, "relative_width": 0.0, "floor_s": 0.0}
    (folder / FILE).write_text(json.dumps(values))
    return folder


@pytest.fixture
def measuring(kit_folder: Path) -> Iterator[subprocess.Popen[str]]:
    """An agent in the middle of its rounds, its standard input watched and open."""
    command = [*AGENT, "--watch-stdin", "profile", str(endless(kit_folder))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if json.loads(line).get("progress", "").startswith("measuring, cuts"):
                    break
            yield process
        finally:
            process.kill()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_check() -> None:
    done = agent("check")
    assert done.returncode == 0, done.stderr
    (said,) = lines(done.stdout)
    assert said["protocol"] == agent_main.PROTOCOL
    assert set(said["backends"]) == {"onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"}
    cpu = said["backends"]["onnxruntime-cpu"]
    assert cpu["usable"] and cpu["reason"] == "" and cpu["versions"]["onnxruntime"]
    for backend in said["backends"].values():
        assert backend["usable"] == (backend["reason"] == "")
        assert "\n" not in backend["reason"]
    assert {name for name, _, _ in said["meters"]} == {"ina3221", "pmic"}
    assert said["environment"]["processors"] >= 1
    assert said["available_bytes"] > 0


def test_profile(kit_folder: Path) -> None:
    before = files(kit_folder)
    done = agent("profile", str(kit_folder))
    assert done.returncode == 0, done.stderr + done.stdout
    *progress, last = lines(done.stdout)
    assert last == {"done": str(kit_folder / "result.json")}
    assert all(set(line) == {"progress", "share"} and 0 <= line["share"] <= 1 for line in progress)
    assert {"measuring idle power", "measuring, cuts in turns", "layer times"} <= {p["progress"] for p in progress}
    assert files(kit_folder) == sorted([*before, "result.json"])
    result = json.loads((kit_folder / "result.json").read_text())
    kit = json.loads((kit_folder / FILE).read_text())
    noise = {f"{what}:{size}" for what in ("noise", "add") for size in kit["noise"]}
    assert set(result["tasks"]) == {part["name"] for part in kit["parts"]} | noise
    assert result["model_digest"] == kit["digest"]
    assert result["pause_s"] == kit["settings"]["pause_s"]
    assert [node for node, _ in result["nodes"]] and all(seconds > 0 for _, seconds in result["nodes"])
    assert result["meter"]["name"] is None and result["meter"]["source"] == "no meter was asked for"


def failed(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert words in lines(done.stdout)[-1]["error"]


def test_faults(kit_folder: Path, tmp_path: Path) -> None:
    before = files(kit_folder)
    failed(agent("profile", str(kit_folder), "--backend", "coreml"), "unknown backend 'coreml'; known: onnxruntime-cpu")
    failed(agent("profile", str(tmp_path / "none")), "cannot be read")
    failed(agent("profile", str(kit_folder), "--backend", "tensorrt"), "ensor")
    (kit_folder / "prefix-01.onnx").write_bytes(bytes((kit_folder / "prefix-01.onnx").stat().st_size))
    failed(agent("profile", str(kit_folder)), "cannot load prefix-01.onnx")
    assert files(kit_folder) == before
    (kit_folder / "weights.bin").unlink()
    failed(agent("profile", str(kit_folder)), "copy the kit again")


def test_unknown_meter(kit_folder: Path) -> None:
    values = json.loads((kit_folder / FILE).read_text())
    values["settings"]["meter"] = "wattson"
    (kit_folder / FILE).write_text(json.dumps(values))
    failed(agent("profile", str(kit_folder)), "unknown meter 'wattson'; known: ina3221, pmic")


@pytest.mark.parametrize("arguments", [[], ["measure"], ["profile"], ["check", "more"]])
def test_usage(arguments: list[str]) -> None:
    done = agent(*arguments)
    assert done.returncode == 2
    assert "usage: edgecut_edge.pyz" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_end_of_input_ends_it(measuring: subprocess.Popen[str], kit_folder: Path) -> None:
    before = files(kit_folder)
    assert measuring.stdin is not None
    measuring.stdin.close()
    assert measuring.wait(20) == 130
    assert files(kit_folder) == before
    assert "result.json" not in before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(number: signal.Signals, measuring: subprocess.Popen[str], kit_folder: Path) -> None:
    before = files(kit_folder)
    measuring.send_signal(number)
    assert measuring.wait(20) == 130
    assert files(kit_folder) == before
    assert "result.json" not in before


def test_ended_before_it_began(kit_folder: Path) -> None:
    """No input at all from the start: it ends itself, however early."""
    endless(kit_folder)
    done = agent("--watch-stdin", "profile", str(kit_folder), stdin=subprocess.DEVNULL)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "result.json" not in files(kit_folder)


def test_input_that_says_something_does_not_end_it(measuring: subprocess.Popen[str]) -> None:
    assert measuring.stdin is not None
    measuring.stdin.write("hello\n" * 3000)
    measuring.stdin.flush()
    time.sleep(0.3)
    assert measuring.poll() is None


def test_nobody_listens(kit_folder: Path) -> None:
    command = [*AGENT, "profile", str(endless(kit_folder))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) != 0
        assert "Traceback" not in process.stderr.read()
    assert "result.json" not in files(kit_folder)


def test_no_memory_is_a_sentence(kit_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(agent_main, "profile_kit", lambda *_: bytearray(1 << 62))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert agent_main.main(["profile", str(kit_folder)]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "ran out of memory" in lines(capsys.readouterr().out)[-1]["error"]


def test_a_full_disk_of_results(kit_folder: Path) -> None:
    """Where nothing may be mounted: a limit on file sizes stops the write in its middle."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from edgecut.agent.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-P", "-c", script, "profile", str(kit_folder)]
    before = files(kit_folder)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    failed(done, f"{kit_folder} (File too large); check the folder and the free space there")
    assert files(kit_folder) == before


@pytest.mark.deep
def test_a_full_disk(kit_folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        kit = Path(shutil.copytree(kit_folder, disk / "kit"))
        before = files(kit)
        with open(disk / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(1024)):
                    pass
            except OSError:
                pass
        # A disk with room for the layers' profile but none for the result.
        done = agent("profile", str(kit))
        failed(done, f"{kit}")
        assert "No space left on device" in lines(done.stdout)[-1]["error"]
        assert files(kit) == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)
