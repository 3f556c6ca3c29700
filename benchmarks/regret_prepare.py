"""What benchmarks/regret.py runs, written once for a network: an edge side for each cut, and a repository to serve.

Neither the values of weights nor those of the noise change what a request takes, so that weights are seeded and
untrained (but for LeNet-5) and the noise is made up at the cut's size. The cloud's models share one file of weights,
by hard links, since a server with every suffix of VGG-16 would else read several gigabytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecut.artefacts import file_digest
from edgecut.models.data import scale_pixels
from edgecut.models.load import Model
from edgecut.models.spec import CutSpec
from edgecut.models.split import partitions, whole, with_uint8_input
from edgecut.models.weights import refer
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.runtime.edge_files import EdgeModels, write_edge
from edgecut.runtime.manifest import MANIFEST, EdgeManifest, EdgeTarget, StoredFile
from edgecut.runtime.repository import MODEL, write_model
from edgecut.runtime.tensors import datatype_of

WHOLE, WHOLE_UINT8 = "whole", "whole_uint8"
WEIGHTS = "weights.bin"
INPUTS = 16


@dataclass(frozen=True)
class Prepared:
    """Where everything lies: `sides` by cut, `models` the names under which the cloud serves them."""

    repository: Path
    sides: dict[str, Path]
    models: dict[str, str]
    inputs: Path
    whole: Path


def prepare(model: Model, cuts: Iterable[CutSpec], folder: Path) -> Prepared:
    """Write a network's edge sides and cloud models into `folder`."""
    repository, spec = folder / "repository", model.spec
    layout = model.graph.weights.write(folder / WEIGHTS)
    answer = [(spec.output.name, "TYPE_FP32", spec.output.shape)]
    sides, models = {}, {}

    def serve(name: str, skeleton: Any, inputs: list[tuple[str, str, tuple[int, ...]]]) -> None:
        made = refer(skeleton, WEIGHTS, layout).SerializeToString(deterministic=True)
        written = write_model(repository, name, made, inputs, answer)
        os.link(folder / WEIGHTS, written / "1" / WEIGHTS)

    source = spec.input
    taken = (source.name, f"TYPE_{datatype_of(np.dtype(source.dtype))}", source.shape)
    serve(WHOLE, whole(model.graph), [taken])
    if spec.pixels is not None:
        made = with_uint8_input(model.graph).SerializeToString()
        write_model(repository, WHOLE_UINT8, made, [("pixels", "TYPE_UINT8", source.shape)], answer)
    for number, cut in enumerate(cuts):
        models[cut.name] = f"cut{number}"
        sides[cut.name] = folder / f"side{number}"
        prefix, suffix = partitions(model.graph, cut)
        edge = model.graph.weights.embed(prefix).SerializeToString(deterministic=True)
        _write_side(sides[cut.name], model, cut, models[cut.name], edge)
        serve(models[cut.name], suffix, [(tensor.name, "TYPE_FP32", tensor.shape) for tensor in cut.tensors])
    return Prepared(repository, sides, models, _write_inputs(model, folder), repository / WHOLE / "1" / MODEL)


def _write_side(folder: Path, model: Model, cut: CutSpec, served: str, edge: bytes) -> None:
    elements = cut.elements
    collection = NoiseCollection(
        loc=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        orders=np.random.default_rng(0).permutation(elements)[None],
        tensors=tuple((tensor.name, tensor.shape) for tensor in cut.tensors),
        model_digest=model.spec.digest,
        cut=cut.name,
    )
    # The cloud's half is served, not stored, and so need not be made as bytes here.
    write_edge(folder, EdgeModels(edge, edge, edge, None, b"", EdgeTarget()), collection.to_bytes(), ())
    files = tuple(
        StoredFile(path=path.name, size_bytes=path.stat().st_size, digest=file_digest(path))
        for path in sorted(folder.iterdir())
    )
    EdgeManifest(
        model_name=served,
        input=model.spec.input,
        pixels=model.spec.pixels,
        cut=cut.tensors,
        answer=model.spec.output,
        mechanism=collection.mechanism,
        target=EdgeTarget(),
        files=files,
    ).save(folder / MANIFEST)


def _write_inputs(model: Model, folder: Path) -> Path:
    """Random inputs, and where the network takes pixels the bytes that they came from."""
    spec, generator = model.spec, np.random.default_rng(0)
    shape = (INPUTS, *spec.input.shape)
    arrays: dict[str, Any] = {}
    if spec.pixels is not None:
        arrays["pixels"] = generator.integers(0, 256, shape, dtype=np.uint8)
        arrays["inputs"] = scale_pixels(arrays["pixels"], spec.pixels)
    elif spec.input.dtype == "float32":
        arrays["inputs"] = generator.standard_normal(shape).astype(np.float32)
    else:
        arrays["inputs"] = generator.integers(0, spec.input.below or 2, shape).astype(spec.input.dtype)
    path = folder / "inputs.npz"
    np.savez(path, **arrays)
    return path
