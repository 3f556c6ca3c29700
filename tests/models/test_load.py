"""Naming a model: catalogue, files good and bad, the cache of trained networks, and twins that hide a pickle."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.artefacts import digest, write_bytes
from edgecut.errors import DeviceError, ModelError
from edgecut.models import catalogue, exporting, load, training
from edgecut.models.exporting import refuse_pickles
from edgecut.models.load import Model, cache_folder, load_model

CONFIG = "data/weights/model_weights_config.json"


def test_unknown_names() -> None:
    for name in ("lenet", "some/lenet5", "lenet5.pt"):
        with pytest.raises(ModelError) as caught:
            load_model(name)
        said = str(caught.value)
        assert said.startswith(f"unknown model '{name}'")
        known = said.split("known: ")[1].removesuffix(load.FORMS).split(", ")
        assert known == sorted(catalogue.CATALOGUE)
        assert said.endswith("; or give the path of an .onnx or .pt2 file, or package.module:factory")


def test_a_file_is_the_same_model_with_its_twin(lenet: Model, tmp_path: Path) -> None:
    copy = tmp_path / "renamed.onnx"
    shutil.copy(lenet.path, copy)
    again = load_model(str(copy))
    assert again.spec == lenet.spec
    assert again.twin == lenet.twin
    assert again.spec.digest == digest(copy.read_bytes())


@pytest.mark.parametrize("size", [0, 1, 1000, -1000, -1])
def test_truncated_files(lenet: Model, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(lenet.read()[:size])
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert "cut" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    with pytest.raises(ModelError, match=r"there is no model file .*no\.onnx; check the path, or name one of lenet5"):
        load_model(str(path))
    path.mkdir()
    with pytest.raises(ModelError, match="there is no model file"):
        load_model(str(path))
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ModelError, match=r"garbage\.onnx is not an ONNX file .*export the model again"):
        load_model(str(garbage))


def test_command_line_names_the_known_models(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgecut", "profile", "lenet6"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("edgecut: unknown model 'lenet6', did you mean 'lenet5'; known: ")
    assert all(name in ended.stderr for name in catalogue.CATALOGUE)
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache and a network that is trained for ten steps only; the list gets an entry for every training."""
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "IMAGES_SEEN", 640)
    hasty = dataclasses.replace(catalogue.CATALOGUE["lenet5"], least_accuracy=0.0)
    monkeypatch.setitem(catalogue.CATALOGUE, "lenet5", hasty)
    trained: list[str] = []
    real = training.train

    def counted(*arguments: Any) -> Any:
        trained.append(arguments[1].name)
        return real(*arguments)

    monkeypatch.setattr(training, "train", counted)
    return trained


def test_trained_once_and_kept(quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_model("lenet5")
    assert cache_folder() == tmp_path / "cache"
    assert first.path.parent.name == digest(first.read()).removeprefix("sha256:")
    again = load_model("lenet5")
    assert again.read() == first.read()
    assert quick == ["mnist (5,000 digits)"]
    note = next((tmp_path / "cache" / "exported").iterdir())
    assert json.loads(note.read_text())["model_digest"] == first.spec.digest
    assert not [p.name for p in (tmp_path / "cache").rglob(".*")]
    assert first.twin is not None
    refuse_pickles(first.twin)

    raw, exported = first.read(), first.spec.digest
    monkeypatch.setattr(exporting, "export", lambda *_: write_bytes(first.path, raw) and exported)
    first.path.unlink()  # the network is gone, or its note is damaged: train again rather than fail
    assert load_model("lenet5").read() == raw
    note.write_text("half a no")
    assert load_model("lenet5").read() == raw
    assert load_model("lenet5", seed=1).read() == raw
    assert len(quick) == 4
    assert load_model("lenet5", seed=1).read() == raw
    assert len(quick) == 4


def test_a_failed_export_leaves_no_note(quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_model("lenet5")
    assert quick
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_training_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "edgecut.models.training", None)
    with pytest.raises(DeviceError, match=r"training lenet5 needs torch; install edgecut\[torch\], or give an .onnx"):
        load_model("lenet5")


def repacked(twin: Path, target: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    with zipfile.ZipFile(twin) as source, zipfile.ZipFile(target, "w") as archive:
        for info in source.infolist():
            for name, content in change(info.filename, source.read(info)):
                archive.writestr(name, content)
    return target


def payload(**changes: Any) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if name.endswith(CONFIG):
            config = json.loads(content)
            config["config"]["fc1.weight"].update(changes)
            content = json.dumps(config, separators=(",", ":")).encode()  # no space: text is not searched for
        return [(name, content)]

    return change


def added(name: str) -> Callable[[str, bytes], list[tuple[str, bytes]]]:
    evil = pickle.dumps(print)
    return lambda old, content: [(old, content), *([("archive/" + name, evil)] if old.endswith(CONFIG) else [])]


HOSTILE: dict[str, Callable[[str, bytes], list[tuple[str, bytes]]]] = {
    "use_pickle": payload(use_pickle=True),
    "custom object": payload(path_name="custom_obj_0"),
    "opaque object": payload(path_name="opaque_obj_0"),
    "example inputs": lambda name, content: [(name, b"pickle" if name.endswith("sample_inputs/model.pt") else content)],
    "legacy weights": added("data/weights/model.pt"),
    "other case": added("data/sample_inputs/MODEL.PT"),
    "machine code": added("data/aotinductor/model/evil.so"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_pickles_are_refused(lenet: Model, tmp_path: Path, case: str) -> None:
    assert lenet.twin is not None
    refuse_pickles(repacked(lenet.twin, tmp_path / "fine.pt2", lambda name, content: [(name, content)]))
    with pytest.raises(ModelError, match="holds pickled payloads"):
        refuse_pickles(repacked(lenet.twin, tmp_path / "evil.pt2", HOSTILE[case]))


def test_damaged_twins(lenet: Model, tmp_path: Path) -> None:
    assert lenet.twin is not None
    path = tmp_path / "half.pt2"
    path.write_bytes(lenet.twin.read_bytes()[:9000])
    with pytest.raises(ModelError, match=r"half\.pt2 is not a readable .pt2 archive"):
        refuse_pickles(path)
    with pytest.raises(ModelError, match=r"not a readable .pt2 archive"):
        refuse_pickles(tmp_path / "none.pt2")
    with pytest.raises(ModelError, match=r"not a readable .pt2 archive"):
        refuse_pickles(repacked(lenet.twin, path, lambda n, c: [(n, b"[]" if n.endswith(CONFIG) else c)]))
