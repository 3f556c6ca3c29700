"""The command that shows what was measured: `edgecut report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import EdgecutError
from .terminal import say

if TYPE_CHECKING:
    from .reports.compare import RunComparison
    from .reports.content import Report

app = typer.Typer()

SLOWER = 1
"""The exit code of a comparison that --fail-if-slower was asked to fail."""


@app.command()
def report(
    measurement: Annotated[Path, typer.Argument(help="The measurement to report.")],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[B]", help="Another measurement, which is compared with the first: B against A."),
    ] = None,
    edge_profile: Annotated[
        Path | None, typer.Option(help="The edge device's profile; not for a comparison, which needs none.")
    ] = None,
    cloud_profile: Annotated[
        Path | None, typer.Option(help="The cloud's profile; not for a comparison, which needs none.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="The bundle that was measured, to show the verdict that an audit recorded in it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A file or a folder; md, json and csv go to standard output without it."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="html, md, json or csv.")] = "html",
    fail_if_slower: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="PERCENT",
            help="Comparing: exit with 1 if B's split is slower than A's by more, its whole interval beyond it.",
        ),
    ] = None,
) -> None:
    """Report a measurement, or compare two of them: a page with its JSON beside it, Markdown, JSON or CSV."""
    from .reports.formats import text_of, write

    if form == "html" and output is None:
        raise EdgecutError("a page needs a place to be written to: give -o FOLDER, or --format md, json or csv")
    if fail_if_slower is not None and other is None:
        raise EdgecutError("--fail-if-slower compares two measurements, and one was given: name the other one as well")
    compared = None if other is None else _comparison(measurement, other, edge_profile or cloud_profile or bundle)
    made = compared or _summary(measurement, edge_profile, cloud_profile, bundle)
    if output is None:
        print(text_of(made, form), end="")
    else:
        say(f"wrote {write(made, form, output)}")
    if compared is not None and fail_if_slower is not None and compared.slower_than(fail_if_slower):
        split = compared.split
        say(
            f"edgecut: B's split takes {split.latency_ratio:.3f} times as long as A's, at least {split.ratio_low:.3f} "
            f"times by the interval: slower by more than {fail_if_slower:g} %"
        )
        raise typer.Exit(SLOWER)


def _comparison(a: Path, b: Path, more: Path | None) -> RunComparison:
    from .reports.compare import compare
    from .runtime.measurement import Measurement

    if more is not None:
        raise EdgecutError(
            f"{more} is of one run, which a comparison does not need: leave the profiles out, or the bundle"
        )
    return compare(Measurement.load(a), Measurement.load(b))


def _summary(measurement: Path, edge: Path | None, cloud: Path | None, bundle: Path | None) -> Report:
    from .profiler.profile import Profile
    from .reports.audit_recorded import recorded
    from .reports.summary import summarise
    from .runtime.measurement import Measurement

    if edge is None or cloud is None:
        raise EdgecutError(
            "a report of one measurement needs --edge-profile and --cloud-profile, the files of `edgecut profile`"
        )
    measured = Measurement.load(measurement)
    leakage = None if bundle is None else recorded(bundle, measured)
    return summarise(measured, Profile.load(edge), Profile.load(cloud), leakage)
