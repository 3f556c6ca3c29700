"""Weights to start from, where a network is deep enough that torch's own would let the signal fade on its way."""

from __future__ import annotations

from torch import nn


def he_initialise(network: nn.Module) -> None:
    """Draw all convolutions and linear layers as He et al. 2015 (arXiv 1502.01852) do, with biases near zero.

    Each ReLU then keeps the mean square of what it gets, so that even an untrained network's logits depend on its
    input, and a comparison of two runs compares something. Biases of exactly zero would be left out by the exporter,
    and the network be another one than it becomes when trained.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.BatchNorm2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.01)
