"""From torch, by factory and by .pt2 file: once, the same every time, and without running what a file brings along."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecut.errors import ModelError
from edgecut.models import exporting
from edgecut.models.exporting import from_program, refuse_pickles
from edgecut.models.load import Model, cache_folder, load_model
from edgecut.models.session import open_session

FACTORIES = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


class Pair(Net):
    def forward(self, x, z):
        hidden = torch.relu(self.one(x)) + z
        return self.two(hidden), hidden.sum(1)


class Counting(Net):
    def forward(self, x):
        return super().forward(x) * len(x)


class Holder:
    @staticmethod
    def make():
        return Net(), (torch.randn(1, 4),)


def alone(): return Net()
def pair(): return Pair(), [torch.randn(2, 4), torch.randn(2, 6)]
def counting(): return Counting(), (torch.randn(2, 4),)
def mismatched(): return Pair(), [torch.randn(2, 4), torch.randn(3, 6)]
def nothing(): return None
def tensor(): return torch.zeros(3)
def class_itself(): return Net
def no_tensors(): return Net(), ("x",)
def a_number(): return Net(), (torch.tensor(3.0),)
def wrong_example(): return Net(), (torch.randn(2, 7),)
def raises(): raise RuntimeError("no weights\\nat all")
def leaves(): raise SystemExit(3)
value = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the working folder, and an empty cache."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "my_networks.py").write_text(FACTORIES)
    (work / "my_script.py").write_text("import sys\nsys.exit('usage: ...')\n")
    monkeypatch.chdir(work)
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))
    yield "my_networks"
    for name in ("my_networks", "my_script"):
        sys.modules.pop(name, None)


def answers(model: Model, *inputs: np.ndarray) -> list[np.ndarray]:
    session = open_session(model.path)
    feed = {value.name: array for value, array in zip(session.get_inputs(), inputs, strict=True)}
    outputs: list[np.ndarray] = session.run(None, feed)
    return outputs


def test_factories(factories: str) -> None:
    """By module, and by an attribute of a class with an example of a batch of one: one network, one digest."""
    before = list(sys.path)
    first = load_model(f"{factories}:alone", input_shapes=[(4,)])
    assert sys.path == before
    assert (first.spec.name, first.spec.batch, first.spec.input.shape) == ("alone", None, (4,))
    assert [layer.name for layer in first.spec.layers] == ["one", "two"]
    assert first.twin is not None
    refuse_pickles(first.twin)
    torch.rand(3)  # the generator's state is of no account
    again = load_model(f"{factories}:alone", input_shapes=[(4,)])
    assert (again.path, again.read()) == (first.path, first.read())
    network = sys.modules[factories].alone
    torch.manual_seed(0)
    expected = network()
    model = load_model(f"{factories}:Holder.make")
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(answers(model, x)[0], expected(torch.from_numpy(x)).numpy(), atol=1e-5)
    assert model.spec.name == "Holder.make"


def test_a_factory_with_two_inputs(factories: str) -> None:
    model = load_model(f"{factories}:pair", input_shapes=[(9,)])  # its own examples win
    assert [(t.name, t.shape) for t in model.spec.inputs] == [("input_0", (4,)), ("input_1", (6,))]
    assert [t.shape for t in model.spec.outputs] == [(2,), ()]
    assert model.spec.batch is None
    torch.manual_seed(0)
    network = sys.modules[factories].Pair()
    x, z = (np.random.default_rng(n).standard_normal((5, n)).astype(np.float32) for n in (4, 6))
    with torch.no_grad():
        expected = network(torch.from_numpy(x), torch.from_numpy(z))
    for got, wanted in zip(answers(model, x, z), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("my_networks:alone", r"module without example inputs; give the shape with --input-shape 3x224x224, or return"),
        ("my_networks:nothing", "returns a NoneType; it must return a torch module"),
        ("my_networks:tensor", "returns a Tensor; it must return a torch module"),
        ("my_networks:class_itself", "returns a type; it must return a torch module"),
        ("my_networks:no_tensors", "must return its example inputs as tensors with the batch first"),
        ("my_networks:a_number", "must return its example inputs as tensors with the batch first"),
        ("my_networks:wrong_example", r"wrong_example does not run on inputs of shape \[2, 7\]: RuntimeError"),
        ("my_networks:mismatched", r"mismatched does not run on inputs of shape \[2, 4\], \[3, 6\]"),
        ("my_networks:raises", "factory my_networks:raises cannot be used: RuntimeError: no weights; give package"),
        ("my_networks:leaves", "factory my_networks:leaves cannot be used: SystemExit: 3"),
        ("my_script:main", "factory my_script:main cannot be used: SystemExit: usage"),
        ("my_networks:value", "cannot be used: TypeError"),
        ("my_networks:gone", "cannot be used: AttributeError"),
        ("my_networks:", "cannot be used: AttributeError"),
        (":alone", "cannot be used: ValueError"),
        ("no.such.module:alone", "cannot be used: ModuleNotFoundError: No module named 'no'"),
        (
            "my_networks:counting",
            r"for a batch of 2 alone, because .*plain number of the batch of 'input'.*x\.shape\[0\]",
        ),
    ],
)
def test_factories_that_cannot_be_used(factories: str, reference: str, said: str) -> None:
    path = list(sys.path)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(reference)
    assert "\n" not in str(caught.value)
    assert sys.path == path
    assert not [p for p in cache_folder().rglob("*") if p.is_file()]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()


def program(folder: Path, *, examples: bool = False, batch: int | None = None) -> Path:
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network(), (torch.zeros(batch or 2, 1, 4, 4),), dynamic_shapes=shapes)
    if not examples:
        exported._example_inputs = None
    path = folder / "net.pt2"
    torch.export.save(exported, path)
    return path


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and a list that gets an entry for every export."""
    monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))
    done: list[str] = []
    real = exporting.export

    def export(*arguments: Any) -> str:
        done.append(arguments[2])
        return real(*arguments)

    monkeypatch.setattr(exporting, "export", export)
    return done


@pytest.mark.parametrize("examples", [True, False])
def test_a_program_is_exported_once(tmp_path: Path, counted: list[str], examples: bool) -> None:
    path = program(tmp_path, examples=examples)
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename.partition("/")[2]: info.file_size for info in archive.infolist()}
    assert (sizes["data/sample_inputs/model.pt"] > 0) == examples
    model = load_model(str(path))
    assert (model.spec.name, model.spec.batch, model.spec.input.shape) == ("net", None, (1, 4, 4))
    assert load_model(str(path)).spec == model.spec
    assert counted == ["net"]
    assert model.twin is not None
    refuse_pickles(model.twin)
    x = np.random.default_rng(0).standard_normal((3, 1, 4, 4)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(answers(model, x)[0], network()(torch.from_numpy(x)).numpy(), atol=1e-5)
    note = next((tmp_path / "cache" / "exported").iterdir())
    assert json.loads(note.read_text())["model_digest"] == model.spec.digest
    if examples:
        return
    model.path.unlink()  # the note is there, the model is not
    assert load_model(str(path)).read() and counted == ["net", "net"]


def test_a_program_of_one_batch(tmp_path: Path, counted: list[str]) -> None:
    assert load_model(str(program(tmp_path, batch=3))).spec.batch == 3


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def repacked(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    target = path.with_name("evil.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for info in source.infolist():
            for name, content in change(info.filename, source.read(info)):
                archive.writestr(name, content)
    return target


def test_example_inputs_are_never_unpickled(tmp_path: Path, counted: list[str]) -> None:
    proof = tmp_path / "was run"
    evil = pickle.dumps(Evil(proof))
    member = "data/sample_inputs/model.pt"
    path = repacked(
        program(tmp_path, examples=True), lambda name, content: [(name, evil if name.endswith(member) else content)]
    )
    assert load_model(str(path)).spec.input.shape == (1, 4, 4)
    assert not proof.exists()
    with zipfile.ZipFile(path) as archive:  # the control: it would have been
        pickle.loads(archive.read(f"evil/{member}" if f"evil/{member}" in archive.namelist() else f"net/{member}"))
    assert proof.exists()


def described(path: Path, old: str, new: str, *, hidden: bool = False) -> Path:
    """The program with another description; `hidden`: behind it the right one, as a second member of the same name."""

    def change(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if not name.endswith("models/model.json"):
            return [(name, content)]
        text = content.decode()
        assert old in text
        return [(name, text.replace(old, new).encode()), *([(name, content)] if hidden else [])]

    return repacked(path, change)


def symbol(path: Path) -> str:
    """How torch wrote the batch's symbol down."""
    with zipfile.ZipFile(path) as archive:
        text = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("models/model.json"))
    return text.split('"expr_str": "')[1].split('"')[0]


@pytest.mark.parametrize("hidden", [False, pytest.param(True, marks=pytest.mark.filterwarnings("ignore:Duplicate"))])
@pytest.mark.parametrize(
    "form", ["{evil} or {good}", "FloorDiv({good}, {evil})", "Symbol('x').__class__", "({good})[0]"]
)
def test_formulas_are_never_evaluated(tmp_path: Path, counted: list[str], form: str, hidden: bool) -> None:
    """Torch gives a size's formula to `eval`: the control shows that the file is made where nobody looks first."""
    path, proof = program(tmp_path), tmp_path / "was run"
    evil = f"__import__('pathlib').Path('{proof}').touch()"
    good = symbol(path)
    bad = described(path, good, form.format(evil=evil, good=good), hidden=hidden)
    with pytest.raises(ModelError, match=r"evil\.pt2 holds code that no exported program needs \(.*never run"):
        load_model(str(bad))
    assert not proof.exists()
    assert not counted
    if form.startswith("{evil}") and not hidden:
        torch.export.load(bad)
        assert proof.exists()


@pytest.mark.parametrize(
    "target", ["torch.hub.load", "torch.ops.load_library", "os.system", "torch.ops.aten.a.b.c", ""]
)
def test_only_operators_are_called(tmp_path: Path, counted: list[str], target: str) -> None:
    bad = described(program(tmp_path), "torch.ops.aten.conv2d.default", target)
    with pytest.raises(ModelError, match="holds code that no exported program needs"):
        load_model(str(bad))
    assert not counted


def test_formulas_of_real_programs_are_fine(tmp_path: Path, counted: list[str]) -> None:
    """Sums, products, remainders and bounds of the batch and of another size."""

    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            longer = torch.cat([x, x[:, ::2], x[:, :7]], 1)
            return longer.reshape(x.shape[0] * longer.shape[1], -1)

    dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=8, max=64)},)
    exported = torch.export.export(Sizes(), (torch.zeros(2, 12, 4),), dynamic_shapes=dims)
    exported._example_inputs = None
    torch.export.save(exported, tmp_path / "sizes.pt2")
    with zipfile.ZipFile(tmp_path / "sizes.pt2") as archive:
        text = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("models/model.json"))
    assert "FloorDiv(" in text and "Mul(" in text and "Add(" in text
    refuse_pickles(tmp_path / "sizes.pt2")


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps([1, 2])])
def test_what_is_no_program(tmp_path: Path, counted: list[str], content: bytes) -> None:
    path = tmp_path / "net.pt2"
    with pytest.raises(ModelError, match=r"there is no model file .*net\.pt2; check the path, or name one of lenet5"):
        load_model(str(path))
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.pt2 is not a readable \.pt2 archive .*; export the model again"):
        load_model(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data/weights/w.json", "{}")
    with pytest.raises(ModelError, match=r"torch 2\.\S+ cannot load .*net\.pt2"):
        from_program(path, tmp_path)


def test_weights_that_are_pickled_are_refused(tmp_path: Path, counted: list[str]) -> None:
    evil = pickle.dumps(Evil(tmp_path / "was run"))
    path = repacked(
        program(tmp_path),
        lambda name, content: [(name, content), ("net/data/weights/weight_9.pt", evil)][
            : 2 if name.endswith("model_weights_config.json") else 1
        ],
    )
    with pytest.raises(ModelError, match=r"evil\.pt2 holds pickled payloads, which are never loaded"):
        load_model(str(path))
    assert not (tmp_path / "was run").exists()
