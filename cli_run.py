"""The command of the edge side: `edgecut infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Json
from .terminal import say

app = typer.Typer()


@app.command()
def infer(
    bundle: Annotated[Path, typer.Argument(help="The bundle, or its edge side.")],
    inputs: Annotated[Path, typer.Argument(help="An .npy file: model inputs, or uint8 images.")],
    server: Annotated[str, typer.Option(help="HOST:PORT of the cloud side.")],
    timeout_s: Annotated[float, typer.Option(help="Give up on an answer after this long.")] = 10.0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the logits to this .npy file.")] = None,
    expect_id: Annotated[str | None, typer.Option(help="The id the bundle must have.")] = None,
    json: Json = False,
) -> None:
    """Run inputs through the edge side, the noise and a server; print the classes."""
    from json import dumps

    from .runtime.infer import infer as run

    logits = run(bundle, server, inputs, timeout_s=timeout_s, expect_id=expect_id, output=output)
    if json:
        print(dumps({"classes": logits.argmax(1).tolist(), "logits": logits.tolist()}))
    else:
        print("\n".join(str(label) for label in logits.argmax(1)))
    if output is not None:
        say(f"wrote {output}")
