"""ONNX Runtime's GPU backend without a GPU: refusals, and the runtime's processor behind the stand-in driver."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent import onnxruntime_cuda as backend
from edgecut.agent.backends import BackendError, Settings

FEED = {"x": np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)}


def write(path: Path, nodes: list[onnx.NodeProto], output: list[object]) -> str:
    weights = numpy_helper.from_array(np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    graph = helper.make_graph(nodes, "g", [x], [y], [weights, numpy_helper.from_array(np.array([-1]), "rest")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], "product"), helper.make_node("Relu", ["a"], ["y"], "relu")]
    return write(tmp_path / "m.onnx", nodes, ["batch", 4])


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime can use a GPU"
)
def test_a_runtime_without_cuda_is_said(model: str) -> None:
    assert "was built without CUDA; install edgecut[gpu] in place of edgecut[cpu]" in backend.usable()
    with pytest.raises(BackendError, match="built without CUDA"):
        backend.open_runner(model, FEED, Settings())


def test_float16_is_refused(model: str) -> None:
    with pytest.raises(BackendError, match="cannot be asked for float16"):
        backend.open_runner(model, FEED, Settings(precision="float16"))


def test_options_by_version() -> None:
    assert backend.provider_options((1, 11), 77) == {"device_id": "0"}
    assert backend.provider_options((1, 31), 77) == {"device_id": "0", "user_compute_stream": "77", "use_tf32": "0"}


class Binding:
    """An IOBinding whose GPU is the processor."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def bind_input(self, name: str, device: str, number: int, kind: Any, shape: Any, address: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_input(name, "cpu", 0, kind, shape, address)

    def bind_output(self, name: str, device: str = "cpu", *place: Any) -> None:
        assert device == ("cuda" if place else "cpu")
        self.real.bind_output(name, "cpu", *place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Runtime:
    """onnxruntime with a GPU that is the processor; `falls_back` and `refuses` as it does on some machines."""

    def __init__(self, driver: Any, version: str = "1.31.1", falls_back: bool = False, refuses: bool = False) -> None:
        self.driver, self.__version__, self.falls_back, self.refuses = driver, version, falls_back, refuses
        self.opened: list[dict[str, str]] = []
        self.SessionOptions = onnxruntime.SessionOptions

    def InferenceSession(self, path: str, options: Any, providers: Any, enable_fallback: int) -> Any:
        ((name, asked),) = providers
        assert (name, enable_fallback) == ("CUDAExecutionProvider", 0)
        self.opened.append(asked)
        strict = self.refusing(options)
        if strict and self.refuses:
            raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP")
        if strict:
            options = onnxruntime.SessionOptions()  # the processor's session would refuse itself
        return Session(self, onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), asked)

    @staticmethod
    def refusing(options: Any) -> bool:
        try:
            return bool(options.get_session_config_entry(backend.CPU_REFUSED) == "1")
        except RuntimeError:
            return False


class Session:
    def __init__(self, runtime: Runtime, real: Any, asked: dict[str, str]) -> None:
        self.runtime, self.real, self.asked = runtime, real, asked

    def get_providers(self) -> list[str]:
        return (
            ["CPUExecutionProvider"] if self.runtime.falls_back else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {"CUDAExecutionProvider": self.asked}

    def io_binding(self) -> Binding:
        return Binding(self.real.io_binding())

    def run_with_iobinding(self, binding: Binding) -> None:
        if "user_compute_stream" in self.asked:
            self.runtime.driver.flush()  # its work comes after what the stream holds
        self.real.run_with_iobinding(binding.real)
        self.runtime.driver.work(30_000)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def open_with(runtime: Runtime, model: str) -> backend.CudaSessionRunner:
    return backend.CudaSessionRunner(runtime, model, FEED, Settings(), runtime.driver.path)


def off_gpu(monkeypatch: pytest.MonkeyPatch, found: list[str]) -> None:
    """What the profile says of where the nodes ran; the processor's own says all."""
    monkeypatch.setattr(backend, "nodes_off_gpu", lambda events: found)


@pytest.mark.deep
@pytest.mark.parametrize("version", ["1.31.1", "1.15.0", "1.11.0"])
def test_outputs_and_times(driver: Any, model: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    off_gpu(monkeypatch, [])
    runtime = Runtime(driver, version)
    runner = open_with(runtime, model)
    outputs = runner.outputs()
    seconds = [runner.run() for _ in range(3)]
    compute_s = runner.compute_s
    runner.inputs["x"].host[...] *= -1  # a later run takes what is there then
    later = runner.outputs()
    runner.close()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert list(outputs) == ["y"]
    assert np.array_equal(outputs["y"], session.run(None, FEED)[0])
    assert np.array_equal(later["y"], session.run(None, {"x": -FEED["x"]})[0])
    assert seconds == pytest.approx([30e-6 + (1000 + 2 * 48) * 1e-9 + (1000 + 2 * 32) * 1e-9] * 3, rel=1e-5)
    assert compute_s == pytest.approx(30e-6, rel=1e-5)
    assert ("user_compute_stream" in runtime.opened[-1]) == (version == "1.31.1")
    assert all(asked["device_id"] == "0" for asked in runtime.opened)


@pytest.mark.deep
def test_new_inputs_and_a_model_in_memory(driver: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    off_gpu(monkeypatch, [])
    data = Path(model).read_bytes()
    runner = backend.CudaSessionRunner(Runtime(driver), data, FEED, Settings(), driver.path)
    found = [runner.call({"x": FEED["x"] * factor})["y"] for factor in (1, -1)]
    with pytest.raises(BackendError, match="is for"):
        runner.call({"x": FEED["x"][:1]})
    runner.close()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for factor, y in zip((1, -1), found, strict=True):
        assert np.array_equal(y, session.run(None, {"x": FEED["x"] * factor})[0]) and y.dtype == np.float32


@pytest.mark.deep
@pytest.mark.parametrize("version", ["1.31.1", "1.11.0"])
def test_a_silent_fallback_is_caught(driver: Any, model: str, version: str) -> None:
    with pytest.raises(BackendError, match="fell back to CPUExecutionProvider where the GPU was asked for"):
        open_with(Runtime(driver, version, falls_back=True), model)


@pytest.mark.deep
@pytest.mark.parametrize("version", ["1.31.1", "1.11.0"])
def test_numbers_on_the_processor_are_refused(driver: Any, model: str, version: str) -> None:
    """The profile is the real one of the processor, where every node ran."""
    with pytest.raises(BackendError, match=r"runs 2 of the nodes of m\.onnx on the processor .*'product' \(MatMul\)"):
        open_with(Runtime(driver, version, refuses=True), model)


@pytest.mark.deep
def test_shapes_on_the_processor_are_not(driver: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    off_gpu(monkeypatch, [])
    runtime = Runtime(driver, refuses=True)
    runner = open_with(runtime, model)
    assert runner.run() > 0
    runner.close()
    assert len(runtime.opened) == 3  # refusing, profiled, and the one that runs


@pytest.mark.deep
def test_a_missing_input_is_said(driver: Any, model: str) -> None:
    with pytest.raises(BackendError, match="input 'x' was not given"):
        backend.CudaSessionRunner(Runtime(driver), model, {}, Settings(), driver.path)


def test_a_model_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    runtime = Runtime(None)
    with pytest.raises(BackendError, match=r"cannot load broken\.onnx on the GPU: .*broken\.onnx"):
        backend._session(runtime, str(broken), Settings(), (backend.PROVIDER, {}))


def test_shape_nodes_are_told_from_numbers(tmp_path: Path) -> None:
    """A real profile of the processor, on a model with both."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("ReduceProd", ["s"], ["n"], "count"),
        helper.make_node("Concat", ["rest", "n"], ["t"], "target", axis=0),
        helper.make_node("Slice", ["t", "zero", "one"], ["u"], "slice"),
        helper.make_node("Reshape", ["a", "u"], ["y"], "reshape"),
    ]
    zero_one = [numpy_helper.from_array(np.array([value]), name) for value, name in ((0, "zero"), (1, "one"))]
    model = onnx.load(write(tmp_path / "s.onnx", nodes, ["all"]))
    model.graph.initializer.extend(zero_one)
    onnx.save(model, tmp_path / "s.onnx")
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = os.fspath(tmp_path / "profile")
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx", options, providers=["CPUExecutionProvider"])
    session.run(None, FEED)
    events = json.loads(Path(session.end_profiling()).read_text())
    names = {event["name"] for event in events if event.get("cat") == "Node"}
    assert {"shape_kernel_time", "count_kernel_time", "reshape_kernel_time"} <= names
    assert backend.nodes_off_gpu(events) == ["'product' (MatMul)", "'reshape' (Reshape)"]
    for event in events:
        event.get("args", {}).update(provider="CUDAExecutionProvider")
    assert backend.nodes_off_gpu(events) == []
