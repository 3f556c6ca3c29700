"""Structural similarity of images (Wang, Bovik, Sheikh, Simoncelli 2004): 1 for equal ones, about 0 for unrelated ones.

    SSIM = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2)),  C1 = (.01 L)^2, C2 = (.03 L)^2

over a sliding Gaussian window of 11 x 11 pixels and deviation 1.5, only where it lies wholly in the image, then the
mean over the places and the channels. L is the range of the data, 1 here. An image with a side below 11 has the largest
odd window that fits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ..observations import Array, Floats

WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03
AT_ONCE = 500
LARGEST_SIDE = 64
"""Images with a larger side are compared in this size, which the attackers also make."""

Doubles = npt.NDArray[np.float64]


def ssim(first: Floats, second: Floats, data_range: float = 1.0) -> Doubles:
    """Of each pair of images, float32 [items, channels, height, width]; float64 [items]."""
    made = np.empty(len(first))
    for start in range(0, len(first), AT_ONCE):
        piece = slice(start, start + AT_ONCE)
        one, other = (torch.from_numpy(np.asarray(images[piece], np.float64).copy()) for images in (first, second))
        made[piece] = _ssim(one, other, data_range).numpy()
    return made


def _ssim(first: torch.Tensor, second: torch.Tensor, data_range: float) -> torch.Tensor:
    side = min(WINDOW, *first.shape[2:])
    side -= 1 - side % 2
    place = torch.arange(side, dtype=torch.float64) - side // 2
    window = torch.exp(-(place**2) / (2 * DEVIATION**2))
    window /= window.sum()

    def smooth(images: torch.Tensor) -> torch.Tensor:
        flat = images.reshape(-1, 1, *images.shape[2:])
        made = functional.conv2d(functional.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
        return made.reshape(*images.shape[:2], *made.shape[2:])

    mean_1, mean_2 = smooth(first), smooth(second)
    variances = smooth(first**2) - mean_1**2 + smooth(second**2) - mean_2**2
    covariance = smooth(first * second) - mean_1 * mean_2
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    found = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2) / ((mean_1**2 + mean_2**2 + c1) * (variances + c2))
    return found.mean((1, 2, 3))


def pictures(images: Array, like: Array | None = None) -> Floats | None:
    """Images as a data set has them as float32 [items, channels, height, width] from 0 to 1, or None for others.

    Bytes are divided by 255, other numbers scaled by the least and the largest of `like`. Texts and tables are none.
    """
    if images.ndim not in (3, 4) or not (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):
        return None
    if images.ndim == 3:
        shaped = images[:, None]
    elif images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        shaped = images.transpose(0, 3, 1, 2)
    else:
        shaped = images
    if min(shaped.shape[2:]) < 3:
        return None
    if images.dtype == np.uint8:
        return _small(shaped, 0.0, 255.0)
    base = images if like is None else like
    return _small(shaped, float(base.min()), float(base.max()))


def _small(images: Array, least: float, most: float) -> Floats:
    height, width = images.shape[2:]
    largest = max(height, width)
    pieces = []
    for start in range(0, len(images), AT_ONCE):
        piece = torch.from_numpy(np.ascontiguousarray(images[start : start + AT_ONCE], np.float32))
        piece = ((piece - least) / max(most - least, 1e-12)).clamp(0, 1)
        if largest > LARGEST_SIDE:
            sides = (max(1, height * LARGEST_SIDE // largest), max(1, width * LARGEST_SIDE // largest))
            piece = functional.adaptive_avg_pool2d(piece, sides)
        pieces.append(piece.numpy())
    return np.concatenate(pieces)
