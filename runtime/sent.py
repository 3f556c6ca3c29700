"""What leaves the edge of a bundle: float32 or int8, made by the protector, taken by the cloud partition stored."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import BundleError
from ..models.data import DataSet
from ..models.quantise import with_int8_inputs
from ..models.spec import ModelSpec
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
    wire: WireDtype, models: EdgeModels, protector: Protector, spec: ModelSpec, labelled: DataSet | None, missing: str
) -> Sent:
    """What leaves the edge on that wire. Raises BundleError without data for int8's steps; `missing` says why."""
    if wire == "float32":
        return Sent(None, protector, models.cloud)
    if labelled is None:
        raise BundleError(
            f"the steps of an int8 wire are measured on data, and {missing}; give --data, or bundle with --wire float32"
        )
    collection = protector.collection
    steps = wire_steps(models.computed, collection, spec, labelled)
    by_name = {name: step for (name, _), step in zip(collection.tensors, steps, strict=True)}
    served = with_int8_inputs(models.cloud, by_name, spec.name)
    return Sent(Wire(steps=steps), Protector(collection, steps), served)
