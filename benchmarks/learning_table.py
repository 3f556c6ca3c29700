"""The rows of the Shredder paper's Table 3 for our networks: what learned noise costs, hides and takes.

For each network and recipe: the accuracy of sampled noise on unseen test data with the loss's 95 % interval, the scale
of the noise, mutual information by the paper's metric before and after (privacy/information.py says what that number
is worth) with its null, epochs, learnable values over the model's parameters, the collection's footprint, and the time
to learn. Every cut is after the last convolution, as Table 2 has it. All figures of a row are measured on this machine;
`paper` beside them is published. Networks whose data cannot be had run with seeded untrained weights on random images
for a few steps: their times and footprints are measured, their accuracy and their information are unavailable.

    python benchmarks/learning_table.py --data-folder FOLDER [--only lenet5 ...] [--recipes sampled paper] [--again]

A row that is in the result already, made with the same settings, data and number of samples, is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, write_result

from edgecut.artefacts import file_digest
from edgecut.models.catalogue import CATALOGUE, PHOTOGRAPH
from edgecut.models.data import load_data, scale_pixels, to_input
from edgecut.models.load import Model, load_model
from edgecut.models.session import open_session
from edgecut.models.spec import CutSpec
from edgecut.models.split import halves
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.partitioner.choose import plan
from edgecut.privacy.information import SCALINGS, paper_metric, relative_loss
from edgecut.privacy.learn import learn
from edgecut.privacy.settings import RECIPES, Settings
from edgecut.profiler.environment import read_environment
from edgecut.profiler.run import profile
from edgecut.runtime.protect import Protector

NAME = "learning_table"
EDGE, CLOUD = "jetson-tx2", "titan-x-pascal"
"""A plan needs two profiles; these are predicted, which takes no time, and the noise does not depend on them."""
UNTRAINED_STEPS = 5
UNTRAINED_IMAGES = (160, 32)
SEED = 0


@dataclasses.dataclass(frozen=True)
class Network:
    """A row: `model` is a name of the catalogue or a file in the data folder, `paper` the column of Table 3, if any.

    Without `data` the network stays untrained.
    """

    model: str
    data: str | None = None
    private: str | None = None
    paper: str | None = None


NETWORKS = {
    "lenet5": Network("lenet5", "mnist.npz", paper="LeNet"),
    "cifar10_cnn": Network("cifar10_cnn", "cifar10_12k.npz", paper="CIFAR"),
    "resnet20_cifar10": Network("models/resnet20_cifar10.onnx", "cifar10_12k.npz"),
    "text_cnn_20news": Network("text_cnn_20news", "20news_bydate.jsonl.gz", paper="20Newsgroups"),
    "vgg_faces": Network("vgg_faces", "lfw_smile_gender_64.npz", private="gender"),
    "svhn_cnn": Network("svhn_cnn", paper="SVHN"),
    "alexnet": Network("alexnet", paper="AlexNet"),
    "vgg16": Network("vgg16", paper="VGG-16"),
}
PAPER = {
    "LeNet": (301.84, 18.9, 93.74, 1.34, 0.39, 0.19, 6.3, 2.05),
    "CIFAR": (236.34, 90.2, 61.83, 1.42, 0.87, 0.65, 1.7, 8.70),
    "SVHN": (19.2, 7.1, 64.58, 1.12, 0.22, 0.04, 1.2, 5.00),
    "AlexNet": (12661.51, 4439.0, 64.94, 1.95, 0.12, 0.02, 0.1, 315.00),
    "VGG-16": (28732.21, 7268.7, 74.70, 1.68, 0.11, 0.01, 6.8, 918.75),
    "20Newsgroups": (27.8, 7.8, 72.95, 1.99, 0.41, 0.05, 7.3, 2.01),
}
"""Table 3, published, as printed: the share lost does not follow from the bits for SVHN and 20Newsgroups."""
PAPER_FIELDS = (
    "before_bits",
    "after_bits",
    "lost_percent",
    "loss_points",
    "loss_margin_points",
    "learnable_percent",
    "epochs",
    "footprint_kb",
)


def main() -> None:
    """Make the rows asked for, one at a time, and keep each as soon as it is there."""
    asked = _arguments()
    rows = _rows_kept()
    for name in asked.only:
        for recipe in asked.recipes:
            network, key = NETWORKS[name], f"{name}/{recipe}"
            made_with = _made_with(network, recipe, asked)
            if not asked.again and rows.get(key, {}).get("made_with") == made_with:
                print(f"{key}: kept", flush=True)
                continue
            print(f"{key}: started", flush=True)
            rows[key] = {"made_with": made_with, **_row(network, recipe, asked), **_published(network)}
            write_result(NAME, {"paper": "Table 3 of Shredder, published", "rows": rows})
    _print(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--recipes", nargs="+", choices=sorted(RECIPES), default=list(RECIPES))
    parser.add_argument("--samples", type=int, default=1000, help="unseen items that mutual information is taken over")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="make rows anew that are there already")
    return parser.parse_args()


def _rows_kept() -> dict[str, Any]:
    path = RESULTS / f"{NAME}.json"
    return dict(json.loads(path.read_text())["rows"]) if path.is_file() else {}


def _settings(network: Network, recipe: str) -> Settings:
    """The recipe as it is; untrained networks get few steps, and nothing they lose is too much."""
    chosen = RECIPES[recipe]
    if network.data is not None:
        return chosen
    return dataclasses.replace(chosen, steps=UNTRAINED_STEPS, scale=chosen.scale or 1.0, max_accuracy_loss=100.0)


def _made_with(network: Network, recipe: str, asked: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on and a user can change, as JSON would give it back."""
    files = {
        part: file_digest(asked.data_folder / part)
        for part in (network.model, network.data)
        if part is not None and part not in CATALOGUE
    }
    made = {
        "network": dataclasses.asdict(network),
        "files": files,
        "settings": dataclasses.asdict(_settings(network, recipe)),
        "samples": asked.samples,
        "k": asked.k,
    }
    return dict(json.loads(json.dumps(made)))


def _row(network: Network, recipe: str, asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model, data = _model_and_data(network, asked.data_folder, Path(folder))
        reference, cut = str(model.path), _cut(model)
        edge, cloud = (profile(reference, device=device) for device in (EDGE, CLOUD))
        planned = plan(edge, cloud).model_copy(update={"choice": cut.name})
        learned = learn(
            planned, model=reference, data=data, settings=_settings(network, recipe), private=network.private
        )
        trained = network.data is not None
        environment = read_environment()
        return {
            "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "load_1min": environment.load_1min,
            "trained": trained,
            "cut": cut.name,
            "learned": learned.model_dump(mode="json"),
            "loss_points": learned.accuracy.loss_points if trained else None,
            "loss_interval_points": learned.accuracy.loss_interval_points if trained else None,
            "learnable_percent": 100 * cut.elements / learned.model_parameters,
            "mutual_information": _information(model, cut, learned.noise, data, asked) if trained else None,
        }


def _model_and_data(network: Network, folder: Path, scratch: Path) -> tuple[Model, str]:
    """The model, trained on the data where it is ours to train, and the path of data that `learn` takes."""
    if network.data is None:
        return load_model(network.model), _random_images(load_model(network.model), scratch)
    data = str(folder / network.data)
    if network.model in CATALOGUE:
        return load_model(network.model, data=data), data
    return load_model(str(folder / network.model)), _normalised(data, scratch)


def _normalised(data: str, scratch: Path) -> str:
    """The images as the float32 that a file without a pixel format takes: ImageNet's mean and deviation."""
    arrays = dict(np.load(data, allow_pickle=False))
    for part in ("x_train", "x_test"):
        arrays[part] = scale_pixels(np.moveaxis(arrays[part], -1, 1), PHOTOGRAPH)
    np.savez(scratch / "normalised.npz", **arrays)
    return str(scratch / "normalised.npz")


def _random_images(model: Model, scratch: Path) -> str:
    generator, arrays = np.random.default_rng(SEED), {}
    channels, *sides = model.spec.input.shape
    for part, count in zip(("train", "test"), UNTRAINED_IMAGES, strict=True):
        arrays[f"x_{part}"] = generator.integers(0, 256, (count, *sides, channels), np.uint8)
        arrays[f"y_{part}"] = generator.integers(0, model.spec.output.elements, count)
    np.savez(scratch / "random.npz", **arrays)
    return str(scratch / "random.npz")


def _cut(model: Model) -> CutSpec:
    """After the last convolution with what follows it up to the next layer."""
    convolutions = {layer.name for layer in model.spec.layers if layer.kind == "Conv"}
    return [cut for cut in model.spec.cuts if cut.aligned and cut.name in convolutions][-1]


def _information(
    model: Model, cut: CutSpec, collection: NoiseCollection, data: str, asked: argparse.Namespace
) -> dict[str, Any]:
    """The paper's metric of inputs against what is sent, without and with noise, over random unseen items."""
    unseen = load_data(data).x_test
    chosen = np.random.default_rng(SEED).permutation(len(unseen))[: asked.samples]
    x = to_input(unseen[chosen], model.spec)
    edge = open_session(halves(model.graph, cut)[0].SerializeToString(), threads=1)
    sent = edge.run([tensor.name for tensor in cut.tensors], {model.spec.input.name: x})
    noisy = Protector(collection).add(sent)
    clean_rows, noisy_rows = (
        np.concatenate([part.reshape(len(x), -1) for part in parts], axis=1) for parts in (sent, noisy)
    )
    found = {}
    for scaling in SCALINGS:
        before, after = (paper_metric(x, rows, asked.k, scale=scaling, seed=SEED) for rows in (clean_rows, noisy_rows))
        found[scaling] = {
            "before": dataclasses.asdict(before),
            "after": dataclasses.asdict(after),
            "relative_loss": relative_loss(before, after),
            "note": before.note,
        }
    return found


def _published(network: Network) -> dict[str, Any]:
    if network.paper is None:
        return {"paper": None}
    return {"paper": {"column": network.paper, **dict(zip(PAPER_FIELDS, PAPER[network.paper], strict=True))}}


def _print(rows: dict[str, Any]) -> None:
    """A line a row, then one for each scaling of mutual information; a dash is unavailable, the brackets published."""
    for key, row in rows.items():
        learned, paper = row["learned"], row["paper"]
        accuracy, loss = "-", "-"
        if row["trained"]:
            without, (low, high) = learned["accuracy"]["without"], row["loss_interval_points"]
            accuracy = f"{without['correct'] / without['total']:.2%}"
            loss = f"{row['loss_points']:.2f} [{low:.2f}, {high:.2f}]"
        published = (
            f" ({paper['loss_points']:.2f} points, {paper['before_bits']} -> {paper['after_bits']} bits, "
            f"{paper['epochs']} epochs, {paper['footprint_kb']} KB)"
            if paper
            else ""
        )
        print(
            f"{key}: accuracy {accuracy}, loss {loss} points, scale {learned['scale']:.2f} deviations, "
            f"{learned['epochs']:.2f} epochs, {row['learnable_percent']:.3f} % learnable, "
            f"{learned['footprint_bytes'] / 1024:.2f} KB, {learned['elapsed_s']:.1f} s{published}"
        )
        for scaling, found in (row["mutual_information"] or {}).items():
            print(f"    {scaling}: {_bits(found['before'])} -> {_bits(found['after'])}, lost {_share(found)}")


def _bits(found: dict[str, Any]) -> str:
    return f"{found['bits']:.1f} bits (null {found['null_bits']:.1f} ± {found['null_sd']:.1f})"


def _share(found: dict[str, Any]) -> str:
    lost = found["relative_loss"]
    return "-" if lost is None else f"{lost:.1%}"


if __name__ == "__main__":
    main()
