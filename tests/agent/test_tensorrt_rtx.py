"""TensorRT-RTX: what is refused without the library, and engines of the paper's networks, built without a GPU."""

from __future__ import annotations

import functools
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgecut.agent import cuda, tensorrt_rtx
from edgecut.agent.backends import BackendError, Settings
from edgecut.agent.tensorrt_rtx import build_ahead
from edgecut.models.catalogue import entry

PAPER = ["lenet5", "cifar10_cnn", "svhn_cnn", "alexnet", "vgg16", "text_cnn_20news"]
TARGETS = [(8, 6), (8, 9), (12, 0)]
KNOWN = {"NONE": 0, "CURRENT": 1, "SM75": 75, "SM80": 80, "SM120": 120}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of the library as is asked before anything is built."""
    module = SimpleNamespace(__version__="1.7", ComputeCapability=SimpleNamespace(__members__=KNOWN))
    monkeypatch.setattr(tensorrt_rtx, "import_module", lambda name: module)


def test_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(tensorrt_rtx, "import_module", missing)
    expected = "TensorRT-RTX is not installed (No module named 'tensorrt_rtx'); install edgecut[rtx]"
    assert tensorrt_rtx.usable() == expected
    with pytest.raises(BackendError, match="not installed"):
        build_ahead("m.onnx", "float32", TARGETS)


@pytest.mark.parametrize(
    ("capability", "name"), [((6, 1), "Titan Xp"), ((6, 2), "TX2"), ((7, 2), "Xavier"), ((5, 3), "Nano")]
)
def test_older_gpus_are_refused(library: None, capability: tuple[int, int], name: str) -> None:
    text = r"needs compute capability 7\.5 \(Turing\) or newer and the target has {}\.{}; take".format(*capability)
    with pytest.raises(BackendError, match=text):
        build_ahead("m.onnx", "float32", [(8, 0), capability])


def test_unknown_targets_name_the_known(library: None) -> None:
    with pytest.raises(BackendError, match=r"does not build for compute capability 9\.0; known: 7\.5, 8\.0, 12\.0"):
        build_ahead("m.onnx", "float32", [(9, 0)])
    with pytest.raises(BackendError, match="say for which compute capabilities"):
        build_ahead("m.onnx", "float32", [])


@pytest.mark.deep
def test_an_older_gpu_here_is_refused(driver: Any, library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "Device", functools.partial(cuda.Device, library=driver.path))
    driver.device(capability=(6, 1))
    assert "newer and Fake GPU has 6.1; take" in tensorrt_rtx.usable()
    with pytest.raises(BackendError, match=r"Fake GPU has 6\.1"):
        tensorrt_rtx.open_runner("m.onnx", {}, Settings())
    driver.device(capability=(7, 5))
    assert tensorrt_rtx.usable() == ""


def export(name: str, path: Path, *, half: bool = False) -> int:
    """A network of the catalogue with seeded weights; returns the bytes of its weights."""
    import torch

    torch.manual_seed(0)
    network = entry(name).build().eval()
    example = entry(name).example(2)
    if half:
        network, example = network.half(), example.half()
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["what_goes_in"],
        output_names=["what_comes_out"],
    )
    program.save(path, external_data=name == "vgg16")
    return sum(each.numel() * each.element_size() for each in network.parameters())


@pytest.mark.deep
@pytest.mark.parametrize("name", PAPER)
def test_engines_of_the_paper_s_networks(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / f"{name}.onnx"
    weights_bytes = export(name, path)
    assert (tmp_path / "vgg16.onnx.data").exists() == (name == "vgg16")  # external weights are found, too
    gc.collect()
    engine = build_ahead(str(path), "float32", TARGETS)
    assert len(engine) >= weights_bytes
    assert b"what_goes_in" in engine
    assert b"what_comes_out" in engine
    assert b"what_is_not_there" not in engine


@pytest.mark.deep
def test_precision_is_the_model_s_own(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    full, half = str(tmp_path / "full.onnx"), str(tmp_path / "half.onnx")
    export("lenet5", Path(full))
    export("lenet5", Path(half), half=True)
    with pytest.raises(BackendError, match=r"float16 was asked for, but its layer '.+' is in float32"):
        build_ahead(full, "float16", TARGETS)
    with pytest.raises(BackendError, match=r"float32 was asked for, but its layer '.+' is in float16"):
        build_ahead(half, "float32", TARGETS)
    with pytest.raises(BackendError, match=r"cannot build full\.onnx: .*Turing"):
        build_ahead(full, "float32", [(7, 5)])
    assert build_ahead(half, "float16", [(7, 5)])


@pytest.mark.deep
def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Det", ["a"], ["y"], "strange")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    path = tmp_path / "det.onnx"
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(BackendError, match=r"does not support what det\.onnx needs: Det \(node 'strange'\); cut"):
        build_ahead(str(path), "float32", TARGETS)
    path.write_bytes(b"not a model")
    with pytest.raises(BackendError, match=r"cannot read det\.onnx: "):
        build_ahead(str(path), "float32", TARGETS)
