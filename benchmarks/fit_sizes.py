"""Whether mechanisms fit at the largest cuts: seconds and memory for AlexNet (9,216 values) and VGG-16 (25,088).

No photographs are in the project's data, so the networks are untrained and the images smooth random ones; each label is
the class that the network itself answers, its last bias moved so that answers differ. What the noise then costs and
hides says nothing; how long fitting takes, and with how much memory, does. Each fit is a process of its own.

    python benchmarks/fit_sizes.py [--only alexnet] [--mechanisms channel]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import write_result
from onnx import numpy_helper

from edgecut.models.data import load_data, to_input
from edgecut.models.load import load_model
from edgecut.models.session import open_session
from edgecut.privacy.mechanisms.fitting import fit
from edgecut.privacy.settings import FitSettings

CUTS = {"alexnet": "conv5", "vgg16": "conv5_3"}
MECHANISMS = ("laplace", "channel")
TRAIN, TEST, PATCHES = 400, 100, 7
LOSS_POINTS = 5.0


def main() -> None:
    """Each network and mechanism in turn, or, as a child, one of them."""
    asked = _arguments()
    if asked.child:
        print(json.dumps(_fitted(*asked.child)))
        return
    rows = []
    for name in asked.only:
        with tempfile.TemporaryDirectory() as folder:
            _prepare(name, Path(folder))
            for mechanism in asked.mechanisms:
                command = [sys.executable, __file__, "--child", name, mechanism, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                rows.append({"network": name, "mechanism": mechanism, **json.loads(done.stdout.splitlines()[-1])})
                print(rows[-1], flush=True)
    write_result("fit_sizes", {"train_items": TRAIN, "loss_points_allowed": LOSS_POINTS, "rows": rows})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CUTS), default=list(CUTS))
    parser.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, default=list(MECHANISMS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _images(count: int, generator: np.random.Generator) -> Any:
    """Smooth colours, uint8 [count, 224, 224, 3]: PATCHES x PATCHES random ones, enlarged and blurred both ways."""
    side = 224 // PATCHES
    coarse = generator.uniform(0, 255, (count, PATCHES, PATCHES, 3)).astype(np.float32)
    fine = coarse.repeat(side, axis=1).repeat(side, axis=2)
    for axis in (1, 2):
        for shift in (side // 4, side // 2):
            fine = (fine + np.roll(fine, shift, axis=axis)) / 2
    return fine.clip(0, 255).astype(np.uint8)


def _prepare(name: str, folder: Path) -> None:
    """The network with its last bias moved to give every class a chance, and images with its own answers as labels."""
    model, generator = load_model(name), np.random.default_rng(0)
    images = _images(TRAIN + TEST, generator)
    logits = _logits(model.path, model, images)
    proto = onnx.load(model.path)
    bias = proto.graph.node[-1].input[2]
    tensor = next(one for one in proto.graph.initializer if one.name == bias)
    moved = numpy_helper.to_array(tensor) - logits.mean(0)
    tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), bias))
    onnx.save(proto, folder / "model.onnx")
    labels = (logits - logits.mean(0)).argmax(1)
    parts = {"train": slice(0, TRAIN), "test": slice(TRAIN, None)}
    arrays = {
        f"{kind}_{part}": every[at] for part, at in parts.items() for kind, every in (("x", images), ("y", labels))
    }
    np.savez(folder / "data.npz", **arrays)


def _logits(path: Any, model: Any, images: Any) -> Any:
    session = open_session(Path(path).read_bytes(), threads=2)
    name = session.get_inputs()[0].name
    pieces = [session.run(None, {name: to_input(images[i : i + 20], model.spec)})[0] for i in range(0, len(images), 20)]
    return np.concatenate(pieces)


def _fitted(name: str, mechanism: str, folder: str) -> dict[str, Any]:
    model, data = load_model(f"{folder}/model.onnx"), load_data(f"{folder}/data.npz")
    cut = next(cut for cut in model.spec.cuts if cut.name == CUTS[name])
    began = time.perf_counter()
    made = fit(model, cut, data, mechanism, FitSettings(max_accuracy_loss=LOSS_POINTS))
    return {
        "elements": cut.elements,
        "values_sent": made.noise.values,
        "seconds": time.perf_counter() - began,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "kept": made.kept,
        "classes_among_labels": len(np.unique(data.y_train)),
    }


if __name__ == "__main__":
    main()
