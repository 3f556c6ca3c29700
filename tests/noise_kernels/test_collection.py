"""The noise collection: its fields, what it refuses, its file there and back, and the footprints of the paper."""

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.noise_kernels.collection import CollectionError, NoiseCollection
from edgecut.noise_kernels.storage import pack_orders, unpack_orders

Make = Callable[..., NoiseCollection]
DIGEST = "sha256:" + "0123456789abcdef" * 4


@st.composite
def collections(draw: st.DrawFn) -> NoiseCollection:
    shapes = draw(st.lists(st.lists(st.integers(1, 6), max_size=3), min_size=1, max_size=3))
    n = sum(int(np.prod(shape)) for shape in shapes)
    if n < 2:
        shapes, n = [*shapes, [2]], n + 2
    count = draw(st.integers(1, 4))
    names = draw(st.lists(st.text(min_size=1), min_size=len(shapes), max_size=len(shapes), unique=True))
    number = st.floats(-(2.0**99), 2.0**99, width=32)
    return NoiseCollection(
        draw(st.lists(number, min_size=count, max_size=count)),
        draw(st.lists(st.floats(2.0**-100, 2.0**90, width=32), min_size=count, max_size=count)),
        [draw(st.permutations(range(n))) for _ in range(count)],
        list(zip(names, shapes, strict=True)),
        DIGEST,
        draw(st.text(min_size=1)),
    )


def test_fields(make_collection: Make) -> None:
    c = make_collection(12, 2, tensors=[("a", (2, 4)), ("b", [4]), ("c", ())][:2])
    assert (c.distributions, c.n, c.cut, c.model_digest) == (2, 12, "after relu_1", DIGEST)
    assert c.tensors == (("a", (2, 4)), ("b", (4,)))
    assert c.loc.dtype == c.scale.dtype == np.float32 and c.orders.dtype == c.ranks.dtype == np.uint16
    for d in range(2):
        assert (c.ranks[d][c.orders[d]] == np.arange(12)).all() and (np.argsort(c.orders[d]) == c.ranks[d]).all()
    assert c.ranks is c.ranks
    assert repr(c) == "NoiseCollection(cut='after relu_1', n=12, distributions=2)"


@pytest.mark.parametrize(("n", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_orders_take_the_smaller_type_that_fits(n: int, dtype: type, make_collection: Make) -> None:
    c = make_collection(n, 1)
    assert c.orders.dtype == c.ranks.dtype == dtype
    assert NoiseCollection.from_bytes(c.to_bytes(), "x") == c


def test_immutable(make_collection: Make) -> None:
    loc = np.zeros(3)
    c = make_collection(10, loc=loc)
    loc[0] = 5
    assert c.loc[0] == 0
    for array in (c.loc, c.scale, c.orders, c.ranks):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        c.cut = "another"
    with pytest.raises(AttributeError):
        del c.cut


def test_equality_and_copies(make_collection: Make) -> None:
    c = make_collection(10)
    assert c == make_collection(10) and hash(c) == hash(make_collection(10)) and c.digest == make_collection(10).digest
    assert c != make_collection(10, cut="another") and c != "c"
    assert copy.deepcopy(c) == pickle.loads(pickle.dumps(c)) == c


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loc": [0, np.nan, 0]}, "loc holds a value that is not finite"),
        ({"loc": [0, 0, 1e300]}, "loc holds a value that is not finite"),
        ({"loc": ["0", "0", "0"]}, "loc is not a one-dimensional array of numbers"),
        ({"loc": [[0, 0, 0]]}, "loc is not a one-dimensional array of numbers"),
        ({"loc": [0, 0]}, "there are 2 loc, 3 scale and 3 orders"),
        ({"scale": [1, 0, 1]}, r"scale\[1\] is not positive"),
        ({"scale": [1, 1, -1]}, r"scale\[2\] is not positive"),
        ({"scale": [1, 1, 1e-60]}, r"scale\[2\] is not positive"),
        ({"scale": [1, 1, np.inf]}, "scale holds a value"),
        ({"scale": None}, "scale is not a one-dimensional"),
        ({"orders": [[0, 1, 1]] * 3}, r"orders\[0\] is no permutation of 0..2"),
        ({"orders": [[0, 1, 2], [0, 1, 2], [1, 2, 3]]}, r"orders\[2\] is no permutation"),
        ({"orders": [[0, 1, -1]] * 3}, "no permutation"),
        ({"orders": [[0.0, 1.0, 2.0]] * 3}, "two-dimensional array of integers"),
        ({"orders": [0, 1, 2]}, "two-dimensional array of integers"),
        ({"orders": np.zeros((0, 3), dtype=int)}, "at least 1 row"),
        ({"orders": [[0]] * 3}, "at least 2 elements"),
        ({"orders": [[1, 0]] * 3}, "cover 2 elements but the tensors of cut 'after relu_1' have 3"),
        ({"tensors": [("x", (2, 2))]}, "cover 3 elements but the tensors of cut 'after relu_1' have 4"),
        ({"tensors": [("x", (3, 0))]}, "a size below 1"),
        ({"tensors": [("x", (-1, -3))]}, "a size below 1"),
        ({"tensors": [("x", ("N", 3))]}, "not pairs of a name and a shape"),
        ({"tensors": [("x", (True, 3))]}, "not pairs of a name and a shape"),
        ({"tensors": [("x", 3)]}, "not pairs of a name and a shape"),
        ({"tensors": 3}, "not pairs of a name and a shape"),
        ({"tensors": []}, "tensors are none"),
        ({"tensors": [("x", (1,)), ("x", (2,))]}, "two have one name"),
        ({"tensors": [("", (3,))]}, "a tensor's name is not a non-empty text"),
        ({"model_digest": "sha256:" + "0" * 63}, "64 lower-case hex digits"),
        ({"model_digest": DIGEST + "\n"}, "64 lower-case hex digits"),
        ({"model_digest": None}, "model_digest is not a non-empty text"),
        ({"cut": ""}, "cut is not a non-empty text"),
        ({"cut": "\ud800"}, "cut is not a non-empty text"),
    ],
)
def test_refuses_values(changes: dict[str, Any], message: str, make_collection: Make) -> None:
    with pytest.raises(CollectionError, match=message):
        make_collection(3, **changes)


@pytest.mark.parametrize(("n", "kilobytes"), [(120, "2.05"), (256, "5.00"), (9216, "315.00"), (25088, "918.75")])
def test_footprints_of_the_papers_table_3(n: int, kilobytes: str, make_collection: Make) -> None:
    c = make_collection(n, 20)
    assert f"{c.footprint_bytes / 1024:.2f}" == kilobytes
    data = c.to_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert file["orders"].nbytes == c.footprint_bytes
    assert len(data) < c.footprint_bytes + 2048
    assert NoiseCollection.from_bytes(data, "x") == c


@pytest.mark.parametrize(("n", "count"), [(2, 1), (3, 3), (120, 5), (257, 3), (65536, 2), (65537, 1)])
def test_packing_is_the_stream_of_bits_it_says(n: int, count: int) -> None:
    orders = np.argsort(np.random.default_rng(n).random((count, n)), axis=1)
    bits = (n - 1).bit_length()
    text = "".join(f"{index:0{bits}b}"[::-1] for index in orders.ravel().tolist())
    expected = int(text[::-1], 2).to_bytes((len(text) + 7) // 8, "little")
    packed = pack_orders(orders)
    assert packed.tobytes() == expected
    assert (unpack_orders(packed, count, n) == orders).all()


@settings(max_examples=60, deadline=None)
@given(collections())
def test_there_and_back(c: NoiseCollection) -> None:
    data = c.to_bytes()
    back = NoiseCollection.from_bytes(data, "x")
    assert back == c and back.to_bytes() == data
    assert (back.loc == c.loc).all() and (back.scale == c.scale).all() and (back.orders == c.orders).all()
    assert (back.tensors, back.model_digest, back.cut) == (c.tensors, c.model_digest, c.cut)


def test_the_file_is_a_plain_npz_without_a_date(make_collection: Make) -> None:
    data = make_collection(10).to_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["header.npy", "loc.npy", "orders.npy", "scale.npy"]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        header = json.loads(file["header"].tobytes())
    assert header["format"] == "edgecut-noise" and header["version"] == 1 and header["n"] == 10
    assert header["tensors"] == [{"name": "relu_1", "shape": [10]}]
    assert header["digest"] == make_collection(10).digest


def test_reads_what_numpy_saves(make_collection: Make) -> None:
    c = make_collection(10)
    with np.load(io.BytesIO(c.to_bytes()), allow_pickle=False) as file:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: file[name] for name in file.files})
    assert NoiseCollection.from_bytes(buffer.getvalue(), "x") == c
