"""Kits: what the profiler writes is what the agent reads, and a damaged one is one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgecut.agent import kit as kits
from edgecut.agent.backends import BackendError
from edgecut.agent.kit import Kit, feed, read_kit, write_json
from edgecut.models.load import Model
from edgecut.models.spec import TensorSpec
from edgecut.profiler.kit import KitSettings, write_kit

SETTINGS = KitSettings(
    backend="onnxruntime-cpu",
    threads=None,
    precision="float32",
    pause_s=0.005,
    max_seconds=None,
    relative_width=0.05,
    floor_s=50e-6,
    meter="auto",
    energy_seconds=1.0,
)


@pytest.fixture(scope="module")
def lenet_kit(lenet: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lenet-kit")
    write_kit(lenet, folder, SETTINGS, progress=lambda *_: None)
    return folder


def outputs(kit: Kit, name: str, given: dict[str, Any]) -> dict[str, Any]:
    part = next(part for part in kit.parts if part.name == name)
    session = onnxruntime.InferenceSession(f"{kit.folder}/{part.file}", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def test_round_trip(lenet: Model, lenet_kit: Path) -> None:
    kit = read_kit(str(lenet_kit))
    names = [part.name for part in kit.parts]
    cuts = [cut.name for cut in lenet.spec.cuts]
    assert names == ["whole", *(f"{what}:{cut}" for cut in cuts for what in ("prefix", "suffix"))]
    assert (kit.model, kit.digest) == ("lenet5", lenet.spec.digest)
    assert kit.noise == tuple(sorted({cut.elements for cut in lenet.spec.cuts}))
    assert kit.settings == {**SETTINGS.__dict__, "threads": None}
    for part in kit.parts:
        expected = (
            lenet.spec.cut(part.name.partition(":")[2]).tensors if part.name.startswith("suffix") else lenet.spec.inputs
        )
        assert [(i.name, i.dtype, i.shape, i.below) for i in part.inputs] == [
            (tensor.name, tensor.dtype, (1, *tensor.shape), tensor.below) for tensor in expected
        ]
    large = sum(4 * layer.parameters for layer in lenet.spec.layers)
    assert 0.95 * large < kit.parts[0].weight_bytes <= large  # small tensors stay in the graph
    halves = {part.name: part.weight_bytes for part in kit.parts}
    assert all(halves[f"prefix:{c}"] + halves[f"suffix:{c}"] == kit.parts[0].weight_bytes for c in cuts)


def test_both_halves_of_every_cut_give_the_whole(lenet: Model, lenet_kit: Path) -> None:
    kit = read_kit(str(lenet_kit))
    given = feed(kit.parts[0])
    expected = outputs(kit, "whole", given)
    for cut in lenet.spec.cuts:
        got = outputs(kit, f"suffix:{cut.name}", outputs(kit, f"prefix:{cut.name}", given))
        assert got.keys() == expected.keys()
        assert all(np.allclose(got[name], expected[name], atol=1e-5) for name in got)


def test_a_kit_is_about_as_large_as_its_model(lenet: Model, lenet_kit: Path) -> None:
    """Nine sub-models of LeNet hold its weights four to five times; a kit holds them once, page by page."""
    model_bytes = 4 * sum(layer.parameters for layer in lenet.spec.layers)
    size = sum(path.stat().st_size for path in lenet_kit.iterdir())
    inside = sum(part.weight_bytes for part in read_kit(str(lenet_kit)).parts)
    assert inside > 4.9 * model_bytes
    assert size < 1.3 * model_bytes
    for path in lenet_kit.glob("*.onnx"):
        assert path.stat().st_size < 0.1 * model_bytes


def test_an_old_opset(lenet: Model, lenet_kit: Path, tmp_path: Path) -> None:
    write_kit(lenet, tmp_path, SETTINGS, opset=13, progress=lambda *_: None)
    old, new = read_kit(str(tmp_path)), read_kit(str(lenet_kit))
    given = feed(new.parts[0])
    assert [part.name for part in old.parts] == [part.name for part in new.parts]
    for cut in lenet.spec.cuts:
        got = outputs(old, f"suffix:{cut.name}", outputs(old, f"prefix:{cut.name}", given))
        for name, right in outputs(new, "whole", given).items():
            assert np.allclose(got[name], right, atol=1e-5)


def test_feeds(kit_folder: Path) -> None:
    kit = read_kit(str(kit_folder))
    given = feed(kit.parts[0])
    assert list(given) == ["x"] and given["x"].shape == (1, 64) and given["x"].dtype == np.float32
    assert np.array_equal(given["x"], feed(kit.parts[0])["x"])
    assert not np.array_equal(given["x"], feed(kit.parts[0], seed=1)["x"])
    tokens = kits.Part(
        "whole", "f", (kits.Input("ids", "int64", (1, 5000), 7), kits.Input("k", "int32", (1, 900), None)), 0
    )
    drawn = feed(tokens)
    assert drawn["ids"].dtype == np.int64 and set(drawn["ids"].ravel()) == set(range(7))
    assert drawn["k"].dtype == np.int32 and set(drawn["k"].ravel()) == {0, 1}  # of which every table has rows


Change = Callable[[Path, dict[str, Any]], Any]


def _set(*path: Any, to: Any) -> Change:
    def change(folder: Path, values: dict[str, Any]) -> None:
        place: Any = values
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to

    return change


def _drop(*path: Any) -> Change:
    def change(folder: Path, values: dict[str, Any]) -> None:
        place: Any = values
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]

    return change


VALUES: dict[str, tuple[Change, str]] = {
    "another version": (_set("version", to=99), "is a kit of version 99, and this agent reads a kit of version 1"),
    "another kind": (_set("kind", to="profile"), "is a profile of version 1"),
    "no kind": (_drop("kind"), "no usable kit"),
    "no parts": (_set("parts", to=[]), "no usable kit"),
    "parts of nothing": (_set("parts", to=[{}]), "no usable kit"),
    "parts are a number": (_set("parts", to=3), "no usable kit"),
    "a part outside": (_set("parts", 1, "file", to="../../etc/passwd"), "no usable kit"),
    "a part that is no file of the kit": (_set("parts", 1, "file", to="other.onnx"), "no usable kit"),
    "a file outside": (_set("files", "../whole.onnx", to=3), "a file outside its folder, '../whole.onnx'"),
    "a file at the root": (_set("files", "/etc/passwd", to=3), "a file outside its folder, '/etc/passwd'"),
    "a folder as a file": (_set("files", "..", to=3), "copy the kit again"),
    "files are a list": (_set("files", to=["whole.onnx"]), "no usable kit"),
    "a size of text": (_set("files", "whole.onnx", to="many"), "no usable kit"),
    "a file more": (_set("files", "more.bin", to=5), "more.bin has 0 bytes where the kit says 5"),
    "no such dtype": (_set("parts", 0, "inputs", 0, "dtype", to="float99"), "no usable kit"),
    "a shape below 1": (_set("parts", 0, "inputs", 0, "shape", to=[1, -64]), "no usable kit"),
    "a shape of text": (_set("parts", 0, "inputs", 0, "shape", to="wide"), "no usable kit"),
    "an infinite shape": (_set("parts", 0, "inputs", 0, "shape", to=[float("inf")]), "no usable kit"),
    "a bound of 0": (_set("parts", 0, "inputs", 0, "below", to=0), "no usable kit"),
    "noise of nothing": (_set("noise", to=[0]), "no usable kit"),
    "no settings": (_set("settings", to={}), "no usable kit"),
    "no backend": (_drop("settings", "backend"), "no usable kit"),
    "a bound that never ends": (_set("settings", "max_seconds", to=float("nan")), "no usable kit"),
    "an infinite bound": (_set("settings", "max_seconds", to=float("inf")), "no usable kit"),
    "a negative pause": (_set("settings", "pause_s", to=-1), "no usable kit"),
    "threads of text": (_set("settings", "threads", to="all"), "no usable kit"),
}


@pytest.mark.parametrize("what", VALUES)
def test_wrong_values(what: str, kit_folder: Path) -> None:
    change, words = VALUES[what]
    path = kit_folder / "kit.json"
    values = json.loads(path.read_text())
    change(kit_folder, values)
    path.write_text(json.dumps(values))
    refused(kit_folder, words)


def refused(folder: Path, words: str) -> None:
    with pytest.raises(BackendError) as caught:
        read_kit(str(folder))
    said = str(caught.value)
    assert words in said and "\n" not in said, said


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"3", b'"kit"', b"[" * 100_000])
def test_garbage(text: bytes, kit_folder: Path) -> None:
    (kit_folder / "kit.json").write_bytes(text)
    refused(kit_folder, "no usable kit")


@pytest.mark.parametrize("name", ["whole.onnx", "prefix-00.onnx", "weights.bin"])
def test_a_file_missing_or_cut_short(name: str, kit_folder: Path) -> None:
    path = kit_folder / name
    size = path.stat().st_size
    os.truncate(path, size - 1)
    refused(kit_folder, f"has {size - 1} bytes where the kit says {size}; copy the kit again, whole")
    path.unlink()
    refused(kit_folder, f"has 0 bytes where the kit says {size}")
    path.mkdir()
    refused(kit_folder, f"has 0 bytes where the kit says {size}")


def test_no_kit_at_all(kit_folder: Path) -> None:
    text = (kit_folder / "kit.json").read_bytes()
    (kit_folder / "kit.json").write_bytes(text[: len(text) // 2])
    refused(kit_folder, "no usable kit")
    (kit_folder / "kit.json").unlink()
    refused(kit_folder, "cannot be read (No such file or directory)")
    (kit_folder / "kit.json").mkdir()
    refused(kit_folder, "cannot be read (Is a directory)")
    shutil.rmtree(kit_folder)
    refused(kit_folder, "cannot be read")


def test_results_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        write_json(str(path), {"a": 1, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_fixed_batch_of_one_is_a_kit_and_of_three_is_not(small: Model, tmp_path: Path) -> None:
    from edgecut.errors import ModelError

    three = replace(small, spec=small.spec.model_copy(update={"batch": 3}))
    with pytest.raises(ModelError, match="was exported for a batch of 3, and a profile is of batch 1"):
        write_kit(three, tmp_path, SETTINGS, progress=lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    assert isinstance(small.spec.inputs[0], TensorSpec)
