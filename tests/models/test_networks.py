"""The catalogue's networks are the published ones: parameters, shapes and multiply-adds by hooks, and they export.

Shapes and counts come from the "meta" device, where tensors have a shape but no memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from edgecut.errors import DataError
from edgecut.models.catalogue import CATALOGUE, Entry
from edgecut.models.data import DataSet, scale_pixels
from edgecut.models.initial import he_initialise
from edgecut.models.session import open_session
from edgecut.models.training import train, untrained

Shape = tuple[int, ...]
QUICK = {"svhn_cnn", "text_cnn_20news", "transformer_encoder", "vgg_faces"}
CLASSES = {"text_cnn_20news": 20, "transformer_encoder": 20, "vgg_faces": 2}
"""Where they are neither the ten digits or things nor ImageNet's thousand."""

# Parameters and 10^9 multiply-adds by torchvision 0.28's model cards: "num_params" and "_ops" of, for example,
# ResNet50_Weights.IMAGENET1K_V1.meta.
PUBLISHED: dict[str, tuple[int, float]] = {
    "alexnet": (61_100_840, 0.714),
    "vgg16": (138_357_544, 15.47),
    "resnet18": (11_689_512, 1.814),
    "resnet50": (25_557_032, 4.089),
    "mobilenet_v2": (3_504_872, 0.301),
    "squeezenet1_1": (1_235_496, 0.349),
    "googlenet": (6_624_904, 1.498),
}


def conv(inputs: int, outputs: int, window: int) -> int:
    """Parameters of a convolution with biases."""
    return inputs * outputs * window + outputs


def full(inputs: int, outputs: int) -> int:
    """Parameters of a fully connected layer."""
    return (inputs + 1) * outputs


# Nobody publishes these, so they are worked out from the sizes that the networks' docstrings give.
WORKED_OUT = {
    "lenet5": conv(1, 6, 25) + conv(6, 16, 25) + conv(16, 120, 25) + full(120, 84) + full(84, 10),
    "cifar10_cnn": conv(3, 6, 25) + conv(6, 16, 25) + full(400, 120) + full(120, 84) + full(84, 10),
    # Normalised convolutions: no bias, but a scale and an offset a channel.
    "svhn_cnn": sum(
        conv(i, o, 9) + o for i, o in ((3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256))
    )
    + full(256, 10),
    "text_cnn_20news": 20_000 * 100 + conv(100, 128, 5) + 2 * conv(128, 128, 5) + full(128, 128) + full(128, 20),
    "vgg_faces": sum(
        conv(i, o, 9) for i, o in ((3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64))
    )
    + full(64 * 4 * 4, 128)
    + full(128, 128)
    + full(128, 2),
    "transformer_encoder": (20_000 + 128) * 128
    + 4 * (4 * full(128, 128) + full(128, 512) + full(512, 128) + 2 * 2 * 128)
    + full(128, 20),
}


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one forward pass on the meta device showed: every module's output shape, and multiply-adds in all."""

    outputs: dict[str, Shape]
    inputs: dict[str, Shape]
    parameters: int
    multiply_adds: int
    logits: Shape


def meta(entry: Entry) -> tuple[nn.Module, torch.Tensor]:
    with torch.device("meta"):
        return entry.build().eval(), torch.empty(1, *entry.input_shape, dtype=getattr(torch, entry.input_dtype))


@cache
def trace(name: str) -> Trace:
    network, example = meta(CATALOGUE[name])
    outputs: dict[str, Shape] = {}
    inputs: dict[str, Shape] = {}
    multiply_adds = 0

    def watch(path: str) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], None]:
        def seen(module: nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
            nonlocal multiply_adds
            inputs[path], outputs[path] = tuple(given[0].shape[1:]), tuple(made.shape[1:])
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
                multiply_adds += made.numel() * per_output
            elif isinstance(module, nn.Linear):
                multiply_adds += made.numel() * module.in_features

        return seen

    for path, module in network.named_modules():
        module.register_forward_hook(watch(path))
    logits = network(example)
    count = sum(parameter.numel() for parameter in network.parameters())
    return Trace(outputs, inputs, count, multiply_adds, tuple(logits.shape))


def test_every_network_is_checked() -> None:
    assert PUBLISHED.keys().isdisjoint(WORKED_OUT)
    assert PUBLISHED.keys() | WORKED_OUT.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    parameters, giga_multiply_adds = PUBLISHED[name]
    assert trace(name).parameters == parameters
    assert trace(name).multiply_adds / 1e9 == pytest.approx(giga_multiply_adds, rel=0.005)
    assert CATALOGUE[name].parameters == parameters
    assert CATALOGUE[name].published
    assert trace(name).logits == (1, 1000)


@pytest.mark.parametrize("name", WORKED_OUT)
def test_counts_worked_out(name: str) -> None:
    assert trace(name).parameters == WORKED_OUT[name]
    assert CATALOGUE[name].parameters is None
    assert trace(name).logits == (1, CLASSES.get(name, 10))


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_docstring_tells_the_count(name: str) -> None:
    module, function = CATALOGUE[name].factory.split(":")
    made = getattr(__import__(f"edgecut.models.{module}", fromlist=[function]), function)
    assert f"{trace(name).parameters:,} parameters" in made.__doc__


POINTS: dict[str, dict[str, Shape]] = {
    "alexnet": {
        "conv1": (64, 55, 55),
        "pool1": (64, 27, 27),
        "pool2": (192, 13, 13),
        "conv5": (256, 13, 13),
        "pool5": (256, 6, 6),
        "fc7": (4096,),
    },
    "vgg16": {
        "pool1": (64, 112, 112),
        "pool2": (128, 56, 56),
        "pool3": (256, 28, 28),
        "pool4": (512, 14, 14),
        "conv5_3": (512, 14, 14),
        "pool5": (512, 7, 7),
        "fc6": (4096,),
    },
    "resnet18": {
        "conv1": (64, 112, 112),
        "pool1": (64, 56, 56),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
    },
    "resnet50": {
        "layer1": (256, 56, 56),
        "layer2": (512, 28, 28),
        "layer2.0.conv1": (128, 56, 56),  # the stride is in the 3x3 after it
        "layer3": (1024, 14, 14),
        "layer4": (2048, 7, 7),
    },
    "mobilenet_v2": {
        "conv1": (32, 112, 112),
        "blocks.0": (16, 112, 112),
        "blocks.1.expand": (96, 112, 112),
        "blocks.2": (24, 56, 56),
        "blocks.5": (32, 28, 28),
        "blocks.9": (64, 14, 14),
        "blocks.12": (96, 14, 14),
        "blocks.15": (160, 7, 7),
        "blocks.16": (320, 7, 7),
        "conv2": (1280, 7, 7),
    },
    "squeezenet1_1": {
        "conv1": (64, 111, 111),
        "pool1": (64, 55, 55),
        "fire2": (128, 55, 55),
        "fire3": (128, 55, 55),
        "fire4": (256, 27, 27),
        "fire5": (256, 27, 27),
        "fire6": (384, 13, 13),
        "fire7": (384, 13, 13),
        "fire8": (512, 13, 13),
        "fire9": (512, 13, 13),
        "conv10": (1000, 13, 13),
    },
    "googlenet": {
        "pool1": (64, 56, 56),
        "pool2": (192, 28, 28),
        "inception3a": (256, 28, 28),
        "inception3b": (480, 28, 28),
        "inception4a": (512, 14, 14),
        "inception4b": (512, 14, 14),
        "inception4c": (512, 14, 14),
        "inception4d": (528, 14, 14),
        "inception4e": (832, 14, 14),
        "inception5a": (832, 7, 7),
        "inception5b": (1024, 7, 7),
    },
    "svhn_cnn": {"conv7": (256, 2, 2), "pool4": (256, 1, 1)},
    "vgg_faces": {"conv1_2": (16, 64, 64), "pool1": (16, 32, 32), "pool3": (64, 8, 8), "pool4": (64, 4, 4)},
    "text_cnn_20news": {"conv1": (128, 996), "conv2": (128, 195), "conv3": (128, 35), "pool3": (128, 1)},
    "transformer_encoder": {"layers.0": (128, 128), "layers.3.fc1": (128, 512)},
}


@pytest.mark.parametrize("name", POINTS)
def test_shapes_at_well_known_points(name: str) -> None:
    outputs = trace(name).outputs
    assert {path: outputs[path] for path in POINTS[name]} == POINTS[name]


# Shredder, Table 3: KB of noise collection. Twenty orders of n indices each make 20 n ceil(log2 n) bits.
FOOTPRINTS = [
    ("lenet5", "conv3", 120, 2.05),
    ("cifar10_cnn", "pool2", 400, 8.79),  # printed as 8.70
    ("svhn_cnn", "pool4", 256, 5.00),
    ("alexnet", "pool5", 9216, 315.00),
    ("vgg16", "pool5", 25088, 918.75),
]


@pytest.mark.parametrize(("name", "path", "values", "kilobytes"), FOOTPRINTS)
def test_the_papers_cuts_have_the_values_of_its_table_3(name: str, path: str, values: int, kilobytes: float) -> None:
    assert math.prod(trace(name).outputs[path]) == values
    assert 20 * values * math.ceil(math.log2(values)) / 8 / 1024 == pytest.approx(kilobytes, abs=0.005)


def test_the_cuts_that_the_papers_communication_times_tell_of() -> None:
    for name, path, numerator, denominator in (
        ("svhn_cnn", "conv7", 1, 3),
        ("vgg16", "conv5_3", 2, 3),
        ("text_cnn_20news", "pool3", 128, 1000),
    ):
        crossing = math.prod(trace(name).outputs[path])
        assert crossing * denominator == math.prod(CATALOGUE[name].input_shape) * numerator


def test_pixels_of_photographs_and_of_the_rest() -> None:
    for name, entry in CATALOGUE.items():
        assert (entry.pixels is None) == (entry.input_dtype == "int64") == (entry.vocabulary is not None), name
        if entry.pixels is not None:
            assert entry.pixels.photograph == (name in PUBLISHED)
    photograph = CATALOGUE["resnet50"].pixels
    assert photograph is not None
    # The usual two steps: to 0..1, then the mean off and over the deviation, for red, green and blue.
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, 1)
    wanted = (pixels / 255.0 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
        [0.229, 0.224, 0.225], (3, 1, 1)
    )
    np.testing.assert_allclose(scale_pixels(pixels, photograph), wanted, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.deep) for n in CATALOGUE])
def test_exports_and_computes_the_same(name: str) -> None:
    """ONNX Runtime at other batches than the exported one answers as torch does, and layers keep their names."""
    entry = CATALOGUE[name]
    network = untrained(entry, 3)
    program = torch.onnx.export(
        network,
        (entry.example(2),),
        dynamo=True,
        opset_version=18,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    raw = proto.SerializeToString()
    session = open_session(raw)
    for batch in (1, 3):
        x = entry.example(batch, seed=batch)
        assert x.dtype == getattr(torch, entry.input_dtype)
        with torch.no_grad():
            wanted = network(x).numpy()
        (logits,) = session.run(["logits"], {"input": x.numpy()})
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    # Different inputs, different answers: otherwise the comparison above says nothing.
    assert np.abs(wanted[0] - wanted[1]).max() > 20 * 1e-4 * np.abs(wanted).max()
    kernels = [path for path, value in network.named_parameters() if _is_kernel(path, value)]
    layers = {node.input[1] for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    assert set(kernels) <= layers


def _is_kernel(path: str, value: nn.Parameter) -> bool:
    return value.ndim > 1 and path.endswith(".weight") and not path.startswith("embedding")


def test_a_signal_keeps_its_strength_through_many_layers() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(12)]
    network = nn.Sequential(*layers)
    x = torch.randn(50, 256)
    he_initialise(network)
    assert 0.2 < float((network(x) ** 2).mean() / (x**2).mean()) < 5  # by torch's own weights it is below 1e-4
    convolution = nn.Conv2d(64, 32, 3, groups=2)
    he_initialise(convolution)
    assert float(convolution.weight.std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
    # Small next to the signal, but not zero: the exporter would leave zeros out.
    assert convolution.bias is not None and float(convolution.bias.abs().min()) > 0
    assert float(convolution.bias.std()) == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize("name", ["svhn_cnn", "transformer_encoder"])
def test_untrained_weights_come_from_the_seed_alone(name: str) -> None:
    first = untrained(CATALOGUE[name], 1)
    torch.rand(5)  # the generator's state before is of no account
    second, other = untrained(CATALOGUE[name], 1), untrained(CATALOGUE[name], 2)
    assert not any(module.training for module in first.modules())
    weights, again, others = (next(network.parameters()) for network in (first, second, other))
    assert torch.equal(weights, again) and not torch.equal(weights, others)


def texts() -> DataSet:
    """Eight texts of two classes, each of one word only."""
    y = np.arange(8) % 2
    x = np.repeat(100 + 50 * y[:, None], 1000, 1)
    return DataSet(name="texts", digest="", x_train=x, y_train=y, x_test=x, y_test=y)


def test_a_text_network_learns_from_token_ids() -> None:
    entry = dataclasses.replace(CATALOGUE["text_cnn_20news"], least_accuracy=1.0)
    network, accuracy = train(entry, texts(), 0, lambda *_: None)
    assert accuracy == 1.0
    assert not network.training


def test_what_is_no_text_is_refused() -> None:
    entry, data = CATALOGUE["text_cnn_20news"], texts()
    for wrong, message in (
        (data.x_train.astype(np.float32), r"must be integer token ids \[texts, 1000\], not float32 \[8, 1000\]"),
        (data.x_train[:, :999], r"must be integer token ids \[texts, 1000\], not int64 \[8, 999\]"),
        (data.x_train + 20_000 - 150, "must be from 0 to 19999, not from 19950 to 20000"),
        (data.x_train - 101, "must be from 0 to 19999, not from -1 to 49"),
    ):
        with pytest.raises(DataError, match=message):
            train(entry, dataclasses.replace(data, x_train=wrong), 0, lambda *_: None)
    ids = np.where(data.x_train == 100, 0, 19_999)  # the outermost ones are fine
    train(entry, dataclasses.replace(data, x_train=ids), 0, lambda *_: None)


def test_normalisation_learns_from_training_batches_only() -> None:
    """And a network for which no accuracy is known is trained without any being asked of it."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    labels = np.arange(8)
    data = DataSet(name="noise", digest="", x_train=noise, y_train=labels, x_test=noise, y_test=labels[::-1].copy())
    steps = []
    network, accuracy = train(CATALOGUE["svhn_cnn"], data, 0, lambda done, _, __: steps.append(done))
    assert network.get_buffer("bn1.num_batches_tracked").item() == steps[-1] == 5
    assert accuracy < 0.9
