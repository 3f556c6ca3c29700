"""Independent noise as a value and as a file: what it must be, its entropy, and hostile files that are refused."""

import copy
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from edgecut.noise_kernels.collection import CollectionError, NoiseCollection
from edgecut.noise_kernels.element_noise import MECHANISMS, ElementNoise
from edgecut.noise_kernels.linear_map import LinearMap
from edgecut.noise_kernels.mechanism import load_noise, read_noise
from edgecut.noise_kernels.storage import contents_digest, header_json

MODEL = "sha256:" + "0123456789abcdef" * 4


def make(**changes: Any) -> ElementNoise:
    fields: dict[str, Any] = {
        "mechanism": "cloak",
        "law": "laplace",
        "loc": [0.5, -1.0, 0.0],
        "scale": [1.0, 0.0, 2.0],
        "tensors": [("x", (3,))],
        "model_digest": MODEL,
        "cut": "after x",
    }
    return ElementNoise(**{**fields, **changes})


def rotation(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def mapped(place: str = "cut") -> ElementNoise:
    """Six values of shape [2, 3], of which two coordinates are sent."""
    axes, forward = [rotation(2, 1), None], [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]
    change = LinearMap((2, 3), np.arange(6), axes, [0, 2, 5], forward, np.transpose(forward))
    n = 2 if place == "cut" else 6
    return make(
        mechanism="channel",
        law="normal",
        loc=np.zeros(n),
        scale=np.ones(n),
        tensors=[("x", (2, 3))],
        map=change,
        place=place,
    )


def kinds() -> list[ElementNoise]:
    return [make(), make(mixing=np.eye(3), mechanism="gaussian", law="normal"), mapped(), mapped("input")]


@pytest.mark.parametrize("noise", kinds(), ids=["each", "mixed", "mapped", "input"])
def test_there_and_back(noise: ElementNoise, tmp_path: Path) -> None:
    data = noise.to_bytes()
    (tmp_path / "noise.npz").write_bytes(data)
    again = [ElementNoise.from_bytes(data, "x"), read_noise(data, "x"), load_noise(tmp_path / "noise.npz")]
    again += [copy.copy(noise), copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))]
    for one in again:
        assert isinstance(one, ElementNoise) and one == noise and one.to_bytes() == data and hash(one) == hash(noise)
        assert (one.mechanism, one.law, one.place, one.tensors, one.carriers, one.cut, one.model_digest) == (
            (noise.mechanism, noise.law, noise.place, noise.tensors, noise.carriers, noise.cut, noise.model_digest)
        )
    assert noise != make(scale=[1.0, 0.5, 2.0]) and noise != 5


def test_a_collection_is_told_apart(make_collection: Any) -> None:
    collection = make_collection(10)
    assert read_noise(collection.to_bytes(), "x") == collection
    with pytest.raises(CollectionError, match="no noise file"):
        ElementNoise.from_bytes(collection.to_bytes(), "x")
    with pytest.raises(CollectionError, match="no noise file"):
        NoiseCollection.from_bytes(make().to_bytes(), "x")


def test_what_is_sent_and_what_a_device_gets() -> None:
    sent, given_ = mapped(), mapped("input")
    assert sent.carriers == (("sent_values", (2,)),) and (sent.n, sent.values) == (6, 2)
    assert given_.carriers == given_.tensors and (given_.n, given_.values) == (6, 6)
    device = sent.deployed()
    assert device.map is None and device.tensors == sent.carriers and (device.loc == sent.loc).all()
    assert given_.deployed().map is None and given_.deployed().place == "input"
    plain = make()
    assert plain.deployed() is plain and plain.footprint_bytes == 24


def test_cannot_be_changed() -> None:
    noise = make()
    for change in (lambda: setattr(noise, "law", "normal"), lambda: delattr(noise, "loc")):
        with pytest.raises(AttributeError, match="make a new one"):
            change()
    with pytest.raises(ValueError, match="read-only"):
        noise.scale[0] = 5
    given_ = np.ones(3, np.float32)
    noise = make(scale=given_)
    given_[0] = 7
    assert noise.scale[0] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mechanism": "shredder"}, "'shredder' is no mechanism of noise; known: laplace, cloak"),
        ({"mechanism": ["laplace"]}, "no mechanism of noise"),
        ({"law": "cauchy"}, "no law of noise; known: laplace, normal"),
        ({"place": "cloud"}, "no place of noise; known: cut, input"),
        ({"loc": [0.0, 1.0]}, "one value each"),
        ({"loc": np.zeros((1, 3))}, "one value each"),
        ({"loc": [], "scale": []}, "one value each"),
        ({"loc": [0, 0, math.nan]}, "loc holds a value that is not finite"),
        ({"scale": [0, 0, math.inf]}, "scale holds a value"),
        ({"scale": [0, 0, 1e31]}, "beyond 1e30"),
        ({"scale": [0, 0, -1e-9]}, r"scale\[2\] is negative"),
        ({"mixing": np.eye(2)}, "no square matrix"),
        ({"mixing": np.zeros((3, 4))}, "no square matrix"),
        ({"mixing": np.full((3, 3), math.nan)}, "mixing holds a value"),
        ({"mixing": np.full((3, 3), 1e30), "scale": np.ones(3)}, "together go beyond 1e30"),
        ({"tensors": [("x", (4,))]}, "the noise is for 3 values, but the tensors of cut 'after x' give 4"),
        ({"tensors": [("x", (2**62, 2**62))]}, "give 2126"),
        ({"tensors": []}, "tensors are none"),
        ({"map": LinearMap((3,), np.zeros(3), [None], [0], [1.0], [1.0])}, "for 3 values, but .* give 1"),
        ({"map": LinearMap((4,), np.zeros(4), [None], [0, 1, 2], np.ones(3), np.ones(3))}, "the noise is for 3"),
        ({"model_digest": "md5:1"}, "model_digest"),
        ({"cut": ""}, "cut is not"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CollectionError, match=message):
        make(**changes)


def test_names_all_mechanisms() -> None:
    assert {make(mechanism=name).mechanism for name in MECHANISMS} == {
        "laplace",
        "cloak",
        "gaussian",
        "channel",
        "none",
    }


# The entropy, by scipy's numbers and by integrating -p ln p.


def laplace(x: float) -> float:
    return math.exp(-abs(x)) / 2


def normal(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(
    ("law", "frozen", "density"), [("laplace", stats.laplace, laplace), ("normal", stats.norm, normal)]
)
def test_the_entropy(law: str, frozen: Any, density: Callable[[float], float]) -> None:
    scale = [0.5, 3.0, 1.25]
    noise = make(law=law, scale=scale)
    assert noise.entropy_nats == pytest.approx(sum(float(frozen(0.5, s).entropy()) for s in scale), abs=1e-6)

    def part(x: float, s: float) -> float:
        p = density(x / s) / s
        return -p * math.log(p)

    integrated = sum(2 * integrate.quad(part, 0, 30 * s, args=(s,))[0] for s in scale)
    assert noise.entropy_nats == pytest.approx(integrated, abs=1e-6)


def test_the_entropy_of_a_mixture() -> None:
    mixing, scale = np.random.default_rng(1).normal(size=(3, 3)), np.array([0.5, 3.0, 1.25])
    covariance = mixing @ np.diag(scale**2) @ mixing.T
    noise = make(law="normal", scale=scale, mixing=mixing)
    assert noise.entropy_nats == pytest.approx(float(stats.multivariate_normal(cov=covariance).entropy()), abs=1e-5)
    # Laplace's: a matrix adds the logarithm of its determinant.
    one, other = (make(scale=scale, mixing=matrix) for matrix in (None, 2 * rotation(3, 5)))
    assert other.entropy_nats - one.entropy_nats == pytest.approx(3 * math.log(2), abs=1e-5)


def test_no_entropy_where_a_value_is_known() -> None:
    assert make(scale=[1.0, 0.0, 2.0]).entropy_nats == make(scale=np.zeros(3)).entropy_nats == -math.inf
    assert make(scale=np.ones(3), mixing=np.diag([1.0, 0.0, 1.0])).entropy_nats == -math.inf


# The file.


def zipped(arrays: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=True)
            archive.writestr(name + ".npy", content.getvalue())
    return buffer.getvalue()


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def rewritten(noise: ElementNoise, **changes: Any) -> bytes:
    """The file with arrays, or fields of its header, replaced, and a digest that fits."""
    arrays = arrays_of(noise.to_bytes())
    header = json.loads(arrays.pop("header").tobytes())
    arrays.update({name: value for name, value in changes.items() if name in arrays})
    header.update({name: value for name, value in changes.items() if name not in arrays})
    if "digest" not in changes:
        header.pop("digest")
        header["digest"] = contents_digest(header, arrays)
    arrays["header"] = np.frombuffer(header_json(header), dtype=np.uint8)
    return zipped(arrays)


def test_a_forgers_file_is_read_if_nothing_changed() -> None:
    for noise in kinds():
        assert ElementNoise.from_bytes(rewritten(noise), "x") == noise


FLOATS = np.ones(3, np.float32)
SHAPED = {"shape": [2, 3], "axes": [True, False], "values": 2, "matrix": True}


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        (0, {"format": "another"}),
        (0, {"version": 2}),
        (0, {"version": True}),
        (0, {"extra": 1}),
        (0, {"digest": "sha256:" + "0" * 64}),
        (0, {"digest": None}),
        (0, {"values": 4}),
        (0, {"values": "3"}),
        (0, {"values": 3.0}),
        (0, {"values": -1}),
        (0, {"values": 10**4000}),
        (0, {"mixed": 0}),
        (0, {"mixed": True}),
        (1, {"mixed": False}),
        (1, {"values": -1}),
        (1, {"values": 2**62}),
        (1, {"mixing": np.ones(8, np.float32)}),
        (0, {"mechanism": "shredder"}),
        (0, {"mechanism": {}}),
        (0, {"law": None}),
        (0, {"place": ["cut"]}),
        (0, {"cut": 5}),
        (0, {"cut": "\ud800"}),
        (0, {"model_digest": None}),
        (0, {"tensors": "x"}),
        (0, {"tensors": [{"name": "x", "shape": [True, 3]}]}),
        (0, {"tensors": [{"name": "x", "shape": [10**400]}]}),
        (0, {"tensors": [{"name": "x", "shape": [-3]}]}),
        (0, {"tensors": [{"name": "x", "shape": "3"}]}),
        (0, {"loc": np.ones(3)}),
        (0, {"loc": np.ones((3, 1), np.float32)}),
        (0, {"loc": np.ones(3, ">f4")}),
        (0, {"loc": np.ones(0, np.float32)}),
        (0, {"loc": np.full(3, np.nan, np.float32)}),
        (0, {"scale": -FLOATS}),
        (0, {"scale": np.ones(4, np.float32)}),
        (0, {"scale": np.array([None] * 3)}),
        (0, {"centre": FLOATS}),  # parts of a map without one
        (0, {"index": np.ones(1, np.int32)}),
        (0, {"map": 5}),
        (0, {"map": []}),
        (0, {"map": {}}),
        (2, {"map": None}),
        (2, {"map": {**SHAPED, "shape": [6]}}),
        (2, {"map": {**SHAPED, "shape": [3, 2]}}),
        (2, {"map": {**SHAPED, "shape": [2**31, 2**31]}}),
        (2, {"map": {**SHAPED, "shape": [2, -3]}}),
        (2, {"map": {**SHAPED, "shape": 6}}),
        (2, {"map": {**SHAPED, "axes": [1, 0]}}),
        (2, {"map": {**SHAPED, "axes": "ab"}}),
        (2, {"map": {**SHAPED, "axes": 5}}),
        (2, {"map": {**SHAPED, "axes": [True, True]}}),
        (2, {"map": {**SHAPED, "values": 3}}),
        (2, {"map": {**SHAPED, "values": 2.0}}),
        (2, {"map": {**SHAPED, "matrix": 1}}),
        (2, {"map": {**SHAPED, "matrix": False}}),
        (2, {"map": {**SHAPED, "more": 0}}),
        (2, {"centre": np.full(6, np.inf, np.float32)}),
        (2, {"centre": np.ones(5, np.float32)}),
        (2, {"axes": np.ones(4, np.float32)}),
        (2, {"axes": np.full(4, 3e38, np.float32)}),
        (2, {"axes": np.full(4, np.nan, np.float32)}),
        (2, {"index": np.array([0, 2, 6], np.int32)}),
        (2, {"index": np.array([-1, 2, 5], np.int32)}),
        (2, {"index": np.array([2, 0, 5], np.int32)}),
        (2, {"index": np.array([0, 0, 5], np.int32)}),
        (2, {"index": np.array([], np.int32)}),
        (2, {"index": np.array([0, 2, 5], np.int64)}),
        (2, {"forward": np.ones(5, np.float32)}),
        (2, {"backward": np.full(6, np.nan, np.float32)}),
        (2, {"place": "input"}),
        (3, {"place": "cut"}),
    ],
)
def test_refuses_files_that_a_forger_signed(which: int, changes: dict[str, Any]) -> None:
    with pytest.raises(CollectionError) as caught:
        ElementNoise.from_bytes(rewritten(kinds()[which], **changes), "the/file.npz")
    assert str(caught.value).startswith("the/file.npz") and "\n" not in str(caught.value)


def test_refuses_pickles_bombs_and_other_members() -> None:
    arrays = arrays_of(make().to_bytes())
    less = {name: array for name, array in arrays.items() if name != "axes"}
    squeezed = zipped({**arrays, "mixing": np.zeros(10**7, np.float32)}, zipfile.ZIP_DEFLATED)
    for data in (zipped(less), zipped({**arrays, "more": FLOATS}), squeezed, b"", b"PK\x05\x06" + bytes(18)):
        with pytest.raises(CollectionError):
            ElementNoise.from_bytes(data, "x")


@pytest.mark.parametrize("claim", ["(1000000000000,)", "(-1,)", "(3, 10000000)", "(99999999999999999999,)", "()"])
def test_refuses_a_shape_that_the_data_does_not_have(claim: str) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {claim}, }}\n".encode()
    forged = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(12)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(make().to_bytes())) as archive, zipfile.ZipFile(buffer, "w") as target:
        for info in archive.infolist():
            target.writestr(info.filename, forged if info.filename == "loc.npy" else archive.read(info))
    with pytest.raises(CollectionError, match=r"shorter or longer|not a one-dimensional"):
        ElementNoise.from_bytes(buffer.getvalue(), "x")


@pytest.mark.parametrize("depth", [50, 400, *range(900, 1000, 9), 20_000])
def test_refuses_a_map_nested_however_deep(depth: int) -> None:
    """Reading JSON and writing it for the digest reach Python's limit at different depths."""
    arrays = arrays_of(make().to_bytes())
    text = arrays["header"].tobytes().replace(b'"map":null', b'"map":' + b"[" * depth + b"]" * depth)
    with pytest.raises(CollectionError):
        read_noise(zipped({**arrays, "header": np.frombuffer(text, np.uint8)}), "x")


BASE = mapped()
DATA = BASE.to_bytes()


def accept_or_refuse(data: bytes) -> None:
    """Nothing but CollectionError may come out, and nothing but the noise that was put in."""
    try:
        found = read_noise(data, "x")
    except CollectionError:
        return
    assert found == BASE


def test_every_flipped_bit_is_refused_or_harmless() -> None:
    for place in range(len(DATA)):
        data = bytearray(DATA)
        data[place] ^= 1 << place % 8
        accept_or_refuse(bytes(data))


def test_refuses_every_truncation() -> None:
    for length in range(0, len(DATA), 3):
        with pytest.raises(CollectionError):
            read_noise(DATA[:length], "x")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
def test_changed_bytes_are_refused_or_harmless(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(DATA)
    for place, new in changes:
        data[place : place + len(new)] = new
    accept_or_refuse(bytes(data))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(CollectionError, match="is not a file"):
            load_noise(path)
