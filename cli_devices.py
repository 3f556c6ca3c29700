"""The commands about devices and links: profile, kit, calibrate, probe, doctor. `cli` puts them in its list."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import (
    Ca,
    Certificate,
    Data,
    Json,
    Key,
    Model,
    Plaintext,
    Threads,
    TokenFile,
    security_of,
    show,
)
from .errors import EdgecutError, ModelError
from .terminal import Bar, say

if TYPE_CHECKING:
    from .profiler.calibrate import Calibration
    from .profiler.profile import PowerModel

app = typer.Typer()

AnyCut = Annotated[bool, typer.Option("--any-cut", help="Also cuts that do not end before a layer.")]
Cuts = Annotated[
    str, typer.Option(help="Which cuts to time: all, layers (none), or a plan's file: what it has not seen timed.")
]
Memory = Annotated[bool, typer.Option("--memory", help="Also measure how much memory the whole and each prefix take.")]
Backend = Annotated[
    str | None,
    typer.Option(help="onnxruntime-cpu, onnxruntime-cuda, torch-cpu, torch-cuda, tensorrt or tensorrt-rtx."),
]
Precision = Annotated[str, typer.Option(help="float32, or float16 where the backend can.")]
Dim = Annotated[
    list[str] | None,
    typer.Option("--dim", help="Fix a named dimension of an .onnx file's inputs.", metavar="NAME=SIZE"),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option("--input-shape", help="Of a factory's inputs, without the batch.", metavar="3x224x224"),
]
PauseMs = Annotated[float, typer.Option(min=0, help="Between two runs, as between requests; 0: none.")]
MaxSeconds = Annotated[
    float | None, typer.Option(help="Stop measuring after this long; by default 30 s, for large models up to 300.")
]

Python = Annotated[str, typer.Option(help="The interpreter on a device reached by ssh.")]
SshConfig = Annotated[Path | None, typer.Option(help="An ssh configuration in place of your own.")]


class RadioName(StrEnum):
    """Whose radio's power a measured link carries."""

    wifi = "wifi"
    lte = "lte"
    threeg = "3g"
    none = "none"


@app.command()
def profile(
    model: Model,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The profile to write.")] = None,
    device: Annotated[
        str,
        typer.Option(help="cpu, cuda, ssh://user@host[:port], or a device to predict (jetson-tx2, h100, ...)."),
    ] = "cpu",
    backend: Backend = None,
    precision: Precision = "float32",
    threads: Threads = None,
    data: Data = None,
    any_cut: AnyCut = False,
    cuts: Cuts = "all",
    memory: Memory = False,
    dim: Dim = None,
    input_shape: InputShape = None,
    meter: Annotated[str, typer.Option(help="auto, none, ina3221, pmic, rapl or nvml.")] = "auto",
    energy_seconds: Annotated[float, typer.Option(help="Shortest window of a meter, for each sub-model.")] = 1.0,
    power_idle_w: Annotated[float | None, typer.Option(help="The device's power when idle, in watts.")] = None,
    power_max_w: Annotated[float | None, typer.Option(help="Its power with all processors busy, in watts.")] = None,
    power_source: Annotated[str, typer.Option(help="Where the two powers come from.")] = "given on the command line",
    power_of: Annotated[
        str | None, typer.Option(help="Take the two powers from a described device (jetson-tx2:maxq, ...).")
    ] = None,
    pause_ms: PauseMs = 5.0,
    max_seconds: MaxSeconds = None,
    python: Python = "python3",
    ssh_config: SshConfig = None,
    result: Annotated[Path | None, typer.Option(help="What an agent wrote on the device for a kit of it.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Predict from layers that edgecut calibrate measured, instead of measuring.")
    ] = None,
    add_to: Annotated[
        Path | None, typer.Option(help="Add the cuts to this profile, in place or as --output, if taken the same way.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure the cuts of a model on a device, here or over ssh, or predict a device that is not at hand."""
    from .profiler.run import profile as run
    from .profiler.run import profile_path
    from .reports.terminal import profile_table

    target = output or add_to or profile_path(model, device)
    with Bar() as bar:
        made = run(
            model,
            device=device,
            backend=backend,
            precision=precision,
            threads=threads,
            data=data,
            any_cut=any_cut,
            cuts=cuts,
            memory=memory,
            sizes=_sizes(dim),
            input_shapes=_shapes(input_shape),
            power=_power(power_idle_w, power_max_w, power_source, power_of),
            meter=meter,
            energy_seconds=energy_seconds,
            pause_s=pause_ms / 1000,
            max_seconds=max_seconds,
            python=python,
            ssh_config=str(ssh_config) if ssh_config else None,
            result=result,
            calibration=calibration,
            add_to=add_to,
            output=target,
            progress=bar,
        )
    show(made, profile_table, json)
    say(f"wrote {target}")


@app.command()
def kit(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    backend: Annotated[str, typer.Option(help="onnxruntime-cpu, onnxruntime-cuda or tensorrt.")] = "onnxruntime-cpu",
    precision: Precision = "float32",
    threads: Threads = None,
    data: Data = None,
    any_cut: AnyCut = False,
    cuts: Cuts = "all",
    memory: Memory = False,
    dim: Dim = None,
    input_shape: InputShape = None,
    pause_ms: PauseMs = 5.0,
    max_seconds: MaxSeconds = None,
    opset: Annotated[int, typer.Option(help="13, which old runtimes read, or 0 for the model's own.")] = 13,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
) -> None:
    """Write what a device without ssh needs to measure a model: the agent, the parts, and what to type."""
    from .profiler.deliver import kit as run

    with Bar() as bar:
        made = run(
            model,
            output,
            backend=backend,
            precision=precision,
            threads=threads,
            data=data,
            any_cut=any_cut,
            cuts=cuts,
            memory=memory,
            sizes=_sizes(dim),
            input_shapes=_shapes(input_shape),
            pause_s=pause_ms / 1000,
            max_seconds=max_seconds,
            opset=opset,
            overwrite=overwrite,
            progress=bar,
        )
    say(f"wrote {made}; {made / 'README.txt'} says what to do with it")


@app.command()
def calibrate(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The calibration to write.")] = None,
    device: Annotated[str, typer.Option(help="Where to measure: cpu, cuda or ssh://user@host[:port].")] = "cpu",
    backend: Backend = None,
    budget_s: Annotated[float, typer.Option(help="How long to measure.")] = 600.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    pause_ms: PauseMs = 5.0,
    python: Python = "python3",
    ssh_config: SshConfig = None,
    resume: Annotated[Path | None, typer.Option(help="Go on from an earlier calibration.")] = None,
    from_csv: Annotated[Path | None, typer.Option(help="A table of layers measured elsewhere.")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Print errors on layers held out.")] = False,
    json: Json = False,
) -> None:
    """Measure layers within a time budget, or take a table of them, and fit what predicts other networks."""
    from .profiler.calibrate import calibrate as run
    from .profiler.calibrate import calibration_of, calibration_path, summary
    from .profiler.evaluate import evaluate as try_out
    from .profiler.layer_table import read_csv
    from .reports.calibration import calibration_table, evaluation_table

    target = output if from_csv else output or calibration_path(device)
    with Bar() as bar:
        made: Calibration | None
        if from_csv is None:
            made = run(
                device,
                backend=backend,
                budget_s=budget_s,
                threads=threads,
                pause_s=pause_ms / 1000,
                python=python,
                ssh_config=str(ssh_config) if ssh_config else None,
                output=target,
                resume=resume,
                progress=bar,
            )
            table = made.table
        else:
            table = read_csv(from_csv)
            # Fitting to all rows is no part of trying out: only where the result is wanted.
            made = calibration_of(table, output=target) if target is not None or not evaluate else None
        found = try_out(table, progress=bar) if evaluate else None
    if found is not None:
        show(found, evaluation_table, json)
    elif made is not None:
        show(made, lambda made: calibration_table(summary(made)), json)
    if target is not None:
        say(f"wrote {target}")


@app.command()
def probe(
    server: Annotated[str, typer.Argument(help="HOST:PORT of a running server, as edgecut serve prints it.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The .link.json file to write.")] = None,
    radio: Annotated[RadioName, typer.Option(help="Whose radio's power the link carries.")] = RadioName.none,
    downlink_mbps: Annotated[
        float | None, typer.Option(help="The rate towards this device, where a third party's server cannot tell it.")
    ] = None,
    max_seconds: Annotated[float, typer.Option(help="Stop measuring after this long.")] = 20.0,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    token_file: TokenFile = None,
    plaintext: Plaintext = False,
    json: Json = False,
) -> None:
    """Measure the link to a running server: its rate each way and its round trip."""
    from .reports.link import link_table
    from .runtime.probe import probe as run

    with Bar() as bar:
        made = run(
            server,
            max_seconds=max_seconds,
            radio=None if radio is RadioName.none else radio.value,
            downlink_bps=None if downlink_mbps is None else downlink_mbps * 1e6,
            output=output,
            progress=bar,
            security=security_of(ca, certificate, key, token_file, plaintext),
        )
    show(made, link_table, json)
    if output is not None:
        say(f"wrote {output}")


@app.command()
def doctor(json: Json = False) -> None:
    """Which backends, devices, meters and compilers can be used here, and what to do about the others."""
    from .profiler.doctor import diagnose
    from .reports.doctor import doctor_table

    with Bar() as bar:
        made = diagnose(progress=bar)
    show(made, doctor_table, json)


def _power(idle_w: float | None, max_w: float | None, source: str, device: str | None) -> PowerModel | None:
    from .profiler.predicted import power_of
    from .profiler.profile import PowerModel

    if device is not None:
        if idle_w is not None or max_w is not None:
            raise EdgecutError("give --power-of, or --power-idle-w and --power-max-w, but not both")
        return power_of(device)
    if idle_w is None and max_w is None:
        return None
    if idle_w is None or max_w is None or not 0 <= idle_w <= max_w < math.inf:
        raise EdgecutError("energy needs both --power-idle-w and --power-max-w, with 0 <= idle <= max")
    return PowerModel(idle_w=idle_w, max_w=max_w, source=source)


def _sizes(given: list[str] | None) -> dict[str, int]:
    sizes = {}
    for text in given or ():
        name, _, size = text.partition("=")
        if not name or not size.isdecimal():
            raise ModelError(f"'{text}' fixes no dimension; write --dim NAME=SIZE, for example --dim sequence=128")
        sizes[name] = int(size)
    return sizes


def _shapes(given: list[str] | None) -> list[tuple[int, ...]]:
    for text in given or ():
        if not re.fullmatch(r"\d+(x\d+)*", text):
            raise ModelError(f"'{text}' is no shape; write it without the batch, as 3x224x224")
    return [tuple(int(size) for size in text.split("x")) for text in given or ()]
