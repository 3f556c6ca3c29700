"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions" (arXiv 1409.4842, Table 1), without its auxiliary heads.

Every block is a branching graph, so a cut inside one has several tensors. Departures from the paper, all of them
torchvision's, whose figures people compare with: batch normalisation in place of biases and of local response
normalisation, 3x3 where the paper has 5x5, 2x2 in `pool4`. Dropout is left out.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise


class ConvBN(nn.Module):
    """A convolution that keeps the image's size (over its stride), batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] to [batch, outputs, h/stride, w/stride]."""
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and 3x3; 3x3 pooling and 1x1.

    `one`, `reduce2`, `three`, `reduce3`, `five` and `pooled` are the columns of the paper's Table 1.
    """

    def __init__(self, inputs: int, one: int, reduce2: int, three: int, reduce3: int, five: int, pooled: int) -> None:
        super().__init__()
        self.branch1 = ConvBN(inputs, one, 1)
        self.branch2_reduce = ConvBN(inputs, reduce2, 1)
        self.branch2 = ConvBN(reduce2, three, 3)
        self.branch3_reduce = ConvBN(inputs, reduce3, 1)
        self.branch3 = ConvBN(reduce3, five, 3)
        self.branch4_pool = nn.MaxPool2d(3, 1, padding=1)
        self.branch4 = ConvBN(inputs, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, inputs, h, w] to [batch, one + three + five + pooled, h, w]."""
        branches = [
            self.branch1(x),
            self.branch2(self.branch2_reduce(x)),
            self.branch3(self.branch3_reduce(x)),
            self.branch4(self.branch4_pool(x)),
        ]
        return torch.cat(branches, 1)


class GoogLeNet(nn.Module):
    """float32 [batch, 3, 224, 224] to logits [batch, 1000]; 6,624,904 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBN(3, 64, 7, stride=2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2_reduce = ConvBN(64, 64, 1)
        self.conv2 = ConvBN(64, 192, 3)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.pool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.pool4 = nn.MaxPool2d(2)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.fc = nn.Linear(1024, 1000)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes."""
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(self.conv2_reduce(x)))
        x = self.pool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.pool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits
