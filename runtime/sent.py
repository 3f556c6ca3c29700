"""What leaves the edge of a bundle: float32 or int8, made by the protector, taken by the cloud partition stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import BundleError
from ..models.data import DataSet
from ..models.quantise import with_int8_inputs
from ..models.spec import ModelSpec, TensorSpec
from ..partitioner.plan import Wire as WireDtype
from .edge_files import EdgeModels
from .halves import wire_steps
from .manifest import Wire
from .protect import Protector


class Sent(NamedTuple):
    """How noisy activations travel (None: as float32), who makes them, and the cloud partition that takes them."""

    wire: Wire | None
    protector: Protector
    cloud: bytes


def sent_as(
    wire: WireDtype,
    models: EdgeModels,
    tensors: Sequence[TensorSpec],
    protector: Protector,
    spec: ModelSpec,
    labelled: DataSet | None,
    missing: str,
) -> Sent:
    """What leaves the edge on that wire: `tensors`. Raises BundleError without data for int8's steps; `missing` says
    why."""
    if wire == "float32":
        return Sent(None, protector, models.cloud)
    if labelled is None:
        raise BundleError(
            f"the steps of an int8 wire are measured on data, and {missing}; give --data, or bundle with --wire float32"
        )
    steps = wire_steps(models.computed, protector.noise, spec, labelled)
    names = (tensor.name for tensor in tensors)
    served = with_int8_inputs(models.cloud, dict(zip(names, steps, strict=True)), spec.name)
    return Sent(Wire(steps=steps), Protector(protector.noise, steps), served)
