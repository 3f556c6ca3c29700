"""The command of the cloud side: `edgecut serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="A bundle's cloud side, or a model repository.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port, 0 for any free one.")] = 8001,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Requests worked on at the same time.")] = 8,
    expect_id: Annotated[str | None, typer.Option(help="The id the folder must have.")] = None,
) -> None:
    """Serve the cloud side over the Open Inference Protocol (gRPC) until Ctrl-C."""
    from .runtime.serve import serve as run

    run(folder, host=host, port=port, threads=threads, workers=workers, expect_id=expect_id)
