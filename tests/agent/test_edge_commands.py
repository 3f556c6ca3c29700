"""`build`, `infer` and `bench` as a device runs them: the packed agent in a process of its own, and a real server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgecut.agent import main as agent_main
from edgecut.profiler.pack import pack
from edgecut.runtime.repository import write_model

PYZ = "edgecut_edge.pyz"


class Served(NamedTuple):
    """Addresses of one server of the small side's cloud partition."""

    grpc: str
    http: str


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed") / PYZ)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, cloud_bytes: bytes) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_model(folder, "small", cloud_bytes, [("a", "TYPE_FP32", (40,))], [("y", "TYPE_FP32", (3,))])
    command = [sys.executable, "-P", "-m", "edgecut", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert "grpc://" in lines[0] and "http://" in lines[1], (lines, process.stderr.read())
            yield Served(
                "grpc://" + lines[0].split("grpc://")[1].strip(), "http://" + lines[1].split("http://")[1].strip()
            )
        finally:
            process.kill()


@pytest.fixture
def device(side: Any, packed: Path, tmp_path: Path) -> Any:
    """The edge side with the agent in it, and a file of inputs."""
    shutil.copy(packed, side.folder / PYZ)
    side.write()
    side.x = np.random.default_rng(1).standard_normal((70, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", side.x)
    return side


def agent(
    device: Any, *arguments: str, python: str = sys.executable, **options: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and lines of the agent in the edge folder, in another folder and with no path of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, str(device.folder / PYZ), *arguments]
    done = subprocess.run(
        command, cwd=device.folder.parent, env=environment, capture_output=True, text=True, timeout=60, **options
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def python_3_6() -> str | None:
    """A Python 3.6 with NumPy and ONNX Runtime, named by EDGECUT_OLD_PYTHON."""
    python = os.environ.get("EDGECUT_OLD_PYTHON", "")
    found = shutil.which(python) if python else None
    if found and subprocess.run([found, "-c", "import numpy, onnxruntime"], capture_output=True).returncode == 0:
        return found
    return None


OLD = python_3_6()


@pytest.mark.deep
@pytest.mark.parametrize("python", [sys.executable, *([OLD] if OLD else [])])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_infer(device: Any, served: Served, protocol: str, python: str) -> None:
    if protocol == "grpc" and subprocess.run([python, "-c", "import grpc"], capture_output=True).returncode != 0:
        protocol = "http"
    server = getattr(served, protocol)
    code, lines = agent(device, "infer", "x.npy", "--server", server, "--output", "y.npy", python=python)
    assert code == 0, lines
    *progress, last = lines
    assert progress and all(set(line) == {"progress", "share"} for line in progress)
    logits = np.load(device.folder.parent / "y.npy", allow_pickle=False)
    assert last == {"done": "y.npy", "classes": logits.argmax(1).tolist(), "answered_by": {"cloud": 2}}
    clean = device.answer(device.activation(device.x))
    assert logits.shape == clean.shape and logits.dtype == np.float32
    # Noise was added: never the clean answer, but in its neighbourhood.
    assert 0.5 < np.abs(logits - clean).mean() < 30


@pytest.mark.deep
def test_infer_where_the_cloud_is_away(device: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    one = ["infer", "x.npy", "--server", nobody, "--attempts", "2"]
    code, lines = agent(device, *one)
    assert code == 2 and nobody in lines[-1]["error"] and "\n" not in lines[-1]["error"]
    code, lines = agent(device, *one, "--away", "local", "--output", "y.npy")
    assert code == 0 and lines[-1]["answered_by"] == {"local": 2}
    expected = device.answer(device.activation(device.x))
    np.testing.assert_allclose(np.load(device.folder.parent / "y.npy"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.deep
def test_bench(device: Any, served: Served) -> None:
    for clients in (1, 3):
        code, lines = agent(
            device, "bench", str(device.folder), "--server", served.http, "--seconds", "0.5", "--clients", str(clients)
        )
        assert code == 0, lines
        last = lines[-1]
        assert (
            last["done"] == "bench"
            and last["clients"] == clients
            and last["answered_by"] == {"cloud": last["requests"]}
        )
        assert 0 < last["median_s"] <= last["p95_s"] <= last["p99_s"] and last["elapsed_s"] >= 0.5
        assert last["requests_per_s"] == pytest.approx(last["requests"] / last["elapsed_s"])
        parts = last["parts"]
        assert 0 < parts["model_s"] < parts["edge_s"] and 0 < parts["wait_s"] < last["p99_s"]
        assert (parts["own_s"] is None) == (clients == 3)
        assert any(line.get("progress") == "asking" for line in lines)


@pytest.mark.deep
def test_build(device: Any, tmp_path: Path) -> None:
    cache = {**os.environ, "EDGECUT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, str(device.folder / PYZ), "build"]
    done = subprocess.run(command, env=cache, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["done"], last["backend"], last["engine"]) == (str(device.folder), "onnxruntime-cpu", None)
    if shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        assert last["noise_sampler"].startswith(f"compiled: {tmp_path}/cache/native/noise-")
    no_compiler = {**cache, "PATH": "/nowhere", "EDGECUT_CACHE": str(tmp_path / "other")}
    done = subprocess.run(command, env=no_compiler, capture_output=True, text=True, timeout=120)
    assert "made by NumPy, because there is no C compiler" in json.loads(done.stdout.splitlines()[-1])["noise_sampler"]


def failed(capsys: pytest.CaptureFixture[str], words: str, *arguments: str) -> None:
    """In this process, which is faster."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert agent_main.main([*arguments]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert words in said and "\n" not in said


def test_faults(side: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 6), np.float32))
    infer, address = ["infer", str(side.folder)], ["--server", "http://127.0.0.1:1"]
    failed(capsys, "there is no input file none.npy", *infer, "none.npy", *address)
    failed(capsys, "is not an address", *infer, "x.npy", "--server", "nowhere")
    failed(capsys, "is another machine", *infer, "x.npy", "--server", "http://192.0.2.1:80")
    failed(capsys, "positive number of seconds", *infer, "x.npy", *address, "--timeout-s", "0")
    failed(capsys, "unknown backend 'tpu'", *infer, "x.npy", *address, "--backend", "tpu")
    failed(capsys, "127.0.0.1:1", *infer, "x.npy", *address, "--attempts", "1")
    failed(capsys, "cannot be read", *infer, "x.npy", *address, "--token-file", "none")
    failed(capsys, "threads cannot be used", "build", str(side.folder), "--threads", "0")
    failed(capsys, "there is no bundle folder", "build", str(tmp_path / "none"))
    failed(capsys, "give 1 to 64 clients", "bench", str(side.folder), *address, "--clients", "0")
    failed(capsys, "no edge folder was given", "build")
    side.write(fallback=None)
    failed(capsys, "write the bundle with --with-local-fallback", *infer, "x.npy", *address, "--away", "local")
    (side.folder / "noise.npz").write_bytes((side.folder / "noise.npz").read_bytes()[:-1] + b"?")
    failed(capsys, "noise.npz was altered", *infer, "x.npy", *address)


@pytest.mark.deep
def test_faults_beside_a_server(
    side: Any, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    infer, address = ["infer", str(side.folder)], ["--server", served.http]
    np.save("x.npy", np.zeros((2, 6), np.float32))
    np.save("bad.npy", np.zeros((2, 5), np.float32))
    failed(capsys, "float32 [batch, 6] is needed", *infer, "bad.npy", *address)
    failed(capsys, "No such file", *infer, "x.npy", *address, "--output", "none/y.npy")
    failed(capsys, "ensor", "build", str(side.folder), "--backend", "tensorrt", "--cache", str(tmp_path))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.deep
@pytest.mark.parametrize("how", ["interrupt", "terminate", "end of input"])
def test_ending_a_bench(device: Any, served: Served, how: str) -> None:
    command = [
        sys.executable,
        str(device.folder / PYZ),
        "--watch-stdin",
        "bench",
        "--server",
        served.http,
        "--seconds",
        "60",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            for line in process.stdout:
                if json.loads(line).get("progress") == "asking":
                    break
            time.sleep(0.1)
            if how == "end of input":
                process.stdin.close()
            else:
                process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGTERM)
            assert process.wait(20) == 130
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()
