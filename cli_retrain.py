"""The command `retrain`. `cli` puts it in its list."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .artefacts import check_output, write_bytes
from .cli_options import Data, Json, Model, show
from .errors import EdgecutError
from .terminal import Bar, say

if TYPE_CHECKING:
    from rich.text import Text

    from .privacy.retraining.result import Retrained

app = typer.Typer()


@app.command()
def retrain(
    model: Model,
    cut: Annotated[str, typer.Option(help="The cut whose activations shall say less; `plan` lists them.")],
    method: Annotated[str, typer.Option(help="scrunch (centre loss) or dpfe (autoencoder, contrastive loss).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .onnx file to write.")],
    data: Data = None,
    private: Annotated[
        str | None, typer.Option(help="Labels to hide, which dpfe needs: NAME_train and NAME_test in the data.")
    ] = None,
    weight: Annotated[float, typer.Option("--lambda", help="Weight of the privacy loss, from 0 to 1.")] = 0.9,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Items a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of Adam.")] = 1e-3,
    bottleneck: Annotated[int | None, typer.Option(min=1, help="Values that dpfe sends, at most (32).")] = None,
    margin: Annotated[
        float | None, typer.Option(min=0.0, help="Distance to which dpfe drives items of a class apart (1).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the batches and of what is held out.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write what --json prints to this file.")] = None,
    json: Json = False,
) -> None:
    """Retrain a network that you own, so that what crosses a cut says less. The result is a model like any other."""
    from .privacy.retraining.retrain import retrain as run
    from .privacy.retraining.settings import RetrainSettings

    if output.suffix != ".onnx":
        raise EdgecutError(f"{output} is no name of an .onnx file, which a model is known by; give -o NAME.onnx")
    own = {"--private": private, "--bottleneck": bottleneck, "--margin": margin}
    for name, value in own.items():
        if method == "scrunch" and value is not None:
            raise EdgecutError(f"{name} is of dpfe; scrunch hides what the public label does not need, and has none")
    settings = RetrainSettings(weight=weight, epochs=epochs, batch=batch, learning_rate=learning_rate, seed=seed)
    if bottleneck is not None:
        settings = dataclasses.replace(settings, bottleneck=bottleneck)
    if margin is not None:
        settings = dataclasses.replace(settings, margin=margin)
    if report is not None:
        check_output(report)
    with Bar() as bar:
        made = run(
            model, cut=cut, method=method, data=data, private=private, settings=settings, output=output, progress=bar
        )
    show(made, lines, json)
    if report is not None:
        write_bytes(report, (made.model_dump_json(indent=1) + "\n").encode())
        say(f"wrote {report}")
    say(f"wrote {output}")


def lines(made: Retrained) -> Text:
    """What became of the network, in a few lines."""
    from rich.text import Text

    before, after = made.before, made.after
    shown = [
        f"{made.method} on {made.model_name}, measured on {before.total} unseen items of {made.data}",
        f"accuracy {_percent(before.value)} before, {_percent(after.value)} after ({_percent(after.low)} to "
        f"{_percent(after.high)} at 95 %)",
        f"within a class, the activations at {made.cut} lie apart by {_percent(made.spread_after.share)} of their "
        f"variance ({made.spread_after.within:.4g}), at {made.cut_before} before by "
        f"{_percent(made.spread_before.share)} ({made.spread_before.within:.4g})",
        f"{made.changed} of {made.parameters} weights trained, {made.edge} of them on the edge, {made.added} new",
        f"{len(made.epochs)} {'epoch' if len(made.epochs) == 1 else 'epochs'}, last cross-entropy "
        f"{made.epochs[-1].cross_entropy:.4g} and {made.method} loss "
        f"{made.epochs[-1].privacy_loss:.4g}; {made.seconds:.1f} s",
        f"plan with the cut {made.cut}, which sends {made.values_sent} values (before: {made.values_before}); "
        "what still leaks, 'edgecut audit' says",
    ]
    return Text("\n".join(shown))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
