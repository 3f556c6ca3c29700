"""Structural similarity against the published formula by SciPy's own filter, and what must hold for any image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")
from edgecut.privacy.attacks.similarity import LARGEST_SIDE, pictures, ssim


def by_scipy(first: np.ndarray, second: np.ndarray, data_range: float) -> float:
    """One channel: Gaussian weights by SciPy's filter, which reflects at the border, so the border is cut off."""

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)  # a radius of 5

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    m1, m2 = mean(first), mean(second)
    v1, v2, v12 = mean(first**2) - m1**2, mean(second**2) - m2**2, mean(first * second) - m1 * m2
    found = (2 * m1 * m2 + c1) * (2 * v12 + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))
    return float(found[5:-5, 5:-5].mean())


@pytest.mark.parametrize(("channels", "height", "width", "data_range"), [(1, 28, 28, 1.0), (3, 16, 40, 255.0)])
def test_the_published_formula(channels: int, height: int, width: int, data_range: float) -> None:
    generator = np.random.default_rng(0)
    first = (data_range * generator.random((4, channels, height, width))).astype(np.float32)
    second = np.clip(first + data_range * 0.2 * generator.standard_normal(first.shape), 0, data_range)
    second = second.astype(np.float32)
    expected = [
        np.mean([by_scipy(a.astype(float), b.astype(float), data_range) for a, b in zip(x, y, strict=True)])
        for x, y in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(ssim(first, second, data_range), expected, rtol=1e-9)


def test_what_holds_for_any_image() -> None:
    generator = np.random.default_rng(1)
    image = generator.random((3, 1, 20, 20)).astype(np.float32)
    slightly = (image + 0.05 * generator.standard_normal(image.shape)).astype(np.float32)
    badly = (image + 0.5 * generator.standard_normal(image.shape)).astype(np.float32)
    np.testing.assert_allclose(ssim(image, image), 1)
    np.testing.assert_allclose(ssim(image, badly), ssim(badly, image))
    assert (ssim(image, slightly) > ssim(image, badly)).all() and (ssim(image, badly) < 0.9).all()
    assert (ssim(image, 1 - image) < 0).all()
    # Of two constant images only the first factor is left, by hand.
    dark, light = np.full((1, 1, 12, 12), 0.2, np.float32), np.full((1, 1, 12, 12), 0.6, np.float32)
    np.testing.assert_allclose(ssim(dark, light), (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rtol=1e-5)


def test_small_images_have_a_smaller_window() -> None:
    image = np.random.default_rng(2).random((2, 1, 6, 9)).astype(np.float32)
    np.testing.assert_allclose(ssim(image, image), 1)
    assert (ssim(image, 1 - image) < 0).all()


def test_pictures_are_from_0_to_1_with_channels_first() -> None:
    bytes_ = np.random.default_rng(3).integers(0, 256, (5, 7, 9, 3)).astype(np.uint8)
    made = pictures(bytes_)
    assert made is not None and made.dtype == np.float32
    np.testing.assert_allclose(made, bytes_.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    grey = pictures(bytes_[..., 0])
    assert grey is not None and grey.shape == (5, 1, 7, 9)
    floats = np.linspace(-2, 6, 5 * 3 * 7 * 9).reshape(5, 3, 7, 9).astype(np.float32)
    scaled = pictures(floats[:2], floats)
    assert scaled is not None
    np.testing.assert_allclose(scaled, (floats[:2] + 2) / 8, atol=1e-6)


def test_a_large_picture_is_made_small_by_means() -> None:
    large = np.zeros((1, 2 * LARGEST_SIDE, LARGEST_SIDE), np.uint8)
    large[0, ::2] = 255
    made = pictures(large)
    assert made is not None and made.shape == (1, 1, LARGEST_SIDE, LARGEST_SIDE // 2)
    np.testing.assert_allclose(made, 0.5)


@pytest.mark.parametrize("shape", [(4, 30), (4, 1, 2)])
def test_tables_and_texts_are_no_pictures(shape: tuple[int, ...]) -> None:
    assert pictures(np.zeros(shape, np.float32)) is None
    assert pictures(np.zeros((4, 8, 8), np.int64)) is None
