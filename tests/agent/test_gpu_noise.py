"""The noise on a GPU from end to end: compiled kernels run on the processor, behind a stand-in for the driver."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgecut.agent import cuda, edge_part, gpu_noise, nvrtc
from edgecut.agent.backends import BackendError, Settings
from edgecut.agent.edge_manifest import Description, Target, Tensor, Wire
from edgecut.agent.edge_part import EdgePart
from edgecut.agent.edge_side import EdgeSide
from edgecut.agent.gpu_noise import GpuNoise, source
from edgecut.agent.gpu_runner import GpuRunner
from edgecut.agent.inputs import InputError
from edgecut.agent.onnxruntime_cuda import CudaSessionRunner
from edgecut.agent.tensorrt_runner import TensorRTRunner
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.mechanism import Noise
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import sample

TESTS = Path(__file__).resolve().parents[1]
KERNEL_S = 3e-6
COPY_S = (1000 + 2 * 3 * 24 * 4) * 1e-9  # what the stand-in takes for an input of `Edge`


class Foretold(NoiseStream):
    """A stream that can be foretold, and changes its key after some nonces; never for use."""

    __slots__ = ("given", "key_lasts")

    def __init__(self, key_lasts: int = 1 << 32) -> None:
        super().__init__()
        self.given: list[tuple[bytes, bytes]] = []
        self.key_lasts = key_lasts

    def next(self) -> tuple[bytes, bytes]:
        count = len(self.given)
        key = bytes([count // self.key_lasts]) * 32
        self.given.append((key, count.to_bytes(12, "little")))
        return self.given[-1]


def make(n: int, tensors: Any = None, distributions: int = 3) -> NoiseCollection:
    rng = np.random.default_rng([n, distributions])
    orders = np.argsort(rng.random((distributions, n)), axis=1)
    loc, scale = rng.normal(size=distributions), rng.uniform(0.5, 2, size=distributions)
    return NoiseCollection(loc, scale, orders, tensors or [("x", (n,))], "sha256:" + "0" * 64, "x")


ELEMENTS = ["laplace", "normal", "mixed"]


def elements(kind: str, values: int, tensors: Any = None, place: str = "cut") -> ElementNoise:
    """Independent noise of a law, or mixed normal noise."""
    rng = np.random.default_rng([values, ELEMENTS.index(kind)])
    mixed, law = kind == "mixed", "laplace" if kind == "laplace" else "normal"
    mixing = rng.normal(size=(values, values)) if mixed else None
    loc, scale = rng.normal(size=values), rng.uniform(0.5, 2, size=values)
    tensors = tensors or [("x", (values,))]
    mechanism = "gaussian" if mixed else "cloak"
    return ElementNoise(mechanism, law, loc, scale, tensors, "sha256:" + "0" * 64, "x", mixing, place)


def tolerance(noise: Noise) -> Any:
    """How far from NumPy's the noise may be: 4e-6 of its scale, or of all scales that are mixed, and its rounding."""
    if isinstance(noise, NoiseCollection):
        return 4e-6 * noise.scale.max()
    share = noise.scale if noise.mixing is None else np.abs(noise.mixing) @ noise.scale
    return 4e-6 * share + 1e-6


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def on_processor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """noise.cu as a library of the processor's."""
    building = load(TESTS / "noise_kernels" / "cuda" / "building.py")
    path: Path = building.build(tmp_path_factory.mktemp("noise"), source().decode())
    return path


@pytest.fixture
def device(driver: Any, on_processor: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A device whose kernels run, and the stand-in's log."""
    assert driver.library.fake_kernels(str(on_processor).encode(), c_int64(round(KERNEL_S * 1e9))) == 0
    driver.library.fake_log.restype = c_char_p
    monkeypatch.setattr(nvrtc, "kernel_code", lambda *_: b"\x7fELF, by name only")
    device = cuda.Device(library=driver.path)

    def log() -> list[tuple[str, str]]:
        lines = [line.split(" ", 1) for line in driver.library.fake_log().decode().splitlines()]
        driver.library.fake_log_clear()
        return [(number, what) for number, what in lines]

    log()
    yield SimpleNamespace(device=device, driver=driver, log=log)
    device.close()


@pytest.fixture
def gpu(device: Any) -> Iterator[Any]:
    """The same with a stream."""
    device.stream = cuda.Stream(device.device)
    yield device
    device.stream.close()


def expected(noise: Noise, pairs: list[tuple[bytes, bytes]]) -> np.ndarray:
    return np.stack([sample(noise, *pair) for pair in pairs])


def run(gpu: Any, noise: GpuNoise, how: str, activation: np.ndarray) -> np.ndarray:
    tensor = cuda.Tensor(gpu.device, activation.shape, np.float32)
    try:
        tensor.host[...] = activation
        tensor.to_device(gpu.stream)
        if how == "fused":
            noise.fused(gpu.stream.address, tensor.address)
        else:
            noise.draw(gpu.stream.address)
            noise.add(gpu.stream.address, tensor.address)
        tensor.to_host(gpu.stream)
        gpu.stream.synchronise()
        return np.array(tensor.host)
    finally:
        tensor.close()


@pytest.mark.deep
@pytest.mark.parametrize("how", ["fused", "split"])
@pytest.mark.parametrize(
    ("n", "batch", "tiled"),
    [
        (2, 1, None),
        (120, 3, None),
        (480, 70, None),
        (9216, 2, None),
        (5000, 3, True),
        (10225, 2, None),
        (66000, 1, None),
    ],
)
def test_same_noise_as_numpy(gpu: Any, how: str, n: int, batch: int, tiled: bool | None) -> None:
    collection, seeds = make(n), Foretold()
    activation = np.random.default_rng(1).standard_normal((batch, n)).astype(np.float32)
    noise = GpuNoise(gpu.device, collection, batch, seeds=seeds, tiled=tiled)
    first = run(gpu, noise, how, activation)
    second = run(gpu, noise, how, activation)
    noise.close()
    for result, pairs in ((first, seeds.given[:batch]), (second, seeds.given[batch:])):
        assert np.abs(result - (activation + expected(collection, pairs))).max() <= 4e-6 * collection.scale.max()
    assert not np.array_equal(first, second)


@pytest.mark.deep
@pytest.mark.parametrize("how", ["fused", "split"])
@pytest.mark.parametrize("kind", ELEMENTS)
@pytest.mark.parametrize(("values", "batch"), [(1, 2), (40, 66), (1025, 3)])
def test_same_independent_noise_as_numpy(gpu: Any, how: str, kind: str, values: int, batch: int) -> None:
    known, seeds = elements(kind, values), Foretold(key_lasts=batch + 1)
    activation = np.random.default_rng(1).standard_normal((batch, values)).astype(np.float32)
    noise = GpuNoise(gpu.device, known, batch, seeds=seeds)
    first = run(gpu, noise, how, activation)
    second = run(gpu, noise, how, activation)  # the key changes after its first request
    noise.close()
    for result, pairs in ((first, seeds.given[:batch]), (second, seeds.given[batch:])):
        assert (np.abs(result - (activation + expected(known, pairs))) <= tolerance(known)).all()
    assert not np.array_equal(first, second)
    assert {what for _, what in gpu.log() if "noise" in what} == {
        f"edgecut_noise_{'mixed' if kind == 'mixed' else 'elements'}",
        *(["edgecut_noise_add"] if how == "split" else []),
    }


@pytest.mark.deep
@pytest.mark.parametrize("kind", ELEMENTS)
def test_both_ways_give_the_same_bits(gpu: Any, kind: str) -> None:
    activation = np.random.default_rng(1).standard_normal((3, 300)).astype(np.float32)
    results = []
    for how in ("fused", "split"):
        noise = GpuNoise(gpu.device, elements(kind, 300), 3, seeds=Foretold())
        results.append(run(gpu, noise, how, activation))
        noise.close()
    assert np.array_equal(*results)


@pytest.mark.deep
def test_no_noise_changes_nothing(gpu: Any) -> None:
    """Of scales of 0, as the mechanism `none` has them."""
    nothing = ElementNoise("none", "laplace", np.zeros(40), np.zeros(40), [("x", (40,))], "sha256:" + "0" * 64, "x")
    activation = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    noise = GpuNoise(gpu.device, nothing, 2)
    results = [run(gpu, noise, how, activation) for how in ("fused", "split")]
    noise.close()
    assert all(np.array_equal(result, activation) for result in results)


@pytest.mark.deep
def test_both_ways_and_both_kernels_give_the_same_bits(gpu: Any) -> None:
    collection = make(5000)
    activation = np.random.default_rng(1).standard_normal((2, 5000)).astype(np.float32)
    results = []
    for how in ("fused", "split"):
        for tiled in (False, True):
            noise = GpuNoise(gpu.device, collection, 2, seeds=Foretold(), tiled=tiled)
            results.append(run(gpu, noise, how, activation).tobytes())
            noise.close()
    assert len(set(results)) == 1


@pytest.mark.deep
@pytest.mark.parametrize("tiled", [False, True])
def test_a_key_that_changes_inside_a_batch(gpu: Any, tiled: bool) -> None:
    collection, seeds = make(300), Foretold(key_lasts=3)
    noise = GpuNoise(gpu.device, collection, 8, seeds=seeds, tiled=tiled)
    result = run(gpu, noise, "fused", np.zeros((8, 300), np.float32))
    noise.close()
    assert len({key for key, _ in seeds.given}) == 3
    assert np.abs(result - expected(collection, seeds.given)).max() <= 4e-6 * collection.scale.max()


@pytest.mark.deep
def test_requests_that_do_not_fit_at_once(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_noise, "_RANKS_AT_ONCE", 2 * 4096)
    collection, seeds = make(300), Foretold()
    noise = GpuNoise(gpu.device, collection, 5, seeds=seeds, tiled=True)
    result = run(gpu, noise, "split", np.zeros((5, 300), np.float32))
    noise.close()
    assert [what for _, what in gpu.log()].count("edgecut_noise_tiles") == 3
    assert np.abs(result - expected(collection, seeds.given)).max() <= 4e-6 * collection.scale.max()


@pytest.mark.deep
@pytest.mark.parametrize("how", ["fused", "split"])
@pytest.mark.parametrize("known", [make(700), *(elements(kind, 700) for kind in ELEMENTS)], ids=["sorted", *ELEMENTS])
def test_int8(gpu: Any, how: str, known: Noise) -> None:
    seeds = Foretold()
    activation = 3 * np.random.default_rng(1).standard_normal((2, 700)).astype(np.float32)
    given = cuda.Tensor(gpu.device, activation.shape, np.float32)
    given.host[...] = activation
    given.to_device(gpu.stream)
    results = []
    for inverse_step, dtype in ((0.0, np.float32), (20.0, np.int8)):
        seeds.given.clear()
        noise = GpuNoise(gpu.device, known, 2, seeds=seeds)
        out = cuda.Tensor(gpu.device, activation.shape, dtype)
        if how == "fused":
            noise.fused(gpu.stream.address, given.address, out.address, inverse_step)
        else:
            noise.draw(gpu.stream.address)
            noise.add(gpu.stream.address, given.address, out.address, inverse_step)
        out.to_host(gpu.stream)
        gpu.stream.synchronise()
        results.append(np.array(out.host))
        noise.close()
        out.close()
    given.close()
    sums, quantised = results
    assert np.array_equal(quantised, np.clip(np.rint(sums * np.float32(20)), -128, 127).astype(np.int8))
    assert {-128, 127} <= set(quantised.ravel().tolist())


@pytest.mark.deep
def test_refusals(gpu: Any) -> None:
    noise = GpuNoise(gpu.device, make(20), 1)
    with pytest.raises(BackendError, match="noise is added once"):
        noise.add(gpu.stream.address, 4096)
    with pytest.raises(BackendError, match="int8 does not go in place"):
        noise.fused(gpu.stream.address, 4096, inverse_step=2.0)
    with pytest.raises(BackendError, match="the inverse step is nan"):
        noise.fused(gpu.stream.address, 4096, 8192, float("nan"))
    noise.close()
    for batch in (0, 1 << 16):
        with pytest.raises(BackendError, match="is for 1 to 65535 requests"):
            GpuNoise(gpu.device, make(20), batch)


@pytest.mark.deep
def test_a_matrix_too_large_is_refused(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_noise, "MOST_MIXED", 40)
    GpuNoise(gpu.device, elements("mixed", 40)).close()
    with pytest.raises(BackendError, match="a matrix on a GPU mixes at most 40 values, and this one is for 41"):
        GpuNoise(gpu.device, elements("mixed", 41))


@pytest.mark.deep
def test_noise_is_never_added_twice(gpu: Any) -> None:
    noise = GpuNoise(gpu.device, make(20), 1)
    tensor = cuda.Tensor(gpu.device, (1, 20), np.float32)
    noise.draw(gpu.stream.address)
    noise.add(gpu.stream.address, tensor.address)
    with pytest.raises(BackendError, match="noise is added once: draw again"):
        noise.add(gpu.stream.address, tensor.address)
    noise.draw(gpu.stream.address)
    noise.add(gpu.stream.address, tensor.address)
    noise.close()
    tensor.close()


@pytest.mark.deep
@pytest.mark.parametrize("tiled", [False, True])
def test_drawn_noise_is_overwritten_at_the_end(gpu: Any, tiled: bool) -> None:
    noise = GpuNoise(gpu.device, make(5000), 2, tiled=tiled)
    noise.draw(gpu.stream.address)
    before = gpu.driver.library.fake_zeroed()
    noise.close()
    scratch = 2 * (2 * (8 + 8 + 4) + 2 * 4 * 8192 + 4) if tiled else 0
    assert gpu.driver.library.fake_zeroed() - before == 4 * 2 * 5000 + scratch


@pytest.mark.deep
@pytest.mark.parametrize("kind", ELEMENTS)
def test_drawn_independent_noise_is_overwritten_at_the_end(gpu: Any, kind: str) -> None:
    noise = GpuNoise(gpu.device, elements(kind, 300), 2)
    noise.draw(gpu.stream.address)
    before = gpu.driver.library.fake_zeroed()
    noise.close()
    assert gpu.driver.library.fake_zeroed() - before == 4 * 2 * 300


@pytest.mark.deep
@pytest.mark.parametrize("name", ["cuModuleLoadData", "cuMemAlloc_v2", "cuMemcpyHtoD_v2"])
@pytest.mark.parametrize("known", [make(20000), elements("mixed", 20)], ids=["sorted", "mixed"])
def test_a_failed_start_gives_all_back(gpu: Any, name: str, known: Noise) -> None:
    gpu.driver.fail(name, 700)
    with pytest.raises(BackendError, match="illegal memory access"):
        GpuNoise(gpu.device, known)


@pytest.mark.deep
def test_in_a_borrowed_context(gpu: Any) -> None:
    """As beside pycuda or torch: the current context is used and left alone."""
    device = cuda.BorrowedDevice(gpu.driver.path)
    assert (device.name, device.compute_capability) == ("Fake GPU", (6, 2))
    collection, seeds = make(120), Foretold()
    noise = GpuNoise(device, collection, 1, seeds=seeds)
    result = run(gpu, noise, "fused", np.zeros((1, 120), np.float32))
    noise.close()
    device.close()
    assert np.abs(result - expected(collection, seeds.given)).max() <= 4e-6 * collection.scale.max()
    gpu.device.driver.call("cuCtxSetCurrent", None)
    with pytest.raises(BackendError, match="no CUDA context is current"):
        cuda.BorrowedDevice(gpu.driver.path)
    gpu.device.activate()


class Edge(GpuRunner):
    """Stands for an edge partition of two outputs: the input's halves, doubled."""

    def __init__(self, device: Any, values: np.ndarray, work_s: float = 50e-6, broken: bool = False) -> None:
        super().__init__(device.driver.path)
        self.stand_in, self.work_s, self.broken = device.driver, work_s, broken
        half = values.shape[1] // 2
        self.place_input("x", values, np.float32)
        for name in ("a", "b"):
            self.place_output(name, (len(values), half), np.float32)

    def _enqueue(self) -> None:
        self.stand_in.flush()
        if self.broken:
            raise BackendError("the engine failed to run")
        x = self.inputs["x"].host
        for name, part in (("a", x[:, : x.shape[1] // 2]), ("b", x[:, x.shape[1] // 2 :])):
            there = (ctypes.c_float * part.size).from_address(self.results[name].address)
            np.frombuffer(there, np.float32).reshape(part.shape)[:] = 2 * part
        self.stand_in.work(round(self.work_s * 1e9))


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)


@pytest.fixture
def two_tensors(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[NoiseCollection, Foretold]]:
    """A collection for `Edge`, its tensors in another order than the outputs, and the seeds that it will use."""

    def prepare() -> tuple[NoiseCollection, Foretold]:
        seeds = Foretold()
        monkeypatch.setattr(gpu_noise, "NoiseStream", lambda: seeds)
        return make(24, [("b", (12,)), ("a", (12,))]), seeds

    return prepare


@pytest.mark.deep
def test_noise_behind_an_engine(device: Any, values: np.ndarray, two_tensors: Any) -> None:
    collection, seeds = two_tensors()
    runner = Edge(device, values)
    runner.add_noise(collection)
    device.log()
    outputs = runner.outputs()
    log = device.log()
    noise = expected(collection, seeds.given)
    again = runner.outputs()
    runner.close()
    b, a = noise[:, :12], noise[:, 12:]
    assert np.abs(outputs["a"] - (2 * values[:, :12] + a)).max() <= 1e-5
    assert np.abs(outputs["b"] - (2 * values[:, 12:] + b)).max() <= 1e-5
    assert not np.array_equal(outputs["a"], again["a"])
    # Drawn beside from the start on; waited for behind the engine; added to both before either is copied back.
    (beside,) = {number for number, what in log if what == "edgecut_noise_block"}
    (main,) = {number for number, _ in log} - {beside}
    assert [what for number, what in log if number == beside] == ["wait", "edgecut_noise_block", "record"]
    assert [what for number, what in log if number == main] == [
        "record", "to device", "record", "work", "wait", "edgecut_noise_add", "edgecut_noise_add", "record",
        "to host", "to host", "record",
    ]  # fmt: skip
    assert log[0] == (main, "record")


@pytest.mark.deep
@pytest.mark.parametrize("steps", [None, [0.05, 2.0]])
@pytest.mark.parametrize("kind", ELEMENTS)
def test_independent_noise_behind_an_engine(
    device: Any, values: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str, steps: list[float] | None
) -> None:
    seeds, known = Foretold(), elements(kind, 24, [("b", (12,)), ("a", (12,))])
    monkeypatch.setattr(gpu_noise, "NoiseStream", lambda: seeds)
    runner = Edge(device, values)
    runner.add_noise(known, steps=steps)
    made = runner.call({"x": values})
    runner.close()
    noise = expected(known, seeds.given)
    sums = {"a": 2 * values[:, :12] + noise[:, 12:], "b": 2 * values[:, 12:] + noise[:, :12]}
    for name, step in (("a", 2.0), ("b", 0.05)):
        if steps is None:
            assert np.abs(made[name] - sums[name]).max() <= np.max(tolerance(known)) + 1e-5
        else:
            wanted = np.clip(sums[name] / step, -128, 127)
            assert made[name].dtype == np.int8 and np.abs(made[name] - wanted).max() <= 0.5 + 1e-2


@pytest.mark.deep
def test_noise_that_is_not_made_on_a_gpu(device: Any, values: np.ndarray) -> None:
    """That of the input, and that which follows from the activation: the runner goes on without noise."""
    runner = Edge(device, values)
    tensors = [("b", (12,)), ("a", (12,))]
    with pytest.raises(BackendError, match="noise that is added to the model's input is made before"):
        runner.add_noise(elements("laplace", 24, tensors, place="input"))
    with pytest.raises(BackendError, match="noise that follows from what it is added to is made where"):
        runner.add_noise(elements("laplace", 24, tensors), sticky=True)
    assert np.array_equal(runner.outputs()["a"], 2 * values[:, :12])
    runner.close()


@pytest.mark.deep
@pytest.mark.parametrize("version", ["8.2.1.8", "10.3.0"])
def test_noise_behind_tensorrt(device: Any, monkeypatch: pytest.MonkeyPatch, version: str, tmp_path: Path) -> None:
    """With the stand-in for TensorRT, whose engine doubles its input."""
    trt, seeds, collection = load(TESTS / "agent" / "test_tensorrt_engine.py"), Foretold(), make(6, [("y", (6,))])
    monkeypatch.setattr(gpu_noise, "NoiseStream", lambda: seeds)
    (tmp_path / "m.onnx").write_bytes(b"not read by the stand-in")
    runner = TensorRTRunner(
        trt.Library(version, device.driver), str(tmp_path / "m.onnx"), trt.FEED, Settings(), device.driver.path
    )
    assert runner.outputs()["y"].tolist() == [[0, 2, 4, 6, 8, 10]]
    runner.add_noise(collection)
    device.log()
    outputs = runner.outputs()
    log = device.log()
    runner.close()
    assert np.abs(outputs["y"] - (2 * trt.FEED["x"] + expected(collection, seeds.given))).max() <= 2e-5
    main = log[0][0]
    assert [what for number, what in log if number == main] == [
        "record", "to device", "record", "work", "wait", "edgecut_noise_add", "record", "to host", "record",
    ]  # fmt: skip
    assert [what for number, what in log if number != main] == ["wait", "edgecut_noise_block", "record"]


def doubling_side(
    monkeypatch: pytest.MonkeyPatch, version: str, driver: Any, opened: list[Any], noise: Noise | None = None
) -> EdgeSide:
    """An edge side whose partition, and the rest of its model, double what they get, on the stand-in for TensorRT."""
    trt = load(TESTS / "agent" / "test_tensorrt_engine.py")
    # The stand-in's own flush is for one stream alone, and here are two runners.
    every = SimpleNamespace(flush=driver.library.cuCtxSynchronize, work=driver.work)

    def open_runner(model: bytes, feed: Any, settings: Settings) -> TensorRTRunner:
        assert model in (b"edge", b"rest")
        feed = {"x": next(iter(feed.values()))}  # the stand-in's input is always called so
        opened.append(TensorRTRunner(trt.Library(version, every), model, feed, settings, driver.path))
        call = opened[-1].call
        opened[-1].call = lambda feed: call({"x": next(iter(feed.values()))})
        return opened[-1]

    monkeypatch.setattr(
        edge_part, "load_backend", lambda name: SimpleNamespace(open_runner=open_runner, usable=lambda: None)
    )
    noise = noise or make(6, [("y", (6,))])
    tensors = [Tensor(name, "float32", (6,), None) for name in ("x", "y", "y")]
    description = Description(
        "small", tensors[0], None, (tensors[1],), tensors[2], noise.mechanism,
        Target("tx2", "tensorrt", "float32", 1), "rest.onnx", (), (),
    )  # fmt: skip
    files = {"edge.onnx": b"edge", "rest.onnx": b"rest", "noise.npz": noise.to_bytes()}
    return EdgeSide("folder", "sha256:0", description, files)


@pytest.mark.deep
@pytest.mark.parametrize(
    "noise",
    [make(6, [("y", (6,))]), *(elements(kind, 6, [("y", (6,))]) for kind in ELEMENTS)],
    ids=["sorted", *ELEMENTS],
)
def test_an_edge_part_on_a_gpu(device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, noise: Noise) -> None:
    """Item by item, and nothing without noise is ever copied back."""
    seeds = Foretold()
    opened: list[Any] = []
    monkeypatch.setattr(gpu_noise, "NoiseStream", lambda: seeds)
    side = doubling_side(monkeypatch, "8.2.1.8", device.driver, opened, noise)
    part = EdgePart(side, cache=str(tmp_path))
    try:
        assert (part.backend, part.noise_on, part.draw(3)) == ("tensorrt", "the GPU", None)
        x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
        device.log()
        (noisy,) = part.protected(x)
        log = [what for _, what in device.log()]
    finally:
        part.close()
    assert np.abs(noisy - (2 * x + expected(noise, seeds.given))).max() <= 2e-5
    assert log.count("to host") == 3 == log.count("edgecut_noise_add")
    assert all(
        log[:i].count("edgecut_noise_add") > log[:i].count("to host") for i, w in enumerate(log) if w == "to host"
    )


@pytest.mark.deep
@pytest.mark.parametrize("how", ["input", "sticky"])
def test_an_edge_part_whose_noise_is_not_made_on_the_gpu(
    device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """That of the input, and sticky noise: on the processor, and the reason is said."""
    place, name, reason = ("input", "x", "the model's input") if how == "input" else ("cut", "y", "follows from")
    noise = elements("laplace", 6, [(name, (6,))], place=place)
    side = doubling_side(monkeypatch, "8.2.1.8", device.driver, [], noise)
    side = side._replace(description=side.description._replace(sticky=how == "sticky"))
    part = EdgePart(side, cache=str(tmp_path / "cache"))
    try:
        x = np.zeros((2, 6), np.float32)
        device.log()
        (first,), (second,) = part.protected(x), part.protected(x)
        log = [what for _, what in device.log()]
    finally:
        part.close()
    assert part.noise_on.startswith("the processor, since noise that") and reason in part.noise_on
    assert not [what for what in log if "noise" in what] and np.abs(first).min() > 0
    assert np.array_equal(first, second) == (how == "sticky")


@pytest.mark.deep
def test_int8_behind_an_engine(device: Any, values: np.ndarray, two_tensors: Any) -> None:
    """Rounded where it lies, each tensor in steps of its own, and the bytes that are copied back are a quarter."""
    collection, seeds = two_tensors()
    runner = Edge(device, values)
    runner.add_noise(collection, steps=[0.05, 2.0])  # of b and a, as in the collection
    device.log()
    made = runner.call({"x": values})
    log = [what for _, what in device.log()]
    runner.close()
    noise = expected(collection, seeds.given)
    sums = {"a": 2 * values[:, :12] + noise[:, 12:], "b": 2 * values[:, 12:] + noise[:, :12]}
    for name, step in (("a", 2.0), ("b", 0.05)):
        assert made[name].dtype == np.int8 and made[name].shape == (3, 12)
        wanted = np.clip(sums[name] / step, -128, 127)
        assert np.abs(made[name] - wanted).max() <= 0.5 + 1e-3
    # Both tensors as int8, and the mark of what is not finite; never the floats.
    assert log.count("to host") == 3
    assert [log[i] for i in range(len(log)) if log[i] in ("edgecut_noise_add", "to host")][:2] == [
        "edgecut_noise_add"
    ] * 2


@pytest.mark.deep
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_of_what_is_not_finite_is_refused(device: Any, values: np.ndarray, two_tensors: Any, value: float) -> None:
    """Once: the mark is taken back."""
    runner = Edge(device, values)
    runner.add_noise(two_tensors()[0], steps=[0.05, 2.0])
    broken = values.copy()
    broken[2, 23] = value
    for _ in range(2):
        with pytest.raises(InputError, match="the activation at the cut is not finite, so nothing was sent"):
            runner.call({"x": broken})
        assert runner.call({"x": values})["a"].dtype == np.int8
    runner.close()


@pytest.mark.deep
def test_an_edge_part_on_a_gpu_that_sends_int8(device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seeds = Foretold()
    opened: list[Any] = []
    monkeypatch.setattr(gpu_noise, "NoiseStream", lambda: seeds)
    side = doubling_side(monkeypatch, "8.2.1.8", device.driver, opened)
    side = side._replace(description=side.description._replace(wire=Wire("int8", (0.05,))))
    part = EdgePart(side, cache=str(tmp_path))
    try:
        x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
        made = part.run(x)
        assert part.noise_on == "the GPU" and made.clean is None
        with pytest.raises(InputError, match="not finite"):
            part.run(np.full((1, 6), np.nan, np.float32))
    finally:
        part.close()
    (noisy,) = made.noisy
    wanted = np.clip((2 * x + expected(make(6), seeds.given[:3])) / 0.05, -128, 127)
    assert noisy.dtype == np.int8 and np.abs(noisy - wanted).max() <= 0.5 + 1e-3


@pytest.mark.deep
def test_an_edge_part_on_a_gpu_with_the_rest(device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rest needs the activation as it is, so the noise is added here."""
    opened: list[Any] = []
    side = doubling_side(monkeypatch, "10.3.0", device.driver, opened)
    part = EdgePart(side, cache=str(tmp_path), with_rest=True)
    try:
        x = np.arange(12, dtype=np.float32).reshape(2, 6)
        made = part.run(x)
        assert made.clean is not None and part.noise_on == "the processor" and len(opened) == 2
        assert np.array_equal(made.clean[0], 2 * x) and np.abs(made.noisy[0] - 2 * x).min() > 0
        assert np.array_equal(part.rest(made.clean), 4 * x)
    finally:
        part.close()


@pytest.mark.deep
def test_an_edge_part_whose_gpu_cannot_make_noise(device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_compiler(*_: Any) -> bytes:
        raise BackendError("there is no NVRTC")

    monkeypatch.setattr(nvrtc, "kernel_code", no_compiler)
    side = doubling_side(monkeypatch, "10.3.0", device.driver, [])
    part = EdgePart(side, cache=str(tmp_path))
    try:
        (noisy,) = part.protected(np.zeros((1, 6), np.float32))
        assert part.noise_on == "the processor, since there is no NVRTC" and np.abs(noisy).min() > 0
    finally:
        part.close()


@pytest.mark.deep
@pytest.mark.parametrize("version", ["1.17.0", "1.31.1"])
def test_noise_behind_onnxruntime(device: Any, monkeypatch: pytest.MonkeyPatch, version: str, tmp_path: Path) -> None:
    """With the runtime's processor in the GPU's place; before 1.18 the runtime works in a stream of its own."""
    ort, seeds, collection = load(TESTS / "agent" / "test_onnxruntime_cuda.py"), Foretold(), make(4, [("y", (4,))])
    monkeypatch.setattr(gpu_noise, "NoiseStream", lambda: seeds)
    product = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    path = ort.write(tmp_path / "m.onnx", [product], ["batch", 4])
    runner = CudaSessionRunner(ort.Runtime(device.driver, version), path, ort.FEED, Settings(), device.driver.path)
    bare = runner.outputs()["y"]
    runner.add_noise(collection)
    device.log()
    result = runner.outputs()["y"]
    order = [what for _, what in device.log()]
    runner.close()
    assert np.abs(result - (bare + expected(collection, seeds.given))).max() <= 2e-5
    assert order.index("edgecut_noise_block") < order.index("to device") < order.index("edgecut_noise_add")
    assert order.index("edgecut_noise_add") < order.index("to host")


@pytest.mark.deep
@pytest.mark.parametrize(("work_s", "longer_s"), [(50e-6, 50e-6), (1e-6, KERNEL_S - COPY_S)])
def test_the_draw_overlaps_the_engine(
    device: Any, values: np.ndarray, two_tensors: Any, work_s: float, longer_s: float
) -> None:
    """The stand-in gives each stream its time: only what the draw takes longer is paid, and the adding."""
    runner = Edge(device, values, work_s)
    runner.add_noise(two_tensors()[0])
    runner.run()
    compute_s = runner.compute_s
    runner.close()
    assert compute_s == pytest.approx(longer_s + 2 * KERNEL_S, abs=1e-7)


@pytest.mark.deep
def test_an_engine_that_fails_lets_nothing_out(device: Any, values: np.ndarray, two_tensors: Any) -> None:
    collection, seeds = two_tensors()
    runner = Edge(device, values, broken=True)
    runner.add_noise(collection)
    device.log()
    with pytest.raises(BackendError, match="failed to run"):
        runner.run()
    assert "to host" not in [what for _, what in device.log()]
    runner.broken = False
    outputs = runner.outputs()
    runner.close()
    fresh = expected(collection, seeds.given[3:])
    assert np.abs(outputs["a"] - (2 * values[:, :12] + fresh[:, 12:])).max() <= 1e-5


@pytest.mark.deep
@pytest.mark.parametrize("tensors", [[("a", (24,))], [("a", (12,)), ("c", (12,))], [("a", (13,)), ("b", (11,))]])
def test_noise_of_another_cut_is_refused(device: Any, values: np.ndarray, tensors: Any) -> None:
    runner = Edge(device, values)
    for noise in (make(24, tensors), elements("laplace", 24, tensors)):
        with pytest.raises(BackendError, match="learn noise for this cut"):
            runner.add_noise(noise)
    runner.close()


def test_constants_are_those_of_the_source() -> None:
    text = source().decode()
    names = ("RANKS", "MOST_ROWS", "BLOCK_THREADS", "TILE_THREADS", "SHARED_BYTES", "ELEMENT_THREADS", "MIXED_ROWS")
    for name in names:
        match = re.search(rf"#define {name} +(\d+)", text)
        assert match is not None and int(match.group(1)) == getattr(gpu_noise, name)
    assert f"n <= {gpu_noise.BLOCK_ELEMENTS} " in text
    assert f"{gpu_noise.MOST_MIXED} at most in all" in text
    # A block's shared memory, and an allocation of it, at the largest.
    assert gpu_noise.SHARED_BYTES + 4 * 17 * (gpu_noise.BLOCK_THREADS - 1) <= 48 << 10
    assert gpu_noise.shared_floats_bytes(gpu_noise.MOST_MIXED) <= 48 << 10
