"""Fitting the constants of profiler/predict.py to published latencies; benchmarks/calibrate_published.py runs it.

Least squares on log errors, robust (soft L1). Every constant has a prior: a device's are drawn to those of its runtime
on other devices, these to `ROOT`. So few figures cannot bend many constants.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from edgecut.models.work import Operation
from edgecut.profiler import predict
from edgecut.profiler.constants import Constants
from edgecut.profiler.description import load_device
from edgecut.profiler.figures import Anchor, anchors, networks, published_layers, published_sets

Array = NDArray[np.float64]
Key = tuple[str, str, str]

ROOT = Constants(
    winograd=0.5,
    spatial=0.5,
    pointwise=0.4,
    depthwise=0.05,
    bandwidth=0.7,
    stream=0.7,
    fill=2.0,
    overhead=1.5,
    host=5.0,
    copy_share=0.01,
    gain=0.7,
    depthwise_gain=0.5,
)
"""Where all constants are drawn to: round numbers, chosen before any fit."""
SPREAD = {
    "winograd": 0.3,
    "spatial": 0.3,
    "pointwise": 0.3,
    "depthwise": 1.0,
    "bandwidth": 0.5,
    "stream": 0.5,
    "fill": 0.5,
}
SPREAD |= {"overhead": 0.5, "host": 0.7, "copy_share": 0.7, "gain": 0.7, "depthwise_gain": 0.7}
"""How far devices lie apart under one runtime, on the log or logit scale; runtimes lie twice as far from `ROOT`."""
NAMES = tuple(SPREAD)
SHARES = ("bandwidth", "stream", "gain", "depthwise_gain")
NOISE = 0.1
"""Standard deviation of a good figure's log."""
LAYER_NOISE = 0.3
LAYERS_COUNT_AS = 4
"""All single layers of a set together weigh as much as this many whole networks."""
ROUNDS = 3


@dataclass(frozen=True)
class Point:
    """One published latency."""

    network: str
    precision: str
    batch: int
    copies: str
    latency_s: float
    layer: bool = False


@dataclass(frozen=True)
class Group:
    """All figures of one device under one runtime and benchmark, with the rows of work of all their operations."""

    key: Key
    sources: tuple[str, ...]
    points: tuple[Point, ...]
    hardware: predict.Rates
    work: predict.Work
    owner: NDArray[np.int64]
    launches: Array
    moved: Array
    copied: Array
    logs: Array
    anchors: tuple[Anchor, ...]

    def seconds(self, constants: Constants) -> tuple[Array, Array]:
        """Predicted seconds of every point, and the share of the time that is work."""
        each = predict.work_seconds(self.work, self.hardware, constants)
        work = np.bincount(self.owner, weights=each, minlength=len(self.points))
        rest = self.launches * predict.overhead_seconds(self.hardware, constants)
        host = predict.host_seconds(self.moved, self.copied, self.hardware, constants)
        whole = np.array([not point.layer for point in self.points])
        total = work + rest + np.where(whole, host, 0.0)
        return total, work / total


def read_groups() -> list[Group]:
    """Everything that was published, by device, runtime and benchmark."""
    tables = networks()
    found: dict[Key, list[tuple[Point, list[Operation]]]] = {}
    sources: dict[Key, list[str]] = {}
    for entry in published_sets():
        key = (load_device(entry.device).reference, entry.runtime, entry.benchmark)
        sources.setdefault(key, []).append(entry.source)
        for precision, latencies in entry.latency_ms.items():
            for network, latency_ms in latencies.items():
                point = Point(network, precision, entry.batch, entry.copies, latency_ms * 1e-3)
                found.setdefault(key, []).append((point, list(tables[network].values())))
    for row in published_layers():
        key = (load_device(row.device).reference, row.runtime, "")
        point = Point(row.network, row.precision, row.batch, "excluded", row.latency_ms * 1e-3, layer=True)
        found[key].append((point, [tables[row.network][row.layer]]))
    return [_group(key, tuple(dict.fromkeys(sources[key])), entries) for key, entries in found.items()]


def _group(key: Key, sources: tuple[str, ...], entries: Sequence[tuple[Point, list[Operation]]]) -> Group:
    device, runtime, _ = key
    fuses = predict.find_runtime(runtime).fuses
    parts, hardware = [], []
    for point, operations in entries:
        parts.append(predict.columns(operations, fuses, point.batch))
        hardware.append(predict.rates(load_device(device), runtime, point.precision))
    lengths = [len(part.flops) for part in parts]
    names = [field.name for field in dataclasses.fields(predict.Work)]
    points = tuple(point for point, _ in entries)
    ends = [operations[0].input_elements + operations[-1].output_elements for _, operations in entries]
    return Group(
        key=key,
        sources=sources,
        points=points,
        hardware=dataclasses.replace(
            hardware[0],
            peak_flops=np.repeat([each.peak_flops for each in hardware], lengths),
            value_bytes=np.repeat([each.value_bytes for each in hardware], lengths),
        ),
        work=predict.Work(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}),
        owner=np.repeat(np.arange(len(parts)), lengths),
        launches=np.array([part.launches.sum() for part in parts]),
        moved=np.array([float(end * point.batch) for end, point in zip(ends, points, strict=True)]),
        copied=np.array([predict.COPIED[point.copies] for point in points]),
        logs=np.log([point.latency_s for point in points]),
        anchors=tuple(each for each in anchors() if (each.device, each.runtime, "") == key),
    )


def without(group: Group, dropped: Callable[[str], bool]) -> Group | None:
    """The group without the networks that are dropped, or None where no whole network is left."""
    keep = np.array([not dropped(point.network) for point in group.points])
    if keep.all():
        return group
    if not any(not point.layer for point, kept in zip(group.points, keep, strict=True) if kept):
        return None
    rows = keep[group.owner]
    number = np.cumsum(keep) - 1
    columns = {field.name: getattr(group.work, field.name)[rows] for field in dataclasses.fields(predict.Work)}
    hardware = dataclasses.replace(
        group.hardware,
        peak_flops=np.asarray(group.hardware.peak_flops)[rows],
        value_bytes=np.asarray(group.hardware.value_bytes)[rows],
    )
    return dataclasses.replace(
        group,
        points=tuple(point for point, kept in zip(group.points, keep, strict=True) if kept),
        hardware=hardware,
        work=predict.Work(**columns),
        owner=number[group.owner[rows]],
        launches=group.launches[keep],
        moved=group.moved[keep],
        copied=group.copied[keep],
        logs=group.logs[keep],
    )


def to_vector(constants: Constants) -> Array:
    """The constants without bounds: logits of shares, logs of the rest."""
    values = ((name, getattr(constants, name)) for name in NAMES)
    return np.array([math.log(v / (1 - v)) if name in SHARES else math.log(v) for name, v in values])


def to_constants(vector: Iterable[float]) -> Constants:
    """The inverse of `to_vector`."""
    pairs = zip(NAMES, vector, strict=True)
    return Constants(**{name: 1 / (1 + math.exp(-v)) if name in SHARES else math.exp(v) for name, v in pairs})


SPREADS = np.array([SPREAD[name] for name in NAMES])
ROOT_VECTOR = to_vector(ROOT)


def fit(group: Group, prior: Array, start: Array) -> Array:
    """The group's constants, drawn to `prior`."""
    layer = np.array([point.layer for point in group.points])
    noise = np.where(layer, LAYER_NOISE * math.sqrt(max(1, layer.sum()) / LAYERS_COUNT_AS), NOISE)

    def residuals(vector: Array) -> Array:
        constants = to_constants(vector)
        errors = (np.log(group.seconds(constants)[0]) - group.logs) / noise
        # Soft L1 by hand, so that the prior's residuals stay quadratic.
        robust = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        held = [math.log(getattr(constants, each.constant) / each.value) / each.doubt for each in group.anchors]
        return np.concatenate([robust, (vector - prior) / SPREADS, held])

    return least_squares(residuals, start, max_nfev=30, ftol=1e-6, xtol=1e-6).x


Vectors = dict[Key, Array]


def fit_all(groups: Sequence[Group], start: Vectors | None = None) -> Vectors:
    """Every group's constants: fit, gather per runtime, fit again."""
    found: Vectors = dict(start or {})
    for _ in range(ROUNDS):
        priors = {group.key[1]: gather(found, group.key[1]) for group in groups}
        found = {g.key: fit(g, priors[g.key[1]], found.get(g.key, priors[g.key[1]])) for g in groups}
    return found


def gather(found: Mapping[Key, Array], runtime: str) -> Array:
    """The mean of a runtime over its devices, drawn to the root."""
    members = [vector for (_, name, _), vector in found.items() if name == runtime]
    weight = 4 * len(members)  # a runtime lies twice as far from the root as a device from the runtime
    return (ROOT_VECTOR + 4 * sum(members, np.zeros(len(NAMES)))) / (1 + weight)


def device_model(device: str) -> str:
    """The device without its mode."""
    return device.partition(":")[0]
