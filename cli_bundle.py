"""The commands that write and check what is deployed: `edgecut bundle` and `edgecut verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Data, Json, ModelOption, show
from .errors import EdgecutError
from .terminal import Bar, say

app = typer.Typer()


@app.command()
def bundle(
    plan: Annotated[Path, typer.Argument(help="The plan to deploy.")],
    model: ModelOption,
    noise: Annotated[Path, typer.Option(help="The noise collection learned at its cut.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    edge_profile: Annotated[Path | None, typer.Option(help="The edge profile to keep with it.")] = None,
    cloud_profile: Annotated[Path | None, typer.Option(help="The cloud profile to keep with it.")] = None,
    data: Data = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    json: Json = False,
) -> None:
    """Write what is deployed: a private edge side, and a cloud side that knows nothing of the noise."""
    from .reports.terminal import accuracy_line
    from .runtime.bundle import bundle as run
    from .runtime.manifest import Manifest

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
            overwrite=overwrite,
            progress=bar,
        )
    if isinstance(made.manifest, Manifest):
        show(made.manifest, lambda m: accuracy_line(m.accuracy) if m.accuracy else m.accuracy_missing, json)
    say(f"wrote {made.folder}: {made.files} files, {made.size_bytes / 1024:.0f} KB, id {made.id}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A bundle, or one of its sides.")],
    expect_id: Annotated[str | None, typer.Option(help="The id it must have (sha256:...).")] = None,
) -> None:
    """Check every file of a bundle, or of one side, against its manifest."""
    from .runtime.verify import verify as run

    found = run(folder, expect_id=expect_id)
    print(f"{folder} is intact: {found.files} files, {found.size_bytes / 1024:.0f} KB, id {found.id}")
