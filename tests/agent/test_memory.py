"""Measured memory of sub-models: against the weights they are known to have, and where it cannot be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent import memory
from edgecut.agent.backends import Settings
from edgecut.agent.kit import read_kit
from edgecut.agent.memory import measure_memory, peak_bytes
from edgecut.errors import DeviceError
from edgecut.models.cuts import edge_memory_bytes
from edgecut.models.load import Model, load_model
from edgecut.profiler.assemble import assemble
from edgecut.profiler.kit import KitSettings, write_kit
from edgecut.profiler.pack import pack
from edgecut.profiler.result import read_result
from edgecut.profiler.run import profile

SIDE = 3200
RUNTIME_BYTES = 25e6
"""What an opened session takes beside the model, at most: 12 MB here, with a margin for another version."""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """41 MB of weights in front of the cut, and as many behind it."""
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.standard_normal((SIDE, SIDE), np.float32), name) for name in ("w0", "w1")
    ]
    nodes = [helper.make_node("Gemm", [a, w, ""], [b], w) for a, w, b in (("x", "w0", "a"), ("a", "w1", "y"))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIDE]) for name in "xy"]
    path = tmp_path_factory.mktemp("heavy") / "heavy.onnx"
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return load_model(str(path))


def kit_of(model: Model, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    chosen = {"pause_s": 0.0, "max_seconds": 0.1, "meter": "none", **changes}
    write_kit(model, folder, KitSettings("onnxruntime-cpu", 1, **chosen), progress=lambda *_: None)
    return folder


def test_memory_of_known_weights(heavy: Model, tmp_path: Path) -> None:
    """More than the weights, and no more than three times what is computed: mapped from the file, and rearranged."""
    kit = read_kit(str(kit_of(heavy, tmp_path / "kit")))
    told: list[tuple[str, float]] = []
    found, note = measure_memory(kit, "onnxruntime-cpu", Settings(), lambda *said: told.append(said))
    weights = 4 * SIDE * SIDE
    cut = heavy.spec.cuts[0]
    computed = edge_memory_bytes(heavy.spec, cut)
    assert computed == weights + 2 * 4 * SIDE
    assert note == "" and found.keys() == {"whole", f"prefix:{cut.name}"}
    assert weights < found[f"prefix:{cut.name}"] < 3 * computed + RUNTIME_BYTES
    assert 2 * weights < found["whole"] < 3 * 2 * computed + RUNTIME_BYTES
    assert [what for what, _ in told] == ["measuring memory of whole", f"measuring memory of prefix:{cut.name}"]


def test_the_packed_agent_measures_it_where_it_was_asked_for(small: Model, tmp_path: Path) -> None:
    """On a device there is no installed edgecut to start again, only the one file, here by a relative path."""
    agent = pack(tmp_path / "edgecut_edge.pyz")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for asked in (True, False):
        folder = kit_of(small, tmp_path / f"kit-{asked}", memory=asked)
        command = [sys.executable, agent.name, "profile", folder.name]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        values = json.loads((folder / "result.json").read_text())
        assert ("memory_bytes" in values, "memory_note" in values) == (asked, asked)
        made = assemble(small.spec, small.graph, "board", read_result(values, "board"), power=None)
        taken = [made.whole_memory_bytes, *(cut.prefix_memory_bytes for cut in made.cuts)]
        if asked:
            assert values["memory_note"] == ""
            assert len(taken) == 3 and all(size is not None and 1e5 < size < 1e8 for size in taken)
        else:
            assert taken == [None, None, None]


def test_a_kit_that_does_not_say_is_of_an_earlier_version(small: Model, tmp_path: Path) -> None:
    folder = kit_of(small, tmp_path / "kit")
    values = json.loads((folder / "kit.json").read_text())
    del values["settings"]["memory"]
    (folder / "kit.json").write_text(json.dumps(values))
    assert read_kit(str(folder)).settings["memory"] is False


def test_other_backends_are_unavailable_and_say_so(kit_folder: Path) -> None:
    for backend in ("onnxruntime-cuda", "tensorrt", "torch-cpu"):
        found, note = measure_memory(read_kit(str(kit_folder)), backend, Settings(), lambda *_: None)
        assert found == {}
        assert note == f"memory is measured with onnxruntime-cpu alone, not with {backend}"


def test_a_part_that_cannot_be_opened(kit_folder: Path) -> None:
    """The others are measured, and the first failure is told."""
    kit = read_kit(str(kit_folder))
    (kit_folder / "prefix-00.onnx").write_bytes(b"\0" * (kit_folder / "prefix-00.onnx").stat().st_size)
    found, note = measure_memory(kit, "onnxruntime-cpu", Settings(), lambda *_: None)
    first = next(part.name for part in kit.parts if part.file == "prefix-00.onnx")
    assert first not in found and len(found) == 2
    assert note.startswith(f"memory of {first} could not be measured (ONNX Runtime ") and "cannot load" in note


def test_a_process_that_dies(kit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CODE", "import os; os.kill(os.getpid(), 9) # {} {}")
    found, note = measure_memory(read_kit(str(kit_folder)), "onnxruntime-cpu", Settings(), lambda *_: None)
    assert found == {} and "its process ended with -9" in note
    monkeypatch.setattr(sys, "executable", str(kit_folder / "none"))
    assert "No such file" in measure_memory(read_kit(str(kit_folder)), "onnxruntime-cpu", Settings(), print)[1]


def test_what_is_not_there_to_measure() -> None:
    for arguments in ({"device": "jetson-tx2"}, {"calibration": "none.json"}):
        with pytest.raises(DeviceError, match="memory is measured and not predicted"):
            profile("lenet5", memory=True, **arguments)  # type: ignore[arg-type]


def test_the_peak_of_a_process(tmp_path: Path) -> None:
    lines = ["a = p()", "b = b'1' * 50_000_000", "c = p()", "del b", "print(a, c, p())"]
    code = "\n".join(["from edgecut.agent.memory import peak_bytes as p", *lines])
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    before, after, later = map(int, done.stdout.split())
    assert before > 5e6
    assert abs(after - before - 50e6) < 2e6 and abs(later - after) < 2e6  # the system's counters lag by some pages
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 12 kB\n")
    assert peak_bytes(str(tmp_path / "status")) is None
    assert peak_bytes(str(tmp_path / "none")) is None
