"""`edgecut kit`, and `edgecut profile --result`: the way of a device without ssh, walked as a user walks it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgecut.errors import ArtefactError, DeviceError
from edgecut.models.load import Model
from edgecut.profiler import deliver
from edgecut.profiler.deliver import kit
from edgecut.profiler.pack import pack
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile

EDGECUT = [sys.executable, "-P", "-m", "edgecut"]


def edgecut(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGECUT, *arguments], cwd=folder, capture_output=True, text=True, timeout=100)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def refused(folder: Path, *arguments: str) -> str:
    """One sentence, exit code 2, and no file more or less."""
    before = content(folder)
    done = edgecut(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("edgecut: ") and done.stderr.count("\n") == 1, done.stderr
    assert content(folder) == before
    return done.stderr


@pytest.fixture(scope="module")
def walked(lenet: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a kit was written; and another, the device, where it was measured."""
    folder = tmp_path_factory.mktemp("walk")
    done = edgecut(folder, "kit", "lenet5", "-o", "carry", "--max-seconds", "0.5", "--threads", "1", "--pause-ms", "0")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "wrote carry; carry/README.txt says what to do with it\n"
    device = folder / "device"
    shutil.copytree(folder / "carry", device)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    lines = [line.split() for line in (device / "README.txt").read_text().splitlines() if "python3 " in line]
    assert [line[1:] for line in lines] == [["edgecut_edge.pyz", "check"], ["edgecut_edge.pyz", "profile", "kit"]]
    for line in lines:
        command = [sys.executable, *line[1:]]
        done = subprocess.run(command, cwd=device, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def walk(walked: Path, tmp_path: Path) -> Path:
    """A copy with the result in it, to go on from."""
    shutil.copytree(walked / "carry", tmp_path / "carry")
    shutil.copy(walked / "device" / "kit" / "result.json", tmp_path)
    return tmp_path


def test_what_is_in_a_kit(walked: Path, lenet: Model, tmp_path: Path) -> None:
    carry = walked / "carry"
    assert sorted(path.name for path in carry.iterdir()) == ["README.txt", "edgecut_edge.pyz", "kit"]
    assert (carry / "edgecut_edge.pyz").read_bytes() == pack(tmp_path / "again.pyz").read_bytes()
    text = (carry / "README.txt").read_text()
    assert lenet.spec.digest in text and "opset 13" in text and "ONNX Runtime 1.10 or later" in text
    assert "edgecut profile lenet5 --device NAME --result result.json" in text
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in carry.rglob("*"))
    assert not [path for path in walked.iterdir() if path.name.startswith(".")]


def test_the_result_becomes_a_profile(walk: Path, lenet: Model) -> None:
    done = edgecut(walk, "profile", "lenet5", "--device", "my-board", "--result", "result.json", "-o", "p.json")
    assert done.returncode == 0, done.stderr
    made = Profile.load(walk / "p.json")
    assert made.device == "my-board" and made.provenance == "measured"
    assert made.model.digest == lenet.spec.digest
    assert (made.backend, made.threads, made.pause_s) == ("onnxruntime-cpu", 1, 0.0)  # as on the device, not as here
    assert [cut.name for cut in made.cuts] == ["conv1", "conv2", "conv3", "fc1"]
    taken = json.loads((walk / "result.json").read_text())
    samples = [value for block in taken["tasks"]["whole"]["rounds"] for value in block]
    assert min(samples) <= made.whole.median_s <= max(samples)
    assert all(layer.latency_s is not None for layer in made.layers)


def test_results_that_do_not_fit(walk: Path, small_onnx: str) -> None:
    text = (walk / "result.json").read_bytes()
    values = json.loads(text)
    del values["tasks"]["suffix:conv2"]
    (walk / "p.json").write_text("an earlier one")
    (walk / "half.json").write_bytes(text[: len(text) // 2])
    (walk / "garbage.json").write_bytes(b"\xff\xfe[[[")
    (walk / "less.json").write_text(json.dumps(values))
    said = refused(walk, "profile", small_onnx, "--device", "board", "-o", "p.json", "--result", "result.json")
    assert "board measured another model than small; profile it again" in said
    before = content(walk)
    for name, words in {
        "half.json": "the result .*half.json cannot be read",
        "garbage.json": "the result .*garbage.json cannot be read",
        "none.json": "the result .*none.json cannot be read",
        "carry/kit/kit.json": "kit.json sent a result of format None",
        "less.json": "board did not measure suffix:conv2",
    }.items():
        with pytest.raises(DeviceError, match=words):
            profile("lenet5", device="board", result=walk / name, output=walk / "p.json")
        assert content(walk) == before


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of another model."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    nodes = [helper.make_node("MatMul", pair, [out]) for pair, out in ((["x", "w"], "a"), (["a", "w"], "y"))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    path = tmp_path_factory.mktemp("other") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return str(path)


def test_an_existing_folder(walk: Path) -> None:
    before = content(walk)
    with pytest.raises(ArtefactError, match="carry exists; choose another folder, or give --overwrite"):
        kit("lenet5", walk / "carry")
    assert content(walk) == before
    (walk / "carry" / "kit" / "result.json").write_text("an older result")
    done = edgecut(walk, "kit", "lenet5", "-o", "carry", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert not (walk / "carry" / "kit" / "result.json").exists()


def test_overwrite_replaces_nothing_but_kits(walk: Path) -> None:
    (walk / "thesis").mkdir()
    (walk / "thesis" / "chapter.tex").write_text("years of work")
    words = "is no folder that edgecut kit wrote, so --overwrite leaves it"
    assert words in refused(walk, "kit", "lenet5", "-o", "thesis", "--overwrite")
    before = content(walk)
    for target in (walk / "result.json", walk):
        with pytest.raises(ArtefactError, match=words):
            kit("lenet5", target, overwrite=True)
    assert content(walk) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "torch-cpu"}, "unknown backend of the agent that runs on a device 'torch-cpu'"),
        ({"opset": 11}, "a kit has opset 13, or with 0 the model's own, not 11"),
    ],
)
def test_bad_arguments(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=words):
        kit("lenet5", tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_other_backends(backend: str, lenet: Model, tmp_path: Path) -> None:
    made = kit("lenet5", tmp_path / "out", backend=backend, precision="float16", opset=0)
    settings = json.loads((made / "kit" / "kit.json").read_text())["settings"]
    assert (settings["backend"], settings["precision"]) == (backend, "float16")
    text = (made / "README.txt").read_text()
    assert deliver.RUNTIMES[backend] in text and "the model's own" in text


def test_a_failure_in_the_middle_leaves_what_was_there(
    walk: Path, monkeypatch: pytest.MonkeyPatch, lenet: Model
) -> None:
    before = content(walk)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_kit", "pack"):
        with monkeypatch.context() as patched:
            patched.setattr(deliver, name, lambda *_, **__: full())
            with pytest.raises(ArtefactError, match=r"cannot be written \(No space left on device\); choose another"):
                kit("lenet5", walk / "carry", overwrite=True)
        assert content(walk) == before
    with monkeypatch.context() as patched:
        patched.setattr(deliver, "pack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            kit("lenet5", walk / "new")
    assert content(walk) == before


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="carry cannot be written"):
        kit("lenet5", tmp_path / "file" / "carry")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_interrupted(tmp_path: Path) -> None:
    """A real process, interrupted while it writes."""
    command = [*EDGECUT, "kit", "lenet5", "-o", "carry"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        end = time.monotonic() + 60
        while not list(tmp_path.glob(".carry.*/kit/weights.bin")):
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "edgecut: interrupted; nothing half-written was left behind\n")
    assert list(tmp_path.iterdir()) == []


def test_a_result_needs_no_backend_here(walk: Path) -> None:
    """What only a device has is no reason to refuse its result."""
    values = json.loads((walk / "result.json").read_text()) | {"backend": "tensorrt", "precision": "float16"}
    (walk / "result.json").write_text(json.dumps(values))
    made = profile("lenet5", device="tx2", result=walk / "result.json", pause_s=0.5)
    assert (made.device, made.backend, made.precision, made.pause_s) == ("tx2", "tensorrt", "float16", 0.0)
    assert made.whole.utilisation is None
