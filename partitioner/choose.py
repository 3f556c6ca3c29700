"""`edgecut plan`: cost every cut of two profiles over a link, and choose the cheapest split that keeps to the limits.

Running everything on the edge, or sending the raw input, is never chosen: the first gives the model away to the
device, the second the data to the cloud. Both stand beside the splits as baselines. Cuts whose halves were timed go
before cuts that are known from layer times only; of those, the ones that could be cheaper are named to be timed next.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from ..errors import ArtefactError, EdgecutError, ModelError, unknown
from ..models.spec import CutSpec
from ..profiler.profile import Profile
from . import explain
from .cost import Circumstances, Way, amounts, cost
from .limits import breaches, breaks_anywhere, check_leakage, infeasible, stated
from .link import Link, load_link
from .noises import Given, planned_noises
from .pareto import front
from .plan import CutCost, Device, Limits, Objective, Plan, Quantity, Risk, Serving, Wire
from .ranking import Aim, Ranking
from .risk import Spread, summary
from .serving import SERVING
from .sweep import check_range, sweep
from .ways import Ways

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
RISKS: tuple[Risk, ...] = get_args(Risk)
WIRES: tuple[Wire, ...] = get_args(Wire)
MOST_SLOWER = 1e9
CANDIDATES = 8
"""Cuts named to be timed next, at most."""
CANDIDATES_UNDER_LIMITS = 64
"""What a limit rules out is known only after the search for cheap cuts, so that it has to find more of them."""


def plan(
    edge: Profile | str | os.PathLike[str],
    cloud: Profile | str | os.PathLike[str],
    *,
    link: Link | str | os.PathLike[str] = "wifi",
    objective: str = "latency",
    weight_s_per_j: float | None = None,
    limits: Limits | None = None,
    risk: str = "median",
    leakage: Mapping[str, float] | None = None,
    wire: str = "float32",
    sweeps: Sequence[tuple[Quantity, float, float]] = (),
    edge_slowdown: float = 1.0,
    cloud_load: float = 1.0,
    jpeg_bytes: int | None = None,
    consider: Iterable[CutSpec] = (),
    noises: Sequence[Given] = (),
    serving: Serving = SERVING,
    output: str | os.PathLike[str] | None = None,
) -> Plan:
    """Choose the cut that costs least and return the Plan, also written to `output` where given.

    `edge_slowdown` multiplies all edge times (and with them the edge's energy), `cloud_load` the cloud's. `leakage` is
    bits by cut, `sweeps` are (quantity, low, high) in bit/s, seconds or factors, `jpeg_bytes` is the mean size of an
    input as JPEG, for models that take photographs, and `consider` are cuts to cost even if nothing timed them.
    `noises` are mechanisms fitted at some of the cuts, or their files: there the values that they send are counted, but
    not what their maps take to compute. Raises ArtefactError for profiles of two models and for noise of another one,
    LinkError for an unknown link, InfeasibleError where no cut keeps to the limits, EdgecutError for what cannot be
    computed.
    """
    edge_profile, cloud_profile = _profile(edge), _profile(cloud)
    chosen_link = load_link(link)
    aim = _aim(objective, weight_s_per_j, limits or Limits(), risk)
    if wire not in WIRES:
        raise EdgecutError(unknown("wire format", wire, WIRES))
    _check_factors(edge_slowdown, cloud_load, jpeg_bytes)
    for quantity, low, high in sweeps:
        check_range(quantity, low, high)
    _same_model(edge_profile, cloud_profile)
    bits = check_leakage(leakage or {}, "the leakage given")
    considered = tuple(consider)
    cuts = {cut.name: cut for cut in (*considered, *cloud_profile.model.cuts, *edge_profile.model.cuts)}
    planned = planned_noises(noises, edge_profile.model.digest, cuts)
    ways = Ways(edge_profile, cloud_profile, "int8" if wire == "int8" else "float32", bits, planned)
    under = Circumstances.of(chosen_link, serving, edge_profile.power, edge_slowdown, cloud_load)
    ranking = Ranking(aim, under, Spread(chosen_link))
    with_noise = tuple(cuts[noise.cut] for noise in planned if noise.cut in cuts)
    chosen = _Choice(ranking, ways, (*considered, *with_noise), chosen_link)
    baselines, missing = ways.baselines(jpeg_bytes)
    rows, beside = chosen.rows(), tuple(_row(ranking, way) for way in baselines)
    best = next(row for row in rows if row.name == chosen.best.name)
    scores = {way.name: score for way in (*chosen.shown, *baselines) if (score := ranking.score(way)) is not None}
    made = Plan(
        model=edge_profile.model.model_copy(update={"cuts": chosen.cuts}),
        link=chosen_link,
        serving=serving,
        objective=aim.objective,
        edge=_device(edge_profile),
        cloud=_device(cloud_profile),
        edge_slowdown=edge_slowdown,
        cloud_load=cloud_load,
        cuts=rows,
        baselines=beside,
        missing_baselines=missing,
        choice=best.name,
        reason=explain.reason(best, rows, beside, scores, aim),
        weight_s_per_j=weight_s_per_j,
        limits=aim.limits,
        risk=aim.risk,
        wire=ways.wire,
        pareto=front([row for row in rows if row.basis == best.basis and not row.broken]),
        changes=explain.changes(ranking, chosen.peers, best.name),
        sweeps=tuple(sweep(ranking, chosen.peers, *asked) for asked in sweeps),
        candidates=chosen.candidates,
        jpeg_bytes=jpeg_bytes,
        noises=planned,
    )
    if output is not None:
        made.save(output)
    return made


def _profile(given: Profile | str | os.PathLike[str]) -> Profile:
    return given if isinstance(given, Profile) else Profile.load(given)


def _aim(objective: str, weight_s_per_j: float | None, limits: Limits, risk: str) -> Aim:
    for what, given, known in (("objective", objective, OBJECTIVES), ("measure of risk", risk, RISKS)):
        if given not in known:
            raise EdgecutError(unknown(what, given, known))
    if (objective == "weighted") != (weight_s_per_j is not None):
        raise EdgecutError("a weight in seconds per joule belongs to --objective weighted, and to no other; give both")
    if weight_s_per_j is not None and not 0 <= weight_s_per_j < math.inf:
        raise EdgecutError(f"a weight of {weight_s_per_j} s/J cannot be; give a finite number of at least 0")
    return Aim(
        next(name for name in OBJECTIVES if name == objective),
        weight_s_per_j,
        limits,
        next(name for name in RISKS if name == risk),
    )


def _check_factors(edge_slowdown: float, cloud_load: float, jpeg_bytes: int | None) -> None:
    if not (1 <= edge_slowdown <= MOST_SLOWER and 1 <= cloud_load <= MOST_SLOWER):
        raise EdgecutError(
            f"the edge slow-down and the cloud load are factors of at least 1 and at most {MOST_SLOWER:g}"
        )
    if jpeg_bytes is not None and jpeg_bytes < 1:
        raise EdgecutError(f"an input of {jpeg_bytes} bytes as JPEG cannot be; give the mean size, or leave it out")


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


@dataclass(frozen=True)
class _Scored:
    """A cut as a way to run the model, its objective, and the limits it breaks."""

    cut: CutSpec
    way: Way
    score: float
    broken: tuple[str, ...]


class _Choice:
    """All cuts in question, and the best of them.

    `peers` are the cuts that the best one was compared with: known from timings, or else from layer times.
    """

    def __init__(self, ranking: Ranking, ways: Ways, consider: tuple[CutSpec, ...], link: Link) -> None:
        self.ranking, self.ways = ranking, ways
        timed = ways.timed()
        names = {cut.name for cut, _ in timed}
        wanted = {cut.name for cut in consider if cut.name not in names}
        if not timed and ways.edge.cuts and ways.cloud.cuts and not wanted:
            raise ArtefactError(
                "the two profiles have no cut in common; profile both sides with the same --any-cut setting"
            )
        untimed = self._shortlist(self._find(names, consider, link), wanted)
        if not timed and not untimed:
            raise ArtefactError(f"{ways.model.name} has no legal cut, so there is nothing to plan; see --any-cut")
        self._check_leakage([cut.name for cut, _ in (*timed, *untimed)])
        self._timed = [self._scored(cut, way) for cut, way in timed]
        self._untimed = sorted((self._scored(cut, way) for cut, way in untimed), key=lambda one: one.score)
        pool = next((some for some in (self._timed, self._untimed) if any(not one.broken for one in some)), None)
        if pool is None:
            raise infeasible([ranking.measured(one.way) for one in (*self._timed, *self._untimed)], ranking.aim.limits)
        best = min((one for one in pool if not one.broken), key=lambda one: one.score)
        self.best = best.way
        kept = [one for one in self._untimed if not one.broken and (pool is self._untimed or one.score < best.score)]
        self.candidates = tuple(one.cut.name for one in kept[:CANDIDATES])
        listed = [one for one in self._untimed if one.cut.name in {*self.candidates, *wanted}]
        self._listed = [*self._timed, *listed]
        self.peers = [one.way for one in (listed if pool is self._untimed else self._timed)]

    @property
    def shown(self) -> list[Way]:
        """The cuts that the plan lists."""
        return [one.way for one in self._listed]

    @property
    def cuts(self) -> tuple[CutSpec, ...]:
        """The model's cuts with those that are listed beside."""
        known = self.ways.model.cuts
        names = {cut.name for cut in known}
        return (*known, *(one.cut for one in self._listed if one.cut.name not in names))

    def rows(self) -> tuple[CutCost, ...]:
        """The cost of every cut that the plan lists."""
        # How far sums of layer times are off is not known, so nothing is said of how likely they are right.
        running = [one.way for one in self._timed if not one.broken and self.best.basis == "sub-models"]
        shares = self.ranking.shares(running)
        return tuple(
            _row(self.ranking, one.way, broken=one.broken, best_share=shares.get(one.cut.name)) for one in self._listed
        )

    def _find(self, timed: set[str], consider: tuple[CutSpec, ...], link: Link) -> list[tuple[CutSpec, Way]]:
        """Cuts that nothing timed on both sides: the cheapest by layer times; if need be, all that the model lists."""

        def ways_of(cuts: Iterable[CutSpec]) -> list[tuple[CutSpec, Way]]:
            unique = {cut.name: cut for cut in cuts if cut.name not in timed}
            return [(cut, self.ways.untimed(cut)) for cut in unique.values()]

        found = ways_of([*consider, *self._search(link)])
        if not timed and all(breaks_anywhere(way, self.ranking.aim.limits) for _, way in found):
            known = {cut.name for cut, _ in found}
            found += ways_of(cut for cut in self.ways.model.cuts if cut.name not in known)
        return found

    def _search(self, link: Link) -> list[CutSpec]:
        from .candidates import candidates

        ways, aim, under = self.ways, self.ranking.aim, self.ranking.under
        if ways.model.graph is None:
            return []
        return candidates(
            ways.edge,
            ways.cloud,
            link,
            objective=aim.objective,
            weight_s_per_j=aim.weight_s_per_j or 0.0,
            wire=ways.wire,
            edge_slowdown=float(under.edge_slowdown),
            cloud_load=float(under.cloud_load),
            serving=under.serving,
            k=CANDIDATES_UNDER_LIMITS if stated(aim.limits) else CANDIDATES,
        )

    def _shortlist(self, untimed: list[tuple[CutSpec, Way]], wanted: set[str]) -> list[tuple[CutSpec, Way]]:
        """The cheapest with every part at its median that keep to what no link can change; all where none keeps."""
        aim = self.ranking.aim
        kept = [one for one in untimed if one[0].name in wanted or not breaks_anywhere(one[1], aim.limits)]
        if len(kept) <= CANDIDATES_UNDER_LIMITS:
            return kept or untimed
        costs = {way.name: aim.value(amounts(way, self.ranking.under)) for _, way in kept}
        kept.sort(key=lambda one: (one[0].name not in wanted, costs[one[0].name] or 0.0))
        return kept[:CANDIDATES_UNDER_LIMITS]

    def _check_leakage(self, known: Sequence[str]) -> None:
        names = {*known, *(cut.name for cut in self.ways.model.cuts)}
        for name in self.ways.leakage:
            if name not in names:
                raise ModelError(unknown(f"cut of model {self.ways.model.name} with a leakage figure", name, names))

    def _scored(self, cut: CutSpec, way: Way) -> _Scored:
        aim, found = self.ranking.aim, self.ranking.measured(way)
        score = self.ranking.score(way)
        if score is None or (aim.needs_energy and found.energy_j is None):
            doing = "minimised" if aim.objective != "latency" else "limited"
            raise EdgecutError(
                f"energy cannot be {doing} because it is unavailable in the edge profile or the link; profile the "
                "edge with --power-idle-w and --power-max-w, or choose --objective latency"
            )
        return _Scored(cut, way, score, breaches(found, aim.limits))


def _row(ranking: Ranking, way: Way, broken: tuple[str, ...] = (), best_share: float | None = None) -> CutCost:
    """A way's cost, and how it spreads from request to request."""
    seconds = ranking.requests(way).total_s
    return cost(way, ranking.under).model_copy(
        update={
            "mean_s": float(summary(seconds, "mean")),
            "p95_s": float(summary(seconds, "p95")),
            "broken": broken,
            "best_share": best_share,
        }
    )
