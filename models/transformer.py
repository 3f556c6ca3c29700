"""A small transformer encoder that classifies texts: Vaswani et al., "Attention Is All You Need" (arXiv 1706.03762).

The layers are the paper's (normalisation after each sum, ReLU in the feed-forward part); the sizes, the learned
positions and the mean over all tokens before the classifier are ours. All texts have the full length: there is no mask.
Attention is written out as two products and a softmax, which every runtime has; torch's fused form exports with extra
operators that work out shapes as they run.
"""

from __future__ import annotations

import math

import torch
from torch import nn

VOCABULARY = 20_000
LENGTH = 128
WIDTH = 128
HEADS = 4
FEED_FORWARD = 512
LAYERS = 4
CLASSES = 20


class Product(nn.Module):
    """x @ weight + bias on the last dimension, with the weight as [inputs, outputs].

    An exporter turns `nn.Linear` on more than two dimensions into a product with a nameless transposed copy; stored
    this way, the weight keeps its name, and so its layer has one.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, ..., inputs] to [batch, ..., outputs]."""
        return torch.matmul(x, self.weight) + self.bias


class Attention(nn.Module):
    """Every token looks at all: [batch, length, WIDTH] to the same, in HEADS heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = Product(WIDTH, WIDTH), Product(WIDTH, WIDTH), Product(WIDTH, WIDTH)
        self.output = Product(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The heads' results, side by side and mixed."""
        query, key, value = (
            product(x).unflatten(2, (HEADS, WIDTH // HEADS)) for product in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query.transpose(1, 2), key.permute(0, 2, 3, 1)) / math.sqrt(WIDTH // HEADS)
        mixed = torch.matmul(scores.softmax(3), value.transpose(1, 2))
        y: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y


class EncoderLayer(nn.Module):
    """Attention, then two products on each token by itself; each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = Product(WIDTH, FEED_FORWARD), Product(FEED_FORWARD, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, WIDTH] to the same."""
        x = self.norm1(x + self.attention(x))
        y: torch.Tensor = self.norm2(x + self.fc2(torch.relu(self.fc1(x))))
        return y


class TransformerEncoder(nn.Module):
    """int64 token ids [batch, 128], each below 20,000, to logits [batch, 20]; 3,372,052 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.layers = nn.Sequential(*[EncoderLayer() for _ in range(LAYERS)])
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the classes, from the mean over all tokens."""
        x = self.layers(self.embedding(tokens) + self.positions)
        logits: torch.Tensor = self.classifier(x.mean(1))
        return logits
