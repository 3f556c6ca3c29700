"""MobileNetV2 of Sandler et al. at width 1.0 (arXiv 1801.04381, Table 2): depthwise convolutions between thin tensors.

The thin tensors between blocks make good cuts. Dropout is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from .initial import he_initialise

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Rows of the paper's Table 2: expansion, channels, repetitions, stride of the first."""


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 in each channel by itself, 1x1 back without an activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.expands = expansion != 1
        if self.expands:
            self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.expand_bn = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] to [batch, outputs, h/stride, w/stride]."""
        hidden = functional.relu6(self.expand_bn(self.expand(x))) if self.expands else x
        hidden = functional.relu6(self.depthwise_bn(self.depthwise(hidden)))
        y: torch.Tensor = self.project_bn(self.project(hidden))
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """float32 [batch, 3, 224, 224] to logits [batch, 1000]; 3,504,872 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(*_blocks())
        self.conv2 = nn.Conv2d(320, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.fc = nn.Linear(1280, 1000)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes."""
        x = self.blocks(functional.relu6(self.bn1(self.conv1(x))))
        x = functional.relu6(self.bn2(self.conv2(x)))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def _blocks() -> Iterator[InvertedResidual]:
    inputs = 32
    for expansion, outputs, repetitions, first_stride in STAGES:
        for number in range(repetitions):
            yield InvertedResidual(inputs, outputs, expansion, 1 if number else first_stride)
            inputs = outputs
