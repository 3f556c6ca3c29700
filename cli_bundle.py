"""The commands that write, check and ship what is deployed: `edgecut bundle`, `verify`, `pack` and `unpack`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Data, Json, ModelOption, show
from .errors import EdgecutError
from .terminal import Bar, say

app = typer.Typer()


class Wire(StrEnum):
    """What noisy activations travel as."""

    float32 = "float32"
    int8 = "int8"


ExpectId = Annotated[str | None, typer.Option(help="The id it must have (sha256:...).")]


@app.command()
def bundle(
    plan: Annotated[Path, typer.Argument(help="The plan to deploy.")],
    model: ModelOption,
    noise: Annotated[Path, typer.Option(help="The mechanism's file, fitted at its cut.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    edge_profile: Annotated[Path | None, typer.Option(help="The edge profile to keep with it.")] = None,
    cloud_profile: Annotated[Path | None, typer.Option(help="The cloud profile to keep with it.")] = None,
    data: Data = None,
    target: Annotated[str, typer.Option(help="What the edge is: cpu, cuda, tensorrt, jetson-orin or tx2.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="Arithmetic of the edge: float32, or float16 where the target has it.")
    ] = "float32",
    engine_for: Annotated[
        str | None,
        typer.Option(help="Build a TensorRT-RTX engine now, for these compute capabilities.", metavar="8.6,8.9"),
    ] = None,
    with_local_fallback: Annotated[
        bool, typer.Option("--with-local-fallback", help="Also give the edge the rest of the model.")
    ] = False,
    wire: Annotated[
        Wire | None, typer.Option(help="What the noisy activations travel as; by default as the plan says.")
    ] = None,
    sticky: Annotated[
        bool, typer.Option("--sticky", help="Give the same input always the same noise, so that repeats tell no more.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    json: Json = False,
) -> None:
    """Write what is deployed: a private edge side, and a cloud side that knows nothing of the noise."""
    from .reports.terminal import accuracy_line
    from .reports.units import printable
    from .runtime.bundle import bundle as run
    from .runtime.manifest import Manifest
    from .runtime.noise_words import noise_words

    if (edge_profile is None) != (cloud_profile is None):
        raise EdgecutError("give both --edge-profile and --cloud-profile, or neither")
    profiles = [path for path in (edge_profile, cloud_profile) if path is not None]
    with Bar() as bar:
        made = run(
            plan,
            model=model,
            noise=noise,
            output=output,
            profiles=profiles,
            data=data,
            target=target,
            precision=precision,
            engine_for=[part.strip() for part in engine_for.split(",")] if engine_for else (),
            local_fallback=with_local_fallback,
            wire=None if wire is None else wire.value,
            sticky=sticky,
            overwrite=overwrite,
            progress=bar,
        )
    if isinstance(made.manifest, Manifest):
        show(made.manifest, lambda m: accuracy_line(m.accuracy) if m.accuracy else m.accuracy_missing, json)
    say(printable(noise_words(made)[0]))
    say(f"wrote {made.folder}: {made.files} files, {made.size_bytes / 1024:.0f} KB, id {made.id}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A bundle, one of its sides, or an archive of either.")],
    expect_id: ExpectId = None,
) -> None:
    """Check every file of a bundle, or of one side, against its manifest, and say how it is protected."""
    from .reports.units import printable
    from .runtime.noise_words import noise_words
    from .runtime.verify import verify as run

    found = run(folder, expect_id=expect_id)
    print(f"{folder} is intact: {found.files} files, {found.size_bytes / 1024:.0f} KB, id {found.id}")
    for line in noise_words(found):
        print(printable(line))


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(help="A bundle, or one of its sides.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive to write, such as edge.tar.zst.")],
    expect_id: ExpectId = None,
) -> None:
    """Verify a bundle or a side, and pack it into one file, the same each time."""
    from .runtime.packing import pack as run

    packed = run(folder, output, expect_id=expect_id)
    say(f"wrote {output}: {packed.files} files, {output.stat().st_size / 1024:.0f} KB, id {packed.id}")


@app.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="What edgecut pack wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write, which is not there yet.")],
    expect_id: ExpectId = None,
) -> None:
    """Unpack a bundle or a side, each file verified before it is written."""
    from .runtime.packing import unpack as run

    found = run(archive, output, expect_id=expect_id)
    say(f"wrote {output}: {found.files} files, {found.size_bytes / 1024:.0f} KB, id {found.id}")
