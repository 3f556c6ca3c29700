"""Inference of files: what is read, in which pieces it is sent, what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.errors import ArtefactError, BundleError, DataError, EdgecutError, ServerError
from edgecut.models.data import load_data
from edgecut.runtime import infer as infer_module
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.infer import BATCH, infer

IMAGES = load_data("mnist").x_test
Y = load_data("mnist").y_test


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes that were sent."""
    seen: list[int] = []
    inner = EdgeSession.infer

    def recording(self: EdgeSession, x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return inner(self, x)

    monkeypatch.setattr(EdgeSession, "infer", recording)
    return seen


def test_a_file_of_digits_comes_back_as_logits(
    bundle_folder: Path, server: str, batches: list[int], tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).permutation(len(IMAGES))[: 2 * BATCH + 5]
    np.save(tmp_path / "x.npy", IMAGES[rows])
    logits = infer(bundle_folder, server, tmp_path / "x.npy", output=tmp_path / "new" / "logits.npy")
    assert batches == [BATCH, BATCH, 5] and logits.shape == (len(rows), 10)
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "logits.npy", allow_pickle=False), logits)
    assert (logits.argmax(1) == Y[rows]).mean() > 0.9  # in order, and recognised through the noise
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["logits.npy", "new", "x.npy"]


@pytest.mark.parametrize("x", [IMAGES[0], np.zeros((1, 32, 32), np.float32)], ids=["bytes", "floats"])
def test_one_input_is_a_batch_of_one(x: np.ndarray, bundle_folder: Path, server: str, batches: list[int]) -> None:
    assert infer(bundle_folder / "edge", server, x).shape == (1, 10)
    assert batches == [1]


def npy(array: Any) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


GOOD = npy(IMAGES[:2])
FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "not a readable .npy"),
    "text": (b"1, 2, 3\n", "not a readable .npy"),
    "pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01x\x94.", "not a readable .npy"),
    "objects": (npy(np.array([{}], dtype=object)), "not a readable .npy"),
    "truncated": (GOOD[:-100], "not a readable .npy"),
    "half a header": (GOOD[:20], "not a readable .npy"),
    "half a zip": (b"PK\x03\x04" + b"\x00" * 60, "not a readable .npy"),
    "absurd size": (header("(4000000000000, 1, 32, 32)"), "not a readable .npy"),
    "overflowing size": (header("(99999999999999999999999, 4)"), "not a readable .npy"),
    "negative size": (header("(-1, 4)"), "npy|needed"),
    "code in the header": (header("__import__('os').system('true')"), "not a readable .npy"),
    "strings": (npy(np.array(["a"])), "<U1"),
    "fields": (npy(np.zeros(3, [("a", "<f4")])), "needed"),
    "a number": (npy(np.float32(3)), "nothing to infer"),
    "no items": (npy(IMAGES[:0]), "nothing to infer"),
    "NaN": (npy(np.full((1, 1, 32, 32), np.nan, np.float32)), "NaN"),
    "shape": (npy(np.zeros((2, 1, 30, 30), np.float32)), r"\[2, 1, 30, 30\]"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_inferred(what: str, bundle_folder: Path, server: str, tmp_path: Path) -> None:
    data, words = FILES[what]
    path = tmp_path / "x.npy"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as raised:
        infer(bundle_folder, server, path, output=tmp_path / "logits.npy")
    assert "\n" not in str(raised.value) and [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_a_missing_a_large_and_a_many_array_file(
    bundle_folder: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "nothing.npy", tmp_path):
        with pytest.raises(DataError, match=r"there is no input file .*; give an \.npy file"):
            infer(bundle_folder, server, path)
    np.savez(tmp_path / "two.npz", a=IMAGES[:1], b=IMAGES[:1])
    with pytest.raises(DataError, match="holds several arrays"):
        infer(bundle_folder, server, tmp_path / "two.npz")
    monkeypatch.setattr(infer_module, "MAX_INPUT_BYTES", 1000)
    np.save(tmp_path / "large.npy", IMAGES[:2])
    with pytest.raises(DataError, match="larger than 1000 bytes; split it"):
        infer(bundle_folder, server, tmp_path / "large.npy")


def test_where_nothing_can_be_written_it_says_so(bundle_folder: Path, server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for output in (tmp_path / "file" / "logits.npy", Path("/proc/logits.npy"), tmp_path):
        with pytest.raises(ArtefactError, match=r"cannot be written .*choose another output path"):
            infer(bundle_folder, server, IMAGES[:1], output=output)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"


def test_the_bundle_comes_first(bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle folder"):
        infer(tmp_path / "nothing", "127.0.0.1:1", IMAGES[:1])
    with pytest.raises(BundleError, match="was expected"):
        infer(bundle_folder, "127.0.0.1:1", IMAGES[:1], expect_id="sha256:" + "0" * 64)
    with pytest.raises(ServerError, match="HOST:PORT"):
        infer(bundle_folder, "nowhere", IMAGES[:1])
    with pytest.raises(EdgecutError, match="positive number of seconds"):
        infer(bundle_folder, "127.0.0.1:1", IMAGES[:1], timeout_s=-1)
