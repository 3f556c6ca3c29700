"""The agent in one file: the same bytes each time, nothing but agent/ and noise_kernels/, and at work alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.errors import ArtefactError
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.sampler import sample
from edgecut.profiler.pack import FOLDERS, ROOT, pack

# What a key and a nonce give, by the noise kernels of the file this runs from.
NOISE = """
import sys
sys.path.insert(0, sys.argv[1])
import json
import numpy as np
import edgecut
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.sampler import sample
orders = np.stack([np.random.RandomState(seed).permutation(500) for seed in range(3)])
collection = NoiseCollection(
    loc=np.array([0.0, 0.5, -1.0], np.float32), scale=np.array([1.0, 2.0, 0.5], np.float32), orders=orders,
    tensors=(("t", (5, 100)),), model_digest="sha256:" + "0" * 64, cut="c",
)
drawn = np.stack([sample(collection, bytes(range(32)), bytes([n]) * 12) for n in range(4)])
print(json.dumps({"file": edgecut.__file__, "noise": drawn.astype(np.float64).tolist()}))
"""


def old_python() -> str | None:
    """A Python 3.6 with NumPy, on the path or named by EDGECUT_OLD_PYTHON."""
    for name in (os.environ.get("EDGECUT_OLD_PYTHON", ""), "python3.6"):
        found = shutil.which(name) if name else None
        if found and subprocess.run([found, "-c", "import numpy"], capture_output=True).returncode == 0:
            return found
    return None


OLD = old_python()
PYTHONS = [sys.executable, *([OLD] if OLD else [])]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed") / "edgecut_edge.pyz")


def run(python: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """The last line that a process in another folder says, with no path of ours to find anything by."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_the_same_bytes_each_time(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sources were checked out at another time and another mask holds."""
    copy = tmp_path / "copy"
    for folder in reversed(FOLDERS):
        (copy / folder).mkdir(parents=True)
        for source in sorted((ROOT / folder).glob("*.*"), reverse=True):
            shutil.copy(source, copy / folder)
            os.utime(copy / folder / source.name, (2_000_000_000, 2_000_000_000))
            (copy / folder / source.name).chmod(0o600)
    monkeypatch.setattr("edgecut.profiler.pack.ROOT", copy)
    before = os.umask(0o077)
    try:
        again = pack(tmp_path / "again.pyz")
    finally:
        os.umask(before)
    assert again.read_bytes() == packed.read_bytes()
    assert pack(again).read_bytes() == packed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pyz", "copy"]


def test_nothing_but_what_a_device_runs(packed: Path) -> None:
    assert packed.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        files = {info.filename for info in archive.infolist() if not info.is_dir()}
        # An extension built in place is of this machine alone.
        paths = [(f, path) for f in FOLDERS for path in (ROOT / f).glob("*.*") if path.suffix != ".so"]
        sources = {f"edgecut/{folder}/{path.name}": path for folder, path in paths}
        assert files == {"__main__.py", "edgecut/__init__.py", *sources}
        assert {"edgecut/noise_kernels/noise.c", "edgecut/noise_kernels/noise.cu"} < files
        assert all(archive.read(name) == path.read_bytes() for name, path in sources.items())
        assert archive.read("edgecut/__init__.py").count(b"import") == 0
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Kathmandu", "UTC", "Pacific/Kiritimati"])
def test_the_same_bytes_in_every_time_zone(
    zone: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives hold local time, and nothing before 1980."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert pack(tmp_path / "there.pyz").read_bytes() == packed.read_bytes()
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("python", PYTHONS)
def test_check_from_anywhere(python: str, packed: Path, tmp_path: Path) -> None:
    found = run(python, [str(packed), "check"], tmp_path)
    assert found["protocol"] == 1
    assert found["environment"]["processors"] >= 1
    assert set(found["backends"]) == {"onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_the_same_noise(python: str, packed: Path, tmp_path: Path) -> None:
    found = run(python, ["-c", NOISE, str(packed)], tmp_path)
    assert found["file"] == f"{packed}/edgecut/__init__.py"  # inside the file, none of this checkout's
    collection = NoiseCollection(
        loc=np.array([0.0, 0.5, -1.0], np.float32),
        scale=np.array([1.0, 2.0, 0.5], np.float32),
        orders=np.stack([np.random.RandomState(seed).permutation(500) for seed in range(3)]),
        tensors=(("t", (5, 100)),),
        model_digest="sha256:" + "0" * 64,
        cut="c",
    )
    ours = np.stack([sample(collection, bytes(range(32)), bytes([n]) * 12) for n in range(4)])
    got = np.asarray(found["noise"])
    assert got.shape == ours.shape == (4, 500)
    assert np.allclose(got, ours, rtol=1e-6, atol=1e-7)  # NumPy's logarithms differ in the last bit
    assert not np.allclose(got[0], got[1])


def test_without_numpy_it_says_so(packed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(packed), "check"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "No module named 'numpy'" in done.stderr.splitlines()[-1]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot be written"):
        pack(tmp_path / "file" / "edgecut_edge.pyz")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
