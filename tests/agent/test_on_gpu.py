"""On a real GPU: every backend gives what the processor gives, and its times can be; so does the noise."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent import cuda
from edgecut.agent.backends import Settings, load_backend
from edgecut.agent.gpu_noise import BLOCK_ELEMENTS, GpuNoise, source
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.mechanism import Noise
from edgecut.noise_kernels.randomness import NoiseStream
from edgecut.noise_kernels.sampler import sample

BACKENDS = ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
SIZE = 512
FEED = {"x": np.random.default_rng(0).standard_normal((1, SIZE)).astype(np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Two linear layers, with a batch left open."""
    generator = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(generator.standard_normal((SIZE, SIZE)).astype(np.float32) / 16, name) for name in "vw"
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIZE]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


@pytest.mark.gpu
@pytest.mark.parametrize("name", BACKENDS)
def test_backend(name: str, model: str, tmp_path: Path) -> None:
    if cuda.usable():
        pytest.skip(f"no GPU: {cuda.usable()}")
    backend = load_backend(name)
    if backend.usable():
        pytest.skip(backend.usable())
    settings = Settings(cache=str(tmp_path / "cache"))
    expected = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, FEED)[0]
    runner = backend.open_runner(model, FEED, settings)
    try:
        assert np.allclose(runner.outputs()["y"], expected, rtol=1e-4, atol=1e-4)
        for _ in range(20):
            begin = time.perf_counter()
            seconds = runner.run()
            assert 0 < runner.compute_s < seconds < time.perf_counter() - begin
    finally:
        runner.close()
    assert backend.versions()["cuda"]
    if hasattr(backend, "layer_times"):
        layers = backend.layer_times(model, FEED, settings)
        assert layers
        assert all(each >= 0 for _, each in layers)


@pytest.mark.gpu
def test_copies_take_longer_the_more_there_is() -> None:
    if cuda.usable():
        pytest.skip(f"no GPU: {cuda.usable()}")
    device = cuda.Device()
    stream, first, second = cuda.Stream(device), cuda.Event(device), cuda.Event(device)
    seconds = []
    for size in (1 << 10, 1 << 26):
        tensor = cuda.Tensor(device, (size,), np.uint8)
        tensor.host[...] = 7
        for _ in range(3):
            first.record(stream)
            tensor.to_device(stream)
            second.record(stream)
            second.synchronise()
        seconds.append(second.seconds_since(first))
        tensor.host[...] = 0
        tensor.to_host(stream)
        stream.synchronise()
        assert (tensor.host == 7).all()
        tensor.close()
    for held in (first, second, stream, device):
        held.close()
    assert seconds[1] > 10 * seconds[0] > 0


class Foretold(NoiseStream):
    """A stream that can be foretold; never for use."""

    __slots__ = ("given",)

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[bytes, bytes]] = []

    def next(self) -> tuple[bytes, bytes]:
        self.given.append((bytes(range(32)), len(self.given).to_bytes(12, "little")))
        return self.given[-1]


def make(n: int, distributions: int = 5) -> NoiseCollection:
    rng = np.random.default_rng([n, distributions])
    orders = np.argsort(rng.random((distributions, n)), axis=1)
    # Apart by far more than any noise, so that the distribution chosen can be told.
    loc, scale = 1000.0 * np.arange(distributions), rng.uniform(0.5, 2, size=distributions)
    return NoiseCollection(loc, scale, orders, [("x", (n,))], "sha256:" + "0" * 64, "x")


def elements(kind: str, values: int) -> ElementNoise:
    """Independent noise of a law, or mixed normal noise."""
    rng = np.random.default_rng(values)
    mixing = rng.normal(size=(values, values)) if kind == "mixed" else None
    loc, scale = rng.normal(size=values), rng.uniform(0.5, 2, size=values)
    law, mechanism = "laplace" if kind == "laplace" else "normal", "cloak" if mixing is None else "gaussian"
    return ElementNoise(mechanism, law, loc, scale, [("x", (values,))], "sha256:" + "0" * 64, "x", mixing)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same source built for the processor; skips where there is no GPU to compare it with."""
    if cuda.usable():
        pytest.skip(f"no GPU: {cuda.usable()}")
    path = Path(__file__).resolve().parents[1] / "noise_kernels" / "cuda" / "building.py"
    spec = importlib.util.spec_from_file_location("building", path)
    assert spec is not None and spec.loader is not None
    building = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(building)
    return building.Kernels(building.build(tmp_path_factory.mktemp("noise"), source().decode()))


def both(noise: Noise, batch: int, how: str, folder: Path) -> tuple[np.ndarray, list[np.ndarray], Foretold]:
    """(activation, its noisy sums as float32 and as int8 in steps of 20, the seeds of both)."""
    n, seeds = noise.values, Foretold()
    device = cuda.Device()
    main, beside, drawn = cuda.Stream(device), cuda.Stream(device), cuda.Event(device)
    made = GpuNoise(device, noise, batch, str(folder / "cache"), seeds)
    tensor, levels = (cuda.Tensor(device, (batch, n), dtype) for dtype in (np.float32, np.int8))
    tensor.host[...] = activation = np.random.default_rng(n).standard_normal((batch, n)).astype(np.float32)
    results = []
    for place, inverse_step in ((tensor, 0.0), (levels, 0.05)):
        tensor.to_device(main)
        if how == "fused":
            made.fused(main.address, tensor.address, place.address, inverse_step)
        else:
            made.draw(beside.address)
            drawn.record(beside)
            main.wait(drawn)
            made.add(main.address, tensor.address, place.address, inverse_step)
        place.to_host(main)
        main.synchronise()
        results.append(np.array(place.host))
        tensor.host[...] = activation
    for held in (made, tensor, levels, drawn, beside, main, device):
        held.close()
    return activation, results, seeds


def check_bits(
    results: list[np.ndarray], given: list[tuple[bytes, bytes]], activation: np.ndarray, processor: Callable[..., Any]
) -> None:
    """Bit for bit what `processor(pairs, activation, inverse_step)` gives with the same source."""
    batch = len(activation)
    for result, pairs, inverse_step in ((results[0], given[:batch], 0.0), (results[1], given[batch:], 0.05)):
        for start in range(0, batch, 64):
            part = slice(start, start + 64)
            assert np.array_equal(result[part], processor(pairs[part], activation[part], inverse_step))


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["fused", "split"])
@pytest.mark.parametrize(
    ("n", "batch"),
    [(2, 1), (120, 70), (480, 3), (9216, 2), (BLOCK_ELEMENTS, 1), (BLOCK_ELEMENTS + 1, 2), (70_000, 1), (401_408, 1)],
)
def test_noise(kernels: Any, how: str, n: int, batch: int, tmp_path: Path) -> None:
    """What NumPy draws, to within 4e-6 scale; bit for bit what the same source gives on the processor."""
    collection = make(n)
    activation, results, seeds = both(collection, batch, how, tmp_path)
    tiled = n > BLOCK_ELEMENTS
    check_bits(results, seeds.given, activation, lambda *given: kernels.noise(collection, *given, tiled)[0])
    for row, pair in zip(results[0] - activation, seeds.given, strict=False):
        expected = sample(collection, *pair)
        # The distributions' centres are up to 4000, and float32 is no finer than 2.4e-4 there.
        assert np.abs(row - expected).max() <= 4e-6 * collection.scale.max() + 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["fused", "split"])
@pytest.mark.parametrize(
    ("kind", "values", "batch"),
    [
        *[(law, values, batch) for law in ("laplace", "normal") for values, batch in ((1, 1), (120, 70), (9217, 2))],
        ("laplace", 401_408, 1),
        ("normal", 401_408, 1),
        ("mixed", 1, 3),
        ("mixed", 40, 66),
        ("mixed", 4225, 1),
    ],
)
def test_independent_noise(kernels: Any, how: str, kind: str, values: int, batch: int, tmp_path: Path) -> None:
    """What NumPy draws, to within 4e-6 of the scales; bit for bit what the same source gives on the processor."""
    noise = elements(kind, values)
    activation, results, seeds = both(noise, batch, how, tmp_path)
    check_bits(results, seeds.given, activation, functools.partial(kernels.elements, noise))
    share = noise.scale if noise.mixing is None else np.abs(noise.mixing) @ noise.scale
    for row, pair in zip(results[0] - activation, seeds.given, strict=False):
        assert (np.abs(row - sample(noise, *pair)) <= 4e-6 * share + 1e-5).all()


@pytest.mark.gpu
def test_noise_behind_a_backend(model: str, tmp_path: Path) -> None:
    """Fresh for each request; a collection's in the order of one of its distributions, Cloak's about its means."""
    if cuda.usable():
        pytest.skip(f"no GPU: {cuda.usable()}")
    backends = [load_backend(name) for name in BACKENDS]
    usable = [backend for backend in backends if not backend.usable()]
    if not usable:
        pytest.skip("no GPU backend is installed")
    rng = np.random.default_rng(0)
    orders = np.argsort(rng.random((3, SIZE)), axis=1)
    about = [("y", (SIZE,))], "sha256:" + "0" * 64, "y"
    collection = NoiseCollection([0, 0, 0], [1, 1, 1], orders, *about)
    means = np.arange(SIZE)
    cloak = ElementNoise("cloak", "normal", means, np.full(SIZE, 0.1), *about)
    for backend in usable:
        for known in (collection, cloak):
            runner = backend.open_runner(model, FEED, Settings(cache=str(tmp_path / "cache")))
            try:
                bare = runner.outputs()["y"]
                runner.add_noise(known, str(tmp_path / "cache"))
                noise = [runner.outputs()["y"] - bare for _ in range(5)]
            finally:
                runner.close()
            assert len({each.tobytes() for each in noise}) == 5
            for each in noise:
                if known is collection:
                    assert max(np.diff(each[0][order]).min() for order in orders) >= -1e-4
                else:
                    assert 0 < np.abs(each[0] - means).max() <= 0.1 * 5.8 + 1e-3
