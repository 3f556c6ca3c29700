"""The command `learn` with its many numbers. `cli` puts it in its list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .artefacts import check_output, write_bytes
from .cli_options import Data, Json, ModelOption, show
from .errors import EdgecutError
from .noise_kernels.mechanism import MECHANISMS
from .terminal import Bar, say

app = typer.Typer()
DEFAULT = "by default the mechanism's"


@app.command()
def learn(
    plan: Annotated[Path, typer.Argument(help="The plan whose cut the noise is for.")],
    model: ModelOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="The noise file to write.")],
    data: Data = None,
    mechanism: Annotated[str, typer.Option(help=", ".join(MECHANISMS) + ".")] = "shredder",
    private: Annotated[
        str | None, typer.Option(help="Labels to hide: NAME_train and NAME_test in the data (equation 5).")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Of shredder: sampled (orders learned under fresh samples; the default) or paper."),
    ] = None,
    distributions: Annotated[int | None, typer.Option(min=1, help=f"Noise distributions, {DEFAULT} (20).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=f"Optimiser steps, {DEFAULT} (1500).")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help=f"Items a step for each tensor, {DEFAULT} (32).")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help=f"Of Adam, {DEFAULT} (0.02, 0.01).")] = None,
    scale: Annotated[
        float | None, typer.Option(min=0.0, help="Laplace b in deviations of the activation; by default searched.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(min=0.0, help="Weight of the noise; recipe paper (0.01).")] = None,
    gamma: Annotated[float | None, typer.Option(min=0.0, help="Weight of the private task (0.01).")] = None,
    equation: Annotated[int | None, typer.Option(help="3 or 4; recipe paper (4).")] = None,
    max_sse: Annotated[float | None, typer.Option(help="Drop worse fitted tensors; recipe paper (none).")] = None,
    max_accuracy_loss: Annotated[float | None, typer.Option(help="Points that may be lost on the hold-out.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Of cloak: noise at the cut (default) or the input.")] = None,
    law: Annotated[str | None, typer.Option(help="Of cloak: normal (default) or laplace.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Of gaussian (10,000) and channel (2,000): items to fit to.")
    ] = None,
    basis: Annotated[str | None, typer.Option(help="Of channel: eigen, diagonal or the best of both (best).")] = None,
    hold_out: Annotated[float | None, typer.Option(help="Share of the training data that judges (0.1).")] = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, batches, hold-out and its noise.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write what --json prints to this file.")] = None,
    json: Json = False,
) -> None:
    """Learn the noise at the plan's cut, by any mechanism, and try it on unseen items.

    Run again in the same way after an interruption, shredder goes on where it was. An option that a mechanism does
    not have is refused.
    """
    from .privacy.learn import learn as run
    from .privacy.settings import choose_settings
    from .reports.learning import learning_table

    if gamma is not None and private is None:
        raise EdgecutError("--gamma weighs a private task; give its labels with --private NAME, or leave it out")
    settings = choose_settings(
        mechanism,
        recipe,
        distributions=distributions,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        scale=scale,
        alpha=alpha,
        gamma=gamma,
        equation=equation,
        max_sse=max_sse,
        max_accuracy_loss=max_accuracy_loss,
        place=at,
        law=law,
        images=images,
        basis=basis,
        hold_out=hold_out,
        seed=seed,
    )
    if report is not None:
        check_output(report)
    try:
        with Bar() as bar:
            made = run(
                plan,
                model=model,
                data=data,
                private=private,
                mechanism=mechanism,
                settings=settings,
                output=output,
                progress=bar,
            )
    except KeyboardInterrupt:
        if Path(f"{output}.partial").is_dir():
            say(f"what was learned so far is in {output}.partial; run the same command again to go on")
        raise
    show(made, learning_table, json)
    if report is not None:
        write_bytes(report, (made.model_dump_json(indent=1) + "\n").encode())
        say(f"wrote {report}")
    say(f"wrote {output}")
