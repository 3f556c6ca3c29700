"""The processor's backend: what it gives, what it refuses, and its layer times from a profile's events."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgecut.agent import onnxruntime_cpu
from edgecut.agent.backends import BACKENDS, BackendError, Settings, load_backend
from edgecut.agent.kit import feed, read_kit
from edgecut.agent.onnxruntime_cpu import layer_times, node_times, open_runner, session_options


def test_outputs_are_the_models(kit_folder: Path) -> None:
    part = read_kit(str(kit_folder)).parts[0]
    path, given = f"{kit_folder}/{part.file}", feed(part)
    weights = [onnx.numpy_helper.to_array(t, str(kit_folder)) for t in onnx.load(path).graph.initializer]
    expected = given["x"]
    for weight in weights:
        expected = np.maximum(expected @ weight, 0)
    runner = open_runner(path, {**given, "unused": np.zeros(3)}, Settings())
    assert runner.run() is None  # the host's clock tells the time
    (got,) = runner.outputs().values()
    assert np.allclose(got, expected, atol=1e-5) and float(np.abs(got).max()) > 0.1
    runner.close()


def test_new_inputs_of_any_batch(kit_folder: Path) -> None:
    part = read_kit(str(kit_folder)).parts[-1]
    path, given = f"{kit_folder}/{part.file}", feed(part)
    runner = open_runner(path, given, Settings())
    (name,) = given
    single = next(iter(runner.call(given).values()))
    (out,) = runner.call({name: np.repeat(given[name], 3, axis=0)}).values()
    assert out.shape == (3 * len(single), *single.shape[1:]) and np.allclose(out[: len(single)], single, atol=1e-5)
    (changed,) = runner.call({name: given[name] * 2}).values()
    assert not np.allclose(changed, single)
    with pytest.raises(BackendError, match="ONNX Runtime cannot run the model: ") as raised:
        runner.call({name: given[name][..., :3]})
    assert "\n" not in str(raised.value)
    runner.close()


def test_what_it_refuses(kit_folder: Path) -> None:
    whole = f"{kit_folder}/whole.onnx"
    with pytest.raises(BackendError, match="in float32; leave the precision out"):
        open_runner(whole, {}, Settings(precision="float16"))
    Path(whole).write_bytes(b"no model")
    with pytest.raises(BackendError, match=rf"ONNX Runtime {onnxruntime.__version__} cannot load whole\.onnx: "):
        open_runner(whole, {}, Settings())
    with pytest.raises(BackendError, match="cannot load the model: "):
        open_runner(b"no model", {}, Settings())
    with pytest.raises(BackendError, match=r"unknown backend 'tpu'; known: onnxruntime-cpu, onnxruntime-cuda"):
        load_backend("tpu")
    assert load_backend("onnxruntime-cpu") is onnxruntime_cpu
    assert all(name == name.lower() for name in BACKENDS)


def test_options_are_those_asked_for() -> None:
    options = session_options(onnxruntime, 3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads, options.enable_profiling) == (3, 1, False)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def event(name: str, begin: int, took: int, category: str = "Node") -> dict[str, object]:
    return {"cat": category, "name": name, "ts": begin, "dur": took}


def test_node_times() -> None:
    """Medians without the first quarter of the runs, in order of first execution, in seconds."""
    events = [event("b_kernel_time", 10, 7), event("a_kernel_time", 5, 1000), event("b_fence_before", 1, 9)]
    events += [event("model_run", 0, 99, "Session"), event("", 0, 1), {"name": "odd"}]
    events += [event("a_kernel_time", 20 + i, took) for i, took in enumerate((30, 10, 20))]
    assert node_times(events) == [("a", pytest.approx(20e-6)), ("b", pytest.approx(7e-6))]
    assert node_times([]) == []


def test_layer_times_and_a_disk_without_room(kit_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = read_kit(str(kit_folder)).parts[0]
    path, given = f"{kit_folder}/{part.file}", feed(part)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert sum("matmul" in name for name, _ in layer_times(path, given, Settings())) == 3
    assert os.listdir(scratch) == []
    monkeypatch.setattr(onnxruntime_cpu.json, "load", lambda file: onnxruntime_cpu.json.loads(file.read()[:4096]))
    with pytest.raises(BackendError, match=rf"own profile cannot be kept in {scratch} .*free some space there"):
        layer_times(path, given, Settings())
    assert os.listdir(scratch) == []
    monkeypatch.setattr(tempfile, "tempdir", str(scratch / "none"))
    with pytest.raises(BackendError, match="No such file or directory"):
        layer_times(path, given, Settings())
