"""What is seen of a cut: activations through the mechanism's map, and noise that follows from the seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecut.errors import DataError
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.privacy import observations
from edgecut.privacy.attacks import messages as seeing
from edgecut.privacy.attacks.effort import EFFORTS
from edgecut.privacy.attacks.messages import Messages
from edgecut.privacy.attacks.training import _parted

N = 8


def mapped(tasks: Any) -> Any:
    """Two of the values, the second of them doubled."""
    turned = LinearMap((N,), np.full(N, 0.25), [None], [1, 5], np.array([1.0, 2.0]), np.array([1.0, 0.5]))
    plain = tasks.gaussian(0.5)
    noise = type(plain)(
        "channel", "normal", np.zeros(2), np.full(2, 0.5), plain.tensors, plain.model_digest, "c", map=turned
    )
    return tasks.seen(noise, 1234, 321)


def test_what_the_map_sends_is_that_of_each_part(tasks: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(observations, "CHUNK", 100)  # so that pieces meet, and the last one is short
    seen = mapped(tasks)
    rows = np.array([1233, 0, 99, 100, 320])
    for _ in range(2):
        expected = (seen.train.values[rows][:, [1, 5]] - 0.25) * [1, 2]
        np.testing.assert_allclose(seen.carried("train", rows), expected, rtol=1e-6)
    np.testing.assert_allclose(
        seen.carried("test", rows[1:]), (seen.test.values[rows[1:]][:, [1, 5]] - 0.25) * [1, 2], rtol=1e-6
    )
    given = seen.carried("train", rows)
    given[:] = 0  # belongs to who asked
    assert seen.carried("train", rows).all()


def test_noise_is_the_same_for_the_same_purpose_and_draw_alone(tasks: Any) -> None:
    seen, rows = mapped(tasks), np.arange(50)
    first = seen.drawn("train", rows, "fit", 0)
    np.testing.assert_array_equal(first, seen.drawn("train", rows, "fit", 0))
    np.testing.assert_array_equal(first[10:20], seen.drawn("train", rows[10:20], "fit", 0))
    for other in (("train", rows, "fit", 1), ("train", rows, "held out", 0), ("test", rows, "fit", 0)):
        assert not (first == seen.drawn(*other)).all(1).any()


def test_a_chunk_holds_whole_batches_and_at_least_one(tasks: Any, monkeypatch: Any) -> None:
    seen, rows = tasks.seen(tasks.gaussian(0.5), 1000), np.arange(700)
    for values, expected in ((10, 64), (100, 64), (130, 128)):  # a value of float32 has 4 bytes, and a row N of them
        monkeypatch.setattr(seeing, "CHUNK_BYTES", 4 * N * values)
        pieces = Messages(seen).pieces(rows, 64)
        assert {len(piece) for piece in pieces[:-1]} == {expected}
        np.testing.assert_array_equal(np.concatenate(pieces), rows)


def test_one_training_item_is_too_few_for_an_attacker() -> None:
    with pytest.raises(DataError, match="one training item is too few"):
        _parted(1, EFFORTS["quick"], 0)
    fit, held = _parted(2, EFFORTS["quick"], 0)
    assert sorted([*fit, *held]) == [0, 1]
