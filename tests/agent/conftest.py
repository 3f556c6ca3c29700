"""A stand-in for the GPU's driver, compiled once, see fake_cuda.c; and a kit of a small model."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.models.load import Model, load_model
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
