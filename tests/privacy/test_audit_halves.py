"""What an audit takes out of a bundle: where a map crosses, everyone can undo it, and attackers do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.models.data import PrivateLabels, load_data
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.partitioner.choose import plan
from edgecut.privacy import audit_halves
from edgecut.privacy.attacks.label import kinds_of
from edgecut.privacy.attacks.messages import Messages
from edgecut.privacy.audit_halves import of_bundle, of_model
from edgecut.privacy.audit_items import observe
from edgecut.privacy.audit_settings import AuditSettings
from edgecut.privacy.audit_stages import Stages
from edgecut.profiler.run import profile
from edgecut.runtime.bundle import bundle

SENT = 20


@pytest.fixture(scope="module")
def mapped(residual: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ElementNoise, Any]:
    """A bundle of a channel by hand at a cut of one tensor of feature maps, its noise and the cut."""
    folder, spec = tmp_path_factory.mktemp("mapped"), residual.model.spec
    cut = next(cut for cut in spec.cuts if len(cut.tensors) == 1 and len(cut.tensors[0].shape) == 3)
    n, generator = cut.elements, np.random.default_rng(0)
    rows = np.linalg.qr(generator.standard_normal((n, n)))[0][:SENT]
    turned = LinearMap((n,), generator.standard_normal(n), [None], np.arange(n), 0.5 * rows, 2 * rows.T)
    tensors = [(tensor.name, tensor.shape) for tensor in cut.tensors]
    noise = ElementNoise(
        "channel", "normal", np.zeros(SENT), np.full(SENT, 0.3), tensors, spec.digest, cut.name, map=turned
    )
    (folder / "n.npz").write_bytes(noise.to_bytes())
    measured = profile(str(residual.model.path), threads=1, max_seconds=0.5, pause_s=0.0)
    planned = plan(measured, measured, link="wifi", noises=[noise]).model_copy(update={"choice": cut.name})
    where = {"model": str(residual.model.path), "data": str(residual.data)}
    bundle(planned, noise=folder / "n.npz", output=folder / "b", **where)
    return folder / "b", noise, cut


def test_a_bundles_attackers_know_what_the_cloud_makes_of_a_message(
    mapped: tuple[Path, ElementNoise, Any], residual: Any
) -> None:
    folder, noise, cut = mapped
    data, settings = load_data(str(residual.data)), AuditSettings()
    deployed, beside = (
        observe(halves, data, settings, Stages(None))
        for halves in (of_bundle(folder), of_model(residual.model, cut, noise))
    )
    rows = np.arange(50)
    sent = deployed.sent("test", rows, "a test")
    assert sent.shape == (50, SENT) and deployed.restored_width == cut.elements
    assert deployed.feature_shapes == beside.feature_shapes == tuple(tensor.shape for tensor in cut.tensors)
    # The same noise on the same items, whether the map is part of the halves or beside them.
    np.testing.assert_allclose(sent, beside.sent("test", rows, "a test"), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(deployed.restored(sent), beside.restored(sent), rtol=1e-4, atol=1e-4)
    for seen in (deployed, beside):
        restored = Messages(seen, restored=True)
        assert restored.width == cut.elements == restored.take("test", rows, "a test").shape[1]


def test_the_same_attackers_are_tried_with_and_without_a_bundle(
    mapped: tuple[Path, ElementNoise, Any], residual: Any
) -> None:
    folder, noise, cut = mapped
    plain = load_data(str(residual.data))
    data = dataclasses.replace(plain, private=PrivateLabels("odd", plain.y_train % 2, plain.y_test % 2))
    names = [
        [kind.name for kind in kinds_of(observe(halves, data, AuditSettings(), Stages(None)), halves.torch_cloud())]
        for halves in (of_bundle(folder), of_model(residual.model, cut, noise))
    ]
    assert names[0] == names[1] and "convolutional" in names[0]


def test_large_inputs_pass_the_edge_half_in_pieces(
    mapped: tuple[Path, ElementNoise, Any], residual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = mapped
    found = of_bundle(folder)
    inputs = np.random.default_rng(0).random((7, *residual.model.spec.input.shape)).astype(np.float32)
    whole = found.flat(inputs)
    monkeypatch.setattr(audit_halves, "items_at_once", lambda _: 3)
    np.testing.assert_allclose(found.flat(inputs), whole, rtol=1e-5, atol=1e-6)
