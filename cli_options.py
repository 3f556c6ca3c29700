"""Options that several commands share, and how a command shows what it made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import console

if TYPE_CHECKING:
    from .agent.transport import Security

Model = Annotated[
    str,
    typer.Argument(help="A network by name (lenet5, resnet50, ...), an .onnx or .pt2 file, or module:factory."),
]
ModelOption = Annotated[str, typer.Option("--model", help="The whole model: what was profiled.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", help="mnist, an .npz with x_train, y_train, x_test, y_test, or a .jsonl of texts.", metavar="NAME"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
Slowdown = Annotated[float, typer.Option("--edge-slowdown", min=1.0, help="Multiply the edge's times by this factor.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the runtime; by default all physical cores.")]
Ca = Annotated[Path | None, typer.Option(help="PEM of the authority that signed the server's certificate.")]
Certificate = Annotated[Path | None, typer.Option(help="PEM of this side's certificate, for mutual TLS.")]
Key = Annotated[Path | None, typer.Option(help="PEM of its key.")]
TokenFile = Annotated[Path | None, typer.Option(help="A file whose first line is the bearer token.")]
Plaintext = Annotated[bool, typer.Option("--plaintext", help="Allow plaintext to another machine.")]


def security_of(
    ca: Path | None, certificate: Path | None, key: Path | None, token_file: Path | None, plaintext: bool
) -> Security:
    """What protects a connection, from the options of that name."""
    from .agent.transport import Security

    authority, own, secret, token = (None if path is None else str(path) for path in (ca, certificate, key, token_file))
    return Security(authority, own, secret, token, plaintext)


def show(value: Any, table: Any, as_json: bool) -> None:
    """Print a result as JSON or as a table."""
    from .artefacts import Artefact

    if as_json:
        print(value.to_json() if isinstance(value, Artefact) else value.model_dump_json(indent=1))
    else:
        console().print(table(value))
