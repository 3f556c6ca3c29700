"""The networks edgecut knows by name: where their code is, what they take, and what they are trained on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ModelError, unknown
from .spec import PixelFormat

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Entry:
    """A network: `factory` is `module:function` in this folder, `input_shape` leaves out the batch."""

    title: str
    factory: str
    input_shape: tuple[int, ...]
    pixels: PixelFormat
    data: str
    least_accuracy: float

    def build(self) -> nn.Module:
        """The untrained network. Needs torch."""
        module, function = self.factory.split(":")
        make: Callable[[], nn.Module] = getattr(importlib.import_module(f".{module}", __package__), function)
        return make()


CATALOGUE: dict[str, Entry] = {
    "lenet5": Entry(
        title="LeNet-5 (LeCun et al. 1998, in the form of the Scrunch paper, section 4.1)",
        factory="lenet:LeNet5",
        input_shape=(1, 32, 32),
        pixels=PixelFormat(scale=(1 / 255,), offset=(0.0,)),
        data="mnist",
        least_accuracy=0.97,
    ),
}


def entry(name: str) -> Entry:
    """The entry called `name`. Raises ModelError naming the known ones."""
    if name not in CATALOGUE:
        raise ModelError(unknown("model", name, CATALOGUE, "; or give the path of an .onnx file"))
    return CATALOGUE[name]
