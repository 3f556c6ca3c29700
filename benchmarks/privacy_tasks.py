"""The tasks of the privacy table: a trained network, a cut, labelled data and labels that shall stay private.

Everything is made from the project's data folder: mnist.npz, cifar10_12k.npz, lfw_smile_gender_64.npz,
20news_bydate.jsonl.gz and models/resnet20_cifar10.onnx. Networks are trained once and kept in edgecut's cache or in the
work folder. Private labels that no data set brings are computed from the images alone: which fifth of the training
images an image's slant (digits) or brightness (CIFAR-10) falls into.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from edgecut.models.catalogue import CATALOGUE, PHOTOGRAPH, Entry
from edgecut.models.data import DataSet, PrivateLabels, load_data
from edgecut.models.graph import set_metadata
from edgecut.models.load import Model, load_model
from edgecut.models.spec import CutSpec

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
FIFTHS = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Task:
    """What a mechanism is fitted to and audited on."""

    model: Model
    cut: CutSpec
    data: DataSet


@dataclass(frozen=True)
class Recipe:
    """`title` and `private` are said on the page; `loss_points` is what every mechanism may cost on the hold-out.

    `images` is how many training items channel looks at the cloud partition's sensitivity on, where not the usual.
    `note` stands under the task's table.
    """

    title: str
    private: str
    loss_points: float
    files: tuple[str, ...]
    make: Callable[[Path, Path], Task]
    at_input: bool = True
    images: int | None = None
    note: str = ""


def slant(images: Array) -> npt.NDArray[np.float64]:
    """How far strokes lean, from the moments of uint8 images [N, H, W]: columns moved for each row further down."""
    weights = images.astype(np.float64)
    total = weights.sum((1, 2))
    rows, columns = np.arange(images.shape[1])[:, None], np.arange(images.shape[2])
    middle_row = (weights * rows).sum((1, 2)) / total
    middle_column = (weights * columns).sum((1, 2)) / total
    down = rows[None] - middle_row[:, None, None]
    across = columns[None, None] - middle_column[:, None, None]
    found: npt.NDArray[np.float64] = (weights * down * across).sum((1, 2)) / (weights * down**2).sum((1, 2))
    return found


def brightness(images: Array) -> npt.NDArray[np.float64]:
    """The mean over all pixels and colours."""
    found: npt.NDArray[np.float64] = images.reshape(len(images), -1).mean(1, dtype=np.float64)
    return found


def fifths(data: DataSet, name: str, measure: Callable[[Array], npt.NDArray[np.float64]]) -> DataSet:
    """The data with private labels 0 to 4: which fifth of the training part an item's measure falls into."""
    train, test = measure(data.x_train), measure(data.x_test)
    bounds = np.quantile(train, FIFTHS)
    labels = (np.searchsorted(bounds, values).astype(np.int64) for values in (train, test))
    return dataclasses.replace(data, private=PrivateLabels(name, *labels))


def _digit(folder: Path, work: Path) -> Task:
    path = str(folder / "mnist.npz")
    model = load_model("lenet5", data=path)
    return Task(model, model.spec.cut("conv3"), fifths(load_data(path), "slant", slant))


@dataclass(frozen=True)
class _TwoClasses(Entry):
    def build(self) -> nn.Module:
        from torch import nn

        network: Any = super().build()
        network.fc2 = nn.Linear(network.fc2.in_features, 2)
        return network  # type: ignore[no-any-return]


def _gt4(data_folder: Path, work: Path) -> Task:
    digits = load_data(str(data_folder / "mnist.npz"))
    hidden = PrivateLabels("digit", digits.y_train.astype(np.int64), digits.y_test.astype(np.int64))
    labels = {f"y_{part}": (getattr(digits, f"y_{part}") > 4).astype(np.int64) for part in ("train", "test")}
    data = dataclasses.replace(digits, name="mnist.npz, digit > 4", private=hidden, **labels)
    path = work / "lenet5_gt4.onnx"
    if not path.is_file():
        from edgecut.models.exporting import export
        from edgecut.models.training import train

        entry = _TwoClasses(**{f.name: getattr(CATALOGUE["lenet5"], f.name) for f in dataclasses.fields(Entry)})
        network, _ = train(entry, data, 0, lambda *_: None)
        made = export(work, network, "lenet5_gt4", [entry.example(2)], entry.pixels)
        folder = work / made.removeprefix("sha256:")
        os.replace(folder / "model.onnx", path)
        shutil.rmtree(folder)
    model = load_model(str(path))
    return Task(model, model.spec.cut("conv3"), data)


def _cifar(folder: Path, work: Path) -> Task:
    path = str(folder / "cifar10_12k.npz")
    model = load_model("cifar10_cnn", data=path)
    return Task(model, last_convolution(model), fifths(load_data(path), "brightness", brightness))


def _resnet(elements: int) -> Callable[[Path, Path], Task]:
    """At the deepest cut of one tensor that has so many values: the end of a stage, of the third before its pooling."""

    def make(folder: Path, work: Path) -> Task:
        path = work / "resnet20_cifar10.onnx"
        if not path.is_file():  # the published file does not say how pixels become its input
            proto = onnx.load(folder / "models" / "resnet20_cifar10.onnx")
            set_metadata(proto, "resnet20_cifar10", PHOTOGRAPH)
            onnx.save(proto, path)
        model = load_model(str(path), any_cut=True)
        cuts = [cut for cut in model.spec.cuts if cut.elements == elements and len(cut.tensors) == 1]
        data = load_data(str(folder / "cifar10_12k.npz"))
        return Task(model, cuts[-1], fifths(data, "brightness", brightness))

    return make


def _news(folder: Path, work: Path) -> Task:
    path = str(folder / "20news_bydate.jsonl.gz")
    model = load_model("text_cnn_20news", data=path)
    return Task(model, last_convolution(model), load_data(path))


def _faces(folder: Path, work: Path) -> Task:
    path = str(folder / "lfw_smile_gender_64.npz")
    model = load_model("vgg_faces", data=path)
    return Task(model, last_convolution(model), load_data(path, "gender"))


def last_convolution(model: Model) -> CutSpec:
    """After the last convolution with what follows it up to the next layer, as the paper's Table 2 has it."""
    convolutions = {layer.name for layer in model.spec.layers if layer.kind == "Conv"}
    return [cut for cut in model.spec.cuts if cut.aligned and cut.name in convolutions][-1]


HELD_OUT = 2.0
"""For ResNet-20, whose hold-out are images that it was trained on: more is lost on them than on unseen ones, where the
target is 1.8 points."""
LOWERED = (
    "The limit on the hold-out was {before} points at first; a mechanism then lost more on the unseen items than the "
    "{wanted} wanted there, so it was lowered and everything made anew."
)
CIFAR = ("cifar10_12k.npz", "models/resnet20_cifar10.onnx")
TASKS: dict[str, Recipe] = {
    "digit": Recipe("LeNet-5, MNIST digit", "slant, in fifths", 1.34, ("mnist.npz",), _digit),
    "gt4": Recipe(
        "LeNet-5, MNIST digit > 4",
        "the digit",
        1.2,
        ("mnist.npz",),
        _gt4,
        note=LOWERED.format(before=1.34, wanted=1.34),
    ),
    "cifar10": Recipe("CNN, CIFAR-10", "brightness, in fifths", 1.5, CIFAR[:1], _cifar),
    "resnet20_stage3": Recipe(
        "ResNet-20, CIFAR-10, after stage 3",
        "brightness, in fifths",
        1.6,
        CIFAR,
        _resnet(4096),
        note=LOWERED.format(before=2.0, wanted=1.8),
    ),
    "resnet20_stage2": Recipe(
        "ResNet-20, CIFAR-10, after stage 2", "brightness, in fifths", HELD_OUT, CIFAR, _resnet(8192)
    ),
    "resnet20_stage1": Recipe(
        "ResNet-20, CIFAR-10, after stage 1",
        "brightness, in fifths",
        1.6,
        CIFAR,
        _resnet(16384),
        images=4000,
        note="Channel is fitted with --images 4000 here, since 2,000 left more bits than wanted. The limit on the "
        "hold-out was 2 points at first, then 1.7, then 1.5: it was chosen by looking at what channel then lost on the "
        "unseen items, where 1.8 was wanted, and told.",
    ),
    "news": Recipe("Text CNN, 20 Newsgroups", "none", 1.5, ("20news_bydate.jsonl.gz",), _news, at_input=False),
    "faces": Recipe("CNN, smiling (LFW)", "gender", 1.5, ("lfw_smile_gender_64.npz",), _faces),
}


def task(name: str, data_folder: Path, work_folder: Path) -> Task:
    """The task called `name`, its network trained where it is not yet."""
    work_folder.mkdir(parents=True, exist_ok=True)
    return TASKS[name].make(data_folder, work_folder)
