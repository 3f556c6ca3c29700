"""What goes into an edge partition: model inputs or images as arrays, and `.npy` files of them."""

import os
from typing import Any

import numpy as np

from .backends import BackendError
from .edge_manifest import Description, Pixels, Tensor

MAX_FILE_BYTES = 1 << 30


class InputError(BackendError):
    """An input has the wrong file, shape, dtype or values; the message is one sentence for a person."""


def not_finite() -> InputError:
    """What is raised in place of sending an activation that holds NaN or infinite values."""
    return InputError("the activation at the cut is not finite, so nothing was sent; check the input and the model")


def check_input(x: Any, description: Description, allow_nonfinite: bool = False) -> Any:
    """What the edge partition takes, [batch, ...], from model inputs or uint8 images [batch, H, W(, C)].

    Raises InputError. The array itself is returned where it is right already.
    """
    wanted, pixels = description.input, description.pixels
    if x.dtype == np.uint8 and pixels is not None and x.ndim in (3, 4) and len(x):
        return _scaled(_padded(x, wanted), pixels)
    dtype = np.dtype(wanted.dtype)
    fits = x.dtype == dtype or (x.dtype.kind in "iu" and dtype.kind == "i")
    if fits and x.ndim and x.shape[1:] == wanted.shape and len(x):
        _check_values(x, wanted, allow_nonfinite)
        return np.ascontiguousarray(x, dtype=dtype)
    raise InputError(
        "the input is {} {}, but {} [batch, {}]{} is needed".format(
            x.dtype,
            list(x.shape),
            wanted.dtype,
            ", ".join(map(str, wanted.shape)),
            " or uint8 images [batch, height, width]" if pixels else "",
        )
    )


def _check_values(x: Any, wanted: Tensor, allow_nonfinite: bool) -> None:
    if x.dtype.kind == "f":
        if not allow_nonfinite and not np.isfinite(x).all():
            raise InputError("the input holds NaN or infinite values, so nothing was sent; give finite numbers")
    elif wanted.below is not None and (int(x.min()) < 0 or int(x.max()) >= wanted.below):
        raise InputError("the input holds numbers outside 0..{}, so nothing was sent".format(wanted.below - 1))
    elif x.dtype.kind == "u" and int(x.max()) > np.iinfo(wanted.dtype).max:
        raise InputError("the input holds numbers that {} cannot hold, so nothing was sent".format(wanted.dtype))


def _padded(images: Any, wanted: Tensor) -> Any:
    """uint8 [N, H, W(, C)] to [N, C, H', W'], padded evenly with zeros to the input's size."""
    stacked = np.moveaxis(images, -1, 1) if images.ndim == 4 else images[:, None]
    if len(wanted.shape) != 3 or stacked.shape[1] != wanted.shape[0]:
        raise InputError("images of shape {} do not fit the model's input {}".format(images.shape[1:], wanted.shape))
    spare = [want - have for want, have in zip(wanted.shape[1:], stacked.shape[2:])]
    if min(spare) < 0:
        raise InputError(
            "images of {} pixels are larger than the model's input {}".format(stacked.shape[2:], wanted.shape[1:])
        )
    margins = [(extra // 2, extra - extra // 2) for extra in spare]
    return np.pad(stacked, [(0, 0), (0, 0), *margins], "constant")


def _scaled(pixels: Any, how: Pixels) -> Any:
    per_channel = (-1, 1, 1) if len(how.scale) > 1 else (1, 1, 1)
    scale, offset = (np.asarray(values, np.float32).reshape(per_channel) for values in (how.scale, how.offset))
    return pixels.astype(np.float32) * scale + offset


def is_single(x: Any, description: Description) -> bool:
    """Whether an array is one input without a batch dimension."""
    return bool(x.shape == description.input.shape or (x.dtype == np.uint8 and x.ndim == 2))


def read_inputs(path: str, limit: int = MAX_FILE_BYTES) -> Any:
    """The array in an .npy file. Raises InputError."""
    if not os.path.isfile(path):
        raise InputError("there is no input file {}; give an .npy file".format(path))
    if os.path.getsize(path) > limit:
        raise InputError("{} is larger than {} bytes; split it".format(path, limit))
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as error:  # header, size, zip and read faults are of many types
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            "{} is not a readable .npy file of plain numbers ({}); write it anew".format(path, reason)
        ) from None
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise InputError("{} holds several arrays; give an .npy file with one".format(path))
    return loaded
