"""SqueezeNet 1.1: Iandola et al. (arXiv 1602.07360) in the authors' later, cheaper form.

Version 1.1 is of the authors' repository, not of the paper: a first convolution of 64 3x3 filters, and pooling moved
up to after conv1, fire3 and fire5, for 2.4 times fewer operations. Dropout is left out.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise


class Fire(nn.Module):
    """Squeeze by 1x1, then expand by 1x1 and 3x3 side by side: [batch, inputs, h, w] to [batch, 2 * expand, h, w]."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both expansions, one after the other in the channels."""
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """float32 [batch, 3, 224, 224] to logits [batch, 1000]; 1,235,496 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.fire2, self.fire3 = Fire(64, 16, 64), Fire(128, 16, 64)
        self.pool3 = nn.MaxPool2d(3, 2)
        self.fire4, self.fire5 = Fire(128, 32, 128), Fire(256, 32, 128)
        self.pool5 = nn.MaxPool2d(3, 2)
        self.fire6, self.fire7 = Fire(256, 48, 192), Fire(384, 48, 192)
        self.fire8, self.fire9 = Fire(384, 64, 256), Fire(512, 64, 256)
        self.conv10 = nn.Conv2d(512, 1000, 1)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes: the last convolution's mean over the image."""
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool3(self.fire3(self.fire2(x)))
        x = self.pool5(self.fire5(self.fire4(x)))
        x = self.fire9(self.fire8(self.fire7(self.fire6(x))))
        return torch.relu(self.conv10(x)).mean((2, 3))
