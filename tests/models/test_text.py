"""Texts become the token ids that Keras's tokeniser gave, and a file that is no such thing is named, with its line."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecut.errors import DataError
from edgecut.models import text
from edgecut.models.catalogue import CATALOGUE
from edgecut.models.data import load_data, to_input
from edgecut.models.spec import ModelSpec, TensorSpec

Rows = Iterable[tuple[str, int, str]]


def write(path: Path, rows: Rows) -> str:
    lines = [json.dumps({"split": part, "label": label, "text": words, "more": []}) for part, label, words in rows]
    path.write_text("\n".join(lines))
    return str(path)


def keras(rows: Rows, vocabulary: int, length: int) -> dict[str, np.ndarray]:
    """Keras's `Tokenizer` and `pad_sequences`, written out word by word from what they document."""
    filtered = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
    split = {"train": [], "test": []}  # type: dict[str, list[list[str]]]
    for part, _, words in rows:
        plain = "".join(" " if letter in filtered else letter for letter in words.lower())
        split[part].append([word for word in plain.split(" ") if word])
    training = list(itertools.chain(*split["train"]))
    ranked = sorted(set(training), key=lambda word: (-training.count(word), training.index(word)))
    number = {word: place for place, word in enumerate(ranked, 1) if place < vocabulary}
    ids = {part: [[number[w] for w in words if w in number] for words in texts] for part, texts in split.items()}
    return {
        f"x_{part}": np.array([([0] * length + one)[-length:] for one in texts], np.int64)
        for part, texts in ids.items()
    }


words = st.text(st.sampled_from("aAbB' \t\n.\r!éß"), max_size=30)


@given(st.lists(words, min_size=1, max_size=4), st.lists(words, min_size=1, max_size=3), st.integers(2, 6))
def test_ids_are_those_of_keras(train: list[str], test: list[str], vocabulary: int) -> None:
    # The test part first, as the rows of a file may come in any order: its words must not count.
    rows = [*(("test", 1, one) for one in test), *(("train", 0, one) for one in train)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "VOCABULARY", vocabulary)
        patch.setattr(text, "LENGTH", 4)
        patch.setattr(text, "_rows", lambda _: (text.Row(*row) for row in rows))
        got = text.read_texts("")
    for name, expected in keras(rows, vocabulary, 4).items():
        np.testing.assert_array_equal(got[name], expected)
    assert (got["y_train"] == 0).all() and (got["y_test"] == 1).all()


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.jsonl.gz"])
def test_a_file_of_texts(name: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    write(path, [("train", 3, "Don't panic, don't!"), ("test", 2, "Panic."), ("test", 0, "panic x")])
    if name.endswith(".gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress((tmp_path / "texts.jsonl").read_bytes() + b"\n\n"))
    data = load_data(str(path))
    assert data.name == name
    assert data.x_train.shape == (1, 1000) and data.x_test.shape == (2, 1000)
    assert data.x_train[0, -4:].tolist() == [0, 1, 2, 1]
    assert data.x_test[:, -2:].tolist() == [[0, 2], [0, 2]]
    assert (data.y_train.tolist(), data.y_test.tolist()) == ([3], [2, 0])
    assert data.digest.startswith("sha256:")


def test_it_fits_the_text_network(tmp_path: Path) -> None:
    many = " ".join(str(number) for number in range(30_000))
    path = write(tmp_path / "many.jsonl", [("train", 0, many), ("train", 0, "0 1 2 0"), ("test", 0, "0")])
    data = load_data(path)
    entry = CATALOGUE["text_cnn_20news"]
    assert data.x_train.shape[1:] == entry.input_shape
    assert data.x_train.max() == 19_999 == (entry.vocabulary or 0) - 1
    assert data.x_train[0, 0] == 19_000  # of a long text the last 1,000 known words are kept
    assert data.x_test[0, -1] == 1


ROW = '{"split": "train", "label": 0, "text": "a"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "line 2 is not JSON"),
        ("[" * 200_000, "line 2 is not JSON"),
        ('"\\ud8', "line 2 is not JSON"),
        ("[1]", "line 2 is no JSON object"),
        ('{"split": "dev", "label": 0, "text": "a"}', "line 2 has the split 'dev'; it must be"),
        ('{"split": ["train"], "label": 0, "text": "a"}', "line 2 has the split"),
        ('{"label": 0, "text": "a"}', "line 2 has the split 'None'"),
        ('{"split": "test", "label": "0", "text": "a"}', "line 2 has the label '0'; it must be a whole number"),
        ('{"split": "test", "label": true, "text": "a"}', "line 2 has the label 'True'"),
        ('{"split": "test", "label": -1, "text": "a"}', "line 2 has the label '-1'"),
        ('{"split": "test", "label": 1e1, "text": "a"}', "line 2 has the label '10.0'"),
        (f'{{"split": "test", "label": {2**31}, "text": "a"}}', "line 2 has the label"),
        ('{"split": "test", "label": 0, "text": null}', 'line 2 has no "text" that is a string'),
        ("", "has no row of the test part"),
    ],
)
def test_lines_that_are_no_rows(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(ROW + line)
    with pytest.raises(DataError, match=message) as caught:
        load_data(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"there is no data file .*gone\.jsonl"):
        load_data(str(tmp_path / "gone.jsonl"))
    path = tmp_path / "bad.jsonl.gz"
    packed = gzip.compress(ROW.encode() * 50)
    broken: list[tuple[bytes, str]] = [
        (ROW.encode(), "cannot be read"),
        (packed[:-9], "cannot be read"),
        (packed[:12] + b"\xff" * 20 + packed[32:], "cannot be read"),
        (gzip.compress(b'{"split": "\xff"}'), "line 1 is not JSON"),
    ]
    for content, message in broken:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_data(str(path))
    path.write_bytes(packed)
    with pytest.raises(DataError, match="has no row of the test part"):
        load_data(str(path))  # the limits of the next lines apart, it can be read
    for limit, value in (("MAX_LINE_BYTES", len(ROW) - 1), ("MAX_FILE_BYTES", 50 * len(ROW) - 1), ("MAX_LINES", 49)):
        with monkeypatch.context() as patch:
            patch.setattr(text, limit, value)
            with pytest.raises(DataError, match="is too large"):
                load_data(str(path))


def test_token_ids_as_a_models_input() -> None:
    spec = ModelSpec(
        name="m",
        digest="",
        inputs=(TensorSpec(name="x", dtype="int64", shape=(2,), below=10),),
        outputs=(),
        layers=(),
        cuts=(),
    )
    for dtype in (np.uint8, np.uint16, np.int32, np.int64):
        got = to_input(np.array([[0, 9]], dtype), spec)
        assert got.dtype == np.int64 and got.tolist() == [[0, 9]]
    wrong: list[tuple[Any, str]] = [
        ([[0, 10]], "holds numbers from 0 to 10, but the model takes 0 to 9"),
        ([[-1, 3]], "holds numbers from -1 to 3"),
        ([[1, 2, 3]], r"an input of int64 \[3\] does not fit the model, which takes int64 \[2\]"),
        ([[0.0, 1.0]], r"an input of float64 \[2\] does not fit"),
        ([[True, False]], r"an input of bool \[2\] does not fit"),
    ]
    for values, message in wrong:
        with pytest.raises(DataError, match=message):
            to_input(np.array(values), spec)
    with pytest.raises(DataError, match="does not fit"):
        to_input(np.array([[0.0, 1.0]], np.float32), spec)
    narrow = spec.model_copy(update={"inputs": (TensorSpec(name="x", dtype="int32", shape=(2,)),)})
    assert to_input(np.array([[-(2**31), 2**31 - 1]]), narrow).dtype == np.int32
    with pytest.raises(DataError, match="to 2147483648"):
        to_input(np.array([[0, 2**31]]), narrow)
