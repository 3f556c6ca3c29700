"""The collection's file: damaged, forged and hostile ones are refused, with CollectionError and nothing else."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.noise_kernels import collection as collection_module
from edgecut.noise_kernels.collection import CollectionError, NoiseCollection
from edgecut.noise_kernels.storage import contents_digest, header_json

Make = Callable[..., NoiseCollection]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def rewritten(data: bytes, signed: bool = True, **changes: Any) -> bytes:
    """The file with arrays, or fields of its header, replaced, and a digest that fits unless `signed` is False."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(arrays.pop("header").tobytes())
    arrays.update({name: value for name, value in changes.items() if name in arrays})
    header.update({name: value for name, value in changes.items() if name not in arrays})
    if signed and "digest" not in changes:
        header.pop("digest")
        header["digest"] = contents_digest(header, arrays)
    header = {name: value for name, value in header.items() if value is not None}
    arrays["header"] = np.frombuffer(header_json(header), dtype=np.uint8)
    return zipped([(name + ".npy", npy(array)) for name, array in arrays.items()])


def test_load(make_collection: Make, tmp_path: Path) -> None:
    path = tmp_path / "lenet.noise.npz"
    path.write_bytes(make_collection(10).to_bytes())
    assert NoiseCollection.load(path) == NoiseCollection.load(str(path)) == make_collection(10)
    path.write_bytes(b"nothing")
    with pytest.raises(CollectionError, match=r"lenet\.noise\.npz is no noise file: .*; get the file anew"):
        NoiseCollection.load(path)
    for missing in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(CollectionError, match="is not a file"):
            NoiseCollection.load(missing)


def test_refuses_orders_beyond_the_limit(make_collection: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_collection(300, 1).to_bytes()
    monkeypatch.setattr(collection_module, "MAX_BYTES", 599)
    with pytest.raises(CollectionError, match="more than 256 MB"):
        make_collection(300, 1)
    with pytest.raises(CollectionError, match="599 allowed"):
        NoiseCollection.from_bytes(data, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "another"}, "does not say format edgecut-noise"),
        ({"version": 2}, "format version is 2 and this program reads 1"),
        ({"version": True}, "format version is True"),
        ({"version": 1.0}, "format version is 1.0"),
        ({"extra": 1}, "exactly the fields"),
        ({"cut": None}, "exactly the fields"),
        ({"digest": None}, "exactly the fields"),
        ({"digest": "sha256:" + "0" * 64}, "digest does not match"),
        ({"n": 11}, "packed orders have 15 bytes"),
        ({"n": "10"}, "not integers"),
        ({"n": 10.0}, "not integers"),
        ({"n": True}, "not integers"),
        ({"n": -10, "distributions": -3}, "none or more than 256 MB"),
        ({"n": 1}, "none or more than 256 MB"),
        ({"distributions": 0}, "none or more than 256 MB"),
        ({"n": 2**40}, "none or more than 256 MB"),
        ({"distributions": 10**4000}, "no noise file"),
        ({"tensors": "x"}, "tensors are not a list"),
        ({"tensors": [["x", [10]]]}, "tensors are not a list"),
        ({"tensors": [{"name": "x", "shape": [10], "more": 1}]}, "tensors are not a list"),
        ({"tensors": [{"name": 5, "shape": [10]}]}, "tensor's name"),
        ({"tensors": [{"name": "x", "shape": {"a": 1}}]}, "not pairs"),
        ({"tensors": [{"name": "x", "shape": [2, 4]}]}, "cover 10 elements"),
        ({"cut": 5}, "cut is not"),
        ({"cut": "x" * 70_000}, "longer than 64 KB"),
        ({"model_digest": "md5:1"}, "model_digest"),
        ({"loc": np.zeros(3)}, "has type '<f8' where '<f4' belongs"),
        ({"loc": np.zeros(3, dtype=">f4")}, "has type '>f4' where '<f4' belongs"),
        ({"loc": np.zeros((3, 1), dtype=np.float32)}, "not a one-dimensional array"),
        ({"loc": np.zeros(2, dtype=np.float32)}, "there are 2 loc"),
        ({"loc": np.full(3, np.nan, dtype=np.float32)}, "not finite"),
        ({"scale": np.zeros(3, dtype=np.float32)}, "not positive"),
        ({"orders": np.full(15, 255, dtype=np.uint8)}, "no permutation"),
        ({"orders": np.zeros(14, dtype=np.uint8)}, "packed orders have 14 bytes"),
        ({"orders": np.zeros(15, dtype=[("a", "u1")])}, "not a one-dimensional array"),
    ],
)
def test_refuses_files_that_a_forger_signed(changes: dict[str, Any], message: str, make_collection: Make) -> None:
    data = rewritten(make_collection(10).to_bytes(), **changes)
    with pytest.raises(CollectionError, match=message) as caught:
        NoiseCollection.from_bytes(data, "the/file.npz")
    assert str(caught.value).startswith("the/file.npz")


def test_a_forgers_file_is_read_if_nothing_changed(make_collection: Make) -> None:
    assert NoiseCollection.from_bytes(rewritten(make_collection(10).to_bytes()), "x") == make_collection(10)


@pytest.mark.parametrize("name", ["loc", "scale", "orders"])
def test_refuses_a_change_without_a_new_digest(name: str, make_collection: Make) -> None:
    data = make_collection(10).to_bytes()
    array = {"loc": np.ones(3, np.float32), "scale": np.ones(3, np.float32), "orders": np.zeros(15, np.uint8)}[name]
    with pytest.raises(CollectionError, match="digest does not match"):
        NoiseCollection.from_bytes(rewritten(data, signed=False, **{name: array}), "x")


class Bomb:
    """Raises when unpickled, so that a test sees it happen."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def test_refuses_objects(make_collection: Make) -> None:
    files = members(make_collection(10).to_bytes())
    for name in files:
        hostile = {**files, name: npy(np.array([Bomb()], dtype=object))}
        with pytest.raises(CollectionError, match=r"has type '\|O' where"):
            NoiseCollection.from_bytes(zipped(list(hostile.items())), "x")


@pytest.mark.parametrize("header", [b"{", b"\xff", b"[" * 60_000, b"null", b"[]", b'{"n":' + b"1" * 50_000 + b"}", b""])
def test_refuses_headers(header: bytes, make_collection: Make) -> None:
    files = members(make_collection(10).to_bytes())
    files["header.npy"] = npy(np.frombuffer(header, dtype=np.uint8))
    with pytest.raises(CollectionError, match="its header"):
        NoiseCollection.from_bytes(zipped(list(files.items())), "x")


def test_refuses_other_members(make_collection: Make) -> None:
    files = list(members(make_collection(10).to_bytes()).items())
    first, rest = files[0], files[1:]
    for changed in (
        rest,
        [*files, ("extra.npy", b"")],
        [*files, ("../loc.npy", b"")],
        [("/" + first[0], first[1]), *rest],
        [("../" + first[0], first[1]), *rest],
        [(first[0].upper(), first[1]), *rest],
        [("header", first[1]), *rest],
        [*files, ("x/", b"")],
        [],
    ):
        with pytest.raises(
            CollectionError, match=r"where a collection has header\.npy, loc\.npy, orders\.npy, scale\.npy"
        ):
            NoiseCollection.from_bytes(zipped(changed), "x")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped([*files, first])
    with pytest.raises(CollectionError, match="where a collection has"):
        NoiseCollection.from_bytes(twice, "x")


def test_refuses_a_decompression_bomb(make_collection: Make) -> None:
    files = members(make_collection(10).to_bytes())
    files["orders.npy"] += bytes(50 << 20)
    data = zipped(list(files.items()), zipfile.ZIP_DEFLATED)
    assert len(data) < 1 << 20
    with pytest.raises(CollectionError, match="compressed"):
        NoiseCollection.from_bytes(data, "x")


@pytest.mark.parametrize("claim", ["(1000000000000,)", "(-1,)", "(3, 10000000)", "(9999999999999999999,)", "()", "(3)"])
def test_refuses_a_shape_that_the_data_does_not_have(claim: str, make_collection: Make) -> None:
    files = members(make_collection(10).to_bytes())
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {claim}, }}\n".encode()
    files["loc.npy"] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(12)
    with pytest.raises(CollectionError, match=r"shorter or longer|not a one-dimensional"):
        NoiseCollection.from_bytes(zipped(list(files.items())), "x")


BASE = NoiseCollection([0, 1], [1, 2], [[2, 0, 1], [0, 1, 2]], [("x", (3,))], DIGEST, "x")
DATA = BASE.to_bytes()


def test_refuses_every_truncation() -> None:
    for length in range(len(DATA)):
        with pytest.raises(CollectionError):
            NoiseCollection.from_bytes(DATA[:length], "x")


def accept_or_refuse(data: bytes) -> None:
    """Nothing but CollectionError may come out, and nothing but the collection that was put in."""
    try:
        read = NoiseCollection.from_bytes(data, "x")
    except CollectionError:
        return
    assert read == BASE


def test_every_flipped_bit_is_refused_or_harmless() -> None:
    for place in range(len(DATA)):
        data = bytearray(DATA)
        data[place] ^= 1 << place % 8
        accept_or_refuse(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
def test_changed_bytes_are_refused_or_harmless(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(DATA)
    for place, new in changes:
        data[place : place + len(new)] = new
    accept_or_refuse(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.binary(max_size=40))
def test_spliced_bytes_are_refused_or_harmless(start: int, stop: int, new: bytes) -> None:
    accept_or_refuse(DATA[:start] + new + DATA[stop:])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CollectionError):
        NoiseCollection.from_bytes(data, "x")
