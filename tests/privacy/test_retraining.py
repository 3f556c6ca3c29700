"""Retraining: losses by hand, a tiny network end to end, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
from edgecut.artefacts import file_digest  # noqa: E402 - needs torch
from edgecut.cli import app  # noqa: E402
from edgecut.errors import DataError, EdgecutError, ModelError  # noqa: E402
from edgecut.models.data import DataSet, PrivateLabels  # noqa: E402
from edgecut.models.graph import ModelGraph  # noqa: E402
from edgecut.models.load import Model, load_model  # noqa: E402
from edgecut.models.session import open_session  # noqa: E402
from edgecut.models.split import check_split, halves  # noqa: E402
from edgecut.privacy.retraining.bottleneck import CODE, Autoencoder, inserted, principal  # noqa: E402
from edgecut.privacy.retraining.losses import Centres, class_means, contrastive  # noqa: E402
from edgecut.privacy.retraining.result import Retrained  # noqa: E402
from edgecut.privacy.retraining.retrain import retrain, spread_of  # noqa: E402
from edgecut.privacy.retraining.settings import RetrainSettings  # noqa: E402
from edgecut.privacy.retraining.trainable import network, retrained, trained_names  # noqa: E402

QUICK = RetrainSettings(weight=0.5, epochs=4, batch=20, learning_rate=1e-2, bottleneck=5)


def tiny(batch: int | str = "batch", skip: bool = False) -> onnx.ModelProto:
    """Conv, Relu, Flatten, Gemm, Relu, MatMul, Add: every way in which weights are stored; two classes.

    With `skip` the logits need what both layers before the last make.
    """
    generator = np.random.default_rng(3)
    shapes = {
        "conv.weight": (3, 1, 3, 3),
        "conv.bias": (3,),
        "hidden.weight": (8, 48),
        "hidden.bias": (8,),
        "last.weight": (8, 2),
        "last.bias": (2,),
        **({"skip.weight": (48, 2)} if skip else {}),
    }
    stored = [
        numpy_helper.from_array((generator.standard_normal(shape) / 4).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    stored.append(numpy_helper.from_array(np.float32(0.5), "half"))
    nodes = [
        helper.make_node("Mul", ["input", "half"], ["scaled"], "scale"),
        helper.make_node("Conv", ["scaled", "conv.weight", "conv.bias"], ["maps"], "conv"),
        helper.make_node("Relu", ["maps"], ["seen"], "relu"),
        helper.make_node("Flatten", ["seen"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["hidden"], "hidden", transB=1),
        helper.make_node("Relu", ["hidden"], ["found"], "relu2"),
        helper.make_node("MatMul", ["found", "last.weight"], ["product"], "last"),
        helper.make_node("Add", ["product", "last.bias"], ["sum" if skip else "logits"], "offset"),
    ]
    if skip:
        nodes.append(helper.make_node("MatMul", ["flat", "skip.weight"], ["passed"], "skip"))
        nodes.append(helper.make_node("Add", ["sum", "passed"], ["logits"], "added"))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, 6, 6])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])
    graph = helper.make_graph(nodes, "tiny", [given], [made], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(tiny(), path)
    return load_model(str(path))


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Which half is brighter is public, whether the rest slopes is private: they have nothing to do with each other."""
    generator = np.random.default_rng(4)
    x = generator.standard_normal((300, 1, 6, 6)).astype(np.float32) * 0.5
    public, private = generator.integers(0, 2, (2, 300))
    x[public == 1, :, :, :3] += 1
    x[private == 1, :, :3] -= 1
    hidden = PrivateLabels("upper", private[:240], private[240:])
    return DataSet("halves", "sha256:0", x[:240], public[:240], x[240:], public[240:], hidden)


def weights_of(raw: bytes | Path) -> dict[str, np.ndarray]:
    proto = onnx.load_model_from_string(raw) if isinstance(raw, bytes) else onnx.load(raw)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_centre_loss_and_its_gradient_by_hand() -> None:
    generator = np.random.default_rng(0)
    values, labels = generator.standard_normal((7, 4)), np.array([0, 2, 2, 0, 1, 2, 0])
    start = generator.standard_normal((4, 4)).astype(np.float32)
    centres = Centres(torch.from_numpy(start), rate=0.5)
    activations = torch.from_numpy(values.astype(np.float32)).requires_grad_(True)
    centres.follow(activations.detach(), torch.from_numpy(labels))
    expected = start.astype(np.float64)
    for label in (0, 1, 2):
        items = values[labels == label]
        expected[label] += 0.5 * (items - start[label]).sum(0) / (1 + len(items))
    assert np.allclose(centres.values.numpy(), expected, atol=1e-6)
    assert np.array_equal(centres.values.numpy()[3], start[3])
    loss = centres.loss(activations, torch.from_numpy(labels))
    assert loss.item() == pytest.approx(
        sum(0.5 * ((v - expected[y]) ** 2).sum() for v, y in zip(values, labels, strict=True)) / 7
    )
    loss.backward()
    assert np.allclose(activations.grad, (values - expected[labels]) / 7, atol=1e-6)


def test_first_centres_are_the_classes_means() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 6.0], [10.0, 0.0]])
    assert class_means(values, torch.tensor([1, 1, 0]), 3).tolist() == [
        [10, 0],
        [2, 4],
        [pytest.approx(14 / 3), pytest.approx(8 / 3)],
    ]


@given(st.integers(2, 12), st.integers(1, 6), st.floats(0.1, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_contrastive_loss_is_that_of_all_pairs(items: int, width: int, margin: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, labels = generator.standard_normal((items, width)), generator.integers(0, 3, items)
    expected = []
    for i in range(items):
        for j in range(i):
            distance = np.linalg.norm(values[i] - values[j])
            expected.append(0.5 * (max(0, margin - distance) if labels[i] == labels[j] else distance) ** 2)
    got = contrastive(torch.from_numpy(values), torch.from_numpy(labels), margin)
    assert got.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_contrastive_loss_drives_the_same_apart_and_others_together() -> None:
    values = torch.tensor([[0.0], [0.1], [3.0], [3.0]], requires_grad=True)
    contrastive(values, torch.tensor([0, 0, 1, 1]), 1.0).backward()
    assert values.grad is not None and torch.isfinite(values.grad).all()
    # The pull of the far items on the near ones is stronger than their push on each other.
    assert values.grad[0] < 0 and values.grad[2] > 0
    values.grad = None
    contrastive(values[:2], torch.tensor([0, 0]), 1.0).backward()
    assert values.grad is not None and values.grad[0] > 0 > values.grad[1]


def test_spread_by_hand() -> None:
    found = spread_of(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]))
    assert found.within == pytest.approx(1) and found.share == pytest.approx(1 / 26)


def test_what_is_trained(model: Model) -> None:
    """Weights and offsets, not the numbers that a graph computes with."""
    assert trained_names(tiny()) == [
        "conv.weight",
        "conv.bias",
        "hidden.weight",
        "hidden.bias",
        "last.weight",
        "last.bias",
    ]
    made = network(model.graph, model.spec.cut("conv"))
    assert made.edge == 30 and sum(value.numel() for value in made.weights.values()) == 30 + 392 + 18


def test_scrunch_draws_classes_together(model: Model, data: DataSet, tmp_path: Path) -> None:
    path, told = tmp_path / "new" / "out.onnx", []
    made = retrain(
        model,
        cut="hidden",
        method="scrunch",
        data=data,
        settings=QUICK,
        output=path,
        progress=lambda *at: told.append(at),
    )
    assert made.spread_after.share < 0.5 * made.spread_before.share and made.after.value > 0.9
    assert made.after.value > made.before.value and made.loss_points < 0
    assert made.epochs[-1].privacy_loss < made.epochs[0].privacy_loss and len(made.epochs) == 4
    assert made.digest_after == file_digest(path) != made.digest_before == model.spec.digest
    assert made.cut == made.cut_before == "hidden" and made.values_sent == made.values_before == 8
    assert (made.changed, made.edge, made.added, made.parameters) == (440, 422, 0, 440 + 1)
    assert told and all(0 <= share <= 1 for _, share in told)
    after = load_model(str(path))
    assert [cut.model_dump() for cut in after.spec.cuts] == [cut.model_dump() for cut in model.spec.cuts]
    old, new = weights_of(model.path), weights_of(path)
    assert list(old) == list(new) and old["half"] == new["half"]
    assert all(not np.array_equal(old[name], new[name]) for name in old if name != "half")
    right = (open_session(path).run(None, {"input": data.x_test})[0].argmax(1) == data.y_test).sum()
    assert right == made.after.correct
    assert made.epochs[-1].held_out is not None and made.epochs[-1].held_out.total == 24
    held = np.random.default_rng(0).permutation(240)[:24]
    right = (open_session(model.path).run(None, {"input": data.x_train[held]})[0].argmax(1) == data.y_train[held]).sum()
    assert made.watched_before is not None and right == made.watched_before.correct
    assert [p.name for p in path.parent.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize(("weight", "kept"), [(1.0, ["last.weight", "last.bias"]), (0.0, [])])
def test_the_centre_loss_reaches_the_edge_alone(
    model: Model, data: DataSet, tmp_path: Path, weight: float, kept: list[str]
) -> None:
    chosen = dataclasses.replace(QUICK, weight=weight, epochs=1)
    retrain(model, cut="hidden", method="scrunch", data=data, settings=chosen, output=tmp_path / "o.onnx")
    old, new = weights_of(model.path), weights_of(tmp_path / "o.onnx")
    assert [name for name in old if np.array_equal(old[name], new[name]) and name != "half"] == kept


def test_what_the_file_depends_on(model: Model, data: DataSet) -> None:
    """The seed and the settings, but not the items that are only watched."""
    x = data.x_train.copy()
    x[np.random.default_rng(0).permutation(240)[:24]] = 9
    others = dataclasses.replace(data, x_train=x)
    once = dataclasses.replace(QUICK, epochs=1)
    runs = [
        retrain(model, cut="conv", method="scrunch", data=given, settings=dataclasses.replace(once, **changes))
        for given, changes in ((data, {}), (data, {}), (others, {}), (data, {"seed": 1}), (data, {"centre_rate": 0.0}))
    ]
    digests = [made.digest_after for made in runs]
    assert len({*digests[:3]}) == 1 and len({*digests}) == 3
    assert runs[0].model_copy(update={"seconds": 0.0}) == runs[1].model_copy(update={"seconds": 0.0})


def test_a_whole_autoencoder_changes_nothing(model: Model, data: DataSet) -> None:
    cut = model.spec.cut("conv")
    edge = open_session(halves(model.graph, cut)[0].SerializeToString())
    sent = edge.run(None, {"input": data.x_train})[0].reshape(240, -1)
    coded = principal(sent, 100)
    codes = sent @ coded.encoder.T + coded.shift
    pairs = codes[:, None] - codes[None]
    assert (pairs**2).sum(2).mean() == pytest.approx(2, rel=1e-3)
    assert np.allclose(codes @ coded.decoder.T + coded.mean, sent, atol=1e-4)
    raw = inserted(model.graph, cut, coded).SerializeToString()
    given = {"input": data.x_test}
    assert np.allclose(open_session(raw).run(None, given)[0], open_session(model.path).run(None, given)[0], atol=1e-4)


def test_dpfe_sends_a_code_that_says_less_of_the_private_label(model: Model, data: DataSet, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    made = retrain(model, cut="conv", method="dpfe", data=data, settings=QUICK, output=path)
    assert (made.cut, made.values_sent, made.values_before, made.private) == (CODE, 5, 48, "upper")
    assert made.added == 2 * 5 * 48 + 5 + 48 and made.edge == 30 + 5 * 48 + 5 and made.changed == made.parameters - 1
    assert made.after.value > 0.9 and made.epochs[-1].privacy_loss < made.epochs[0].privacy_loss
    after = load_model(str(path))
    cut = after.spec.cut(CODE)
    assert cut.aligned and [tensor.name for tensor in cut.tensors] == [CODE]
    edge, cloud = (half.SerializeToString() for half in halves(after.graph, cut))
    check_split(path, edge, cloud, "tiny")
    assert (
        _separable(edge, data)
        < _separable(halves(model.graph, model.spec.cut("conv"))[0].SerializeToString(), data) - 0.1
    )
    with pytest.raises(ModelError, match="a layer called bottleneck"):
        retrain(after, cut="conv", method="dpfe", data=data, settings=QUICK)


def _separable(edge: bytes, data: DataSet) -> float:
    """Share of unseen private labels that a linear fit to the training part's activations tells."""
    session = open_session(edge)
    assert data.private is not None
    train, test = (session.run(None, {"input": x})[0].reshape(len(x), -1) for x in (data.x_train, data.x_test))
    scale = train.std() + 1e-12
    rows = [np.concatenate([part / scale, np.ones((len(part), 1))], axis=1) for part in (train, test)]
    fit = np.linalg.solve(rows[0].T @ rows[0] + np.eye(rows[0].shape[1]), rows[0].T @ (2.0 * data.private.train - 1))
    return float(((rows[1] @ fit > 0) == data.private.test).mean())


def test_a_file_that_is_not_what_was_trained_is_not_written(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(model.graph, model.spec.cut("conv"))
    raw, difference = retrained(made)
    assert difference < 1e-5 and all(
        np.array_equal(value, weights_of(model.path)[name]) for name, value in weights_of(raw).items()
    )
    monkeypatch.setattr(made, "weights", {name: value * 2 for name, value in made.weights.items()})
    old = ModelGraph.whole
    monkeypatch.setattr(ModelGraph, "whole", lambda graph: _renamed(old(graph)))
    with pytest.raises(ModelError, match="differ by"):
        retrained(made)


def _renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A file whose weights are not found under their names."""
    for tensor in proto.graph.initializer:
        tensor.name = f"other_{tensor.name}"
    for node in proto.graph.node:
        node.input[:] = [f"other_{v}" if "." in v or v == "half" else v for v in node.input]
    return proto


def refused(model: Model, data: DataSet, method: str = "scrunch", cut: str = "conv", **changes: Any) -> str:
    with pytest.raises(EdgecutError) as caught:
        retrain(model, cut=cut, method=method, data=data, settings=dataclasses.replace(QUICK, **changes))
    return str(caught.value)


def test_refusals(model: Model, data: DataSet, tmp_path: Path) -> None:
    assert "known: dpfe, scrunch" in refused(model, data, "scrunsh")
    assert "known: conv, hidden" in refused(model, data, cut="conv9")
    assert "--private NAME" in refused(model, dataclasses.replace(data, private=None), "dpfe")
    one = PrivateLabels("one", np.zeros(240, np.int64), np.zeros(60, np.int64))
    assert "all private labels" in refused(model, dataclasses.replace(data, private=one), "dpfe")
    assert "all labels of halves" in refused(model, dataclasses.replace(data, y_train=np.ones(240, np.int64)))
    assert "has a label 2" in refused(model, dataclasses.replace(data, y_train=np.arange(240) % 3))
    for change, words in (
        ({"weight": 1.5}, "--lambda is 1.5"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch": 1}, "--batch is 1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0"),
        ({"bottleneck": 0}, "--bottleneck is 0"),
        ({"margin": -1.0}, "--margin is -1"),
    ):
        assert words in refused(model, data, **change)
    onnx.save(tiny(skip=True), tmp_path / "skip.onnx")
    assert "2 tensors cross" in refused(load_model(str(tmp_path / "skip.onnx")), data, "dpfe", "hidden")
    onnx.save(tiny(batch=4), tmp_path / "fixed.onnx")
    assert "fixed batch of 4" in refused(load_model(str(tmp_path / "fixed.onnx")), data)
    with pytest.raises(DataError, match="give --data"):
        retrain(model, cut="conv", method="scrunch")


def test_activations_without_any_spread_have_no_code() -> None:
    with pytest.raises(ModelError, match="nothing to encode"):
        principal(np.ones((5, 3), np.float32), 2)
    assert isinstance(principal(np.eye(5, 3, dtype=np.float32), 9), Autoencoder)
    assert len(principal(np.outer(np.arange(5.0), [1, 2, 3]).astype(np.float32), 3).encoder) == 1


@pytest.fixture
def command(model: Model, data: DataSet, tmp_path: Path) -> list[str]:
    hidden = data.private
    assert hidden is not None
    arrays = {field: getattr(data, field) for field in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "d.npz", **arrays, upper_train=hidden.train, upper_test=hidden.test)
    options = ["--cut", "conv", "--data", str(tmp_path / "d.npz"), "--epochs", "1"]
    return ["retrain", str(model.path), *options]


def test_command(command: list[str], tmp_path: Path) -> None:
    output, report = tmp_path / "o.onnx", tmp_path / "r.json"
    how = [
        "--method",
        "dpfe",
        "--private",
        "upper",
        "--bottleneck",
        "3",
        "-o",
        str(output),
        "--json",
        "--report",
        str(report),
    ]
    done = CliRunner().invoke(app, [*command, *how], standalone_mode=False)
    assert done.exception is None, done.output
    assert json.loads(done.stdout) == json.loads(report.read_bytes())
    made = Retrained.model_validate(json.loads(done.stdout))
    assert made.digest_after == file_digest(output) and made.values_sent == 3
    done = CliRunner().invoke(app, [*command, "--method", "scrunch", "-o", str(output)], standalone_mode=False)
    assert done.exception is None, done.output
    for words in (
        "scrunch on tiny",
        "60 unseen items",
        "440 of 441 weights trained, 30 of them",
        "plan with the cut conv",
    ):
        assert words in " ".join(done.stdout.split())
    assert f"wrote {output}" in done.stderr


@pytest.mark.parametrize("option", [("--private", "upper"), ("--bottleneck", "3"), ("--margin", "2")])
def test_what_scrunch_does_not_have_is_refused(option: tuple[str, str], command: list[str], tmp_path: Path) -> None:
    asked = [*command, *option, "--method", "scrunch", "-o", str(tmp_path / "o.onnx")]
    done = CliRunner().invoke(app, asked, standalone_mode=False)
    assert f"{option[0]} is of dpfe" in str(done.exception)


def test_nothing_is_left_of_a_run_that_ends_early(command: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, [*command, "--method", "dpfe", "-o", str(tmp_path / "o.onnx")], standalone_mode=False
    )
    assert isinstance(done.exception, DataError)
    done = CliRunner().invoke(
        app, [*command, "--method", "scrunch", "-o", str(tmp_path / "o.bin")], standalone_mode=False
    )
    assert "no name of an .onnx file" in str(done.exception)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain(
            command[1],
            cut="conv",
            method="scrunch",
            data=str(tmp_path / "d.npz"),
            settings=QUICK,
            output=tmp_path / "o.onnx",
            progress=interrupt,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz"]
