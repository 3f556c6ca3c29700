"""The networks edgecut knows by name: where their code is, what they take, and what they are trained on.

First the six of the Shredder paper (ASPLOS 2020, Table 2), then the ones that others measure. A network whose `data` is
None is exported with seeded weights that nobody trained, unless the user gives data: what it takes to run, plan and
send does not depend on the weights' values, but what it answers is worth nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import ModelError, unknown
from .spec import PixelFormat
from .text import LENGTH, VOCABULARY

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Entry:
    """A network: `factory` is `module:function` in this folder, `input_shape` leaves out the batch.

    `pixels` is None where the input is no image, `data` and `least_accuracy` where edgecut has nothing to train it on.
    Token ids (int64 inputs) are below `vocabulary`. `parameters` is the count that `published` gives, None where the
    sizes are edgecut's own choice.

    The rest says how it is trained: with `items_seen` images or texts in all (None leaves it to `training`) at steps of
    up to `rate`, and with every second image `mirrored` where left and right mean nothing.
    """

    title: str
    factory: str
    input_shape: tuple[int, ...]
    pixels: PixelFormat | None
    data: str | None = None
    least_accuracy: float | None = None
    input_dtype: Literal["float32", "int64"] = "float32"
    vocabulary: int | None = None
    parameters: int | None = None
    published: str | None = None
    items_seen: int | None = None
    rate: float = 4e-3
    mirrored: bool = False

    def build(self) -> nn.Module:
        """The untrained network. Needs torch."""
        module, function = self.factory.split(":")
        make: Callable[[], nn.Module] = getattr(importlib.import_module(f".{module}", __package__), function)
        return make()

    def example(self, batch: int, seed: int = 0) -> torch.Tensor:
        """Random inputs: standard normal values, or token ids. Needs torch."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        shape = (batch, *self.input_shape)
        if self.vocabulary is not None:
            return torch.randint(self.vocabulary, shape, generator=generator)
        return torch.randn(shape, generator=generator)


BYTES = PixelFormat(scale=(1 / 255,), offset=(0.0,))
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPH = PixelFormat(
    scale=tuple(1 / (255 * deviation) for deviation in IMAGENET_DEVIATION),
    offset=tuple(-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)),
    photograph=True,
)
"""Red, green and blue with ImageNet's mean taken off, over its standard deviation."""


def _imagenet(title: str, factory: str, parameters: int, card: str) -> Entry:
    return Entry(
        title=title,
        factory=factory,
        input_shape=(3, 224, 224),
        pixels=PHOTOGRAPH,
        parameters=parameters,
        published=f"torchvision's documentation, {card}",
    )


CATALOGUE: dict[str, Entry] = {
    "lenet5": Entry(
        title="LeNet-5 (LeCun et al. 1998, in the form of the Scrunch paper, section 4.1)",
        factory="lenet:LeNet5",
        input_shape=(1, 32, 32),
        pixels=BYTES,
        data="mnist",
        least_accuracy=0.97,
    ),
    "cifar10_cnn": Entry(
        title="CNN for CIFAR-10 (Shredder's layers and cut, widths of LeNet)",
        factory="small_cnns:CifarCNN",
        input_shape=(3, 32, 32),
        pixels=BYTES,
        items_seen=400_000,
        mirrored=True,
    ),
    "svhn_cnn": Entry(
        title="CNN for SVHN (Shredder's layers and cut, widths ours)",
        factory="small_cnns:SvhnCNN",
        input_shape=(3, 32, 32),
        pixels=BYTES,
    ),
    "alexnet": _imagenet(
        "AlexNet in one column (Krizhevsky 2014)", "alexnet:AlexNet", 61_100_840, "AlexNet_Weights.IMAGENET1K_V1"
    ),
    "vgg16": _imagenet("VGG-16 (Simonyan, Zisserman 2014)", "vgg:VGG16", 138_357_544, "VGG16_Weights.IMAGENET1K_V1"),
    "text_cnn_20news": Entry(
        title="Text CNN for 20 Newsgroups (Shredder's layers and cut, sizes of a Keras example)",
        factory="text_cnn:TextCNN",
        input_shape=(LENGTH,),
        pixels=None,
        input_dtype="int64",
        vocabulary=VOCABULARY,
        items_seen=34_000,
        rate=3e-3,
    ),
    "vgg_faces": Entry(
        title="Small CNN in VGG's pattern for faces of 64x64 and two classes (sizes ours)",
        factory="vgg:VGGFaces",
        input_shape=(3, 64, 64),
        pixels=BYTES,
        items_seen=56_000,
        rate=1e-3,
        mirrored=True,
    ),
    "resnet18": _imagenet(
        "ResNet-18 (He et al. 2015)", "resnet:resnet18", 11_689_512, "ResNet18_Weights.IMAGENET1K_V1"
    ),
    "resnet50": _imagenet(
        "ResNet-50 (He et al. 2015, stride in the 3x3)",
        "resnet:resnet50",
        25_557_032,
        "ResNet50_Weights.IMAGENET1K_V1",
    ),
    "mobilenet_v2": _imagenet(
        "MobileNetV2 (Sandler et al. 2018)",
        "mobilenet:MobileNetV2",
        3_504_872,
        "MobileNet_V2_Weights.IMAGENET1K_V1",
    ),
    "squeezenet1_1": _imagenet(
        "SqueezeNet 1.1 (Iandola et al. 2016)",
        "squeezenet:SqueezeNet",
        1_235_496,
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
    ),
    "googlenet": _imagenet(
        "GoogLeNet (Szegedy et al. 2014, with batch normalisation)",
        "googlenet:GoogLeNet",
        6_624_904,
        "GoogLeNet_Weights.IMAGENET1K_V1",
    ),
    "transformer_encoder": Entry(
        title="Transformer encoder of four layers (Vaswani et al. 2017, sizes ours)",
        factory="transformer:TransformerEncoder",
        input_shape=(128,),
        pixels=None,
        input_dtype="int64",
        vocabulary=20_000,
    ),
}


def entry(name: str) -> Entry:
    """The entry called `name`. Raises ModelError naming the known ones."""
    if name not in CATALOGUE:
        raise ModelError(unknown("model", name, CATALOGUE, "; or give the path of an .onnx file"))
    return CATALOGUE[name]
