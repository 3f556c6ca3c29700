"""The command of the edge side: `edgecut infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Ca, Certificate, Json, Key, Plaintext, TokenFile, security_of
from .terminal import say

app = typer.Typer()


@app.command()
def infer(
    bundle: Annotated[Path, typer.Argument(help="The bundle, or its edge side.")],
    inputs: Annotated[Path, typer.Argument(help="An .npy file: model inputs, or uint8 images.")],
    server: Annotated[
        str,
        typer.Option(help="HOST:PORT of the cloud side, or grpcs://, http://, https:// and that; several with commas."),
    ],
    timeout_s: Annotated[float, typer.Option(help="Give up on an answer after this long, all tries together.")] = 10.0,
    attempts: Annotated[int, typer.Option(help="How often a request is tried where a server goes away.")] = 4,
    away: Annotated[
        str, typer.Option(help="Where no server can be reached: fail, or run the rest here (local).")
    ] = "fail",
    nonfinite: Annotated[str, typer.Option(help="NaN and infinite values: refuse, or allow.")] = "refuse",
    backend: Annotated[
        str | None, typer.Option(help="Another runtime than the bundle's target: onnxruntime-cpu, tensorrt, ...")
    ] = None,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    token_file: TokenFile = None,
    plaintext: Plaintext = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the logits to this .npy file.")] = None,
    expect_id: Annotated[str | None, typer.Option(help="The id the bundle must have.")] = None,
    json: Json = False,
) -> None:
    """Run inputs through the edge side, the noise and a server; print the classes."""
    from json import dumps

    from .agent.caller import Policy
    from .runtime.infer import infer as run

    logits = run(
        bundle,
        server,
        inputs,
        expect_id=expect_id,
        output=output,
        security=security_of(ca, certificate, key, token_file, plaintext),
        policy=Policy(timeout_s=timeout_s, attempts=attempts),
        away=away,
        nonfinite=nonfinite,
        backend=backend,
    )
    if json:
        print(dumps({"classes": logits.argmax(1).tolist(), "logits": logits.tolist()}))
    else:
        print("\n".join(str(label) for label in logits.argmax(1)))
    if output is not None:
        say(f"wrote {output}")
