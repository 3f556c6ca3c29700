"""What predictors know of a layer: the terms of its cost, and features of its shape.

Terms never fall when a layer grows, so that a sum of them with weights of at least zero never falls either. Besides
FLOPs and values moved they hold the same work in whole tiles of 4 to 64, since devices compute in tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..models.work import Operation

Vector = npt.NDArray[np.float64]
TILES = (4, 8, 16, 32)
SHAPELESS = ("elementwise", "movement", "softmax", "embedding")
"""Kinds whose cost is that of their values alone; in a network's graph they come without channels and sides."""


@dataclass(frozen=True)
class Shapes:
    """Columns over layers; `pixels` are positions of a picture, `window` those of a kernel, 1 where there are none."""

    flops: Vector
    taken: Vector
    made: Vector
    parameters: Vector
    pixels_in: Vector
    pixels_out: Vector
    in_channels: Vector
    out_channels: Vector
    window: Vector
    stride: Vector

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> Shapes:
        """The columns of some operations."""
        rows: list[tuple[float, ...]] = []
        for one in operations:
            if one.kind in SHAPELESS:
                taken, made = max(1, one.input_elements), max(1, one.output_elements)
                rows.append((max(1, one.flops), taken, made, one.parameters, 1, 1, taken, made, 1, 1))
                continue
            height, width = one.input_hw or (one.rows, 1)
            channels = max(1, (one.in_channels or one.input_elements) // one.groups)
            if one.kind != "conv":
                channels = one.in_channels or max(1, one.input_elements // max(1, height * width))
            made = one.out_channels or channels
            # A global pool names no kernel: it is as large as the picture.
            whole = (height, width) if one.kind in ("maxpool", "avgpool") else (1, 1)
            window, stride = one.kernel or whole, one.stride or (one.kernel and (1, 1)) or whole
            pixels_out = max(1.0, one.output_elements / made)
            rows.append(
                (
                    max(1, one.flops),
                    max(1, one.input_elements),
                    max(1, one.output_elements),
                    one.parameters,
                    max(1, height * width),
                    pixels_out,
                    channels,
                    made,
                    window[0] * window[1],
                    (stride[0] * stride[1]) ** 0.5,
                )
            )
        return cls(*np.array(rows, float).reshape(len(rows), 10).T)


def _tiled(values: Vector, tile: int) -> Vector:
    return np.ceil(values / tile) * tile


def plain_terms(shapes: Shapes) -> Vector:
    """A constant, FLOPs, values read, values written, weights: the roofline's terms, for any kind and few rows."""
    s = shapes
    return np.stack([np.ones_like(s.flops), s.flops, s.taken, s.made, s.parameters], 1)


def cost_terms(kind: str, shapes: Shapes) -> Vector:
    """The plain terms and, for a kind with many rows, work in tiles and work that does not fill a device."""
    s = shapes
    terms = [s.flops**0.5, s.flops**0.75]
    if kind == "conv":
        work = s.window * s.pixels_out
        terms += [work * _tiled(s.in_channels, tile) * _tiled(s.out_channels, tile) for tile in TILES]
        terms += [
            s.window * s.in_channels * _tiled(s.out_channels, 32) * _tiled(s.pixels_out, 64),
            work * s.in_channels,
            work * s.out_channels,
            s.pixels_out * s.in_channels * s.out_channels,
            work**0.5 * s.pixels_out**0.5 * s.in_channels * s.out_channels,
            s.in_channels * s.out_channels,
            s.in_channels,
            s.out_channels,
            s.pixels_out,
        ]
    elif kind == "linear":
        terms += [_tiled(s.in_channels, tile) * _tiled(s.out_channels, tile) * s.pixels_out for tile in TILES]
    else:
        terms += [s.pixels_out * _tiled(s.out_channels, tile) for tile in TILES]
        terms += [s.pixels_out * s.window * _tiled(s.out_channels, tile) for tile in TILES]
        terms += [s.in_channels, s.pixels_in, s.pixels_out * s.window, s.made**0.5, s.made**0.75]
    return np.concatenate([plain_terms(s), np.stack(terms, 1)], 1)


def shape_features(shapes: Shapes, base_s: Vector) -> Vector:
    """What the correction of a base prediction of `base_s` seconds is learned from."""
    s = shapes
    sizes = [base_s, s.flops, s.taken, s.made, np.maximum(s.parameters, 1), s.flops / (s.taken + s.made + s.parameters)]
    plain = [s.pixels_in, s.pixels_out, s.in_channels, s.out_channels, s.window, s.stride]
    waves = np.ceil(s.pixels_out / 64) * np.ceil(s.out_channels / 32)
    waste = [
        _tiled(s.in_channels, 8) / s.in_channels,
        _tiled(s.out_channels, 8) / s.out_channels,
        _tiled(s.out_channels, 32) / s.out_channels,
        _tiled(s.pixels_out, 64) / s.pixels_out,
        waves,
    ]
    sides = np.round(np.sqrt(s.pixels_out))
    evenness = [
        sum((values % tile == 0).astype(float) for tile in (2, *TILES))
        for values in (s.in_channels, s.out_channels, sides)
    ]
    rests = [s.in_channels % 8, s.out_channels % 8, s.out_channels % 32]
    return np.stack([*(np.log(size) for size in sizes), *plain, *waste, *evenness, *rests], 1)


def neurosurgeon_features(kind: str, shapes: Shapes) -> Vector:
    """Neurosurgeon's own variables with a constant: the baseline that a prediction is compared with.

    Convolutions: features in the input maps, and (kernel / stride) squared times filters. Linear: neurons in and out.
    Pooling: sizes of the input and output maps. Normalisation and the rest: neurons.
    """
    s = shapes
    columns = {
        "conv": [s.taken, s.window / s.stride**2 * s.out_channels],
        "depthwise_conv": [s.taken, s.window / s.stride**2 * s.out_channels],
        "linear": [s.in_channels, s.out_channels],
        "maxpool": [s.taken, s.made],
        "avgpool": [s.taken, s.made],
    }.get(kind, [s.taken])
    return np.stack([np.ones_like(s.taken), *columns], 1)
