"""The two halves that an audit looks at, as they are deployed: out of a bundle, or of a model with noise at a cut.

Of a bundle the edge half's output is what its noise is added to already: a mechanism's map is part of the model, and
what it restores comes out of the cloud half's beginning. Of a model the map stands beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
from onnx import TensorProto, helper

from ..errors import ArtefactError, BundleError, ModelError
from ..models.load import Model
from ..models.spec import CutSpec, ModelSpec, TensorSpec
from ..models.split import halves
from ..noise_kernels.element_noise import MAPPED
from ..noise_kernels.mechanism import Noise, read_noise
from ..partitioner.plan import Plan
from ..runtime.accuracy import NoiseAccuracy, items_at_once
from ..runtime.halves import Half
from ..runtime.manifest import CLOUD, EDGE, EDGE_MODEL, MANIFEST, NOISE, PROFILE, EdgeManifest, Manifest
from ..runtime.verify import verified_files

if TYPE_CHECKING:
    from torch import fx

Floats = npt.NDArray[np.float32]
THREADS = 2


@dataclass(frozen=True)
class Halves:
    """`edge` takes model inputs and gives the cut's tensors `names` of `shapes`; `cloud` takes what is sent, float32.

    `clean_cloud` takes the cut's tensors as they are where a map stands before the noise, and is `cloud` elsewhere.
    Of a bundle with a map, `restore` is the beginning of its cloud half, from what is sent to the cut's own tensors of
    `restored_shapes`. `steps` are an int8 wire's, one a tensor, or empty. `accuracy` is what the manifest says.
    """

    spec: ModelSpec
    noise: Noise
    cut_name: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    edge: Half
    cloud: bytes
    clean_cloud: bytes
    steps: tuple[float, ...] = ()
    restore: Half | None = None
    restored_shapes: tuple[tuple[int, ...], ...] = ()
    bundle_id: str | None = None
    accuracy: NoiseAccuracy | None = None
    sticky: bool = False

    @property
    def width(self) -> int:
        """Values of the cut's tensors together."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def sent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the tensors that the cloud half takes."""
        if self.noise.place == "input":
            return self.shapes
        return tuple(tuple(shape) for _, shape in self.noise.carriers)

    def flat(self, inputs: npt.NDArray[np.generic]) -> Floats:
        """The cut's activations without noise, float32 [items, width], for model inputs [items, ...]."""
        most = items_at_once(self.spec)  # every layer's activations of so many are in memory together
        return np.concatenate([self._flat(inputs[i : i + most]) for i in range(0, len(inputs), most)])

    def _flat(self, inputs: npt.NDArray[np.generic]) -> Floats:
        made = dict(zip(self.edge.names, self.edge([inputs]), strict=True))
        return _side_by_side([made[name] for name in self.names], len(inputs))

    def restored(self, sent: Floats) -> Floats:
        """What the cloud half's map makes of what was sent: float32 [items, the cut's own elements]."""
        assert self.restore is not None
        (shape,) = self.shapes
        return _side_by_side(self.restore([sent.reshape(-1, *shape)]), len(sent))

    def of_flat(self, flat: Floats) -> Floats:
        """The same for model inputs that are flat, float32 [items, n]."""
        return self.flat(flat.reshape(-1, *self.spec.input.shape))

    def torch_cloud(self) -> fx.GraphModule:
        """The cloud half in torch, which takes what is sent. Raises ModelError where torch has no such form."""
        from ..models.from_onnx import convert

        return convert(onnx.load_model_from_string(self.cloud), self.spec.name)


def of_bundle(folder: str | os.PathLike[str]) -> Halves:
    """The halves of a bundle, each file verified first. Raises BundleError, and ModelError where one does not run."""
    found, files = verified_files(folder)
    if not isinstance(found.manifest, Manifest):
        raise BundleError(f"{folder} is one side of a bundle, and an audit looks at both; give the whole bundle")
    side = EdgeManifest.from_json(files[f"{EDGE}/{MANIFEST}"], f"{folder}/{EDGE}/{MANIFEST}")
    plan = Plan.from_json(files[f"{PROFILE}/plan.json"], f"{folder}/{PROFILE}/plan.json")
    noise = read_noise(files[f"{EDGE}/{NOISE}"], f"{folder}/{EDGE}/{NOISE}")
    cloud = next(data for path, data in files.items() if path.startswith(f"{CLOUD}/") and path.endswith(".onnx"))
    edge = Half(files[f"{EDGE}/{EDGE_MODEL}"], THREADS)
    tensors = [(tensor.name, tensor.shape) for tensor in side.cut] if noise.place == "input" else noise.carriers
    _check_outputs(edge, [name for name, _ in tensors], str(folder))
    steps = () if side.wire is None else side.wire.steps
    if steps:
        cloud = _without_steps(cloud)
    own = plan.model.cut(found.manifest.cut_name).tensors
    mapped = noise.place == "cut" and [tensor.name for tensor in side.cut] == [MAPPED]
    return Halves(
        restore=Half(_up_to(cloud, own), THREADS) if mapped else None,
        restored_shapes=tuple(tensor.shape for tensor in own) if mapped else (),
        spec=plan.model,
        noise=noise,
        cut_name=found.manifest.cut_name,
        names=tuple(name for name, _ in tensors),
        shapes=tuple(tuple(shape) for _, shape in tensors),
        edge=edge,
        cloud=cloud,
        clean_cloud=cloud,
        steps=steps,
        bundle_id=found.id,
        accuracy=found.manifest.accuracy,
        sticky=side.sticky,
    )


def of_model(model: Model, cut: CutSpec, noise: Noise) -> Halves:
    """A model's halves at a cut with the noise fitted there. Raises ArtefactError for another model's or cut's."""
    if noise.model_digest != model.spec.digest or noise.cut != cut.name:
        raise ArtefactError(
            f"the noise is for cut '{noise.cut}' of the model {noise.model_digest[7:19]}, and {cut.name} of "
            f"{model.spec.name} ({model.spec.digest[7:19]}) is audited; give the noise that was fitted there"
        )
    edge, clean = halves(model.graph, cut)
    cloud = clean
    if noise.map is not None and noise.place == "cut":
        from ..runtime.attach import with_restored

        cloud = with_restored(clean, cut.tensors, noise.map)
    return Halves(
        spec=model.spec,
        noise=noise,
        cut_name=cut.name,
        names=tuple(tensor.name for tensor in cut.tensors),
        shapes=tuple(tensor.shape for tensor in cut.tensors),
        edge=Half(edge.SerializeToString(), THREADS),
        cloud=cloud.SerializeToString(),
        clean_cloud=clean.SerializeToString(),
    )


def _side_by_side(tensors: Sequence[npt.NDArray[np.generic]], items: int) -> Floats:
    parts = [np.asarray(tensor, np.float32).reshape(items, -1) for tensor in tensors]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _up_to(cloud: bytes, tensors: Sequence[TensorSpec]) -> bytes:
    """The cloud half as far as these tensors: the map's inverse, which anyone in the cloud can run as well."""
    made = onnx.load_model_from_string(cloud)
    del made.graph.output[:]
    for tensor in tensors:
        made.graph.output.append(
            helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, ["batch", *tensor.shape])
        )
    return (
        onnx.utils.Extractor(made)
        .extract_model([value.name for value in made.graph.input], [tensor.name for tensor in tensors])
        .SerializeToString()
    )


def _check_outputs(edge: Half, names: list[str], where: str) -> None:
    missing = [name for name in names if name not in edge.names]
    if missing:
        raise BundleError(f"the edge half of {where} does not give '{missing[0]}', which its noise is for")


def _without_steps(cloud: bytes) -> bytes:
    """A cloud half for int8 as one that takes the float32 values themselves: without its casts and factors in front."""
    model = onnx.load_model_from_string(cloud)
    graph = model.graph
    taken = {value.name: value for value in graph.input}
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast" and node.input[0] in taken}
    factors = [node for node in graph.node if node.op_type == "Mul" and node.input[0] in casts]
    if len(factors) != len(taken):
        raise ModelError("the cloud half for int8 does not begin with the steps of its wire; write the bundle again")
    renamed = {node.output[0]: casts[node.input[0]].input[0] for node in factors}
    dropped = {*casts, *renamed}
    kept = [node for node in graph.node if node.output[0] not in dropped]
    for node in kept:
        node.input[:] = [renamed.get(value, value) for value in node.input]
    for value in graph.input:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    made: bytes = model.SerializeToString()
    return made
