"""ResNet-18 and ResNet-50 of He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385, Table 1).

One departure from the paper, the same as torchvision's: where a bottleneck block halves the image, its 3x3 convolution
has the stride, not the 1x1 before it. That costs 4.1 G multiply-adds instead of 3.8 G, and is what everybody measures.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, with the input added again."""

    EXPANSION = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] to [batch, width, h/stride, w/stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide, with the input added again."""

    EXPANSION = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.EXPANSION)
        self.shortcut = _shortcut(inputs, width * self.EXPANSION, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] to [batch, 4 * width, h/stride, w/stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class Projection(nn.Module):
    """The shortcut where the shape changes: a strided 1x1 convolution (the paper's option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] to [batch, outputs, h/stride, w/stride]."""
        y: torch.Tensor = self.bn(self.conv(x))
        return y


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if inputs == outputs and stride == 1 else Projection(inputs, outputs, stride)


class ResNet(nn.Module):
    """float32 [batch, 3, 224, 224] to logits [batch, 1000]; `depths` blocks in each of the four stages."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool1 = nn.MaxPool2d(3, 2, padding=1)
        wide = block.EXPANSION
        self.layer1 = _stage(block, depths[0], 64, 64, 1)
        self.layer2 = _stage(block, depths[1], 64 * wide, 128, 2)
        self.layer3 = _stage(block, depths[2], 128 * wide, 256, 2)
        self.layer4 = _stage(block, depths[3], 256 * wide, 512, 2)
        self.fc = nn.Linear(512 * wide, 1000)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes."""
        x = self.pool1(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(
    block: type[BasicBlock] | type[Bottleneck], depth: int, inputs: int, width: int, stride: int
) -> nn.Sequential:
    later = [block(width * block.EXPANSION, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, width, stride), *later)


def resnet18() -> ResNet:
    """ResNet-18; 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """ResNet-50; 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3))
