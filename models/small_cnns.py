"""Shredder's small image networks besides LeNet-5: one for CIFAR-10, one for SVHN.

The Shredder paper (ASPLOS 2020) names their data sets, how many layers they have and where they are cut (Table 2), and
the size of a noise collection for each (Table 3), from which follows how many values cross. It gives no widths: those
here are the simplest ones that agree with both tables.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise


class CifarCNN(nn.Module):
    """float32 [batch, 3, 32, 32] to logits [batch, 10]; 62,006 parameters.

    The paper's: five layers, a cut after the second convolution, and 400 values there (Table 3 prints 8.70 KB for what
    works out as 8.79). Ours: LeNet's widths, convolutions of 6 and 16 filters of 5x5 and fully connected layers of 120
    and 84, which give 16x5x5 = 400 after `pool2`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of CIFAR-10's classes."""
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool2(torch.relu(self.conv2(x))).flatten(1)
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        logits: torch.Tensor = self.fc3(x)
        return logits


class SvhnCNN(nn.Module):
    """float32 [batch, 3, 32, 32] to logits [batch, 10]; 585,450 parameters.

    The paper's: seven convolutions and one fully connected layer (Table 2), and 256 values at the cut after the last
    convolution (5.00 KB in Table 3). The talk's times say that a cut sends a third of the input's 3x32x32 values, which
    are the 256x2x2 before `pool4`. Ours, as in public SVHN networks of this depth: 3x3 convolutions whose width doubles
    after each pooling, from 32 to 256, the last without padding, and batch normalisation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv4, self.bn4 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv5, self.bn5 = nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        self.conv6, self.bn6 = nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        self.conv7, self.bn7 = nn.Conv2d(128, 256, 3, bias=False), nn.BatchNorm2d(256)
        self.pool1, self.pool2, self.pool3 = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.pool4 = nn.MaxPool2d(2)
        self.fc = nn.Linear(256, 10)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the ten digits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool1(torch.relu(self.bn2(self.conv2(x))))
        x = torch.relu(self.bn3(self.conv3(x)))
        x = self.pool2(torch.relu(self.bn4(self.conv4(x))))
        x = torch.relu(self.bn5(self.conv5(x)))
        x = self.pool3(torch.relu(self.bn6(self.conv6(x))))
        x = self.pool4(torch.relu(self.bn7(self.conv7(x)))).flatten(1)
        logits: torch.Tensor = self.fc(x)
        return logits
