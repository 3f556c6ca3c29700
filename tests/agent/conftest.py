"""A stand-in for the GPU's driver, compiled once, see fake_cuda.c; and a kit of a small model."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.load import Model, load_model
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.profiler.kit import KitSettings, write_kit

SOURCE = Path(__file__).with_name("fake_cuda.c")


class FakeDriver:
    """The compiled library, and what only tests call in it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.fake_work.argtypes = [ctypes.c_int64]
        self.library.fake_device.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t]

    def device(self, count: int = 1, capability: tuple[int, int] = (6, 2), size_bytes: int = 1 << 30) -> None:
        """What GPU there is."""
        self.library.fake_device(count, *capability, size_bytes)

    def fail(self, name: str, code: int) -> None:
        """Have the next call of a function fail."""
        self.library.fake_fail(name.encode(), code)

    def work(self, nanoseconds: int) -> None:
        """Queue work that takes time."""
        assert self.library.fake_work(nanoseconds) == 0

    def flush(self) -> None:
        """Do what is queued."""
        self.library.fake_flush()

    @property
    def live(self) -> int:
        """Allocations, handles and contexts not given back."""
        return int(self.library.fake_live())


@pytest.fixture(scope="session")
def compiled_driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    path = tmp_path_factory.mktemp("cuda") / "libcuda_fake.so"
    command = [
        "gcc",
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        str(SOURCE),
        "-o",
        str(path),
    ]
    subprocess.run(command, check=True)
    return FakeDriver(path)


@pytest.fixture
def driver(compiled_driver: FakeDriver) -> Iterator[FakeDriver]:
    """One GPU as a TX2's; a test that leaves anything behind on it fails."""
    compiled_driver.device()
    before = compiled_driver.live
    yield compiled_driver
    compiled_driver.fail("", 0)
    assert compiled_driver.live == before, "something was not given back to the GPU"


def small_model(path: Path) -> str:
    """Three linear layers of 64 values and an open batch; two cuts."""
    generator = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for name in ("a", "b", "c"):
        weights.append(numpy_helper.from_array(generator.standard_normal((64, 64)).astype(np.float32) / 8, f"w_{name}"))
        nodes.append(helper.make_node("MatMul", [value, f"w_{name}"], [f"m_{name}"], f"matmul_{name}"))
        nodes.append(helper.make_node("Relu", [f"m_{name}"], [name], f"relu_{name}"))
        value = name
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, path)
    return str(path)


SETTINGS = KitSettings(
    backend="onnxruntime-cpu",
    threads=1,
    precision="float32",
    pause_s=0.0,
    max_seconds=0.2,
    relative_width=0.05,
    floor_s=50e-6,
    meter="none",
    energy_seconds=0.1,
)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The small model, read."""
    return load_model(small_model(tmp_path_factory.mktemp("small") / "small.onnx"))


@pytest.fixture(scope="session")
def _written(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    write_kit(small, folder, SETTINGS, progress=lambda *_: None)
    return folder


@pytest.fixture
def kit_folder(_written: Path, tmp_path: Path) -> Path:
    """A kit of the small model, to be measured or damaged."""
    return Path(shutil.copytree(_written, tmp_path / "kit"))


@pytest.fixture
def settings() -> KitSettings:
    """What the kit is written with."""
    return SETTINGS


def _linear(path: Path, weights: np.ndarray, ends: tuple[str, str], bias: float) -> bytes:
    """`y = x @ weights + bias` with an open batch."""
    nodes = [helper.make_node("MatMul", [ends[0], "w"], ["m"]), helper.make_node("Add", ["m", "b"], [ends[1]])]
    values = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.float32(bias), "b")]
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s])
        for n, s in zip(ends, weights.shape, strict=True)
    ]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    path.write_bytes(made.SerializeToString())
    return path.read_bytes()


SIZES = (6, 40, 3)


class Side:
    """A small edge side written by hand: x [6] through `first` to the cut a [40], and through `second` to y [3]."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        self.first = generator.standard_normal(SIZES[:2]).astype(np.float32)
        self.second = generator.standard_normal(SIZES[1:]).astype(np.float32)
        _linear(folder / "edge.onnx", self.first, ("x", "a"), 0.5)
        self.cloud = _linear(folder / "fallback.onnx", self.second, ("a", "y"), -1.0)
        orders = np.stack([generator.permutation(SIZES[1]) for _ in range(4)])
        self.collection = NoiseCollection(
            loc=[0.0, 1.0, -1.0, 3.0],
            scale=[1.0, 2.0, 0.5, 1.0],
            orders=orders,
            tensors=[("a", (SIZES[1],))],
            model_digest="sha256:" + "a" * 64,
            cut="a",
        )
        (folder / "noise.npz").write_bytes(self.collection.to_bytes())
        self.values: dict[str, Any] = {
            "kind": "edge-side",
            "version": 2,
            "model_name": "small",
            "input": {"name": "x", "dtype": "float32", "shape": [SIZES[0]], "below": None},
            "pixels": None,
            "cut": [{"name": "a", "dtype": "float32", "shape": [SIZES[1]], "below": None}],
            "answer": {"name": "y", "dtype": "float32", "shape": [SIZES[2]], "below": None},
            "mechanism": "shredder",
            "target": {
                "name": "cpu",
                "runtime": "onnxruntime-cpu",
                "opset": 13,
                "ir_version": 7,
                "precision": "float32",
                "batch": None,
            },
            "fallback": "fallback.onnx",
            "engines": [],
        }
        self.write()

    def write(self, **changes: Any) -> None:
        """The manifest anew, of the files that are there."""
        self.values.update(changes)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        stored = [
            {
                "path": path.relative_to(self.folder).as_posix(),
                "size_bytes": path.stat().st_size,
                "digest": "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]
        (self.folder / "manifest.json").write_text(json.dumps({**self.values, "files": stored}))

    def activation(self, x: np.ndarray) -> np.ndarray:
        """The cut for an input, without noise."""
        return np.asarray(x @ self.first + np.float32(0.5))

    def answer(self, a: np.ndarray) -> np.ndarray:
        """The answer for what reaches the cloud."""
        return np.asarray(a @ self.second - np.float32(1.0))


@pytest.fixture(scope="session")
def cloud_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The cloud partition that belongs to every `side`."""
    return Side(tmp_path_factory.mktemp("side") / "edge").cloud


@pytest.fixture
def side(tmp_path: Path) -> Side:
    """A small edge side; change it as you like."""
    return Side(tmp_path / "edge")


class FakeCaller:
    """Servers that run `side.answer`; keeps what they are sent. `fails` is raised, or called, before an answer."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.sent: list[np.ndarray] = []
        self.fails: Any = None
        self.batch, self.closed, self.metadata_calls = -1, False, 0
        self.change: Any = lambda y: y

    def metadata(self, model: str) -> dict[str, Any]:
        self.metadata_calls += 1
        self._fail()
        assert model == "small"
        return {"inputs": [("a", "FP32", [self.batch, 40])], "outputs": [("y", "FP32", [self.batch, 3])]}

    def infer(self, model: str, tensors: Any, timeout_s: float | None = None) -> dict[str, np.ndarray]:
        ((name, array),) = tensors
        assert (model, name, array.dtype) == ("small", "a", np.float32)
        self.sent.append(array)
        self._fail()
        return {"y": self.change(self.side.answer(array))}

    def _fail(self) -> None:
        if callable(self.fails):
            self.fails()
        elif self.fails is not None:
            raise self.fails

    def state(self) -> dict[str, str]:
        return {"cloud:1": "closed"}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def caller(side: Side) -> FakeCaller:
    """Stands for a Caller and the servers behind it."""
    return FakeCaller(side)
