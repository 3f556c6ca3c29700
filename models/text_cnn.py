"""Shredder's text network for 20 Newsgroups: word embeddings and convolutions along the text.

The paper (ASPLOS 2020, Table 2): three convolutions, two fully connected layers, 20 classes, a cut after the third
convolution. The talk's slides: sending the cut takes 0.128 = 128/1000 of the time of sending the input. Both agree with
the network of the Keras example "Using pre-trained word embeddings in a Keras model" (2016), made for the same data:
1,000 words a text, embeddings of 100, convolutions of 128 filters over five words, and pooling over 5, 5 and 35. Taking
that one, with its 20,000 words, is our reading; the paper does not name it, and its Table 3 has a smaller footprint
(2.01 KB) than a collection for 128 values would need (2.19 KB).
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_initialise

VOCABULARY = 20_000
LENGTH = 1_000


class TextCNN(nn.Module):
    """int64 token ids [batch, 1000], each below 20,000, to logits [batch, 20]; 2,247,316 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 100)
        self.conv1 = nn.Conv1d(100, 128, 5)
        self.pool1 = nn.MaxPool1d(5)
        self.conv2 = nn.Conv1d(128, 128, 5)
        self.pool2 = nn.MaxPool1d(5)
        self.conv3 = nn.Conv1d(128, 128, 5)
        self.pool3 = nn.MaxPool1d(35)
        self.fc1 = nn.Linear(128, 128)
        self.fc2 = nn.Linear(128, 20)
        he_initialise(self)
        # Small, as Keras draws them: what chance puts into a rare word's 100 values would be learned by heart.
        nn.init.normal_(self.embedding.weight, std=0.05)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the newsgroups."""
        x = self.embedding(tokens).transpose(1, 2)
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool2(torch.relu(self.conv2(x)))
        x = self.pool3(torch.relu(self.conv3(x))).flatten(1)
        logits: torch.Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits
