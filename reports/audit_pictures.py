"""Small pictures inside a page: PNG as a data address, as no library that is needed anyway writes it."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]


def address(image: Pixels) -> str:
    """`data:image/png;base64,...` of a uint8 image, [H, W], [H, W, 1 or 3] or [1 or 3, H, W]."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def png(image: Pixels) -> bytes:
    """The PNG file (ISO 15948) of a uint8 image, grey or RGB. Raises ValueError for any other array."""
    pixels = _arranged(image)
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    # Every row begins with its filter, and 0 is none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _arranged(image: Pixels) -> npt.NDArray[np.uint8]:
    """As [H, W, channels]."""
    if image.dtype == np.uint8 and image.size:
        if image.ndim == 2:
            return image[:, :, None]
        if image.ndim == 3 and image.shape[2] in (1, 3):
            return image
        if image.ndim == 3 and image.shape[0] in (1, 3):
            return np.moveaxis(image, 0, 2)
    raise ValueError(f"an array of {image.dtype} {list(image.shape)} is no picture")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
