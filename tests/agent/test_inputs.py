"""What an edge partition is given: model inputs as they are, images made to fit, everything else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.agent.edge_manifest import Description, Pixels, Target, Tensor
from edgecut.agent.inputs import InputError, check_input, is_single
from edgecut.models.data import as_pixels, scale_pixels
from edgecut.models.spec import PixelFormat


def described(input_: Tensor, pixels: Pixels | None = None) -> Description:
    tensor = Tensor("a", "float32", (2,), None)
    target = Target("cpu", "onnxruntime-cpu", "float32", None)
    return Description("m", input_, pixels, (tensor,), tensor, "shredder", target, None, (), ())


IDS = described(Tensor("ids", "int64", (4,), 100))
COLOUR = described(Tensor("x", "float32", (3, 8, 9), None), Pixels((1.0, 0.5, 0.25), (0.0, -1.0, 2.0)))
GREY = described(Tensor("x", "float32", (1, 8, 9), None), Pixels((1 / 255,), (0.0,)))


@pytest.mark.parametrize(("description", "shape"), [(COLOUR, (2, 6, 8, 3)), (GREY, (2, 8, 9)), (GREY, (2, 5, 4, 1))])
def test_images_are_made_to_fit_as_elsewhere(description: Description, shape: tuple[int, ...]) -> None:
    """The other implementation, which learning and accuracy use, gives the very same."""
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert description.pixels is not None
    how = PixelFormat(scale=description.pixels.scale, offset=description.pixels.offset)
    expected = scale_pixels(as_pixels(images, description.input.shape), how)
    got = check_input(images, description)
    assert got.dtype == np.float32 and np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64])
def test_whole_numbers(dtype: Any) -> None:
    got = check_input(np.array([[0, 1, 2, 99]], dtype), IDS)
    assert got.dtype == np.int64 and got.tolist() == [[0, 1, 2, 99]]
    with pytest.raises(InputError, match=r"outside 0\.\.99, so nothing was sent"):
        check_input(np.array([[0, 1, 2, 100]], dtype), IDS)


def test_whole_numbers_that_are_none() -> None:
    with pytest.raises(InputError, match=r"outside 0\.\.99"):
        check_input(np.array([[0, -1, 2, 3]]), IDS)
    with pytest.raises(InputError, match=r"float32 .* but int64"):
        check_input(np.zeros((1, 4), np.float32), IDS)
    unbounded = described(IDS.input._replace(below=None))
    with pytest.raises(InputError, match="numbers that int64 cannot hold"):
        check_input(np.full((1, 4), (1 << 64) - 1, np.uint64), unbounded)
    assert check_input(np.full((1, 4), -5, np.int8), unbounded).tolist() == [[-5] * 4]


def test_the_array_itself_where_it_is_right(tmp_path: Path) -> None:
    plain = described(Tensor("x", "float32", (3, 4), None))
    x = np.zeros((2, 3, 4), np.float32)
    assert check_input(x, plain) is x
    turned = np.zeros((2, 4, 3), np.float32).transpose(0, 2, 1)
    assert check_input(turned, plain).flags.c_contiguous
    with pytest.raises(InputError, match=r"uint8 \[2, 3, 4\], but float32 \[batch, 3, 4\] is needed"):
        check_input(x.astype(np.uint8), plain)
    nan = np.full((1, 3, 4), np.nan, np.float32)
    assert check_input(nan, plain, allow_nonfinite=True) is nan
    assert is_single(x[0], plain) and not is_single(x, plain) and is_single(np.zeros((8, 9), np.uint8), GREY)
