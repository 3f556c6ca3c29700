"""The command line when something is wrong: exit code 2, one sentence on standard error, and no file more or less."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned
from edgecut.profiler.profile import Profile


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, profiled: Profile, planned: Plan, bundle_folder: Path, learned: Any
) -> Path:
    """A folder with good and bad inputs for every command."""
    folder = tmp_path_factory.mktemp("faults")
    profiled.save(folder / "e.json")
    planned.save(folder / "p.json")
    other = profiled.model.model_copy(update={"digest": "sha256:" + "1" * 64, "name": "other"})
    profiled.model_copy(update={"model": other}).save(folder / "other.json")
    planned.model_copy(update={"model": other}).save(folder / "other-plan.json")
    planned.model_copy(update={"choice": "conv9"}).save(folder / "lost.json")
    one: Learned = learned[0]
    (folder / "n.npz").write_bytes(one.noise.to_bytes())
    (folder / "garbage.json").write_bytes(b"\xff\xfe{]")
    (folder / "empty.json").write_text("")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "deep.json").write_text("[" * 100_000)
    text = json.loads((folder / "p.json").read_bytes())
    (folder / "newer.json").write_text(json.dumps(text | {"version": 99}))
    (folder / "slow.link.json").write_text('{"kind": "link", "version": 1, "name": "x", "uplink_bps": 0}')
    (folder / "bad.onnx").write_bytes(b"no model at all")
    (folder / "dir").mkdir()
    for name in ("short", "altered"):
        shutil.copytree(bundle_folder, folder / name)
    os.truncate(folder / "short" / "edge" / "edge.onnx", 5000)
    path = folder / "altered" / "cloud" / "model_repository" / "lenet5" / "1" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    shutil.copytree(bundle_folder, folder / "b")
    for name, array in {
        "x": np.zeros((2, 28, 28), np.uint8),
        "shape": np.zeros((2, 1, 31, 31), np.float32),
        "double": np.zeros((2, 1, 32, 32)),
        "nan": np.full((1, 1, 32, 32), np.nan, np.float32),
    }.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "partial.npz", x_train=np.zeros(3))
    return folder


def content(folder: Path) -> dict[str, str]:
    """Every path below, with the digest of what is a file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def edgecut(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgecut", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def refused(folder: Path, command: str, *words: str) -> None:
    before = content(folder)
    done = edgecut(folder, *command.split())
    lines = done.stderr.splitlines()
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert len(lines) == 1 and lines[0].startswith("edgecut: ") and done.stdout == "", done.stderr
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert content(folder) == before


FAULTS: list[tuple[str, ...]] = [
    ("profile lenet6", "unknown model 'lenet6'", "did you mean 'lenet5'", ".onnx"),
    ("profile dir/x.onnx", "there is no model file dir/x.onnx"),
    ("profile bad.onnx", "bad.onnx is not an ONNX file"),
    ("profile dir.onnx/../dir", "unknown model"),
    ("profile lenet5 --device gpu", "unknown device description 'gpu'", "or give cpu, cuda or ssh://"),
    ("profile lenet5 --threads 0", "0 threads"),
    ("profile lenet5 --threads -3", "-3 threads"),
    ("profile lenet5 --max-seconds -1", "time"),
    ("profile lenet5 --max-seconds nan", "time"),
    ("profile lenet5 --max-seconds 0", "time"),
    ("profile lenet5 --power-idle-w 1", "--power-idle-w and --power-max-w"),
    ("profile lenet5 --power-max-w 1", "--power-idle-w and --power-max-w"),
    ("profile lenet5 --power-max-w 1 --power-of tx2", "--power-of", "not both"),
    ("profile lenet5 --power-of tx3", "unknown device description 'tx3'", "jetson-tx2"),
    ("profile lenet5 --power-idle-w 3 --power-max-w 2", "0 <= idle <= max"),
    ("profile lenet5 --power-idle-w -3 --power-max-w 2", "0 <= idle <= max"),
    ("profile lenet5 --power-idle-w 1 --power-max-w inf", "0 <= idle <= max"),
    ("profile lenet5 --data mnits", "unknown data set 'mnits'", "did you mean 'mnist'"),
    ("profile lenet5 --data partial.npz", "partial.npz lacks y_train, x_test, y_test"),
    ("profile lenet5 -o e.json/x.json", "e.json/x.json cannot be written"),
    ("profile lenet5 -o /proc/x.json", "/proc/x.json cannot be written"),
    ("profile lenet5 -o dir", "dir cannot be written", "directory"),
    ("plan e.json e.json --link wify", "unknown link 'wify'", "did you mean 'wifi'", "3g, lte, wifi"),
    ("plan e.json e.json --link nothing.link.json", "there is no file nothing.link.json"),
    ("plan e.json e.json --link slow.link.json", "slow.link.json is not a usable link file"),
    ("plan e.json other.json", "other", "profile the same model"),
    ("plan nothing.json e.json", "there is no file nothing.json"),
    ("plan dir e.json", "dir cannot be read"),
    ("plan garbage.json e.json", "garbage.json is not a usable profile file"),
    ("plan empty.json e.json", "empty.json is not a usable profile file"),
    ("plan list.json e.json", "list.json is not a usable profile file"),
    ("plan deep.json e.json", "deep.json is not a usable profile file"),
    ("plan p.json e.json", "p.json is a plan file, but a profile file is needed here"),
    ("plan e.json e.json --edge-slowdown inf", "slow-down"),
    ("plan e.json e.json -o /proc/p.json", "/proc/p.json cannot be written"),
    ("plan e.json e.json -o e.json/p.json", "cannot be written"),
    ("plan e.json e.json -o e.json", "e.json is a profile file, which a plan would replace"),
    ("plan e.json e.json --max-latency-ms inf", "a limit of infinity is none"),
    ("plan e.json e.json --max-edge-memory-mb inf", "a limit of infinity is none"),
    ("plan e.json e.json --edge-slowdown 1e308", "factors of at least 1 and at most 1e+09"),
    ("plan e.json e.json --sweep uplink=100:1", "no sweep can go as uplink=100:1 says"),
    ("profile lenet5 --device titan-xp --cuts layers -o p.json", "p.json is a plan file"),
    ("learn p.json --model lenet5 -o p.json", "p.json is a plan file"),
    ("measure b --model lenet5 -o p.json", "p.json is a plan file, which a measurement would replace"),
    ("learn lost.json --model lenet5 -o x.npz", "unknown cut of model lenet5 'conv9'", "conv1"),
    ("learn other-plan.json --model lenet5 -o x.npz", "the plan is of other", "give the model that was profiled"),
    ("learn newer.json --model lenet5 -o x.npz", "newer.json has format version 99"),
    ("learn p.json --model bad.onnx -o x.npz", "bad.onnx is not an ONNX file"),
    ("learn p.json --model lenet5 -o x.npz --seed -1", "seed"),
    ("learn p.json --model lenet5 -o x.npz --scale 0", "scale must be positive"),
    ("learn p.json --model lenet5 -o x.npz --scale inf", "scale must be positive"),
    ("learn p.json --model lenet5 -o /proc/x.npz", "/proc/x.npz cannot be written"),
    ("bundle lost.json --model lenet5 --noise n.npz -o out", "'conv9'"),
    ("bundle p.json --model lenet5 --noise nothing.npz -o out", "there is no file nothing.npz"),
    ("bundle p.json --model lenet5 --noise garbage.json -o out", "garbage.json is no noise file"),
    ("bundle p.json --model lenet5 --noise n.npz -o b", "b exists already", "--overwrite"),
    ("bundle p.json --model lenet5 --noise n.npz -o dir --overwrite", "dir is no bundle"),
    ("bundle p.json --model lenet5 --noise n.npz -o out --edge-profile e.json", "both --edge-profile"),
    ("bundle p.json --model lenet5 --noise n.npz -o e.json/out", "cannot be written"),
    ("verify nothing", "there is no bundle folder nothing"),
    ("verify dir", "dir has no manifest.json"),
    ("verify short", "edge.onnx has 5000 bytes"),
    ("verify altered", "model.onnx was altered"),
    ("verify b --expect-id sha256:0", "sha256:0 was expected"),
    ("serve altered", "model.onnx was altered"),
    ("serve b/edge", "is an edge side, which is never served"),
    ("serve b/cloud --port 70000", "70000"),
    ("serve b/cloud --threads 1000000", "1000000 threads cannot be used"),
    ("infer short x.npy --server 127.0.0.1:1", "edge.onnx has 5000 bytes"),
    ("infer b x.npy --server nowhere", "'nowhere' is not an address"),
    ("infer b x.npy --server 127.0.0.1:1 --timeout-s -1", "positive number of seconds"),
    ("infer b nothing.npy --server 127.0.0.1:1", "there is no input file nothing.npy"),
    ("infer b garbage.json --server 127.0.0.1:1", "garbage.json is not a readable .npy file"),
    ("measure b/edge --model lenet5 -o m.json", "is one side of a bundle"),
    ("measure altered --model lenet5 -o m.json", "model.onnx was altered"),
    ("measure b --model lenet5 -o m.json --link wify", "unknown link 'wify'"),
    ("measure b --model lenet5 -o m.json --max-seconds 0", "leaves no time to measure"),
    ("measure b --model lenet6 -o m.json", "unknown model 'lenet6'"),
    ("measure b --model lenet5 -o /proc/m.json", "/proc/m.json cannot be written"),
    ("report nothing.json --edge-profile e.json --cloud-profile e.json -o out", "there is no file nothing.json"),
    (
        "report p.json --edge-profile e.json --cloud-profile e.json -o out",
        "p.json is a plan file, but a measurement file is needed here",
    ),
    ("demo --link wify -o out", "unknown link 'wify'"),
    ("demo --mechanism laplas -o out", "unknown mechanism 'laplas', did you mean 'laplace'"),
    ("demo -o e.json/out", "cannot be written"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].replace("/", "|"))
def test_a_fault_is_one_sentence(fault: tuple[str, ...], files: Path) -> None:
    refused(files, *fault)


@pytest.mark.parametrize(
    ("file", "words"), [("shape", "[2, 1, 31, 31]"), ("double", "float64"), ("nan", "NaN or infinite")]
)
def test_an_input_that_does_not_fit(file: str, words: str, files: Path, server: str) -> None:
    refused(
        files, f"infer b {file}.npy --server {server} -o logits.npy", words, "need" if file != "nan" else "nothing was"
    )


def test_nobody_there_or_somebody_else(files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refused(files, f"infer b x.npy --server 127.0.0.1:{port}", "no server", f"127.0.0.1:{port}", "edgecut serve")

    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        refused(files, f"infer b x.npy --server 127.0.0.1:{made.server_address[1]}", "Open Inference Protocol")
        refused(files, f"serve b/cloud --port {made.server_address[1]}", "cannot listen", "choose another")
        made.shutdown()


def usage(command: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        before = content(folder)
        done = edgecut(folder, *command.split())
        assert done.returncode == 2 and "Usage:" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert content(folder) == before

    return check


@pytest.mark.parametrize(
    "command",
    [
        "profle",
        "verify",
        "verify b b",
        "plan e.json",
        "plan e.json e.json --lnk wifi",
        "plan e.json e.json --objective speed",
        "plan e.json e.json --edge-slowdown 0.5",
        "plan e.json e.json --edge-slowdown nan",
        "learn p.json",
        "learn p.json --model lenet5 -o x --steps -1",
        "learn p.json --model lenet5 -o x --distributions 0",
        "profile lenet5 --pause-ms -1",
        "measure b --model lenet5 -o m.json --edge-slowdown -2",
        "serve b --port x",
    ],
)
def test_usage(command: str, files: Path) -> None:
    usage(command)(files)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_standard_output(files: Path) -> None:
    for command in ("plan e.json e.json", "plan e.json e.json --json"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "edgecut", *command.split()],
                cwd=files, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr == (
            "edgecut: standard output cannot be written (No space left on device); send it elsewhere\n"
        )
