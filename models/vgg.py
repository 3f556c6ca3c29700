"""VGG-16: configuration D of Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556, Table 1).

Dropout is left out. After `pool5` come 512x7x7 = 25088 values, the n of Shredder's Table 3. Shredder trains it for
other tasks than ImageNet's (two classes, 24 classes); the network here is ImageNet's, with 1000. A small one of the
same pattern stands beside it for such a task, because it can be trained on one core in minutes.
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


class VGGFaces(nn.Module):
    """float32 [batch, 3, 64, 64] to logits [batch, 2]; 293,906 parameters.

    VGG's pattern with sizes of ours: pairs of 3x3 convolutions of 16, 32, 64 and 64 filters, each pair halved by a
    pooling, and fully connected layers of 128 and 128. After `pool4` come 64x4x4 = 1024 values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1_1, self.conv1_2 = _conv(3, 16), _conv(16, 16)
        self.conv2_1, self.conv2_2 = _conv(16, 32), _conv(32, 32)
        self.conv3_1, self.conv3_2 = _conv(32, 64), _conv(64, 64)
        self.conv4_1, self.conv4_2 = _conv(64, 64), _conv(64, 64)
        self.pool1, self.pool2, self.pool3 = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.pool4 = nn.MaxPool2d(2)
        self.fc5 = nn.Linear(64 * 4 * 4, 128)
        self.fc6 = nn.Linear(128, 128)
        self.fc7 = nn.Linear(128, 2)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the two classes."""
        for first, second, pool in (
            (self.conv1_1, self.conv1_2, self.pool1),
            (self.conv2_1, self.conv2_2, self.pool2),
            (self.conv3_1, self.conv3_2, self.pool3),
            (self.conv4_1, self.conv4_2, self.pool4),
        ):
            x = pool(torch.relu(second(torch.relu(first(x)))))
        x = torch.relu(self.fc5(x.flatten(1)))
        logits: torch.Tensor = self.fc7(torch.relu(self.fc6(x)))
        return logits


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
