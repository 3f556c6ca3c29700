"""ONNX Runtime 1.11, the newest that a Jetson TX2's Python 3.6 can have, through its npm package.

PyPI has no 1.11 for today's Python; the npm package of that version carries the same library. It is installed once
into `.cache`, without running any script of it, and checked against the digest that the registry gave for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

VERSION = "1.11.0"
INTEGRITY = "sha512-IfjSuTZwFCy+CSCPp7SS8Du/A+SbJ7SUs7zQOQvt9y67gDwXJoySOVF7cmNU7WgGzU/a3ZfF84aUMwwKa2ijWQ=="
CACHE = Path(__file__).resolve().parents[1] / ".cache"
SCRIPT = Path(__file__).with_suffix(".js")
TYPES = (
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)


def missing() -> str:
    """What cannot be found on this machine, as a reason to skip; empty where everything is there."""
    absent = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    return f"no {' or '.join(absent)} here" if absent else ""


def package() -> Path:
    """The folder of the installed package."""
    folder = CACHE / f"onnxruntime-node-{VERSION}"
    found = folder / "node_modules" / "onnxruntime-node"
    if not found.is_dir():
        CACHE.mkdir(exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=CACHE, prefix=".onnxruntime-node-"))
        try:
            _install(beside)
            if not found.is_dir():  # another process may have been faster
                beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return found


def _install(folder: Path) -> None:
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    command = ["npm", "install", *options, f"onnxruntime-node@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise RuntimeError(f"npm could not install onnxruntime-node {VERSION}: {done.stderr[-500:]}")
    lock = json.loads((folder / "node_modules" / ".package-lock.json").read_text())
    assert lock["packages"]["node_modules/onnxruntime-node"]["integrity"] == INTEGRITY


def run(model: bytes | str | Path, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a model for `feed`, in a process of its own.

    A model with weights in other files must be given as a path. Raises RuntimeError with ONNX Runtime's message
    where it cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if isinstance(model, bytes):
            (folder / "model.onnx").write_bytes(model)
            model = folder / "model.onnx"
        inputs = [_write(folder, f"input{i}.bin", key, value) for i, (key, value) in enumerate(feed.items())]
        job = {"package": str(package()), "model": str(Path(model).resolve()), "folder": name, "inputs": inputs}
        (folder / "job.json").write_text(json.dumps(job))
        command = ["node", str(SCRIPT), str(folder / "job.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if done.returncode:
            raise RuntimeError(f"ONNX Runtime {VERSION}: {done.stderr.strip() or done.returncode}")
        return {output["name"]: _read(folder, output) for output in json.loads(done.stdout.splitlines()[-1])}


def _write(folder: Path, file: str, name: str, value: np.ndarray) -> dict[str, object]:
    kind = value.dtype.name
    assert kind in TYPES, f"{name} is {kind}"
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    (folder / file).write_bytes(little.tobytes())
    return {"name": name, "type": kind, "shape": list(value.shape), "file": file}


def _read(folder: Path, output: dict[str, str]) -> np.ndarray:
    dtype = np.dtype(output["type"]).newbyteorder("<")
    return np.fromfile(folder / output["file"], dtype).reshape([int(size) for size in output["shape"]])
