"""Torch's backends: every partition gives what ONNX Runtime gives for it, and the profile names the layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgecut.agent.backends import BackendError, Settings, load_backend
from edgecut.agent.kit import Kit, Part, feed, read_kit
from edgecut.errors import DeviceError
from edgecut.models import twin
from edgecut.models.exporting import export
from edgecut.models.load import Model, load_model
from edgecut.profiler import torch_cpu, torch_cuda
from edgecut.profiler.backends import BACKENDS
from edgecut.profiler.kit import KitSettings, write_kit, write_twin_kit
from edgecut.profiler.layer_times import layer_times
from edgecut.profiler.run import profile

SETTINGS = KitSettings("torch-cpu", 1, "float32", 0.0, 0.2, 0.05, 50e-6, "none", 0.1)
PAPER = ("lenet5", "cifar10_cnn", "svhn_cnn", "alexnet", "vgg16", "text_cnn_20news")
"""The six networks of the Shredder paper."""


class Both(nn.Module):
    """Two inputs of different shapes, the second of which comes in late."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(12, 20), nn.Linear(6, 20)
        self.middle, self.last = nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        both = torch.relu(self.left(x)) * torch.sigmoid(self.right(y))
        return self.last(torch.relu(self.middle(both)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Its ONNX file calls the inputs otherwise than the program does."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("both")
    made = export(folder, Both(), "both", (torch.randn(2, 12), torch.randn(2, 6))).removeprefix("sha256:")
    loaded = load_model(str(folder / made / "model.onnx"))
    assert [tensor.name for tensor in loaded.spec.inputs] == ["input_0", "input_1"]
    return replace(loaded, twin=folder / made / "twin.pt2")


@pytest.fixture
def model(request: pytest.FixtureRequest, lenet: Model, both: Model) -> Model:
    return {"lenet5": lenet, "two inputs": both}[request.param]


def onnx_outputs(kit: Kit, name: str, given: dict[str, Any]) -> dict[str, Any]:
    part = next(part for part in kit.parts if part.name == name)
    session = onnxruntime.InferenceSession(f"{kit.folder}/{part.file}", providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v for k, v in given.items() if k in wanted}), strict=True))


def backend_outputs(kit: Kit, part: Part, given: dict[str, Any], backend: Any, settings: Settings) -> dict[str, Any]:
    runner = backend.open_runner(f"{kit.folder}/{part.file}", given, settings)
    try:
        runner.run()
        return dict(runner.outputs())
    finally:
        runner.close()


def compared(model: Model, kit: Kit, reference: Kit, backend: Any, settings: Settings, tolerance: float) -> None:
    """Every part on the same inputs under both; a suffix gets what ONNX Runtime's prefix gives."""
    given = feed(reference.parts[0])
    cuts = sorted({part.name.partition(":")[2] for part in kit.parts} - {""})
    for part in kit.parts:
        what, _, cut = part.name.partition(":")
        inputs = onnx_outputs(reference, f"prefix:{cut}", given) if what == "suffix" else given
        expected = onnx_outputs(reference, part.name, inputs)
        got = backend_outputs(kit, part, inputs, backend, settings)
        assert got.keys() == expected.keys()
        for name, right in expected.items():
            assert got[name].shape == right.shape and got[name].dtype == np.float32
            assert np.abs(got[name] - right).max() <= tolerance * max(1.0, float(np.abs(right).max())), part.name
    assert cuts


@pytest.mark.parametrize("model", ["lenet5", "two inputs"], indirect=True)
def test_every_partition_is_onnx_runtimes(model: Model, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("torch", "onnx")]
    for folder in folders:
        folder.mkdir()
    cuts = write_twin_kit(model, folders[0], SETTINGS, progress=lambda *_: None)
    write_kit(model, folders[1], SETTINGS, progress=lambda *_: None)
    assert cuts == model.spec.cuts and len(cuts) >= 2
    kit = read_kit(str(folders[0]))
    assert len(kit.parts) == 1 + 2 * len(cuts)
    compared(model, kit, read_kit(str(folders[1])), load_backend("torch-cpu", BACKENDS), Settings(), 1e-5)


@pytest.mark.parametrize("model", ["lenet5", "two inputs"], indirect=True)
def test_layer_times_name_the_layers(model: Model, tmp_path: Path) -> None:
    write_twin_kit(model, tmp_path, SETTINGS, progress=lambda *_: None)
    part = read_kit(str(tmp_path)).parts[0]
    nodes = torch_cpu.layer_times(f"{tmp_path}/{part.file}", feed(part), Settings())
    assert all(seconds > 0 for _, seconds in nodes)
    assert set(layer_times(model.graph, nodes)) == {layer.name for layer in model.spec.layers}


def test_end_to_end(lenet: Model, tmp_path: Path) -> None:
    made = profile("lenet5", backend="torch-cpu", threads=1, max_seconds=0.3, output=tmp_path / "p.json")
    assert (made.backend, made.device, made.threads) == ("torch-cpu", "cpu", 1)
    assert [cut.name for cut in made.cuts] == [cut.name for cut in lenet.spec.cuts]
    assert all(layer.latency_s is not None and layer.latency_s > 0 for layer in made.layers)
    assert made.environment.versions["torch"] == torch.__version__
    assert made.whole.median_s > 0
    assert not any("layer times" in note for note in made.notes)


@pytest.mark.deep
def test_cuts_that_the_program_lacks_are_left_out(lenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    known = twin.values_of
    gone = lenet.spec.cuts[1].tensors[0].name
    monkeypatch.setattr(twin, "values_of", lambda program: known(program) - {gone})
    made = profile("lenet5", backend="torch-cpu", threads=1, max_seconds=0.2)
    assert "1 of 4 cuts are not in the torch program and were left out" in made.notes
    assert [cut.name for cut in made.cuts] == ["conv1", "conv3", "fc1"]
    assert made.model.digest == lenet.spec.digest


def test_models_without_a_program(lenet: Model, tmp_path: Path) -> None:
    for gone in (None, tmp_path / "none.pt2"):
        with pytest.raises(DeviceError, match="came as an ONNX file, and torch runs models that came from torch"):
            write_twin_kit(replace(lenet, twin=gone), tmp_path, SETTINGS, progress=lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"program": "none.pt2", "given": null, "wanted": null}'])
def test_damaged_parts(text: str, tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text(text)
    with pytest.raises(BackendError):
        torch_cpu.open_runner(str(tmp_path / "whole.json"), {}, Settings())


def test_unknown_values_and_other_precisions(lenet: Model, tmp_path: Path) -> None:
    write_twin_kit(lenet, tmp_path, SETTINGS, progress=lambda *_: None)
    path = tmp_path / "prefix-00.json"
    asked = json.loads(path.read_text())
    path.write_text(json.dumps(asked | {"wanted": ["nothing"]}))
    given = feed(read_kit_part(tmp_path, "whole.json"))
    with pytest.raises(BackendError, match="nothing"):
        torch_cpu.open_runner(str(path), given, Settings())
    with pytest.raises(BackendError, match="in float32; leave the precision out"):
        torch_cpu.open_runner(str(tmp_path / "whole.json"), given, Settings(precision="float16"))


def read_kit_part(folder: Path, file: str) -> Part:
    values = json.loads((folder / "kit.json").read_text())
    values["files"] = {name: size for name, size in values["files"].items() if (folder / name).stat().st_size == size}
    (folder / "kit.json").write_text(
        json.dumps(values | {"parts": [part for part in values["parts"] if part["file"] in values["files"]]})
    )
    return next(part for part in read_kit(str(folder)).parts if part.file == file)


def test_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert torch_cuda.usable() == (f"torch {torch.__version__} was built without CUDA; install a CUDA build of torch")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_cuda.usable() == "torch finds no CUDA device; check the driver with nvidia-smi"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_cuda.usable() == ""


@pytest.mark.deep
def test_a_profile_where_there_is_no_cuda(tmp_path: Path) -> None:
    if not torch_cuda.usable():
        pytest.skip("there is a GPU here, no GPU missing")
    with pytest.raises(DeviceError, match=r"this machine: .*CUDA"):
        profile("lenet5", device="cuda", backend="torch-cuda", output=tmp_path / "p.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch-cuda", "onnxruntime-cuda"])
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks_on_a_gpu(name: str, backend: str, tmp_path: Path) -> None:
    """Every partition gives what the processor gives, within what TF32 (10 bits of mantissa) allows."""
    module = load_backend(backend, BACKENDS)
    if module.usable():
        pytest.skip(f"no GPU here: {module.usable()}")
    model = load_model(name)
    folders = [tmp_path / kind for kind in ("kit", "reference")]
    for folder in folders:
        folder.mkdir()
    write_kit(model, folders[1], SETTINGS, progress=lambda *_: None)
    if backend == "torch-cuda":
        write_twin_kit(model, folders[0], SETTINGS, progress=lambda *_: None)
    else:
        write_kit(model, folders[0], SETTINGS, progress=lambda *_: None)
    compared(model, read_kit(str(folders[0])), read_kit(str(folders[1])), module, Settings(), 1e-2)
    made = profile(name, device="cuda", backend=backend, max_seconds=2.0)
    assert made.backend == backend and made.whole.utilisation is None
    assert made.whole.median_s > 0 and made.cuts
    assert any(layer.latency_s is not None for layer in made.layers) or made.notes
