"""The command that costs every cut over a link and chooses one: `edgecut plan`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Json, Slowdown, show
from .errors import EdgecutError
from .terminal import say

app = typer.Typer()


class Objective(StrEnum):
    """What a plan minimises."""

    latency = "latency"
    energy = "energy"
    weighted = "weighted"
    edp = "edp"


class Risk(StrEnum):
    """Which figure of the measured spread a plan goes by."""

    median = "median"
    mean = "mean"
    p95 = "p95"


class Wire(StrEnum):
    """How activations cross."""

    float32 = "float32"
    int8 = "int8"


@app.command()
def plan(
    edge: Annotated[Path, typer.Argument(help="The edge device's profile.")],
    cloud: Annotated[Path, typer.Argument(help="The cloud's profile of the same model.")],
    link: Annotated[str, typer.Option(help="wifi, lte, 3g, or a .link.json file.")] = "wifi",
    objective: Annotated[
        Objective, typer.Option(help="What to minimise; edp is the energy-delay product.")
    ] = Objective.latency,
    weight_s_per_j: Annotated[
        float | None, typer.Option(min=0.0, help="For --objective weighted: seconds that a joule is worth.")
    ] = None,
    max_edge_memory_mb: Annotated[
        float | None, typer.Option(min=1e-6, help="Limit of the edge partition's memory: weights and activations.")
    ] = None,
    max_edge_energy_mj: Annotated[
        float | None, typer.Option(min=1e-9, help="Limit of the edge's energy per inference, radio included.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(min=1e-9, help="Limit of the latency.")] = None,
    min_depth: Annotated[int | None, typer.Option(min=1, help="Fewest compute layers on the edge.")] = None,
    max_leakage_bits: Annotated[
        float | None, typer.Option(min=0.0, help="Limit of the leakage, by the figures in --leakage.")
    ] = None,
    leakage: Annotated[Path | None, typer.Option(help='Bits by cut, as measured by you: {"conv1": 12.5}.')] = None,
    risk: Annotated[
        Risk, typer.Option(help="Go by each cut's median, mean or 95th percentile from request to request.")
    ] = Risk.median,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Table where the choice moves: uplink=1:100 or downlink (Mbit/s), rtt (ms), slowdown, load.",
            metavar="NAME=LOW:HIGH",
        ),
    ] = None,
    wire: Annotated[Wire, typer.Option(help="How activations cross.")] = Wire.float32,
    noise: Annotated[
        list[Path] | None,
        typer.Option(help="A mechanism fitted at a cut: count the values that it sends there. Once for each file."),
    ] = None,
    edge_slowdown: Slowdown = 1.0,
    cloud_load: Annotated[float, typer.Option(min=1.0, help="Multiply the cloud's times by this factor.")] = 1.0,
    jpeg_bytes: Annotated[int | None, typer.Option(min=1, help="Mean size of a photograph as JPEG.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The plan to write.")] = None,
    json: Json = False,
) -> None:
    """Cost every cut over a link and choose the cheapest split that keeps to the limits."""
    from .partitioner.choose import plan as run
    from .partitioner.limits import read_leakage
    from .partitioner.plan import Limits
    from .partitioner.sweep import parse_sweep
    from .reports.plan_table import plan_table

    given = (max_edge_memory_mb, max_edge_energy_mj, max_latency_ms, max_leakage_bits)
    if math.inf in given:
        raise EdgecutError("a limit of infinity is none; leave it out, or give a number")
    made = run(
        edge,
        cloud,
        link=link,
        objective=objective.value,
        weight_s_per_j=weight_s_per_j,
        limits=Limits(
            edge_memory_bytes=None if max_edge_memory_mb is None else round(max_edge_memory_mb * 1e6),
            edge_energy_j=None if max_edge_energy_mj is None else max_edge_energy_mj * 1e-3,
            latency_s=None if max_latency_ms is None else max_latency_ms * 1e-3,
            min_depth=min_depth,
            leakage_bits=max_leakage_bits,
        ),
        risk=risk.value,
        leakage=None if leakage is None else read_leakage(leakage),
        wire=wire.value,
        sweeps=[parse_sweep(text) for text in sweep or ()],
        noises=noise or (),
        edge_slowdown=edge_slowdown,
        cloud_load=cloud_load,
        jpeg_bytes=jpeg_bytes,
        output=output,
    )
    show(made, plan_table, json)
    if output is not None:
        say(f"wrote {output}")
