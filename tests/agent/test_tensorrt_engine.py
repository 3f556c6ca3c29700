"""TensorRT's backend against a small stand-in for the library: which calls it makes for which version."""

from __future__ import annotations

import ctypes
import enum
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent import tensorrt_engine
from edgecut.agent.backends import BackendError, Settings
from edgecut.agent.tensorrt_build import build_engine, external_files, fingerprint, kept_engine
from edgecut.agent.tensorrt_runner import LAYER_RUNS, TensorRTRunner, layer_times

VERSIONS = ["8.2.1.8", "8.6.1", "10.3.0", "11.4.0.106"]
FEED = {"x": np.arange(6, dtype=np.float32).reshape(1, 6)}


class Logger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


DataType = enum.Enum("DataType", "FLOAT HALF INT32 INT64 BF16")


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: Any) -> None:
        self.shapes[name] = shapes


class Library:
    """`tensorrt` of one version, as far as the backend knows it; engines double their input. Notes what is called."""

    __name__ = "tensorrt"

    def __init__(self, version: str, driver: Any = None, kind: str = "FLOAT", shape: Any = (-1, 6)) -> None:
        self.__version__, self.driver, self.kind, self.shape = version, driver, kind, shape
        self.major = int(version.split(".")[0])
        self.by_name = version != "8.2.1.8"
        self.calls: list[str] = []
        self.parse_errors: list[Any] = []
        self.refused_plans: list[bytes] = []
        self.ILogger, self.DataType, self.IProfiler = Logger, DataType, type("IProfiler", (), {})
        self.TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
        self.LayerType = enum.Enum("LayerType", "CONVOLUTION MATRIX_MULTIPLY ACTIVATION")
        self.BuilderFlag = enum.Enum("BuilderFlag", "TF32" if self.major >= 11 else "FP16 TF32")
        flags = {} if self.major >= 11 else {"EXPLICIT_BATCH": 0}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    def note(self, call: str) -> None:
        self.calls.append(call)

    def Builder(self, log: Any) -> Any:
        self.log = log
        pools = {"set_memory_pool_limit": lambda pool, size: self.note(f"pool {size}")} if self.by_name else {}
        self.config = SimpleNamespace(
            set_flag=lambda flag: self.note(f"set {flag.name}"),
            clear_flag=lambda flag: self.note(f"clear {flag.name}"),
            add_optimization_profile=lambda profile: self.note(f"profile {profile.shapes}"),
            **pools,
        )
        layer = SimpleNamespace(
            type=self.LayerType.CONVOLUTION,
            name="conv",
            get_output=lambda _: SimpleNamespace(dtype=DataType[self.kind]),
        )
        network = SimpleNamespace(
            num_layers=1, get_layer=lambda _: layer, num_inputs=1,
            get_input=lambda _: SimpleNamespace(name="x", shape=self.shape),
        )  # fmt: skip

        def create_network(flags: int = 0) -> Any:
            self.note(f"network {flags}")
            return network

        def build(network: Any, config: Any) -> bytes:
            self.note("build")
            return json.dumps({"version": self.__version__}).encode()

        return SimpleNamespace(
            create_network=create_network, create_builder_config=lambda: self.config,
            create_optimization_profile=Profile, build_serialized_network=build,
        )  # fmt: skip

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return SimpleNamespace(
            parse_from_file=lambda path: os.path.isabs(path) and not self.parse_errors,
            num_errors=len(self.parse_errors),
            get_error=lambda index: self.parse_errors[index],
        )

    def Runtime(self, log: Any) -> Any:
        def deserialise(plan: bytes) -> Any:
            refused = plan in self.refused_plans
            return None if refused else SimpleNamespace(create_execution_context=lambda: context, **engine)

        kinds = [DataType[self.kind], DataType.FLOAT]
        context = SimpleNamespace(profiler=None)
        self.given = self.shape
        self.context, self.addresses = context, {}
        names = ["x", "y"]
        if self.by_name:
            engine: dict[str, Any] = {
                "num_io_tensors": 2,
                "get_tensor_name": lambda i: names[i],
                "get_tensor_mode": lambda name: self.TensorIOMode.INPUT if name == "x" else self.TensorIOMode.OUTPUT,
                "get_tensor_dtype": lambda name: kinds[names.index(name)],
                "get_tensor_shape": lambda name: self.shape,
            }
            context.set_input_shape = self.set_shape
            context.get_tensor_shape = lambda name: self.given
            context.set_tensor_address = self.addresses.__setitem__
            context.execute_async_v3 = lambda stream: self.execute("v3", [self.addresses["x"], self.addresses["y"]])
        else:
            engine = {
                "num_bindings": 2,
                "get_binding_name": lambda i: names[i],
                "binding_is_input": lambda i: i == 0,
                "get_binding_dtype": lambda i: kinds[i],
                "get_binding_shape": lambda i: self.shape,
            }
            context.set_binding_shape = self.set_shape
            context.get_binding_shape = lambda i: self.given
            context.execute_async_v2 = lambda bindings, stream: self.execute("v2", bindings)
        return SimpleNamespace(deserialize_cuda_engine=deserialise)

    def set_shape(self, which: Any, shape: Any) -> bool:
        assert which == ("x" if self.by_name else 0)
        self.given = tuple(shape)
        return True

    def execute(self, how: str, addresses: list[int]) -> bool:
        self.note(how)
        self.driver.flush()
        kind = {"FLOAT": ctypes.c_float, "INT32": ctypes.c_int32, "INT64": ctypes.c_int64}[self.kind]
        size = int(np.prod(self.given))
        there = np.frombuffer((kind * size).from_address(addresses[0]), kind)
        np.frombuffer((ctypes.c_float * size).from_address(addresses[1]), np.float32)[:] = 2 * there
        self.driver.work(50_000)
        if self.context.profiler is not None:
            for name, ms in (("conv + relu", 0.03), ("gemm", 0.02), ("conv + relu", 0.01)):
                self.context.profiler.report_layer_time(name, ms)
        return True


@pytest.fixture
def model(tmp_path: Path) -> str:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])
    two = numpy_helper.from_array(np.full(1000, 2, np.float32), "two")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y], [two])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    return str(tmp_path / "m.onnx")


@pytest.mark.parametrize("version", VERSIONS)
def test_how_an_engine_is_built(model: str, version: str) -> None:
    library = Library(version)
    build_engine(library, model, "float32", {"x": (1, 6)}, workspace_bytes=123)
    old = version == "8.2.1.8"
    explicit = 1 if version.startswith("8") else 0
    profile = "profile {'x': ((1, 6), (1, 6), (1, 6))}"
    assert library.calls == [f"network {explicit}", *([] if old else ["pool 123"]), "clear TF32", profile, "build"]
    assert getattr(library.config, "max_workspace_size", None) == (123 if old else None)


def test_a_fixed_batch_needs_no_profile(model: str) -> None:
    library = Library("8.2.1.8", shape=(1, 6))
    build_engine(library, model, "float32")
    assert not [call for call in library.calls if call.startswith("profile")]
    with pytest.raises(BackendError, match=r"takes the shape \[1, 6\], not \[2, 6\]"):
        build_engine(library, model, "float32", {"x": (2, 6)})
    with pytest.raises(BackendError, match="leaves more open than its batch"):
        build_engine(Library("8.2.1.8", shape=(-1, -1)), model, "float32")


@pytest.mark.parametrize("version", VERSIONS)
def test_float16(model: str, version: str) -> None:
    library = Library(version)
    if version.startswith("11"):
        with pytest.raises(BackendError, match="float16 was asked for, but its layer 'conv' is in float32"):
            build_engine(library, model, "float16")
        build_engine(Library(version, kind="HALF"), model, "float16")
        with pytest.raises(BackendError, match="float32 was asked for, but its layer 'conv' is in float16"):
            build_engine(Library(version, kind="HALF"), model, "float32")
    else:
        build_engine(library, model, "float16")
        assert "set FP16" in library.calls
    with pytest.raises(BackendError, match="unknown precision 'int8'; known: float16, float32"):
        build_engine(library, model, "int8")


def test_an_unsupported_operator_is_named(model: str) -> None:
    """Later versions name it in the error, 8.2 only in the log."""
    error = SimpleNamespace(node_operator=lambda: "Det", node_name=lambda: "strange", desc=lambda: "false")
    library = Library("10.3.0")
    library.parse_errors = [error]
    with pytest.raises(BackendError, match=r"^TensorRT 10\.3\.0 does not support .* Det \(node 'strange'\); cut"):
        build_engine(library, model, "float32")
    old = Library("8.2.1.8")
    old.parse_errors = [SimpleNamespace(desc=lambda: "Assertion failed: creator")]
    build = old.Builder

    def logging(log: Any) -> Any:
        log.log(Logger.Severity.WARNING, "While parsing node number 0 [Relu -> a]")
        log.log(Logger.Severity.ERROR, 'ModelImporter.cpp:773: While parsing node number 1 [Det -> "y"]:')
        return build(log)

    old.Builder = logging
    with pytest.raises(BackendError, match=r"does not support what m\.onnx needs: Det; cut"):
        build_engine(old, model, "float32")


def test_fingerprint_changes_with_what_matters(model: str) -> None:
    assert external_files(Path(model).read_bytes()) == ["weights.bin"]
    first = fingerprint(model, "10.3", (6, 2))
    assert fingerprint(model, "10.3", (6, 2)) == first
    assert fingerprint(model, "10.4", (6, 2)) != first
    weights = Path(model).with_name("weights.bin")
    os.utime(weights, (1, 1))
    second = fingerprint(model, "10.3", (6, 2))
    assert second != first
    Path(model).write_bytes(Path(model).read_bytes() + b"\x42\x00")
    assert fingerprint(model, "10.3", (6, 2)) != second
    weights.unlink()
    with pytest.raises(BackendError, match=r"the weights of m\.onnx are missing: .*weights\.bin"):
        fingerprint(model)


def test_a_long_file_name_is_found() -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "t")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w" * 300)
    assert external_files(tensor.SerializeToString()) == ["w" * 300]


def test_kept_engines(tmp_path: Path) -> None:
    folder, built = tmp_path / "cache", iter([b"one", b"two", b"three", b"four"])

    def get(key: str = "k", anew: bool = False) -> bytes:
        return kept_engine(str(folder), "a b.onnx", key, lambda: next(built), anew)

    assert [get(), get(), get("other")] == [b"one", b"one", b"two"]
    file = folder / "a-b-k.engine"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [get(), get()] == [b"three", b"three"]
    assert get(anew=True) == b"four"
    assert sorted(path.name for path in folder.iterdir()) == ["a-b-k.engine", "a-b-other.engine"]
    assert kept_engine(None, "m", "k", lambda: b"five") == b"five"


def test_absence_and_age_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(tensorrt_engine, "import_module", missing)
    assert "TensorRT is not installed for this Python (No module named 'tensorrt'); JetPack" in tensorrt_engine.usable()
    monkeypatch.setattr(tensorrt_engine, "import_module", lambda name: SimpleNamespace(__version__="7.1.3.0"))
    assert tensorrt_engine.usable() == "TensorRT 7.1.3.0 is too old; 8.2 (JetPack 4.6) or later is needed"
    with pytest.raises(BackendError, match=r"7\.1\.3\.0 is too old"):
        tensorrt_engine.open_runner("m.onnx", FEED, Settings())


def test_a_library_that_cannot_start_is_said(model: str) -> None:
    """As TensorRT without a GPU: an error in its log and a null pointer."""

    def nothing(log: Any) -> Any:
        log.log(Logger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    library = Library("10.3.0")
    library.Builder = nothing
    with pytest.raises(BackendError, match=r"^TensorRT 10\.3\.0 cannot start here: CUDA initialization failure .* 35$"):
        build_engine(library, model, "float32")


@pytest.mark.deep
@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_times_and_layers(driver: Any, model: str, version: str, tmp_path: Path) -> None:
    library = Library(version, driver)
    settings = Settings(cache=str(tmp_path / "cache"))
    runner = TensorRTRunner(library, model, FEED, settings, driver.path)
    outputs, seconds = runner.outputs(), runner.run()
    layers = layer_times(library, runner)
    runner.close()
    assert outputs["y"].tolist() == [[0, 2, 4, 6, 8, 10]]
    assert seconds == pytest.approx(50e-6 + 2 * (1000 + 2 * 24) * 1e-9, rel=1e-5)
    assert [name for name, _ in layers] == ["conv + relu", "gemm", "conv + relu"]
    assert [each for _, each in layers] == pytest.approx([3e-5, 2e-5, 1e-5])
    assert set(library.calls) & {"v2", "v3"} == {"v2" if version == "8.2.1.8" else "v3"}
    assert len([call for call in library.calls if call in ("v2", "v3")]) > LAYER_RUNS
    TensorRTRunner(library, model, FEED, settings, driver.path).close()
    assert library.calls.count("build") == 1  # the second was kept


@pytest.mark.deep
@pytest.mark.parametrize("version", ["8.2.1.8", "10.3.0"])
def test_a_fixed_batch_is_not_set_again(driver: Any, model: str, version: str) -> None:
    library = Library(version, driver, shape=(1, 6))
    library.set_shape = None
    runner = TensorRTRunner(library, model, FEED, Settings(), driver.path)
    outputs = runner.outputs()
    runner.close()
    assert outputs["y"].tolist() == [[0, 2, 4, 6, 8, 10]]


@pytest.mark.deep
def test_sizes_that_depend_on_values_are_refused(driver: Any, model: str) -> None:
    library = Library("10.3.0", driver)
    library.set_shape = lambda which, shape: True
    with pytest.raises(BackendError, match="the size of output 'y' depends on the values"):
        TensorRTRunner(library, model, FEED, Settings(), driver.path)


@pytest.mark.deep
def test_an_engine_that_the_library_refuses_is_built_once_more(driver: Any, model: str, tmp_path: Path) -> None:
    library = Library("10.3.0", driver)
    settings = Settings(cache=str(tmp_path / "cache"))
    TensorRTRunner(library, model, FEED, settings, driver.path).close()
    library.refused_plans = [b'{"version": "10.3.0"}']
    with pytest.raises(BackendError, match="cannot load the engine that it built"):
        TensorRTRunner(library, model, FEED, settings, driver.path)
    assert library.calls.count("build") == 2


@pytest.mark.deep
@pytest.mark.parametrize(("version", "kind"), [("8.2.1.8", "INT32"), ("10.3.0", "INT64")])
def test_whole_numbers(driver: Any, model: str, version: str, kind: str) -> None:
    """TensorRT 8 makes 32 bits of 64; the outputs are float32 in any case."""
    feed = {"x": np.array([[1, 2, 3, 4, 5, 6]], np.int64)}
    runner = TensorRTRunner(Library(version, driver, kind), model, feed, Settings(), driver.path)
    outputs = runner.outputs()
    runner.close()
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [[2, 4, 6, 8, 10, 12]]
    if kind == "INT32":
        with pytest.raises(BackendError, match="input 'x' has values that int32 cannot hold"):
            TensorRTRunner(Library(version, driver, kind), model, {"x": feed["x"] << 40}, Settings(), driver.path)


@pytest.mark.deep
def test_a_type_without_counterpart_is_refused(driver: Any, model: str) -> None:
    with pytest.raises(BackendError, match="tensor 'x' is of the type BF16"):
        TensorRTRunner(Library("10.3.0", driver, "BF16"), model, FEED, Settings(), driver.path)


@pytest.mark.deep
@pytest.mark.parametrize(("version", "kind"), [("8.2.1.8", "FLOAT"), ("10.3.0", "FLOAT"), ("8.2.1.8", "INT32")])
def test_new_inputs(driver: Any, model: str, version: str, kind: str) -> None:
    """Each call gives arrays of its own; another shape, and numbers that do not fit, are refused."""
    runner = TensorRTRunner(Library(version, driver, kind), model, FEED, Settings(), driver.path)
    calls = [runner.call({"x": np.full((1, 6), value, np.int64), "unused": 1})["y"] for value in (1, 2)]
    with pytest.raises(BackendError, match=r"input 'x' is \[2, 6\], and the engine is for \[1, 6\] alone; open one"):
        runner.call({"x": np.zeros((2, 6))})
    with pytest.raises(BackendError, match="input 'x' was not given"):
        runner.call({})
    if kind == "INT32":
        with pytest.raises(BackendError, match="input 'x' has values that int32 cannot hold"):
            runner.call({"x": np.full((1, 6), 1 << 40)})
    runner.close()
    assert [call.tolist() for call in calls] == [[[2.0] * 6], [[4.0] * 6]]
    assert calls[0].dtype == np.float32


@pytest.mark.deep
def test_an_engine_that_is_ready_is_run(driver: Any, model: str, tmp_path: Path) -> None:
    """Nothing is built, but where the library does not take it."""
    library = Library("10.3.0", driver)
    settings = Settings(cache=str(tmp_path / "cache"), engine=b'{"version": "10.3.0"}')
    for source, calls in (("ready", 0), ("built", 1), ("kept", 1)):
        runner = TensorRTRunner(library, model, FEED, settings, driver.path)
        assert runner.call(FEED)["y"].tolist() == [[0, 2, 4, 6, 8, 10]]
        runner.close()
        assert (runner.source, library.calls.count("build")) == (source, calls)
        settings = settings._replace(engine=b"of another version")
        library.refused_plans = [b"of another version"]


@pytest.mark.deep
def test_a_model_in_memory(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sees a file of the user's own, which is gone afterwards; the engine is kept by what was in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    library, settings = Library("10.3.0", driver), Settings(cache=str(tmp_path / "cache"))
    seen: list[tuple[bytes, int, int]] = []
    parser = library.OnnxParser

    def looking(network: Any, log: Any) -> Any:
        def parse(path: str) -> bool:
            about = Path(path).stat().st_mode & 0o077, Path(path).parent.stat().st_mode & 0o077
            seen.append((Path(path).read_bytes(), *about))
            return True

        made = parser(network, log)
        made.parse_from_file = parse
        return made

    library.OnnxParser = looking
    for data in (b"one model", b"one model", b"another one"):
        TensorRTRunner(library, data, FEED, settings, driver.path).close()
    assert [(data, folder) for data, _, folder in seen] == [(b"one model", 0), (b"another one", 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises((BackendError, OSError)):
        TensorRTRunner(library, b"a model", FEED, Settings(), driver.path)
