"""AlexNet and a transformer from plan to answer: bundled, packed, unpacked, served by a process, and asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.models.load import Model, load_model
from edgecut.models.session import open_session
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.partitioner.plan import Plan
from edgecut.runtime.bundle import bundle
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.packing import pack, unpack

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.deep
Serving = Callable[..., Any]
NodeRuntime = Callable[..., dict[str, np.ndarray]]
DEPLOYED = [
    ("alexnet", "conv5", "tx2"),
    ("transformer_encoder", "layers.1.attention.output", "tx2"),
    ("transformer_encoder", "layers.1.attention.output", "cpu"),
]
SCALE = 1e-5


def bundled(name: str, cut_name: str, target: str, planned: Plan, folder: Path) -> tuple[Model, Path]:
    """A bundle with noise too small to change an answer, so that the whole model tells what is right."""
    model = load_model(name)
    cut = model.spec.cut(cut_name)
    generator = np.random.default_rng(0)
    collection = NoiseCollection(
        loc=np.zeros(2, np.float32),
        scale=np.full(2, SCALE, np.float32),
        orders=np.stack([generator.permutation(cut.elements) for _ in range(2)]),
        tensors=[(tensor.name, tensor.shape) for tensor in cut.tensors],
        model_digest=model.spec.digest,
        cut=cut.name,
    )
    (folder / "noise.npz").write_bytes(collection.to_bytes())
    plan = planned.model_copy(update={"model": model.spec, "choice": cut.name})
    given = {"model": name, "noise": folder / "noise.npz", "target": target}
    return model, bundle(plan, output=folder / target, **given).folder


def inputs(model: Model, count: int) -> np.ndarray:
    spec, generator = model.spec.input, np.random.default_rng(1)
    if spec.dtype == "int64":
        return generator.integers(0, spec.below, (count, *spec.shape))
    return generator.standard_normal((count, *spec.shape)).astype(np.float32)


@pytest.mark.parametrize(("name", "cut", "target"), DEPLOYED)
def test_a_network_is_deployed(
    name: str, cut: str, target: str, planned: Plan, serving: Serving, node_runtime: NodeRuntime, tmp_path: Path
) -> None:
    """A TX2's edge half runs under ONNX Runtime 1.11, too, which reads no newer form; TensorRT 8.2 was not run."""
    model, folder = bundled(name, cut, target, planned, tmp_path)
    for side in ("edge", "cloud"):
        pack(folder / side, tmp_path / f"{side}.tar.zst")
        unpack(tmp_path / f"{side}.tar.zst", tmp_path / "there" / side)
    x = inputs(model, 3)
    (expected,) = open_session(model.read()).run(None, {model.spec.input.name: x})
    edge_side, close = tmp_path / "there" / "edge", {"rtol": 1e-2, "atol": 1e-2 * np.abs(expected).max()}
    with (
        serving(tmp_path / "there" / "cloud") as (_, address),
        EdgeSession(edge_side, address, backend="onnxruntime-cpu") as edge,
    ):
        for items in (slice(0, 1), slice(1, 3)):
            got = edge.infer(x[items])
            np.testing.assert_allclose(got, expected[items], **close)
            assert (got.argmax(1) == expected[items].argmax(1)).all()
    if target == "tx2":
        there = node_runtime(edge_side / "edge.onnx", {model.spec.input.name: x[:1]})
        here = open_session(str(edge_side / "edge.onnx")).run(None, {model.spec.input.name: x[:1]})
        for found, right in zip(there.values(), here, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4 * np.abs(right).max())
