"""The attackers' networks: the cloud partition's own shape, and generic ones for flat values and for feature maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from ..reshaped import reshaped

WIDTH = 256
CHANNELS, LEAST_CHANNELS = 64, 16
LEAST_SIDE = 4
"""Feature maps with a smaller side are taken as flat values."""
POOLED = 4

Shape = tuple[int, ...]


def is_map(shapes: Sequence[Shape]) -> bool:
    """Whether what crosses is one stack of feature maps, large enough for convolutions."""
    return len(shapes) == 1 and len(shapes[0]) == 3 and min(shapes[0][1:]) >= LEAST_SIDE


def layers(inputs: int, outputs: int, widths: Sequence[int] = (WIDTH, WIDTH)) -> nn.Sequential:
    """A multilayer perceptron."""
    sizes, made = [inputs, *widths], list[nn.Module]()
    for before, after in itertools.pairwise(sizes):
        made += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*made, nn.Linear(sizes[-1], outputs))


def convolutions(shape: Shape, outputs: int) -> nn.Sequential:
    """A small convolutional classifier of feature maps, whatever their size."""
    side = min(shape[1:])
    second = 2 if side >= 2 * POOLED else 1
    return nn.Sequential(
        nn.Unflatten(1, shape),
        nn.Conv2d(shape[0], CHANNELS, 3, padding=1, stride=2 if side >= 4 * POOLED else 1),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, stride=second),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(POOLED),
        nn.Flatten(),
        nn.Linear(CHANNELS * POOLED * POOLED, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, outputs),
    )


class Standardised(nn.Module):
    """A network behind a fixed scaling of each value to mean 0 and deviation 1 over some messages."""

    def __init__(self, network: nn.Module, messages: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        deviation = messages.std(0) if len(messages) > 1 else torch.ones(messages.shape[1])
        self.mean: torch.Tensor
        self.factor: torch.Tensor
        self.register_buffer("mean", messages.mean(0))
        # A value that never changes tells nothing, and must not be blown up by its rounding.
        self.register_buffer("factor", torch.where(deviation > 1e-6 * deviation.max(), 1 / deviation, 0.0))

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        """Flat messages [batch, width]."""
        found: torch.Tensor = self.network((flat - self.mean) * self.factor)
        return found


class OnFlat(nn.Module):
    """A network of several tensors, or of one that is not flat, on flat messages."""

    def __init__(self, network: nn.Module, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.network, self.shapes = network, [tuple(shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in shapes]

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        """Flat messages [batch, width]."""
        parts = flat.split(self.sizes, dim=1)
        found: torch.Tensor = self.network(*(part.unflatten(1, s) for part, s in zip(parts, self.shapes, strict=True)))
        return found


def cloud_shaped(cloud: fx.GraphModule, shapes: Sequence[Shape], classes: int) -> OnFlat | None:
    """A classifier of `classes` in the partition's shape, or None where no product or convolution is its last layer."""
    made = reshaped(cloud, shapes, classes)
    return None if made is None else OnFlat(made, shapes)


class Decoder(nn.Module):
    """Feature maps to an image by convolutions: resized twofold at a time until they have the image's sides."""

    def __init__(self, shape: Shape, image: Shape) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Unflatten(1, shape), nn.Conv2d(shape[0], CHANNELS, 3, padding=1), nn.ReLU())
        self.sides = _sides((shape[1], shape[2]), (image[1], image[2]))
        # Half the channels at twice the side, so that every layer costs about the same.
        wide = [max(LEAST_CHANNELS, CHANNELS >> i) for i in range(len(self.sides) + 1)]
        self.steps = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(wide))
        self.last = nn.Conv2d(wide[-1], image[0], 3, padding=1)

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        """Flat messages [batch, width] to images [batch, channels, height, width]."""
        values = self.start(flat)
        for side, step in zip(self.sides, self.steps, strict=True):
            values = functional.interpolate(values, size=side, mode="bilinear", align_corners=False)
            values = torch.relu(step(values))
        found: torch.Tensor = torch.sigmoid(self.last(values))
        return found


def _sides(now: tuple[int, int], wanted: tuple[int, int]) -> list[tuple[int, int]]:
    """At most doubled at a time, and one more layer where the size is right from the start."""
    made: list[tuple[int, int]] = []
    while now != wanted or not made:
        now = (min(2 * now[0], wanted[0]), min(2 * now[1], wanted[1]))
        made.append(now)
    return made


class FlatDecoder(nn.Module):
    """Flat values to an image: a perceptron for a small image, for a larger one a perceptron and then a `Decoder`."""

    MOST_VALUES = 1024
    SEED = (CHANNELS, 8, 8)

    def __init__(self, inputs: int, image: Shape) -> None:
        super().__init__()
        values = int(np.prod(image))
        self.net: nn.Sequential
        if values <= self.MOST_VALUES:
            self.net = nn.Sequential(layers(inputs, values, (WIDTH, 2 * WIDTH)), nn.Sigmoid(), nn.Unflatten(1, image))
        else:
            seed = layers(inputs, int(np.prod(self.SEED)), (WIDTH,))
            self.net = nn.Sequential(seed, Decoder(self.SEED, image))

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        """Flat messages [batch, width] to images [batch, channels, height, width]."""
        found: torch.Tensor = self.net(flat)
        return found
