"""VGG-16: configuration D of Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556, Table 1).

Dropout is left out. After `pool5` come 512x7x7 = 25088 values, the n of Shredder's Table 3. Shredder trains it for
other tasks than ImageNet's (two classes, 24 classes); the network here is ImageNet's, with 1000.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise


class VGG16(nn.Module):
    """float32 [batch, 3, 224, 224] to logits [batch, 1000]; 138,357,544 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1_1, self.conv1_2 = _conv(3, 64), _conv(64, 64)
        self.conv2_1, self.conv2_2 = _conv(64, 128), _conv(128, 128)
        self.conv3_1, self.conv3_2, self.conv3_3 = _conv(128, 256), _conv(256, 256), _conv(256, 256)
        self.conv4_1, self.conv4_2, self.conv4_3 = _conv(256, 512), _conv(512, 512), _conv(512, 512)
        self.conv5_1, self.conv5_2, self.conv5_3 = _conv(512, 512), _conv(512, 512), _conv(512, 512)
        self.pool1, self.pool2, self.pool3 = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.pool4, self.pool5 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.fc6 = nn.Linear(512 * 7 * 7, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 1000)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes."""
        for convolutions, pool in (
            ((self.conv1_1, self.conv1_2), self.pool1),
            ((self.conv2_1, self.conv2_2), self.pool2),
            ((self.conv3_1, self.conv3_2, self.conv3_3), self.pool3),
            ((self.conv4_1, self.conv4_2, self.conv4_3), self.pool4),
            ((self.conv5_1, self.conv5_2, self.conv5_3), self.pool5),
        ):
            for convolution in convolutions:
                x = torch.relu(convolution(x))
            x = pool(x)
        x = torch.relu(self.fc6(x.flatten(1)))
        logits: torch.Tensor = self.fc8(torch.relu(self.fc7(x)))
        return logits


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
