"""Labelled texts as token ids: the words of a .jsonl file, numbered by how often its training part uses them.

This follows the Keras example of 2016 that the text network's sizes come from ("Using pre-trained word embeddings in a
Keras model"; `Tokenizer` and `pad_sequences` with their defaults): lower case, split at spaces and ASCII punctuation
other than the apostrophe, the most frequent word is 1, equally frequent ones in the order they first come, all others
dropped, and 0 in front of what is shorter than 1,000 words. Of a longer text the last 1,000 words are kept.
"""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz")
VOCABULARY = 20_000
"""Ids are below it; with 0 for padding it leaves one word less."""
LENGTH = 1_000
SEPARATORS = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))
MAX_LINE_BYTES = 16 * 1024**2
MAX_FILE_BYTES = 256 * 1024**2
MAX_LINES = 500_000
"""Of 2,000 bytes each in memory."""
PARTS = ("train", "test")


class Row(NamedTuple):
    """One line of the file."""

    part: str
    label: int
    text: str


def read_texts(path: str) -> dict[str, npt.NDArray[Any]]:
    """x_train, y_train, x_test, y_test of a .jsonl or .jsonl.gz file: uint16 ids [texts, 1000] and int64 labels.

    A row is {"split": "train" or "test", "label": 0, "text": "..."}; what else it holds is left alone. Raises DataError
    naming the line that is no such row, and where the file or a line is too large to be held.
    """
    numbers: dict[str, int] = {}
    used: Counter[int] = Counter()
    texts: dict[str, list[array[int]]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    for row in _rows(path):
        text = array("I", [numbers.setdefault(word, len(numbers)) for word in words_of(row.text)])
        if row.part == "train":
            used.update(text)
        texts[row.part].append(text)
        labels[row.part].append(row.label)
    for part in PARTS:
        if not texts[part]:
            raise DataError(f'{path} has no row of the {part} part; mark some with "split": "{part}"')
    ids = np.zeros(len(numbers), np.uint16)
    # Sorting is stable and a counter keeps the order of first use, which is how Keras breaks ties.
    for rank, number in enumerate(sorted(used, key=lambda number: -used[number])[: VOCABULARY - 1], 1):
        ids[number] = rank
    return {
        **{f"x_{part}": _padded(texts[part], ids) for part in PARTS},
        **{f"y_{part}": np.array(labels[part], np.int64) for part in PARTS},
    }


def words_of(text: str) -> list[str]:
    """A text's words, in lower case."""
    return [word for word in text.lower().translate(SEPARATORS).split(" ") if word]


def _padded(texts: list[array[int]], ids: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    rows = np.zeros((len(texts), LENGTH), np.uint16)
    for row, text in zip(rows, texts, strict=True):
        known = ids[np.asarray(text, np.intp)]
        known = known[known > 0][-LENGTH:]
        row[LENGTH - len(known) :] = known
    return rows


def _rows(path: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _row(line, f"{path}, line {number}")


def _lines(path: str) -> Iterator[bytes]:
    """The file's lines as they come, so that a small archive of much text cannot fill the memory."""
    total, lines = 0, 0
    try:
        opening: Any = gzip.open if path.endswith(".gz") else open
        with opening(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                total, lines = total + len(line), lines + 1
                if len(line) > MAX_LINE_BYTES or total > MAX_FILE_BYTES or lines > MAX_LINES:
                    raise DataError(
                        f"{path} is too large: a line may have {MAX_LINE_BYTES // 1024**2} MiB, and the file "
                        f"{MAX_FILE_BYTES // 1024**2} MiB and {MAX_LINES:,} lines, unpacked; give fewer texts"
                    )
                yield line
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}; check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); give a .jsonl file, or one packed with gzip") from None


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError, too
        raise DataError(f"{where} is not JSON ({str(error)[:100]}); write one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f'{where} is no JSON object; write {{"split": "train", "label": 0, "text": "..."}}')
    part, label, text = (row.get(field) for field in ("split", "label", "text"))
    if part not in PARTS:
        raise DataError(f'{where} has the split {str(part)[:40]!r}; it must be "train" or "test"')
    # Python takes true for a whole number.
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**31:
        raise DataError(f"{where} has the label {str(label)[:40]!r}; it must be a whole number from 0 on")
    if not isinstance(text, str):
        raise DataError(f'{where} has no "text" that is a string; give the text to classify')
    return Row(part, label, text)
