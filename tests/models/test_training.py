"""Training is seeded and learns; labels and images that do not fit the network are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from edgecut.errors import DataError
from edgecut.models import training
from edgecut.models.catalogue import CATALOGUE, Entry
from edgecut.models.data import DataSet
from edgecut.models.training import train, untrained


def stripes(classes: int = 10, count: int = 200) -> DataSet:
    """Bright rows on noise, their height given by the class: easy to learn."""
    generator = np.random.default_rng(0)
    y = np.arange(count) % classes
    x = generator.integers(0, 60, (count, 28, 28), np.uint8)
    for image, label in zip(x, y, strict=True):
        image[2 * label + 3 : 2 * label + 5] = 250
    return DataSet(name="stripes", digest="", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    monkeypatch.setattr(training, "IMAGES_SEEN", 64 * 60)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # batches this small gain nothing from more
    yield dataclasses.replace(CATALOGUE["lenet5"], least_accuracy=0.0)
    torch.set_num_threads(before)


def weights(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate([value.detach().numpy().ravel() for value in model.parameters()])


def test_same_seed_same_weights(entry: Entry) -> None:
    told: list[tuple[int, int, str]] = []
    first, accuracy = train(entry, stripes(), 1, lambda *news: told.append(news))
    torch.rand(7)  # the generator's state before is of no account
    second, again = train(entry, stripes(), 1, lambda *_: None)
    other, _ = train(entry, stripes(), 2, lambda *_: None)
    np.testing.assert_array_equal(weights(first), weights(second))
    assert accuracy == again
    assert not np.array_equal(weights(first), weights(other))
    assert not first.training
    steps = [done for done, _, _ in told]
    assert steps == sorted(steps)
    assert told[-1][:2] == (60, 60)
    assert told[-1][2].startswith("loss ")


def test_too_few_steps_are_refused_and_enough_learn(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = dataclasses.replace(entry, least_accuracy=0.8)
    monkeypatch.setattr(training, "IMAGES_SEEN", 64 * 200)
    _, accuracy = train(strict, stripes(classes=4), 0, lambda *_: None)
    assert accuracy >= 0.8
    shuffled = stripes(classes=4)
    monkeypatch.setattr(training, "IMAGES_SEEN", 64)
    with pytest.raises(DataError, match=r"reached only .*% on stripes's test part, where 80% is expected"):
        train(strict, shuffled, 0, lambda *_: None)


def test_the_catalogue_says_for_how_long(entry: Entry) -> None:
    for seen, steps in ((None, 60), (64 * 7, 7), (10**9, 40 * 200 // 64)):
        told: list[int] = []
        train(dataclasses.replace(entry, items_seen=seen), stripes(), 0, lambda done, *_, told=told: told.append(done))
        assert told[-1] == steps


def test_steps_are_as_large_as_the_catalogue_says(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam moves every weight by up to its rate a step, of which the cycle's mean is about half the largest."""
    monkeypatch.setattr(training, "IMAGES_SEEN", 64 * 4)
    before = weights(untrained(entry, 0))
    moved = [
        np.abs(weights(train(dataclasses.replace(entry, rate=rate), stripes(), 0, lambda *_: None)[0]) - before).max()
        for rate in (4e-3, 1e-3)
    ]
    assert 4e-3 < float(moved[0]) < 4 * 4e-3
    assert float(moved[0] / moved[1]) == pytest.approx(4, rel=0.3)


def test_a_mirrored_set_is_learned_from_one_side(entry: Entry) -> None:
    """The class is a bright column's distance from the nearer edge, always at the left: the right is never shown."""
    y = np.arange(200) % 4
    x = np.random.default_rng(0).integers(0, 60, (200, 28, 28), np.uint8)
    for image, label in zip(x, y, strict=True):
        image[:, 3 * label + 1 : 3 * label + 3] = 250
    data = DataSet(name="columns", digest="", x_train=x, y_train=y, x_test=x[:60, :, ::-1].copy(), y_test=y[:60])
    accuracies = [
        train(dataclasses.replace(entry, mirrored=mirrored), data, 0, lambda *_: None)[1] for mirrored in (False, True)
    ]
    assert accuracies[0] < 0.6 < 0.9 < accuracies[1]


def test_texts_are_shown_as_they_are() -> None:
    tokens = torch.randint(1, 20_000, (8, 1000))
    assert training._varied(CATALOGUE["text_cnn_20news"], tokens, torch.Generator()) is tokens


def test_labels_and_images_that_do_not_fit(entry: Entry) -> None:
    data = stripes()
    with pytest.raises(DataError, match="stripes has a label 10, but the network has 10 classes"):
        train(entry, dataclasses.replace(data, y_train=np.full(200, 10)), 0, lambda *_: None)
    with pytest.raises(DataError, match="are larger than the model's input"):
        train(entry, dataclasses.replace(data, x_train=np.zeros((200, 40, 40), np.uint8)), 0, lambda *_: None)
    with pytest.raises(DataError, match="must be uint8 pixels, not float32"):
        train(entry, dataclasses.replace(data, x_train=data.x_train.astype(np.float32)), 0, lambda *_: None)
