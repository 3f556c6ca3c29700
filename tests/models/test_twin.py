"""The torch twin behind a cut: equal to ONNX Runtime, frozen, and never loaded from a pickle."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.utils import Extractor

from edgecut.errors import ModelError
from edgecut.models.exporting import refuse_pickles
from edgecut.models.load import Model
from edgecut.models.spec import CutSpec

ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
from edgecut.models.twin import load_twin, partition, suffix_of  # noqa: E402 - needs torch


def cloud_half(model: Model, cut: CutSpec) -> Any:
    """The cloud half by onnx's own extractor."""
    names = [tensor.name for tensor in cut.tensors]
    whole = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model.read()))
    extracted = Extractor(whole).extract_model(names, [model.spec.output.name])
    return ort.InferenceSession(extracted.SerializeToString(), providers=["CPUExecutionProvider"])


def agrees(model: Model, cut: CutSpec, batch: int) -> None:
    generator = np.random.default_rng(batch)
    arrays = {t.name: generator.standard_normal((batch, *t.shape)).astype(np.float32) for t in cut.tensors}
    expected = cloud_half(model, cut).run(None, arrays)[0]
    got = suffix_of(model, cut)(*[torch.from_numpy(arrays[t.name]) for t in cut.tensors]).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "fc1"])
def test_the_twin_is_the_cloud_half(name: str, batch: int, lenet: Model) -> None:
    agrees(lenet, lenet.spec.cut(name), batch)


def test_a_twin_takes_several_tensors(residual: Any) -> None:
    for cut in residual.model.spec.cuts:
        agrees(residual.model, cut, 3)
    assert {len(cut.tensors) for cut in residual.model.spec.cuts} >= {1, 2}


def test_the_network_is_frozen_and_the_input_is_not(lenet: Model) -> None:
    suffix = suffix_of(lenet, lenet.spec.cut("conv3"))
    assert not any(value.requires_grad for value in [*suffix.parameters(), *suffix.buffers()])
    x = torch.randn(2, 120, requires_grad=True)
    suffix(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_cut_that_neither_the_twin_nor_the_file_has(lenet: Model) -> None:
    cut = lenet.spec.cut("conv3")
    other = cut.model_copy(update={"tensors": (cut.tensors[0].model_copy(update={"name": "viw"}),)})
    with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
        suffix_of(lenet, other)
    assert lenet.twin is not None
    with pytest.raises(ModelError, match="torch twin of lenet5 has no value viw; choose another cut"):
        partition(load_twin(lenet.twin), ["viw"], None, "lenet5")


@pytest.mark.parametrize("twin", [None, Path("nothing.pt2")])
def test_a_model_without_a_twin(twin: Path | None, lenet: Model) -> None:
    agrees(dataclasses.replace(lenet, twin=twin), lenet.spec.cut("conv3"), 3)


def test_a_twin_of_other_weights_is_noticed(lenet: Model, residual: Any) -> None:
    proto = onnx.load_model_from_string(lenet.read())
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc2.bias")
    changed = onnx.numpy_helper.to_array(weights) + 0.01
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    from edgecut.models.graph import ModelGraph

    other = dataclasses.replace(lenet, graph=ModelGraph(proto, "lenet5", lenet.spec.digest))
    with pytest.raises(ModelError, match=r"torch twin of lenet5 and its ONNX file differ by 0.01 after conv3"):
        suffix_of(other, lenet.spec.cut("conv3"))


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("member", ["archive/data/sample_inputs/model.pt", "archive/data/weights/w.pkl", "extra.pt"])
def test_a_pickled_twin_is_never_loaded(member: str, lenet: Model, tmp_path: Path) -> None:
    assert lenet.twin is not None
    path, proof = tmp_path / "twin.pt2", tmp_path / "was run"
    with zipfile.ZipFile(lenet.twin) as good, zipfile.ZipFile(path, "w") as made:
        for name in good.namelist():
            if name != member:
                made.writestr(name, good.read(name))
        made.writestr(member, pickle.dumps(Evil(proof)))
    with pytest.raises(ModelError, match="pickled payloads, which are never loaded"):
        suffix_of(dataclasses.replace(lenet, twin=path), lenet.spec.cut("conv3"))
    assert not proof.exists()
    pickle.loads(pickle.dumps(Evil(proof)))  # the control: it would have been
    assert proof.exists()


def test_a_twin_that_says_it_is_pickled_or_is_no_archive(lenet: Model, tmp_path: Path) -> None:
    assert lenet.twin is not None
    refuse_pickles(lenet.twin)
    path = tmp_path / "twin.pt2"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data/weights/model_weights_config.json", '{"config": {"w": {"use_pickle": true}}}')
    with pytest.raises(ModelError, match="pickled"):
        refuse_pickles(path)
    path.write_bytes(pickle.dumps(Evil(tmp_path / "was run")))
    with pytest.raises(ModelError, match=r"is not a readable \.pt2 archive"):
        suffix_of(dataclasses.replace(lenet, twin=path), lenet.spec.cut("conv3"))
    assert not (tmp_path / "was run").exists()
