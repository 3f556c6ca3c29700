"""Profiles written by hand: a chain of layers with times as given, so that every cost can be reckoned again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgecut.models.spec import CutSpec, LayerGraph, LayerSpec, ModelSpec, TensorSpec, Value
from edgecut.profiler.profile import CutProfile, Energy, Environment, LayerProfile, PowerModel, Profile, Timing

POWER = PowerModel(idle_w=1.0, max_w=5.0, source="a test")


def timing(median_s: float, spread: float = 0.0, samples: Sequence[float] = (), measured: bool = True) -> Timing:
    """A time whose interval is `spread` of it to either side."""
    return Timing(
        median_s=median_s,
        low_s=median_s / (1 + spread),
        high_s=median_s * (1 + spread),
        p95_s=median_s * (1 + spread),
        rounds=0,
        count=len(samples),
        utilisation=None,
        samples_s=tuple(samples),
        provenance="measured" if measured else "modelled",
    )


def chain(elements: Sequence[int], parameters: Sequence[int] | None = None) -> ModelSpec:
    """Layers one after the other; the cut after each but the last sends so many values."""
    tensors = [TensorSpec(name=f"t{place}", dtype="float32", shape=(size,)) for place, size in enumerate(elements)]
    names = [*(f"c{place}" for place in range(len(elements))), "last"]
    output = TensorSpec(name="answer", dtype="float32", shape=(10,))
    weights = [*(parameters or [100] * len(elements)), 100]
    layers = tuple(
        LayerSpec(name=name, kind="conv", operators=("Conv",), output=out, parameters=count, work=(), inner_bytes=64)
        for name, out, count in zip(names, [*tensors, output], weights, strict=True)
    )
    cuts = tuple(
        CutSpec(name=names[place], depth=place + 1, tensors=(tensor,), aligned=True)
        for place, tensor in enumerate(tensors)
    )
    source = TensorSpec(name="x", dtype="float32", shape=(64,))
    values = [Value(tensor=source, layer=None, consumers=(0,), sendable=True)]
    values += [
        Value(tensor=tensor, layer=place, consumers=(place + 1,), sendable=True) for place, tensor in enumerate(tensors)
    ]
    graph = LayerGraph(values=tuple(values), first=(0,), last=(len(elements),))
    return ModelSpec(
        name="chain",
        digest="sha256:" + "0" * 64,
        inputs=(source,),
        outputs=(output,),
        layers=layers,
        cuts=cuts,
        graph=graph,
    )


def by_hand(
    elements: Sequence[int],
    *,
    prefix: Sequence[Timing],
    suffix: Sequence[Timing],
    noise: Sequence[Timing] | None = None,
    add: Sequence[Timing] | None = None,
    whole: Timing | None = None,
    power: PowerModel | None = POWER,
    joules: Sequence[float] | None = None,
    parameters: Sequence[int] | None = None,
    **changes: Any,
) -> Profile:
    """A profile of a chain with just these times; energy is `joules`, or 3 W times the time."""
    nothing = [timing(0.0)] * len(elements)
    spec = chain(elements, parameters)

    def energy(seconds: float) -> Energy:
        if power is None:
            return Energy(energy_j=None, provenance="unavailable", source="")
        return Energy(energy_j=3.0 * seconds, provenance="modelled", source="")

    cuts = []
    for place, cut in enumerate(spec.cuts):
        noise_timing = (noise or nothing)[place]
        spent = energy(prefix[place].median_s)
        cuts.append(
            CutProfile(
                name=cut.name,
                prefix=prefix[place],
                suffix=suffix[place],
                noise=noise_timing,
                add=(add or nothing)[place],
                prefix_energy=spent if joules is None else spent.model_copy(update={"energy_j": joules[place]}),
                suffix_energy=energy(suffix[place].median_s),
                noise_energy=energy(noise_timing.median_s),
            )
        )
    all_of_it = whole or timing(prefix[-1].median_s + suffix[-1].median_s)
    made = Profile(
        model=spec,
        device="hand",
        backend="none",
        provenance=prefix[0].provenance,
        threads=1,
        pause_s=0.0,
        environment=Environment(processor="none"),
        power=power,
        whole=all_of_it,
        whole_energy=energy(all_of_it.median_s),
        layers=tuple(LayerProfile.of(layer, all_of_it.median_s / len(spec.layers)) for layer in spec.layers),
        cuts=tuple(cuts),
        converged=True,
        elapsed_s=0.0,
        measured_at="2026-11-22T10:00:00+00:00",
    )
    return made.model_copy(update=changes)


@pytest.fixture(scope="session")
def hand_made() -> Callable[..., Profile]:
    """`by_hand`."""
    return by_hand


@pytest.fixture(scope="session")
def timed() -> Callable[..., Timing]:
    """`timing`."""
    return timing
