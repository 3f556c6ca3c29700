"""Where activations are kept, and that it makes no difference."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from edgecut.errors import DataError  # noqa: E402
from edgecut.models.spec import CutSpec, TensorSpec  # noqa: E402
from edgecut.privacy import activations  # noqa: E402
from edgecut.privacy.activations import Rows, deviation_of, keep_rows, place_for  # noqa: E402

CUT = CutSpec(name="c", depth=1, tensors=(TensorSpec(name="a", dtype="float32", shape=(5,)),), aligned=True)
VALUES = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)
Usage = namedtuple("Usage", "total used free")


def rows_in(values: np.ndarray) -> Rows:
    return Rows(len(values), values.shape[1], "memory", lambda rows: values[rows])


def test_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = activations.SPARE_DISK_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10 * spare, 0, 1000 + spare))
    assert place_for(100, 100, tmp_path) == "memory"
    assert place_for(101, 100, tmp_path) == place_for(1000, 100, tmp_path) == "disk"
    assert place_for(1001, 100, tmp_path) == "nowhere"


@pytest.mark.parametrize("place", ["memory", "disk", "nowhere"])
def test_every_place_gives_the_same_rows(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "nowhere":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))
    asked: list[int] = []

    def make(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return VALUES[rows]

    budget = VALUES.nbytes if place == "memory" else VALUES.nbytes - 1
    told: list[tuple[int, int]] = []
    kept = keep_rows(make, 23, 5, tmp_path / "a.f32", 4, lambda *how: told.append(how), budget)
    assert (kept.place, kept.count, kept.width) == (place, 23, 5)
    once = len(asked)
    wanted = torch.tensor([22, 0, 7, 7, 19, 3, 1])
    np.testing.assert_array_equal(kept.take(wanted), VALUES[wanted.numpy()])
    assert (len(asked) == once) == (place != "nowhere") and max(asked) <= 4
    together = [(first, piece.numpy()) for first, piece in kept.chunks(10)]
    assert [first for first, _ in together] == [0, 10, 20]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in together]), VALUES)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["a.f32"] if place == "disk" else [])
    assert told == ([] if place == "nowhere" else [(start, 23) for start in range(0, 23, 4)])


def test_a_complete_file_is_used_again_and_no_other(tmp_path: Path) -> None:
    made: list[int] = []

    def make(rows: np.ndarray) -> np.ndarray:
        made.extend(rows)
        if len(made) == 12:
            raise KeyboardInterrupt
        return VALUES[rows]

    def keep() -> Rows:
        return keep_rows(make, 23, 5, tmp_path / "a.f32", 4, lambda *_: None, 0)

    with pytest.raises(KeyboardInterrupt):
        keep()
    assert not (tmp_path / "a.f32").exists()
    first = len(made)
    for _ in range(2):
        np.testing.assert_array_equal(keep().take(torch.arange(23)), VALUES)
    assert len(made) == first + 23  # once, and not for the second


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 12), st.floats(-1e4, 1e4), st.floats(0.1, 100))
def test_the_deviation_is_numpys(count: int, width: int, chunk: int, mean: float, spread: float) -> None:
    values = (mean + spread * np.random.default_rng(count).standard_normal((count, width))).astype(np.float32)
    if count * width > 1:
        expected = values.std(dtype=np.float64)
        assert deviation_of(rows_in(values), CUT, chunk) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e30, np.nan, np.inf])
def test_no_deviation_to_measure_noise_by(value: float) -> None:
    with pytest.raises(DataError, match="the activation after c is the same for every input, or too large"):
        deviation_of(rows_in(np.full((9, 4), value, np.float32)), CUT, 4)
