"""Options that several commands share, and how a command shows what it made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .terminal import console

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
Threads = Annotated[int | None, typer.Option(help="Threads of the runtime; by default all physical cores.")]


def show(value: Any, table: Any, as_json: bool) -> None:
    """Print a result as JSON or as a table."""
    from .artefacts import Artefact

    if as_json:
        print(value.to_json() if isinstance(value, Artefact) else value.model_dump_json(indent=1))
    else:
        console().print(table(value))
