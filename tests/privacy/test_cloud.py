"""The cloud partition in two: together they are the whole, and noise passes the linear head on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import fx, nn  # noqa: E402

from edgecut.models.load import Model, load_model  # noqa: E402
from edgecut.models.spec import CutSpec, TensorSpec  # noqa: E402
from edgecut.models.twin import suffix_of  # noqa: E402
from edgecut.privacy.cloud import Cloud, bytes_per_item, cloud_of, tensors_of  # noqa: E402


def check(suffix: Any, cut: CutSpec, cloud: Cloud) -> None:
    """The whole on a + n equals the rest on head(a) and what the head makes of n."""
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(5, cut.elements, generator=generator)
    noise = 3 * torch.randn(1, cut.elements, generator=generator)
    with torch.no_grad():
        expected = suffix(*tensors_of(flat + noise, cut))
        heads = cloud.head(flat)
        assert heads.shape == (5, cloud.width)
        got = cloud.rest(heads + cloud.of_noise(noise))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        torch.testing.assert_close(cloud.logits(flat), suffix(*tensors_of(flat, cut)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "hoisted"), [("conv1", False), ("conv2", True), ("conv3", True), ("fc1", True)])
def test_lenets_cuts(name: str, hoisted: bool, lenet: Model) -> None:
    cut = lenet.spec.cut(name)
    suffix = suffix_of(lenet, cut)
    cloud = cloud_of(suffix, cut)
    # A product's results are fewer than its inputs here; behind conv1 comes a convolution, 1,600 values of 1,176.
    assert cloud.hoisted == (hoisted or cloud.width <= 2 * cut.elements)
    assert cloud.width == {"conv1": 1600, "conv2": 120, "conv3": 84, "fc1": 10}[name]
    check(suffix, cut, cloud)


def test_two_tensors_have_no_head(residual: Any) -> None:
    cut = residual.model.spec.cut(residual.planned.choice)
    suffix = suffix_of(residual.model, cut)
    cloud = cloud_of(suffix, cut)
    assert not cloud.hoisted and cloud.width == cut.elements
    check(suffix, cut, cloud)


@pytest.mark.deep
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet18", "googlenet"])
def test_large_networks(name: str) -> None:
    model = load_model(name)
    for cut in [model.spec.cuts[0], model.spec.cuts[len(model.spec.cuts) // 2], model.spec.cuts[-1]]:
        suffix = suffix_of(model, cut)
        check(suffix, cut, cloud_of(suffix, cut))


def spec(*shape: int) -> CutSpec:
    tensor = TensorSpec(name="a", dtype="float32", shape=shape)
    return CutSpec(name="c", depth=1, tensors=(tensor,), aligned=True)


def program(module: nn.Module, *shape: int) -> fx.GraphModule:
    """As a twin's suffix: plain aten operations, parameters as buffers."""
    batch = torch.export.Dim("batch")
    made = torch.export.export(module, (torch.zeros(3, *shape),), dynamic_shapes=({0: batch},)).run_decompositions({})
    inner: fx.GraphModule = made.module()
    return inner


class Branch(nn.Module):
    """The activation goes two ways: no head may take it away from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.one(x)) + self.two(x)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(Branch(), (6,)), (nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), (6,)), (nn.Linear(6, 18), (6,))],
    ids=["two ways", "not linear", "three times as wide"],
)
def test_what_is_not_hoisted(module: nn.Module, shape: tuple[int, ...]) -> None:
    from edgecut.models.twin import partition

    exported = torch.export.export(
        module.eval(), (torch.zeros(3, *shape),), dynamic_shapes=({0: torch.export.Dim("b")},)
    )
    suffix = partition(exported, ["x" if isinstance(module, Branch) else "input"], None, "test")
    cloud = cloud_of(suffix, spec(*shape))
    assert not cloud.hoisted
    check(suffix, spec(*shape), cloud)


def test_what_autograd_keeps_is_counted() -> None:
    narrow, wide = (
        Cloud(lambda a: a, lambda h, f=f: torch.relu(h.repeat(1, f)).exp(), 8, hoisted=False) for f in (1, 10)
    )
    # Per item: the activation's mask and the exponential, both float32, of 8 or 80 values.
    assert bytes_per_item(narrow) == 2 * 8 * 4 and bytes_per_item(wide) == 2 * 80 * 4


def test_splitting_a_flat_row() -> None:
    tensors = tuple(TensorSpec(name=n, dtype="float32", shape=s) for n, s in (("a", (2, 2)), ("b", (3,))))
    cut = CutSpec(name="c", depth=1, tensors=tensors, aligned=True)
    first, second = tensors_of(torch.arange(14.0).view(2, 7), cut)
    np.testing.assert_array_equal(first[1], [[7, 8], [9, 10]])
    np.testing.assert_array_equal(second, [[4, 5, 6], [11, 12, 13]])
