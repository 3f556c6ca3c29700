"""Suffixes made from the ONNX file alone: the torch twin's answers and gradients, for named and foreign networks."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - needs torch
from torch.nn import functional  # noqa: E402 - needs torch

from edgecut.errors import ModelError  # noqa: E402 - needs torch
from edgecut.models import from_onnx, torch_operators, twin  # noqa: E402 - needs torch
from edgecut.models.catalogue import CATALOGUE  # noqa: E402 - needs torch
from edgecut.models.load import Model, load_model  # noqa: E402 - needs torch
from edgecut.models.spec import CutSpec  # noqa: E402 - needs torch
from edgecut.models.twin import load_twin, suffix_of, values_of  # noqa: E402 - needs torch

SMALL = ("lenet5", "cifar10_cnn", "svhn_cnn", "text_cnn_20news", "transformer_encoder", "vgg_faces")


def given(cut: CutSpec, batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, *tensor.shape, generator=generator, requires_grad=True) for tensor in cut.tensors]


def answers(suffix: nn.Module, values: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits, and the gradient of their weighted sum for every value given."""
    logits = suffix(*values)
    weights = torch.arange(1.0, logits.shape[1] + 1)
    return logits.detach(), list(torch.autograd.grad((logits * weights).sum(), values))


def is_converted(suffix: Any) -> bool:
    return from_onnx.run in {node.target for node in suffix.graph.nodes}


def bare(model: Model) -> Model:
    """The same file, as if it came from elsewhere."""
    return dataclasses.replace(model, twin=None)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALL else pytest.mark.deep) for name in CATALOGUE]
)
def test_the_twin_and_the_file_agree(name: str) -> None:
    model = load_model(name)
    assert model.twin is not None
    known = values_of(load_twin(model.twin))
    both = [cut for cut in model.spec.cuts if known >= {tensor.name for tensor in cut.tensors}]
    for cut in (both[len(both) // 2], both[-1]):
        kept, made = suffix_of(model, cut), suffix_of(bare(model), cut)
        assert is_converted(made) and not is_converted(kept)
        assert not any(value.requires_grad for value in [*made.parameters(), *made.buffers()])
        for batch in (1, 2):
            values = given(cut, batch)
            wanted, wanted_slopes = answers(kept, values)
            logits, slopes = answers(made, values)
            torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
            for slope, right in zip(slopes, wanted_slopes, strict=True):
                # By their norm: rounding puts a few values on the other side of a ReLU's kink.
                assert right.norm() > 0 and (slope - right).norm() <= 0.02 * right.norm()


def test_gradients_against_finite_differences(lenet: Model) -> None:
    cut = lenet.spec.cut("conv3")
    suffix = suffix_of(bare(lenet), cut).double()
    assert torch.autograd.gradcheck(suffix, torch.randn(3, 120, dtype=torch.float64, requires_grad=True))


def test_a_cut_that_only_the_file_has(lenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = lenet.spec.cut("conv3")
    wanted = suffix_of(lenet, cut)(*given(cut, 2))
    monkeypatch.setattr(twin, "values_of", lambda _: {"another"})
    made = suffix_of(lenet, cut)
    assert is_converted(made)
    torch.testing.assert_close(made(*given(cut, 2)), wanted, rtol=1e-4, atol=1e-4)


def test_a_cut_that_neither_has_names_those_that_the_program_has(lenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    late = {tensor.name for cut in lenet.spec.cuts[2:] for tensor in cut.tensors}
    monkeypatch.setattr(twin, "values_of", lambda _: late)
    monkeypatch.setattr(from_onnx, "OPERATORS", {})
    with pytest.raises(ModelError, match=r"no torch form; .*; its torch program has the cuts conv3, fc1$"):
        suffix_of(lenet, lenet.spec.cut("conv1"))
    with pytest.raises(ModelError, match=r"give the torch model itself$"):
        suffix_of(bare(lenet), lenet.spec.cut("conv1"))


class Shortcut(nn.Module):
    """A residual block whose shortcut drops every second value and adds channels of zeros (He et al., option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = self.conv2(torch.relu(self.bn(self.conv1(x))))
        return torch.relu(changed + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


def foreign(network: nn.Module, path: Path) -> Model:
    """The network as torch's older exporter writes it, which edgecut does not use."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.randn(2, 3, 8, 8),),
            content,
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            dynamic_axes={"input": {0: "batch"}},
        )
    path.write_bytes(content.getvalue())
    model = load_model(str(path))
    assert model.twin is None
    return model


def test_a_foreign_file_answers_as_the_network_it_was_made_of(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stem, block = nn.Conv2d(3, 4, 3, padding=1), Shortcut()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    for value in block.bn.buffers():
        if value.dtype == torch.float32:
            value.uniform_(0.5, 2)  # statistics that change something
    model = foreign(nn.Sequential(stem, nn.ReLU(), block, head), tmp_path / "block.onnx")
    cut = model.spec.cuts[0]
    assert cut.tensors[0].shape == (4, 8, 8)
    suffix = suffix_of(model, cut)
    for batch in (1, 3):
        x = torch.randn(batch, 4, 8, 8, requires_grad=True)
        with torch.no_grad():
            torch.testing.assert_close(suffix(x), head(block(x)), rtol=1e-4, atol=1e-5)
        wanted = torch.autograd.grad(head(block(x)).square().sum(), x)[0]
        got = torch.autograd.grad(suffix(x).square().sum(), x)[0]
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_a_form_that_computes_something_else_is_noticed(lenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model, cut = bare(lenet), lenet.spec.cut("conv3")
    monkeypatch.setitem(torch_operators.OPERATORS, "Relu", torch.tanh)
    with pytest.raises(ModelError, match=r"the torch form of lenet5 and its ONNX file differ by .* after conv3"):
        suffix_of(model, cut)
    monkeypatch.setitem(torch_operators.OPERATORS, "Relu", lambda x: x[:1])
    with pytest.raises(ModelError, match=r"the torch form of lenet5 and its ONNX file differ by inf after conv3"):
        suffix_of(model, cut)
    monkeypatch.setitem(torch_operators.OPERATORS, "Relu", lambda x: x.reshape(7, 7, 7))
    with pytest.raises(ModelError, match=r"the torch form of lenet5 does not run after conv3; choose another cut \("):
        suffix_of(model, cut)
    monkeypatch.delitem(torch_operators.OPERATORS, "Relu")
    with pytest.raises(ModelError, match=r"the operator Relu of lenet5 \(node '.*'\), of which edgecut has no torch"):
        suffix_of(model, cut)


def test_noise_that_is_not_a_number_is_noticed(lenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_operators.OPERATORS, "Relu", lambda x: x * np.nan)
    with pytest.raises(ModelError, match=r"differ by nan after conv3"):
        suffix_of(bare(lenet), lenet.spec.cut("conv3"))
