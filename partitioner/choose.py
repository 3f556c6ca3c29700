"""`edgecut plan`: cost every cut of two profiles over a link, and choose the cheapest split.

Running everything on the edge, or sending the raw input, is never chosen: the first gives the model away to the
device, the second the data to the cloud. Both stand beside the splits as baselines.
"""

from __future__ import annotations

import math
import os

from ..errors import ArtefactError, EdgecutError, unknown
from ..profiler.profile import CutProfile, Energy, Profile
from .cost import cost
from .link import Link, load_link
from .plan import CutCost, Device, Objective, Plan, Serving
from .serving import SERVING

OBJECTIVES: tuple[Objective, ...] = ("latency", "energy")
EDGE_ONLY, CLOUD_FLOAT32, CLOUD_UINT8, CLOUD_JPEG = (
    "edge-only",
    "cloud-only float32",
    "cloud-only uint8",
    "cloud-only JPEG",
)


def plan(
    edge: Profile | str | os.PathLike[str],
    cloud: Profile | str | os.PathLike[str],
    *,
    link: Link | str | os.PathLike[str] = "wifi",
    objective: str = "latency",
    edge_slowdown: float = 1.0,
    cloud_load: float = 1.0,
    jpeg_bytes: int | None = None,
    serving: Serving = SERVING,
    output: str | os.PathLike[str] | None = None,
) -> Plan:
    """Choose the cut that costs least and return the Plan, also written to `output` where given.

    `edge_slowdown` multiplies all edge times (and with them the edge's energy), `cloud_load` the cloud's.
    `jpeg_bytes` is the mean size of an input as JPEG, for models that take photographs. Raises ArtefactError for
    profiles of two models, LinkError for an unknown link, EdgecutError for an objective that cannot be computed.
    """
    edge_profile, cloud_profile = _profile(edge), _profile(cloud)
    chosen_link = load_link(link)
    if objective not in OBJECTIVES:
        raise EdgecutError(unknown("objective", objective, OBJECTIVES))
    if not (1 <= edge_slowdown < math.inf and 1 <= cloud_load < math.inf):
        raise EdgecutError("the edge slow-down and the cloud load are factors of at least 1")
    if jpeg_bytes is not None and jpeg_bytes < 1:
        raise EdgecutError(f"an input of {jpeg_bytes} bytes as JPEG cannot be; give the mean size, or leave it out")
    _same_model(edge_profile, cloud_profile)
    coster = _Coster(edge_profile, cloud_profile, chosen_link, serving, edge_slowdown, cloud_load)
    cuts = tuple(coster.split(cut) for cut in edge_profile.cuts if any(c.name == cut.name for c in cloud_profile.cuts))
    if not edge_profile.cuts:
        raise ArtefactError(f"{edge_profile.model.name} has no legal cut, so there is nothing to plan; see --any-cut")
    if not cuts:
        raise ArtefactError(
            "the two profiles have no cut in common; profile both sides with the same --any-cut setting"
        )
    baselines, missing = coster.baselines(jpeg_bytes)
    best = _cheapest(cuts, "energy" if objective == "energy" else "latency")
    made = Plan(
        model=edge_profile.model,
        link=chosen_link,
        serving=serving,
        objective="energy" if objective == "energy" else "latency",
        edge=_device(edge_profile),
        cloud=_device(cloud_profile),
        edge_slowdown=edge_slowdown,
        cloud_load=cloud_load,
        cuts=cuts,
        baselines=baselines,
        missing_baselines=missing,
        choice=best.name,
        reason=_reason(best, cuts, baselines, objective),
    )
    if output is not None:
        made.save(output)
    return made


def _profile(given: Profile | str | os.PathLike[str]) -> Profile:
    return given if isinstance(given, Profile) else Profile.load(given)


def _same_model(edge: Profile, cloud: Profile) -> None:
    if edge.model.digest != cloud.model.digest:
        raise ArtefactError(
            f"the edge profile is of {edge.model.name} ({edge.model.digest[7:19]}), the cloud profile of "
            f"{cloud.model.name} ({cloud.model.digest[7:19]}); profile the same model file on both"
        )


def _device(profile: Profile) -> Device:
    return Device(
        device=profile.device,
        backend=profile.backend,
        processor=profile.environment.processor,
        threads=profile.threads,
        measured_at=profile.measured_at,
        power=profile.power,
        provenance=profile.provenance,
    )


class _Coster:
    """The two profiles and the link, and how each way to run the model is costed on them."""

    def __init__(
        self, edge: Profile, cloud: Profile, link: Link, serving: Serving, slowdown: float, load: float
    ) -> None:
        self.edge, self.cloud, self.link, self.serving = edge, cloud, link, serving
        self.slowdown, self.load = slowdown, load
        self.answer_bytes = sum(tensor.size_bytes for tensor in edge.model.outputs)

    def slowed(self, energy: Energy) -> Energy:
        """The same power for a longer time."""
        return energy.model_copy(
            update={"energy_j": None if energy.energy_j is None else energy.energy_j * self.slowdown}
        )

    def split(self, cut: CutProfile) -> CutCost:
        spec = self.edge.model.cut(cut.name)
        return cost(
            name=cut.name,
            role="split",
            sends=" + ".join(f"{t.dtype} {'x'.join(map(str, t.shape))}" for t in spec.tensors),
            payload_bytes=spec.size_bytes,
            answer_bytes=self.answer_bytes,
            edge_s=cut.prefix.median_s * self.slowdown,
            noise_s=cut.noise.median_s * self.slowdown,
            add_s=cut.add.median_s * self.slowdown,
            cloud_s=self.cloud.cut(cut.name).suffix.median_s * self.load,
            edge_energy=(self.slowed(cut.prefix_energy), self.slowed(cut.noise_energy)),
            link=self.link,
            serving=self.serving,
            power=self.edge.power,
        )

    def baselines(self, jpeg_bytes: int | None) -> tuple[tuple[CutCost, ...], tuple[str, ...]]:
        """Edge-only, and cloud-only with each form of the input that exists; and why the others do not."""
        inputs = self.edge.model.inputs
        native = sum(tensor.size_bytes for tensor in inputs)
        elements = sum(tensor.elements for tensor in inputs)
        rows, missing = [self._edge_only(), self._cloud_only(CLOUD_FLOAT32, native)], []
        if self.edge.model.pixels is None:
            missing.append(f"{CLOUD_UINT8}: the model does not say how pixels become its input")
        else:
            rows.append(self._cloud_only(CLOUD_UINT8, elements))
        if jpeg_bytes is not None:
            rows.append(self._cloud_only(CLOUD_JPEG, jpeg_bytes))
        elif self.edge.model.pixels is None or self.edge.model.pixels.photograph:
            missing.append(f"{CLOUD_JPEG}: give the mean size of an input as JPEG (--jpeg-bytes)")
        else:
            missing.append(f"{CLOUD_JPEG}: the model's inputs are no photographs")
        return tuple(rows), tuple(missing)

    def _edge_only(self) -> CutCost:
        return cost(
            name=EDGE_ONLY,
            role="edge-only",
            sends="nothing",
            payload_bytes=0,
            answer_bytes=0,
            edge_s=self.edge.whole.median_s * self.slowdown,
            noise_s=0.0,
            add_s=0.0,
            cloud_s=0.0,
            edge_energy=(self.slowed(self.edge.whole_energy),),
            link=self.link,
            serving=self.serving,
            power=self.edge.power,
        )

    def _cloud_only(self, name: str, payload_bytes: int) -> CutCost:
        return cost(
            name=name,
            role="cloud-only",
            sends=f"the raw input as {name.removeprefix('cloud-only ')}",
            payload_bytes=payload_bytes,
            answer_bytes=self.answer_bytes,
            edge_s=0.0,
            noise_s=0.0,
            add_s=0.0,
            cloud_s=self.cloud.whole.median_s * self.load,
            edge_energy=(),
            link=self.link,
            serving=self.serving,
            power=self.edge.power,
        )


def _cheapest(cuts: tuple[CutCost, ...], objective: Objective) -> CutCost:
    if objective == "latency":
        return min(cuts, key=lambda row: row.total_s)
    if any(row.energy_j is None for row in cuts):
        raise EdgecutError(
            "energy cannot be minimised because it is unavailable in the edge profile or the link; profile the edge "
            "with --power-idle-w and --power-max-w, or choose --objective latency"
        )
    return min(cuts, key=lambda row: row.energy_j or 0.0)


def _reason(best: CutCost, cuts: tuple[CutCost, ...], baselines: tuple[CutCost, ...], objective: str) -> str:
    """Why this cut, in a sentence, and plainly where a baseline is faster, or needs less energy."""
    energy = objective == "energy"
    costs = {row.name: row.energy_j if energy else row.total_s for row in (*baselines, *cuts)}
    known = {name: value for name, value in costs.items() if value is not None}
    said = {name: f"{value * 1e3:.2f} {'mJ' if energy else 'ms'}" for name, value in known.items()}
    others = sorted((row.name for row in cuts if row is not best), key=lambda name: known[name])
    second = f", against {said[others[0]]} after {others[0]}" if others else ""
    compared = ", ".join(f"{row.name} {said.get(row.name, 'unknown')}" for row in baselines)
    better = [row.name for row in baselines if row.name in known and known[row.name] < known[best.name]]
    would = "would need less" if energy else "would be faster"
    verdict = f"; {' and '.join(better)} {would}" if better else "; it beats them all"
    total = f"{said[best.name]} in {best.total_s * 1e3:.2f} ms" if energy else said[best.name]
    return (
        f"The split with the least {objective} is after {best.name}: {total}, of which "
        f"{best.edge_s * 1e3:.2f} on the edge, {best.link_s * 1e3:.2f} on the link and "
        f"{best.cloud_s * 1e3:.2f} in the cloud{second}. Without a split: {compared}{verdict}."
    )
