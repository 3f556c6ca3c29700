"""A kit for old runtimes under ONNX Runtime 1.11, a Jetson TX2's: it loads there, and answers as today's does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecut.models.catalogue import CATALOGUE
from edgecut.models.load import load_model
from edgecut.models.session import open_session, random_feed
from edgecut.models.spec import TensorSpec
from edgecut.profiler.kit import OLD_IR, OLD_OPSET, KitSettings, write_kit

SETTINGS = KitSettings(
    backend="onnxruntime-cpu",
    threads=1,
    precision="float32",
    pause_s=0.0,
    max_seconds=None,
    relative_width=0.05,
    floor_s=0.0,
    meter="none",
    energy_seconds=0.0,
)
SMALL = {"lenet5", "cifar10_cnn", "svhn_cnn"}
NodeRuntime = Callable[[bytes | str | Path, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def current(path: Path, inputs: tuple[TensorSpec, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Random inputs of a graph and its answers under today's ONNX Runtime."""
    session = open_session(path)
    feed = random_feed(session, 1, seed=1, inputs=inputs)
    return feed, dict(zip([value.name for value in session.get_outputs()], session.run(None, feed), strict=True))


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_network_for_an_old_runtime(name: str, tmp_path: Path, node_runtime: NodeRuntime) -> None:
    model = load_model(name)
    if name not in SMALL:
        cuts = model.spec.cuts[len(model.spec.cuts) // 3], model.spec.cuts[-1]
        object.__setattr__(model, "spec", model.spec.model_copy(update={"cuts": cuts}))
    write_kit(model, tmp_path, SETTINGS, opset=OLD_OPSET, progress=lambda *_: None)
    files = sorted(tmp_path.glob("*.onnx"))
    assert len(files) == 1 + 2 * len(model.spec.cuts)
    assert (tmp_path / "weights.bin").is_file()
    for path in files:
        proto = onnx.load_model(path, load_external_data=False)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OLD_OPSET)]
        assert proto.ir_version == OLD_IR
        assert path.stat().st_size < 1_000_000
        feed, expected = current(path, model.spec.inputs)
        got = node_runtime(path, feed)
        assert got.keys() == expected.keys()
        for output, value in expected.items():
            limit = 1e-4 * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(got[output], value, rtol=0, atol=limit, err_msg=path.name)
