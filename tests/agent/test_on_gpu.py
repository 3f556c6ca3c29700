"""On a real GPU: every backend gives what the processor gives, and its times can be."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent import cuda
from edgecut.agent.backends import Settings, load_backend

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
