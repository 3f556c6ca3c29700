"""The plan of a sweep: short random chains of layers, and the ONNX graph of each.

Sizes are drawn log-uniformly from a scrambled Sobol sequence, so that any first part of the plan covers the range.
Kernels, strides and channel counts are those that networks have: channels are multiples of 8 (for others, some
runtimes take ways up to ten times slower, which a few samples among the rest could not tell), and the
larger the picture, the fewer the channels. A chain depends on its index and `SEED` alone: a sweep can be resumed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import qmc

from .layer_table import LayerRow, TableKind

SEED = 2017
LAYERS = 7
DRAWS = 5
"""Coordinates of the sequence that each layer uses."""
MAX_LAYER_FLOPS = 4e9
MAX_ACTIVATION = 224 * 224 * 64
"""Values of one activation, at most: the first block of VGG."""
MAX_PARAMETERS = 104e6
"""Of one chain: the first linear layer of VGG."""
MAX_CHANNELS = 2048
CONV_KERNELS = ((1, 0.5), (3, 0.35), (5, 0.08), (7, 0.04), (11, 0.03))
SHARES: tuple[tuple[TableKind, float], ...] = (
    ("conv", 0.58),
    ("depthwise_conv", 0.17),
    ("maxpool", 0.08),
    ("avgpool", 0.05),
    ("batchnorm", 0.04),
    ("elementwise", 0.04),
    ("movement", 0.04),
)
"""How often a kind is drawn inside a chain; linear layers and softmax stand at its end."""


@dataclass(frozen=True)
class Layer:
    """A layer to be timed; `activated` layers are followed by a Relu, which runtimes fuse."""

    kind: TableKind
    input_hw: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    activated: bool = False

    @property
    def output_hw(self) -> int:
        return -(-self.input_hw // self.stride)

    def row(self, latency_s: float) -> LayerRow:
        """This layer as a row of a table, with the time it took."""
        return LayerRow(
            kind=self.kind,
            input_hw=self.input_hw,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            latency_s=latency_s,
        )


@dataclass(frozen=True)
class Chain:
    """Layers one after the other, with their place in the plan."""

    index: int
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Weights of all layers."""
        return sum(layer.row(1.0).operation().parameters for layer in self.layers)


def chain_plan(start: int = 0) -> Iterator[Chain]:
    """The plan from a place on, without end."""
    sequence = qmc.Sobol(3 + LAYERS * DRAWS, seed=SEED)
    if start:
        sequence.fast_forward(start)
    index = start
    while True:
        yield _chain(index, sequence.random(1)[0])
        index += 1


def _chain(index: int, draw: npt.NDArray[np.float64]) -> Chain:
    steps = draw[3:].reshape(LAYERS, DRAWS)
    if draw[0] < 0.1:
        return Chain(index, _dense(steps))
    layers: list[Layer] = []
    if draw[0] < 0.3:
        side, channels = round(_log(draw[1], 28, 256)), 3 if draw[2] < 0.85 else 1
    else:
        side = round(_log(draw[1], 6, 112))
        channels = _channels(_log(draw[2], 12, min(MAX_CHANNELS, MAX_ACTIVATION / side**2)), draw[2])
    for place, step in enumerate(steps):
        # A convolution comes first, as in networks: it decides the layout that the layers after it run in.
        layer = _layer(side, channels, step, first=place == 0)
        if sum(one.row(1.0).operation().parameters for one in (*layers, layer)) > MAX_PARAMETERS:
            break
        if layer.kind == "batchnorm" and layers and layers[-1].kind in ("conv", "depthwise_conv"):
            # Right behind a convolution it would be folded into it.
            layers[-1] = replace(layers[-1], activated=True)
        layers.append(layer)
        side, channels = layer.output_hw, layer.out_channels
    if draw[0] > 0.65:
        layers += _tail(side, channels, steps[-1], pooled=draw[0] > 0.75)
    return Chain(index, tuple(layers))


def _layer(side: int, channels: int, step: npt.NDArray[np.float64], first: bool) -> Layer:
    stem = channels <= 3
    kind = "conv" if first else _pick(SHARES, step[0])
    if kind in ("batchnorm", "elementwise"):
        return Layer(kind, side, channels, channels)
    if kind == "movement":
        joined = 2 * channels
        return (
            Layer(kind, side, joined, joined)
            if joined <= MAX_CHANNELS
            else Layer("elementwise", side, channels, channels)
        )
    if kind in ("maxpool", "avgpool"):
        kernel = 2 if step[1] < 0.4 and side % 2 == 0 else 3
        return Layer(kind, side, channels, channels, kernel, 2 if kernel == 2 or step[2] < 0.7 else 1)
    if kind == "depthwise_conv":
        kernel = 3 if step[1] < 0.7 else 5 if step[1] < 0.9 else 7
        return Layer(kind, side, channels, channels, kernel, 2 if step[2] < 0.25 else 1, activated=step[3] < 0.8)
    kernel = _pick(CONV_KERNELS if not stem else ((3, 0.5), (5, 0.15), (7, 0.2), (11, 0.15)), step[1])
    if 32 * kernel**2 * channels * side**2 > MAX_LAYER_FLOPS:
        kernel = 1
    often = 0.6 if stem else 0.08 if kernel == 1 else 0.22
    stride = (4 if kernel == 11 else 2) if step[2] < often else 1
    made = -(-side // stride)
    # Bounded by work and by the memory of what comes out; a stem makes as many channels as real ones do.
    most = min(
        MAX_CHANNELS,
        MAX_LAYER_FLOPS / (2 * kernel**2 * channels * made**2),
        MAX_ACTIVATION / made**2,
        128 if stem else 8 * channels,
    )
    least = min(most, max(8.0, channels / 8))
    return Layer(kind, side, channels, _channels(_log(step[3], least, most), step[4]), kernel, stride, step[4] < 0.85)


def _tail(side: int, channels: int, step: npt.NDArray[np.float64], pooled: bool) -> list[Layer]:
    layers: list[Layer] = []
    if pooled:
        layers.append(Layer("avgpool", side, channels, channels, side, side))
        side = 1
    features = side**2 * channels
    layers.append(Layer("movement", side, channels, channels))
    made = _channels(_log(step[3], 10, min(4096, MAX_PARAMETERS / 2 / features)), step[4])
    return [*layers, Layer("linear", 1, features, made), Layer("softmax", 1, made, made)]


def _dense(steps: npt.NDArray[np.float64]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    features = _channels(_log(steps[0][1], 16, 25088), steps[0][2])
    for step in steps[1:4]:
        made = _channels(_log(step[1], 10, min(4096, MAX_PARAMETERS / 3 / features)), step[2])
        layers.append(Layer("linear", 1, features, made, activated=step[3] < 0.8))
        features = made
    return (*layers, Layer("softmax", 1, features, features))


def _log(draw: float, low: float, high: float) -> float:
    """A value from `low` to `high`, log-uniformly."""
    return float(low * (max(low, high) / low) ** draw)


def _channels(value: float, draw: float) -> int:
    """Rounded to a multiple of 16 or 8, as networks do; `draw` need not be independent."""
    multiple = 16 if (draw * 97) % 1 < 0.7 else 8
    return max(multiple, round(value / multiple) * multiple)


_Choice = TypeVar("_Choice")


def _pick(shares: Sequence[tuple[_Choice, float]], draw: float) -> _Choice:
    for value, share in shares:
        draw -= share
        if draw < 0:
            return value
    return shares[0][0]


def layer_of_node(node: str) -> int | None:
    """Which layer of a chain a runtime's node belongs to, by what it kept of the graph's names; None for its own."""
    found = _NODE.search(node)
    return int(found.group(1)) if found else None


_NODE = re.compile(r"layer(\d+)_")


@functools.cache
def _block() -> npt.NDArray[np.float32]:
    """Values that weights and inputs are filled with, over and over; their number is a prime."""
    return np.random.default_rng(SEED).standard_normal(65521).astype(np.float32)


def chain_model(chain: Chain, layers: int | None = None) -> bytes:
    """The chain, or its first `layers`, as an ONNX model with a dynamic batch; nodes are called `layer<place>_`."""
    kept = chain.layers[:layers]
    graph = _Graph(_input_channels(kept[0]))
    for place, layer in enumerate(kept):
        graph.add(f"layer{place}_", layer)
    return graph.model(
        _shape(kept[0], kept[0].input_hw, graph.first), _shape(kept[-1], kept[-1].output_hw, graph.channels)
    )


def chain_feed(chain: Chain) -> dict[str, npt.NDArray[np.float32]]:
    """A random input of batch 1."""
    shape = _shape(chain.layers[0], chain.layers[0].input_hw, _input_channels(chain.layers[0]))
    return {"x": np.resize(_block(), (1, *shape))}


def _input_channels(layer: Layer) -> int:
    return layer.in_channels // 2 if layer.kind == "movement" else layer.in_channels


def _shape(layer: Layer, side: int, channels: int) -> tuple[int, ...]:
    return (channels,) if layer.kind in ("linear", "softmax") else (channels, side, side)


class _Graph:
    """Builds an ONNX graph layer by layer; weights have the size and spread of real ones."""

    def __init__(self, channels: int) -> None:
        self.first = self.channels = channels
        self.value = "x"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, name: str, layer: Layer) -> None:
        """Append one layer, and its Relu."""
        window = {
            "kernel_shape": [layer.kernel] * 2,
            "strides": [layer.stride] * 2,
            "pads": [(layer.kernel - 1) // 2] * 4,
        }
        if layer.kind in ("conv", "depthwise_conv"):
            groups = layer.in_channels if layer.kind == "depthwise_conv" else 1
            shape: tuple[int, ...] = (layer.out_channels, layer.in_channels // groups, layer.kernel, layer.kernel)
            self._node("Conv", name, [self._weight(shape), self._weight(shape[:1])], group=groups, **window)
        elif layer.kind == "linear":
            shape = (layer.out_channels, layer.in_channels)
            self._node("Gemm", name, [self._weight(shape), self._weight(shape[:1])], transB=1)
        elif layer.kind == "batchnorm":
            # Scale, shift, mean and variance; a variance may be any positive values.
            self._node(
                "BatchNormalization", name, [self._weight((layer.in_channels,), positive=True) for _ in range(4)]
            )
        elif layer.kind in ("maxpool", "avgpool") and layer.output_hw == 1:
            self._node("GlobalMaxPool" if layer.kind == "maxpool" else "GlobalAveragePool", name, [])
        elif layer.kind in ("maxpool", "avgpool"):
            self._node("MaxPool" if layer.kind == "maxpool" else "AveragePool", name, [], **window)
        elif layer.kind == "elementwise":
            self._node("Add", name, [self.value])
        elif layer.kind == "softmax":
            self._node("Softmax", name, [])
        elif layer.in_channels == 2 * self.channels:
            self._node("Concat", name, [self.value], axis=1)
        else:
            self._node("Flatten", name, [], axis=1)
        if layer.activated:
            self._node("Relu", f"{name}relu", [])
        self.channels = layer.out_channels

    def _node(self, operator: str, name: str, further: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, [self.value, *further], [name], name=name, **attributes))
        self.value = name

    def _weight(self, shape: tuple[int, ...], positive: bool = False) -> str:
        name = f"weight{len(self.weights)}"
        values = (np.resize(_block(), shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(np.float32)
        self.weights.append(numpy_helper.from_array(np.abs(values) + np.float32(0.5) if positive else values, name))
        return name

    def model(self, taken: tuple[int, ...], made: tuple[int, ...]) -> bytes:
        """The finished model's bytes."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in (("x", taken), (self.value, made))
        ]
        graph = helper.make_graph(self.nodes, "chain", ends[:1], ends[1:], initializer=self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 10
        return bytes(model.SerializeToString())
