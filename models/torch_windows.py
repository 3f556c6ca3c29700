"""Convolutions and pools of ONNX as torch functions: the margins, partial windows and averages that torch lacks.

See `torch_operators` for how the functions take what ONNX gives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

Tensor = torch.Tensor
Ints = Sequence[int] | Tensor | None

CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
MAX_POOLS: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOLS: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class Refused(ValueError):
    """An operator that is known, used in a way that is not; the text goes into a sentence for a person."""


def numbers(values: Ints) -> list[int]:
    """Plain numbers, whichever way they came."""
    if isinstance(values, Tensor):
        return [int(value) for value in values.reshape(-1).tolist()]
    return [int(value) for value in values or ()]


def _margins(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Ints, auto: str
) -> list[tuple[int, int]]:
    """Zeros before and after each spatial dimension; SAME puts an odd one after (UPPER) or before (LOWER)."""
    rank = len(sizes)
    if auto in ("NOTSET", "VALID"):
        given = numbers(pads) if auto == "NOTSET" and pads is not None else [0] * (2 * rank)
        return list(zip(given[:rank], given[rank:], strict=True))
    margins = []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size)
        small = total // 2
        margins.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
    return margins


def widened(x: Tensor, margins: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Torch lists the last dimension first."""
    if not any(itertools.chain(*margins)):
        return x
    return functional.pad(x, [side for pair in reversed(margins) for side in pair], value=value)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Ints = None,
    strides: Ints = None,
    pads: Ints = None,
    dilations: Ints = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    steps, spread = numbers(strides) or ones, numbers(dilations) or ones
    margins = _margins(x.shape[2:], kernel, steps, spread, pads, auto_pad)
    even = [before for before, after in margins if before == after]
    if len(even) == len(margins):
        convolved: Tensor = CONVOLUTIONS[len(kernel)](x, weight, bias, steps, even, spread, group)
    else:
        convolved = CONVOLUTIONS[len(kernel)](widened(x, margins), weight, bias, steps, 0, spread, group)
    return convolved


def _ceiled(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    margins: list[tuple[int, int]],
) -> list[int]:
    """How much more there must be after each dimension for a last, partial window that starts in what there is."""
    more = []
    for size, window, stride, dilation, (before, after) in zip(sizes, kernel, strides, dilations, margins, strict=True):
        reach = (window - 1) * dilation + 1
        count = -(-(size + before + after - reach) // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        more.append(max(0, (count - 1) * stride + reach - (size + before + after)))
    return more


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    strides: Ints = None,
    pads: Ints = None,
    dilations: Ints = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    storage_order: int = 0,
) -> Tensor:
    kernel = numbers(kernel_shape)
    ones = [1] * len(kernel)
    steps, spread = numbers(strides) or ones, numbers(dilations) or ones
    margins = _margins(x.shape[2:], kernel, steps, spread, pads, auto_pad)
    if ceil_mode:
        more = _ceiled(x.shape[2:], kernel, steps, spread, margins)
        margins = [(before, after + extra) for (before, after), extra in zip(margins, more, strict=True)]
    pooled: Tensor = MAX_POOLS[len(kernel)](widened(x, margins, -math.inf), kernel, steps, 0, spread)
    return pooled


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    strides: Ints = None,
    pads: Ints = None,
    dilations: Ints = None,
    ceil_mode: int = 0,
    auto_pad: str = "NOTSET",
    count_include_pad: int = 0,
) -> Tensor:
    kernel = numbers(kernel_shape)
    ones = [1] * len(kernel)
    if any(step != 1 for step in numbers(dilations)):
        raise Refused("averages over spread windows (dilations) are not supported")
    steps = numbers(strides) or ones
    margins = _margins(x.shape[2:], kernel, steps, ones, pads, auto_pad)
    more = _ceiled(x.shape[2:], kernel, steps, ones, margins) if ceil_mode else [0] * len(kernel)
    beyond = [(0, extra) for extra in more]
    average = AVERAGE_POOLS[len(kernel)]
    averaged: Tensor = average(widened(widened(x, margins), beyond), kernel, steps)
    if not any(more) and (count_include_pad or not any(itertools.chain(*margins))):
        return averaged
    # What counts in a window: the values themselves and, where asked for, the margins, but never what lies beyond.
    counted = torch.ones_like(x[:1, :1])
    counted = widened(widened(counted, margins, 1.0 if count_include_pad else 0.0), beyond)
    share: Tensor = average(counted, kernel, steps)
    return averaged / share
