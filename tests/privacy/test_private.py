"""Private labels: read from the data, learned by a classifier of the cloud's shape, and reported beside the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from edgecut.errors import DataError, EdgecutError  # noqa: E402
from edgecut.models.data import PrivateLabels, load_data  # noqa: E402
from edgecut.models.twin import suffix_of  # noqa: E402
from edgecut.privacy import private  # noqa: E402
from edgecut.privacy.activations import Rows  # noqa: E402
from edgecut.privacy.cloud import cloud_of, tensors_of  # noqa: E402
from edgecut.privacy.learn import learn  # noqa: E402
from edgecut.privacy.private import classes_of, train_private  # noqa: E402
from edgecut.privacy.settings import Settings, settings_for  # noqa: E402


@pytest.fixture(scope="module")
def data(residual: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quadrants with what a face might also show: whether the bright one is on the left."""
    stored = dict(np.load(residual.data))
    path = tmp_path_factory.mktemp("private") / "data.npz"
    labels = {f"left_{part}": (stored[f"y_{part}"] % 2 == 0).astype(np.uint8) for part in ("train", "test")}
    alone = {"other_train": stored["y_train"]}
    np.savez(path, **stored, **labels, **alone, flat_train=stored["y_train"] * 0, flat_test=stored["y_test"] * 0)
    return path


def test_the_labels_are_read(data: Path) -> None:
    found = load_data(str(data), private="left").private
    assert found is not None and found.name == "left" and found.train.dtype == np.int64
    np.testing.assert_array_equal(found.test, np.load(data)["y_test"] % 2 == 0)
    assert load_data(str(data)).private is None


def test_what_is_no_private_labels(data: Path, tmp_path: Path) -> None:
    def refused(words: str, name: str = "left", source: object = data) -> None:
        with pytest.raises(DataError, match=words) as raised:
            load_data(str(source), private=name)
        assert "\n" not in str(raised.value)

    refused("unknown private labels 'lift', did you mean 'left'; known: flat, left; .* needs lift_train", "lift")
    refused("unknown private labels 'other'; known: flat, left", "other")  # without a test part
    refused("unknown private labels 'x'", "x")
    refused("mnist has no private labels; give an .npz with left_train and left_test", source="mnist")
    stored = dict(np.load(data))
    for name, change in (
        ("short", stored["left_test"][:-1]),
        ("float", stored["left_test"] * 1.0),
        ("negative", stored["left_test"].astype(int) - 1),
        ("shape", stored["left_test"][:, None]),
    ):
        np.savez(tmp_path / f"{name}.npz", **(stored | {"left_test": change}))
        refused("left_test must be one non-negative integer for each of 200 items", source=tmp_path / f"{name}.npz")


def test_one_class_is_nothing_to_hide() -> None:
    with pytest.raises(DataError, match="all private labels 'g' are the same"):
        classes_of(PrivateLabels("g", np.zeros(5, int), np.ones(5, int)))
    assert classes_of(PrivateLabels("g", np.array([0, 1]), np.array([6]))) == 7


@pytest.mark.parametrize("replaced", [True, False])
def test_the_classifier_learns_and_leaves_the_model_alone(
    replaced: bool, residual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not replaced:
        monkeypatch.setattr(private, "reshaped", lambda *_: None)  # as where the partition does not end in a product
    monkeypatch.setattr(private, "ITEMS_SHOWN", 12_000)
    cut = residual.model.spec.cut(residual.planned.choice)
    suffix = suffix_of(residual.model, cut)
    before = {name: value.clone() for name, value in suffix.named_buffers()}
    flat = np.random.default_rng(0).standard_normal((300, cut.elements)).astype(np.float32)
    labels = (flat[:, 0] + flat[:, 5] > 0).astype(np.int64) * 2  # classes 0 and 2 of three
    rows = Rows(300, cut.elements, "memory", lambda wanted: flat[wanted])
    made = train_private(suffix, cut, rows, labels, 3, 0, lambda *_: None)
    assert isinstance(made, torch.fx.GraphModule) == replaced
    logits = cloud_of(made, cut).logits(torch.from_numpy(flat))
    assert logits.shape == (300, 3) and (logits.argmax(1).numpy() == labels).mean() > 0.75
    assert not any(parameter.requires_grad for parameter in made.parameters())
    for name, value in suffix.named_buffers():
        assert torch.equal(value, before[name])
    assert suffix(*tensors_of(torch.from_numpy(flat[:2]), cut)).shape == (2, 4)


def test_the_private_task_is_reported_and_worse_with_equation_5(residual: Any, data: Path) -> None:
    def made(**changes: Any) -> Any:
        settings = settings_for(
            "paper", steps=150, distributions=3, scale=0.5, alpha=0.0, learning_rate=0.05, **changes
        )
        return learn(
            residual.planned, model=str(residual.model.path), data=str(data), private="left", settings=settings
        )

    plain, hiding = made(gamma=0.0), made(gamma=2.0)
    for one in (plain, hiding):
        assert one.private is not None and one.private.name == "left" and one.private.classes == 2
        assert not one.private.retrained and one.private.accuracy.without.value > 0.9
        assert one.private.accuracy.without.total == 200 and 0.4 < one.private.most_frequent < 0.6
    # The public task alone does not care; equation 5 makes the frozen classifier guess or worse.
    assert hiding.private.accuracy.with_noise.value < plain.private.accuracy.with_noise.value - 0.05


def test_equation_5_in_the_sampled_recipe(residual: Any, data: Path) -> None:
    used = Settings(distributions=2, steps=20, scale=0.3, max_accuracy_loss=90.0)
    collections = [
        learn(
            residual.planned,
            model=str(residual.model.path),
            data=str(data),
            private="left",
            settings=dataclasses.replace(used, gamma=gamma),
        ).noise
        for gamma in (0.0, 5.0)
    ]
    assert collections[0] != collections[1]


def test_labels_that_are_all_the_same(residual: Any, data: Path) -> None:
    with pytest.raises(EdgecutError, match="all private labels 'flat' are the same"):
        learn(
            residual.planned,
            model=str(residual.model.path),
            data=str(data),
            private="flat",
            settings=Settings(distributions=2, steps=2, scale=0.1),
        )
