"""How well are published latencies predicted? Fits the constants of profiler/predict.py and leaves figures out again.

Writes profiler/published/constants.json, and results/prediction_errors.json with every figure predicted with its
network left out of every set, with its whole architecture left out, and with its device left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fit_published import (
    Array,
    Group,
    Key,
    Point,
    Vectors,
    device_model,
    fit_all,
    gather,
    read_groups,
    to_constants,
    without,
)

from edgecut.artefacts import write_bytes
from edgecut.profiler import predict
from edgecut.profiler.constants import Calibrated, Calibration, Constants, RuntimeConstants
from edgecut.profiler.figures import folder

POOLED_AS = 4
"""A set's residuals are pooled with those of all sets, which count as this many."""
Z90 = 1.645


@dataclass(frozen=True)
class Row:
    """One figure's prediction, and the log of predicted over published."""

    key: Key
    point: Point
    predicted_s: float
    work_share: float

    @property
    def error(self) -> float:
        """log(predicted / published)."""
        return math.log(self.predicted_s / self.point.latency_s)


def rows(group: Group, constants: Constants, chosen: Callable[[Point], bool]) -> list[Row]:
    """The group's whole networks that are chosen, predicted."""
    seconds, share = group.seconds(constants)
    return [
        Row(group.key, point, float(s), float(w))
        for point, s, w in zip(group.points, seconds, share, strict=True)
        if not point.layer and chosen(point)
    ]


def itself(network: str) -> str:
    """Every network is its own family."""
    return network


def family(network: str) -> str:
    """All depths and widths of an architecture: `resnet_v1_50` and `resnet18` are `resnet`."""
    name = re.match("[a-z]+", network)
    assert name is not None
    return {"googlenet": "inception"}.get(name[0], name[0])


def leave_networks_out(
    groups: Sequence[Group], full: Vectors, label: Callable[[str], str] = itself, only: Collection[Key] = ()
) -> list[Row]:
    """Each network (or family) left out of every set, all fitted again, and what was left out predicted.

    `only` limits what is predicted. Runtimes share nothing but `ROOT`, so the other runtimes need no new fit.
    """
    wanted = [group for group in groups if not only or group.key in only]
    runtimes = {group.key[1] for group in wanted}
    members = [group for group in groups if group.key[1] in runtimes]
    labels = dict.fromkeys(label(point.network) for group in wanted for point in group.points if not point.layer)
    made = []
    for name in labels:

        def dropped(network: str, name: str = name) -> bool:
            return label(network) == name

        touched = {group.key[1] for group in members if any(dropped(point.network) for point in group.points)}
        left = [kept for g in members if g.key[1] in touched and (kept := without(g, dropped)) is not None]
        found = fit_all(left, {group.key: full[group.key] for group in left})
        for group in (group for group in wanted if group.key[1] in touched):
            vector = found.get(group.key, gather(found, group.key[1]))
            made += rows(group, to_constants(vector), lambda point: dropped(point.network))
    return made


def leave_devices_out(groups: Sequence[Group], full: Vectors) -> list[Row]:
    """Each device left out, its runtimes fitted again on their other devices, and all its figures predicted."""
    made = []
    for device in dict.fromkeys(device_model(group.key[0]) for group in groups):
        own = [group for group in groups if device_model(group.key[0]) == device]
        runtimes = {group.key[1] for group in own}
        others = [g for g in groups if g.key[1] in runtimes and device_model(g.key[0]) != device]
        found = fit_all(others, {group.key: full[group.key] for group in others})
        for group in own:
            if any(key[1] == group.key[1] for key in found):
                made += rows(group, to_constants(gather(found, group.key[1])), lambda _: True)
    return made


def half_width(errors: Sequence[float], pooled: float) -> float:
    """Half a 90 % interval on the log scale, from a set's left-out errors and the root mean square of all sets'."""
    square = sum(error**2 for error in errors) + POOLED_AS * pooled**2
    return Z90 * math.sqrt(square / (len(errors) + POOLED_AS))


def root_mean_square(errors: Iterable[float]) -> float:
    """Of log errors, each held to a factor of three, so that one odd figure does not widen every interval."""
    squares = [min(abs(error), math.log(3)) ** 2 for error in errors]
    return math.sqrt(sum(squares) / len(squares))


def calibrate(groups: Sequence[Group], full: Vectors, left: Sequence[Row], crossed: Sequence[Row]) -> Calibration:
    """The constants with their intervals, as they are shipped."""
    pooled, apart = (root_mean_square(row.error for row in found) for found in (left, crossed))
    devices = [
        Calibrated(
            device=group.key[0],
            runtime=group.key[1],
            benchmark=group.key[2],
            constants=_rounded(full[group.key]),
            half_width=round(half_width([row.error for row in left if row.key == group.key], pooled), 3),
            precisions=tuple(dict.fromkeys(point.precision for point in group.points)),
            batches=tuple(dict.fromkeys(point.batch for point in group.points if not point.layer)),
            figures=sum(not point.layer for point in group.points),
            sources=group.sources,
        )
        for group in groups
    ]
    runtimes = [
        RuntimeConstants(
            runtime=name,
            constants=_rounded(gather(full, name)),
            half_width=round(half_width([row.error for row in crossed if row.key[1] == name], apart), 3),
            devices=tuple(dict.fromkeys(device_model(group.key[0]) for group in groups if group.key[1] == name)),
        )
        for name in dict.fromkeys(group.key[1] for group in groups)
    ]
    return Calibration(devices=tuple(devices), runtimes=tuple(runtimes))


def _rounded(vector: Array) -> Constants:
    return Constants(**{name: float(f"{value:.4g}") for name, value in to_constants(vector).model_dump().items()})


Split = Callable[[Row], object]


def covered(found: Sequence[Row], apart: Split, pool: Split) -> list[bool]:
    """Whether each left-out figure lies in the interval that the errors of the rest give.

    The rest is what differs in `apart` (another network, another device), so that no figure sets its own interval."""
    made = []
    for row in found:
        others = [other for other in found if apart(other) != apart(row)]
        base = half_width(
            [other.error for other in others if pool(other) == pool(row)],
            root_mean_square(other.error for other in others),
        )
        made.append(abs(row.error) <= predict.half_width(base, 1 - row.work_share))
    return made


def summary(found: Sequence[Row], inside: Sequence[bool]) -> list[dict[str, Any]]:
    """One line a set and precision: how many figures, median and worst relative error, share inside the interval."""
    made: dict[tuple[Any, ...], list[tuple[float, bool]]] = {}
    for row, kept in zip(found, inside, strict=True):
        made.setdefault((*row.key, row.point.precision), []).append((relative(row), kept))
    return [
        {
            "device": key[0],
            "runtime": key[1],
            "benchmark": key[2],
            "precision": key[3],
            "figures": len(values),
            "median_error": round(float(np.median([error for error, _ in values])), 4),
            "worst_error": round(max(error for error, _ in values), 4),
            "covered": round(float(np.mean([kept for _, kept in values])), 4),
        }
        for key, values in sorted(made.items())
    ]


def relative(row: Row) -> float:
    """|predicted / published - 1|."""
    return abs(row.predicted_s / row.point.latency_s - 1)


def table(title: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of a summary."""
    head = [
        f"| {title} | runtime | precision | figures | median error | worst | inside the interval |",
        "|---" * 7 + "|",
    ]
    body = [
        f"| {line['device']}{' ' + line['benchmark'] if line['benchmark'] else ''} | {line['runtime']} "
        f"| {line['precision']} | {line['figures']} | {line['median_error']:.0%} | {line['worst_error']:.0%} "
        f"| {line['covered']:.0%} |"
        for line in lines
    ]
    return "\n".join(head + body)


SPLITS: dict[str, tuple[Split, Split]] = {
    "network left out": (lambda row: row.point.network, lambda row: row.key),
    "architecture left out": (lambda row: family(row.point.network), lambda row: row.key),
    "device left out": (lambda row: device_model(row.key[0]), lambda row: row.key[1]),
}
"""What is left out: what tells rows apart, and whose errors make an interval."""


def main() -> None:
    """Fit, leave out, and write the constants and the errors."""
    from machine import write_result

    groups = read_groups()
    full = fit_all(groups)
    left, kin = (leave_networks_out(groups, full, label) for label in (itself, family))
    crossed = leave_devices_out(groups, full)
    made = calibrate(groups, full, left, crossed)
    target = write_bytes(str(folder() / "constants.json"), (made.model_dump_json(indent=1) + "\n").encode())
    print(f"wrote {target}")
    result: dict[str, Any] = {}
    for (name, (apart, pool)), found in zip(SPLITS.items(), (left, kin, crossed), strict=True):
        inside = covered(found, apart, pool)
        errors = [relative(row) for row in found]
        total = {
            "figures": len(found),
            "median_error": round(float(np.median(errors)), 4),
            "worst_error": round(max(errors), 4),
            "covered": round(float(np.mean(inside)), 4),
        }
        result[name] = {"total": total, "sets": summary(found, inside), "figures": [_figure(row) for row in found]}
        print(f"\n{table(name, result[name]['sets'])}\n\n{total}")
    result["single layers, fitted"] = layer_summary(groups, full)
    print("\n".join(str(line) for line in result["single layers, fitted"]))
    write_result("prediction_errors", result)


def layer_summary(groups: Sequence[Group], full: Vectors) -> list[dict[str, Any]]:
    """How well single layers are met by the constants fitted to them, by device, precision and batch."""
    made = []
    for group in groups:
        seconds, _ = group.seconds(to_constants(full[group.key]))
        ratios: dict[tuple[str, int], list[float]] = {}
        for point, predicted_s in zip(group.points, seconds, strict=True):
            if point.layer:
                error = abs(float(predicted_s) / point.latency_s - 1)
                ratios.setdefault((point.precision, point.batch), []).append(error)
        for (precision, batch), errors in sorted(ratios.items()):
            line = {"device": group.key[0], "runtime": group.key[1], "precision": precision, "batch": batch}
            made.append({**line, "layers": len(errors), "median_error": round(float(np.median(errors)), 4)})
    return made


def _figure(row: Row) -> dict[str, Any]:
    return {
        "device": row.key[0],
        "runtime": row.key[1],
        "benchmark": row.key[2],
        "precision": row.point.precision,
        "batch": row.point.batch,
        "network": row.point.network,
        "published_ms": row.point.latency_s * 1e3,
        "predicted_ms": round(row.predicted_s * 1e3, 4),
        "work_share": round(row.work_share, 4),
    }


if __name__ == "__main__":
    main()
