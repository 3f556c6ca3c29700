"""How many bytes a network's input takes as JPEG: measured with Pillow on real pictures, at a stated quality.

For 224x224 there is no ImageNet at hand: the sizes are those of three photographs that scikit-learn and matplotlib
bring, prepared as ImageNet's are (shorter side to 256, the middle 224x224). That is few, so their range is kept too.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from edgecut.models.catalogue import CATALOGUE
from edgecut.models.data import as_pixels, load_data

QUALITY = 85
PICTURES = 500
CIFAR = "cifar10_12k.npz"
Pictures = list[Any]


def jpeg_sizes(data_folder: Path | None) -> dict[str, dict[str, Any]]:
    """Per network: mean, least and most bytes, and of what. CIFAR-10's pictures need the folder that holds them."""
    photographs = _size(_photographs(), "photographs of scikit-learn and matplotlib, their middle 224x224")
    found = dict.fromkeys(("alexnet", "vgg16"), photographs)
    digits = as_pixels(load_data("mnist").x_test[:PICTURES], CATALOGUE["lenet5"].input_shape)
    found["lenet5"] = _size(_pictures(digits[:, 0]), "digits of MNIST, padded to 32x32, grey")
    if data_folder is not None:
        with np.load(data_folder / CIFAR, allow_pickle=False) as file:
            small = file["x_test"][:PICTURES]
        colour = small if small.shape[-1] == 3 else np.moveaxis(small, 1, -1)
        found["cifar10_cnn"] = _size(_pictures(colour), "test pictures of CIFAR-10")
        found["svhn_cnn"] = {**found["cifar10_cnn"], "of": f"{found['cifar10_cnn']['of']}, in SVHN's place"}
    return found


def _photographs() -> Pictures:
    import matplotlib
    from PIL import Image
    from sklearn.datasets import load_sample_images

    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    whole = [*map(Image.fromarray, load_sample_images().images), Image.open(portrait).convert("RGB")]
    made = []
    for photograph in whole:
        factor = 256 / min(photograph.size)
        small = photograph.resize([round(side * factor) for side in photograph.size], Image.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in small.size)
        made.append(small.crop((left, top, left + 224, top + 224)))
    return made


def _pictures(pixels: np.ndarray[Any, Any]) -> Pictures:
    from PIL import Image

    return [Image.fromarray(picture) for picture in pixels]


def _size(pictures: Pictures, of: str) -> dict[str, Any]:
    sizes = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        sizes.append(len(file.getvalue()))
    return {
        "mean_bytes": round(sum(sizes) / len(sizes)),
        "least_bytes": min(sizes),
        "most_bytes": max(sizes),
        "pictures": len(sizes),
        "quality": QUALITY,
        "of": of,
    }
