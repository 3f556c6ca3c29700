"""The ways to run a model on a pair of devices: every cut that both have timed, cuts that none has, the baselines.

A cut that nobody timed is made of layer times, scaled so that they sum to the whole's: the gaps between layers, and
what a runtime would fuse otherwise, are not in it. Its spread is the whole model's. Its noise lies between that of the
timed cuts by its number of values, or is predicted where no cut was timed. So is that of a mechanism which adds noise
to another number of values than cross at its cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..models.cuts import edge_memory_bytes
from ..models.spec import CutSpec, ModelSpec
from ..profiler.predicted import beside
from ..profiler.profile import CutProfile, Energy, Profile, Provenance, Timing
from .cost import Part, Way
from .plan import PlannedNoise, Wire

EDGE_ONLY, CLOUD_FLOAT32, CLOUD_UINT8, CLOUD_JPEG = (
    "edge-only",
    "cloud-only float32",
    "cloud-only uint8",
    "cloud-only JPEG",
)


class Ways:
    """Two profiles of one model, what crosses the wire, and the leakage and the mechanisms given for some cuts."""

    def __init__(
        self,
        edge: Profile,
        cloud: Profile,
        wire: Wire,
        leakage: Mapping[str, float],
        noises: Sequence[PlannedNoise] = (),
    ) -> None:
        self.edge, self.cloud, self.wire, self.leakage = edge, cloud, wire, leakage
        self._noises = {noise.cut: noise for noise in noises}
        self.model: ModelSpec = edge.model
        self.answer_bytes = sum(tensor.size_bytes for tensor in edge.model.outputs)
        self._cuts = {cut.name: cut for cut in (*cloud.model.cuts, *edge.model.cuts)}
        self._memory_bytes = {cut.name: cut.prefix_memory_bytes for cut in edge.cuts}

    def timed(self) -> list[tuple[CutSpec, Way]]:
        """The cuts whose halves were timed as sub-models, each on its side."""
        theirs = {cut.name: cut for cut in self.cloud.cuts}
        both = [(self._cut(mine.name), mine) for mine in self.edge.cuts if mine.name in theirs]
        return [(cut, self._timed(cut, mine, theirs[mine.name])) for cut, mine in both]

    def _cut(self, name: str) -> CutSpec:
        """A cut that either profile knows. Raises ModelError naming the edge's."""
        return self._cuts.get(name) or self.model.cut(name)

    def _timed(self, cut: CutSpec, mine: CutProfile, theirs: CutProfile) -> Way:
        noise, add = _part(mine.noise, mine.noise_energy), Part(mine.add.median_s, 0.0, mine.add)
        if self._values(cut) != cut.elements:
            noise, add = self._beside(self._values(cut))
        return self._split(
            cut,
            edge=_part(mine.prefix, mine.prefix_energy),
            noise=noise,
            add=add,
            cloud=Part(theirs.suffix.median_s, 0.0, theirs.suffix),
        )

    def untimed(self, cut: CutSpec) -> Way:
        """A cut by its layers' times."""
        edge_s, cloud_s = self._layer_cost(cut)
        noise, add = self._beside(self._values(cut))
        return self._split(
            cut,
            edge=Part(edge_s, _scaled(self.edge.whole_energy, edge_s, self.edge.whole), self.edge.whole),
            noise=noise,
            add=add,
            cloud=Part(cloud_s, 0.0, self.cloud.whole),
            layers=True,
        )

    def _values(self, cut: CutSpec) -> int:
        """How many values noise is added to."""
        planned = self._noises.get(cut.name)
        return cut.elements if planned is None else planned.values

    def _layer_cost(self, cut: CutSpec) -> tuple[float, float]:
        """Seconds of the edge's layers, and of the cloud's."""
        mine, theirs = self._layer_seconds
        here = np.zeros(len(mine), dtype=bool)
        here[list(cut.on_edge)] = True
        return float(mine[here].sum()), float(theirs[~here].sum())

    @cached_property
    def _layer_seconds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from .candidates import layer_seconds

        return np.asarray(layer_seconds(self.edge)), np.asarray(layer_seconds(self.cloud))

    def _split(self, cut: CutSpec, *, edge: Part, noise: Part, add: Part, cloud: Part, layers: bool = False) -> Way:
        whole = self.wire == "float32"
        memory, provenance = self._memory(cut)
        shapes = [(tensor.dtype, "x".join(map(str, tensor.shape))) for tensor in cut.tensors]
        values, payload_bytes = cut.elements, cut.size_bytes
        planned = self._noises.get(cut.name)
        if planned is not None and planned.sent_values != values:
            values, payload_bytes = planned.sent_values, 4 * planned.sent_values
            shapes = [("float32", str(values))]
        return Way(
            name=cut.name,
            role="split",
            sends=" + ".join(f"{dtype if whole else 'int8'} {shape}" for dtype, shape in shapes),
            payload_bytes=payload_bytes if whole else values,
            answer_bytes=self.answer_bytes,
            edge=edge,
            noise=noise,
            add=add,
            cloud=cloud,
            basis="layers" if layers else "sub-models",
            depth=cut.depth,
            edge_memory_bytes=memory,
            memory_provenance=provenance,
            leakage_bits=self.leakage.get(cut.name),
        )

    def _memory(self, cut: CutSpec) -> tuple[int, Provenance]:
        measured = self._memory_bytes.get(cut.name)
        return (edge_memory_bytes(self.model, cut), "modelled") if measured is None else (measured, "measured")

    def _beside(self, elements: int) -> tuple[Part, Part]:
        """Making and adding noise for a cut that was not timed."""
        whole = self.edge.whole
        timed = sorted((self._cut(mine.name).elements, mine.name) for mine in self.edge.cuts)
        if not timed:
            noise, add = beside(elements, 1.0)
            joules = _scaled(self.edge.whole_energy, noise.median_s, whole)
            return Part(noise.median_s, joules, noise), Part(add.median_s, 0.0, add)
        cuts = [self.edge.cut(name) for _, name in timed]
        sizes = [size for size, _ in timed]
        near = cuts[int(np.abs(np.asarray(sizes) - elements).argmin())]
        noise_s = _interpolated(elements, sizes, [cut.noise.median_s for cut in cuts])
        add_s = _interpolated(elements, sizes, [cut.add.median_s for cut in cuts])
        return (
            Part(noise_s, _scaled(near.noise_energy, noise_s, near.noise), near.noise),
            Part(add_s, 0.0, near.add),
        )

    def baselines(self, jpeg_bytes: int | None) -> tuple[list[Way], tuple[str, ...]]:
        """Edge-only, and cloud-only with each form of the input that exists; and why the others do not."""
        inputs, pixels = self.model.inputs, self.model.pixels
        ways = [
            Way(EDGE_ONLY, "edge-only", "nothing", 0, 0, edge=_part(self.edge.whole, self.edge.whole_energy)),
            self._cloud_only(CLOUD_FLOAT32, sum(tensor.size_bytes for tensor in inputs)),
        ]
        missing = []
        if pixels is None:
            missing.append(f"{CLOUD_UINT8}: the model does not say how pixels become its input")
        else:
            ways.append(self._cloud_only(CLOUD_UINT8, sum(tensor.elements for tensor in inputs)))
        if jpeg_bytes is not None:
            ways.append(self._cloud_only(CLOUD_JPEG, jpeg_bytes))
        elif pixels is None or pixels.photograph:
            missing.append(f"{CLOUD_JPEG}: give the mean size of an input as JPEG (--jpeg-bytes)")
        else:
            missing.append(f"{CLOUD_JPEG}: the model's inputs are no photographs")
        return ways, tuple(missing)

    def _cloud_only(self, name: str, payload_bytes: int) -> Way:
        whole = self.cloud.whole
        return Way(
            name=name,
            role="cloud-only",
            sends=f"the raw input as {name.removeprefix('cloud-only ')}",
            payload_bytes=payload_bytes,
            answer_bytes=self.answer_bytes,
            cloud=Part(whole.median_s, 0.0, whole),
        )


def _part(timing: Timing, energy: Energy) -> Part:
    return Part(timing.median_s, energy.energy_j, timing)


def _scaled(energy: Energy, seconds: float, timing: Timing) -> float | None:
    """Joules at the same power for another time."""
    if energy.energy_j is None or timing.median_s <= 0:
        return energy.energy_j
    return energy.energy_j * seconds / timing.median_s


def _interpolated(elements: int, sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Between the sizes that were timed; above the largest in proportion, below the smallest as that one."""
    beyond = max(1.0, elements / sizes[-1])
    return float(np.interp(elements, sizes, seconds)) * beyond
