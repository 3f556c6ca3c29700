"""Which engine of a bundle is taken, where engines are kept, and what an edge partition must give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgecut.agent import edge_part
from edgecut.agent.backends import BackendError
from edgecut.agent.edge_manifest import Engine
from edgecut.agent.edge_part import EdgePart, files_for, fitting_engine
from edgecut.agent.edge_side import read_edge_side
from edgecut.agent.protect import NoiseError, Protector

RTX = "tensorrt-rtx"
BUILT = [
    Engine("old", RTX, ("8.6",), "1.6.0"),
    Engine("ada", RTX, ("8.9", "9.0"), "1.7.0"),
    Engine("ampere", RTX, ("8.0", "8.6"), "1.7.0"),
    Engine("trt", "tensorrt", ("8.6",), "10.3.0"),
]


def described(side: Any, engines: list[Engine]) -> Any:
    return read_edge_side(str(side.folder)).description._replace(engines=tuple(engines))


@pytest.mark.parametrize(
    ("version", "capability", "taken"),
    [
        ("1.7.0", (8, 6), "ampere"),
        ("1.7.0.23", (9, 0), "ada"),
        ("1.6.0", (8, 6), "old"),
        ("1.6.0", (8, 9), None),
        ("1.7.1", (8, 6), None),
        ("1.7", (8, 6), None),
        ("1.7.00", (8, 6), None),
        ("1.7.0", (12, 0), None),
    ],
)
def test_an_engine_must_fit_the_library_and_the_gpu(
    side: Any, monkeypatch: pytest.MonkeyPatch, version: str, capability: tuple[int, int], taken: str | None
) -> None:
    monkeypatch.setattr(edge_part, "load_backend", lambda name: SimpleNamespace(versions=lambda: {name: version}))
    monkeypatch.setattr(edge_part, "_capability", lambda: capability)
    description = described(side, BUILT)
    found = fitting_engine(description, RTX)
    assert (found.file if found else None) == taken
    kept = list(files_for(RTX, with_rest=False)(description))
    assert kept == ["edge.onnx", "noise.npz", *([taken] if taken else [])]
    assert list(files_for(RTX, with_rest=True)(description))[2] == "fallback.onnx"


def test_no_gpu_is_asked_where_there_is_no_engine_for_it(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_part, "_capability", lambda: pytest.fail("asked"))
    monkeypatch.setattr(edge_part, "load_backend", lambda name: pytest.fail("asked"))
    assert fitting_engine(described(side, []), RTX) is None
    assert fitting_engine(described(side, BUILT), "onnxruntime-cpu") is None


def test_where_engines_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))
    assert edge_part._default_cache("onnxruntime-cpu") is None and not list(tmp_path.iterdir())
    assert edge_part._default_cache("tensorrt") == str(tmp_path / "cache" / "engines")
    (tmp_path / "cache" / "engines").chmod(0o777)
    with pytest.raises(BackendError, match=r"others than the user can write to .*engines; give a --cache folder"):
        edge_part._default_cache("tensorrt")


def test_a_partition_that_gives_something_else(side: Any) -> None:
    """Sound by its digest, and yet not what its manifest says."""
    path = side.folder / "edge.onnx"
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((6, 30), np.float32), "w"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 30
    path.write_bytes(model.SerializeToString())
    side.write()
    part = EdgePart(read_edge_side(str(side.folder)))
    with pytest.raises(BackendError, match=r"does not give 'a' of shape \[2, 40\]; write the bundle again"):
        part.protected(np.zeros((2, 6), np.float32))
    part.close()
    path.write_bytes(b"no model")
    side.write()
    with pytest.raises(BackendError, match="cannot load the model"):
        EdgePart(read_edge_side(str(side.folder)))


def test_damaged_noise_is_one_sentence() -> None:
    with pytest.raises(NoiseError, match="the noise here is no noise file") as raised:
        Protector.load(b"PK\x03\x04", "the noise here")
    assert "\n" not in str(raised.value)


def test_noise_that_lies_ready_is_handed_out_once(side: Any) -> None:
    """Also where two ask for it in the same moment: `pop` decides, and who is late draws."""
    protector = Protector(side.collection)
    zeros = [np.zeros((1, 40), np.float32)]
    protector.draw_ahead(1)
    ready = protector._ahead[0][1]
    late = protector.drawn

    def between(batch: int) -> bool:
        found = late(batch)
        protector._ahead.clear()  # another thread takes it after this one has looked
        return found

    protector.drawn = between  # type: ignore[method-assign]
    assert not np.array_equal(protector.add(zeros)[0], ready)
    protector.drawn = late  # type: ignore[method-assign]
    protector.draw_ahead(1)
    ready = protector._ahead[0][1]
    assert np.array_equal(protector.add(zeros)[0], ready) and not protector.drawn(1)
    assert not np.array_equal(protector.add(zeros)[0], ready)


def test_a_runtime_that_is_not_there_says_what_runs_it_too(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecut.agent.tensorrt_engine.usable", lambda: "TensorRT is not here")
    target = {**side.values["target"], "name": "tx2", "runtime": "tensorrt"}
    side.write(target=target)
    with pytest.raises(BackendError, match=r"made for tensorrt, and with --backend onnxruntime-cpu it runs"):
        EdgePart(read_edge_side(str(side.folder)))
    part = EdgePart(read_edge_side(str(side.folder)), backend="onnxruntime-cpu")
    assert part.protected(np.zeros((2, 6), np.float32))[0].shape == (2, 40)
    part.close()
