"""AlexNet in one column, as in Krizhevsky's "One weird trick for parallelizing convolutional neural networks".

That paper (arXiv 1404.5997) has the widths 64, 192, 384, 256, 256 in footnote 1; the network of 2012 has two columns of
other widths. Left out: dropout and local response normalisation, as in torchvision's network of the same sizes. After
`pool5` come 256x6x6 = 9216 values, the n of Shredder's Table 3.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise


class AlexNet(nn.Module):
    """float32 [batch, 3, 224, 224] to logits [batch, 1000]; 61,100,840 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 11, stride=4, padding=2)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.conv2 = nn.Conv2d(64, 192, 5, padding=2)
        self.pool2 = nn.MaxPool2d(3, 2)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.pool5 = nn.MaxPool2d(3, 2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 1000)
        he_initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ImageNet's classes."""
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool2(torch.relu(self.conv2(x)))
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))))
        x = self.pool5(torch.relu(self.conv5(x))).flatten(1)
        x = torch.relu(self.fc7(torch.relu(self.fc6(x))))
        logits: torch.Tensor = self.fc8(x)
        return logits
