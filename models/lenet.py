"""LeNet-5 as the Scrunch paper (section 4.1) and Shredder use it: 32x32 grey input, convolutions of 6, 16 and 120."""

from __future__ import annotations

import torch
from torch import nn


class LeNet5(nn.Module):
    """float32 [batch, 1, 32, 32] to logits [batch, 10]; 61,706 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits; the softmax is left to whoever wants probabilities."""
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.conv3(x)).flatten(1)
        logits: torch.Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits
