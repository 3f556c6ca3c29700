"""Builds the `Report`, the plain data of report.json and report.html, from one measurement and its two profiles.

Numbers are taken over as they are, in SI units; what is derived here is differences and ratios of them. A ratio of
energies carries the provenance of its weaker half.
"""

from __future__ import annotations

from ..errors import ArtefactError
from ..partitioner.plan import Plan
from ..profiler.profile import LayerProfile, Profile, Provenance
from ..runtime.accuracy import NoiseAccuracy
from ..runtime.manifest import Leakage
from ..runtime.measurement import Measurement, Variant
from . import words
from .content import (
    AccuracySummary,
    Comparison,
    CutHalves,
    LayerRow,
    Measured,
    ModelSummary,
    Planned,
    Report,
    Side,
    Spread,
    Way,
)
from .provenance import notes

FROM_STRONG_TO_WEAK: tuple[Provenance, ...] = ("measured", "published", "modelled", "unavailable")


def summarise(
    measurement: Measurement, edge_profile: Profile, cloud_profile: Profile, leakage: Leakage | None = None
) -> Report:
    """Everything a report shows. Raises ArtefactError where the three files are not of one model."""
    plan, model = measurement.plan, measurement.plan.model
    for side, profile in (("edge", edge_profile), ("cloud", cloud_profile)):
        if profile.model.digest != model.digest:
            raise ArtefactError(
                f"the {side} profile is of {profile.model.name} ({profile.model.digest[7:19]}), the measurement of "
                f"{model.name} ({model.digest[7:19]}); give the profiles of the model that was measured"
            )
    return Report(
        headline=words.headline(measurement),
        noise_cost=words.noise_cost(measurement),
        warnings=(*words.warnings(measurement), *_profile_warnings(measurement, edge_profile, cloud_profile)),
        model=ModelSummary(
            name=model.name,
            digest=model.digest,
            parameters=model.parameters,
            flops=sum(layer.flops for layer in model.layers),
            input=model.input,
            output=model.output,
        ),
        bundle_id=measurement.bundle_id,
        measured_at=measurement.measured_at,
        elapsed_s=measurement.elapsed_s,
        requests=measurement.requests,
        converged=measurement.converged,
        edge_slowdown=measurement.edge_slowdown,
        cloud_load=plan.cloud_load,
        emulated_edge=measurement.edge_slowdown > 1,
        emulated_link=measurement.emulated_link,
        link_kind=words.link_kind(measurement),
        pause_s=measurement.pause_s,
        link=measurement.link,
        objective=plan.objective,
        choice=plan.choice,
        reason=plan.reason,
        planned=_planned(plan),
        missing_baselines=plan.missing_baselines,
        environment=measurement.environment,
        edge=_side(edge_profile),
        cloud=_side(cloud_profile),
        ways=tuple(_ways(measurement)),
        comparisons=tuple(_comparison(measurement, variant) for variant in words.baselines(measurement)),
        accuracy=_accuracy(measurement.accuracy),
        accuracy_missing=words.ACCURACY_MISSING if measurement.accuracy is None else None,
        leakage=leakage,
        cuts=tuple(_halves(edge_profile, cloud_profile)),
        layers=tuple(_layers(edge_profile, cloud_profile)),
        provenance=notes(measurement, edge_profile, cloud_profile),
    )


def _profile_warnings(measurement: Measurement, edge: Profile, cloud: Profile) -> list[str]:
    found = []
    for side, planned, profile in (("edge", measurement.plan.edge, edge), ("cloud", measurement.plan.cloud, cloud)):
        if planned.measured_at != profile.measured_at:
            found.append(
                f"The {side} profile shown is of {profile.measured_at}, the plan was made from one of "
                f"{planned.measured_at}."
            )
        if profile.pause_s != measurement.pause_s:
            found.append(
                f"The {side} profile paused {profile.pause_s * 1e3:g} ms between runs, the measurement "
                f"{measurement.pause_s * 1e3:g} ms: modelled and measured times are of differently busy processors."
            )
        if not profile.converged:
            found.append(
                f"The {side} profile ran out of time before it settled: its intervals are wider than asked for."
            )
    return found


def _planned(plan: Plan) -> Planned:
    return Planned(
        link=plan.link.model_copy(update={"samples": ()}),
        edge_slowdown=plan.edge_slowdown,
        idle_w=None if plan.edge.power is None else plan.edge.power.idle_w,
        weight_s_per_j=plan.weight_s_per_j,
        limits=plan.limits,
        risk=plan.risk,
        wire=plan.wire,
        best_share=plan.chosen.best_share,
        pareto=plan.pareto,
        changes=plan.changes,
        sweeps=plan.sweeps,
        candidates=plan.candidates,
    )


def _ways(measurement: Measurement) -> list[Way]:
    """All of the plan's rows in its order, with the measured way of the same name beside each."""
    plan = measurement.plan
    variants = {(variant.role, variant.predicted.name): variant for variant in measurement.variants}
    split = measurement.split.predicted
    return [
        Way(
            label=words.way(row.name, row.role),
            role=row.role,
            chosen=(row.role, row.name) == (split.role, split.name),
            modelled=row,
            modelled_energy_missing=words.energy_missing(row),
            measured=_measured(variants.get((row.role, row.name))),
        )
        for row in (*plan.cuts, *plan.baselines)
    ]


def _measured(variant: Variant | None) -> Measured | None:
    if variant is None:
        return None
    return Measured(
        latency=Spread.of(variant.latency),
        edge_s=variant.edge_s,
        add_s=variant.add_s,
        noise_s=variant.noise_s,
        wait_s=variant.wait_s,
        uplink_bytes=variant.uplink_bytes,
        downlink_bytes=variant.downlink_bytes,
        energy=variant.energy,
        wrong_answers=variant.wrong_answers,
        prediction_error=variant.predicted.total_s / variant.latency.median_s - 1,
    )


def _comparison(measurement: Measurement, baseline: Variant) -> Comparison:
    low, high = measurement.speedup_interval(baseline)
    mine, theirs = measurement.split.energy, baseline.energy
    # A ratio is only as good as its weaker half.
    weaker = max((mine, theirs), key=lambda energy: FROM_STRONG_TO_WEAK.index(energy.provenance))
    return Comparison(
        baseline=words.label(baseline),
        role=baseline.role,
        baseline_latency_s=baseline.latency.median_s,
        speedup=measurement.speedup(baseline),
        speedup_low=low,
        speedup_high=high,
        verdict=words.verdict(low, high),
        energy_ratio=measurement.energy_ratio(baseline),
        energy_provenance=weaker.provenance,
        energy_source=weaker.source,
    )


def _accuracy(accuracy: NoiseAccuracy | None) -> AccuracySummary | None:
    if accuracy is None:
        return None
    low, high = accuracy.loss_interval_points
    return AccuracySummary(
        data=accuracy.data,
        draws=accuracy.draws,
        without_noise=accuracy.without,
        without_noise_share=accuracy.without.value,
        with_noise=accuracy.with_noise,
        with_noise_share=accuracy.with_noise.value,
        loss_points=accuracy.loss_points,
        loss_low_points=low,
        loss_high_points=high,
    )


def _side(profile: Profile) -> Side:
    total = profile.layer_sum_s
    gap = None if total is None else total - profile.whole.median_s
    return Side(
        device=profile.device,
        backend=profile.backend,
        threads=profile.threads,
        provenance=profile.provenance,
        pause_s=profile.pause_s,
        environment=profile.environment,
        power=profile.power,
        measured_at=profile.measured_at,
        elapsed_s=profile.elapsed_s,
        converged=profile.converged,
        whole=Spread.of(profile.whole),
        whole_energy=profile.whole_energy,
        layers_seen=sum(layer.latency_s is not None for layer in profile.layers),
        layer_sum_s=total,
        layer_gap_s=gap,
        layer_gap_share=None if gap is None else gap / profile.whole.median_s,
    )


def _halves(edge: Profile, cloud: Profile) -> list[CutHalves]:
    suffixes = {cut.name: cut.suffix for cut in cloud.cuts}
    return [
        CutHalves(
            name=cut.name,
            payload_bytes=edge.model.cut(cut.name).size_bytes,
            edge_prefix=Spread.of(cut.prefix),
            edge_noise=Spread.of(cut.noise),
            edge_add=Spread.of(cut.add),
            edge_prefix_energy=cut.prefix_energy,
            cloud_suffix=Spread.of(suffixes[cut.name]) if cut.name in suffixes else None,
        )
        for cut in edge.cuts
    ]


def _layers(edge: Profile, cloud: Profile) -> list[LayerRow]:
    theirs: dict[str, LayerProfile] = {layer.name: layer for layer in cloud.layers}
    return [
        LayerRow(
            name=layer.name,
            kind=layer.kind,
            output_shape=layer.output_shape,
            parameters=layer.parameters,
            flops=layer.flops,
            edge_s=layer.latency_s,
            cloud_s=theirs[layer.name].latency_s if layer.name in theirs else None,
        )
        for layer in edge.layers
    ]
