"""The command that says what still leaks: `edgecut audit`, of a bundle or, with --sweep, of every mechanism."""

from __future__ import annotations

import json as text_json
import math
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .artefacts import check_output, write_bytes
from .cli_options import Data, Json, show
from .errors import EdgecutError
from .terminal import Bar, say

if TYPE_CHECKING:
    from .privacy.attacks.reconstruction import Samples
    from .privacy.audit import AuditSettings, LeakageLimits
    from .privacy.audit_settings import Attacks as Effort

app = typer.Typer()
BROKEN = 1
"""The exit code of an audit that found a limit broken."""


class Attacks(StrEnum):
    """How long attackers are trained."""

    none = "none"
    quick = "quick"
    full = "full"


@app.command()
def audit(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle to audit; none with --sweep.")] = None,
    data: Data = None,
    private: Annotated[
        str | None, typer.Option(help="The labels to be hidden: NAME_train and NAME_test in the data.")
    ] = None,
    max_private_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Most that an attacker may read the private label, such as 0.5."),
    ] = None,
    max_bits: Annotated[
        float | None, typer.Option(min=0.0, help="Most bits that a message may tell, such as 12.")
    ] = None,
    max_ssim: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, help="Most similarity of reconstructions, 95th percentile, such as 0.7."),
    ] = None,
    attacks: Annotated[
        Attacks | None, typer.Option(help="How long attackers train; full, and quick for a sweep.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, of attackers, and of the items where not all fit.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The audit, or the sweep, to write.")] = None,
    page: Annotated[Path | None, typer.Option(help="A page to write beside it, which opens from disk.")] = None,
    no_record: Annotated[
        bool, typer.Option("--no-record", help="Leave the bundle as it is; else its manifest gets the verdict.")
    ] = False,
    sweep: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Fit and audit mechanisms at this plan's cut.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --sweep: the whole model.")] = None,
    mechanisms: Annotated[str | None, typer.Option(metavar="A,B", help="With --sweep; all by default.")] = None,
    losses: Annotated[
        str | None, typer.Option(metavar="X,Y", help="With --sweep: points of accuracy to lose (0.5,1,2,4).")
    ] = None,
    cuts: Annotated[
        str | None, typer.Option(metavar="A,B", help="With --sweep: these cuts too, or all, at the first loss.")
    ] = None,
    leakage_out: Annotated[
        Path | None, typer.Option(help="With --sweep: bits by cut for `edgecut plan --leakage`; beside -o by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure what a bundle's messages still tell: bounds in bits, attacks, and a verdict on your limits.

    Ends with 1 where a limit is broken, or nothing could be measured against it. The verdict goes into the bundle's
    manifest, which gives the bundle another id.
    """
    limits = {"--max-private-accuracy": max_private_accuracy, "--max-bits": max_bits, "--max-ssim": max_ssim}
    of_sweep = {"--model": model, "--mechanisms": mechanisms, "--losses": losses, "--cuts": cuts}
    of_sweep["--leakage-out"] = None if leakage_out is None else str(leakage_out)
    if sweep is not None:
        _refuse(limits, "is held against a bundle's audit, not against a sweep")
        if no_record:
            raise EdgecutError("--no-record is of a bundle's audit; a sweep changes no bundle")
        if bundle is not None or model is None or output is None:
            raise EdgecutError(
                "a sweep takes no bundle, but the whole model and a place: --sweep PLAN --model M -o FILE"
            )
        effort: Effort = "quick" if attacks is None else attacks.value
        _sweep(sweep, model, data, private, effort, seed, mechanisms, losses, cuts, output, page, leakage_out, json)
        return
    _refuse(of_sweep, "is of a sweep; give --sweep PLAN as well")
    if bundle is None:
        raise EdgecutError("there is nothing to audit; give a bundle, or --sweep PLAN")
    if max_bits is not None and not math.isfinite(max_bits):
        raise EdgecutError(f"--max-bits is {max_bits}, but must be a number of bits; leave it out for no limit")
    if not no_record and bundle.is_dir() and not os.access(bundle, os.W_OK):
        raise EdgecutError(f"{bundle} cannot be written to, so no verdict can be recorded in it; give --no-record")
    from .privacy.audit import AuditSettings, LeakageLimits

    settings = AuditSettings(attacks=attacks.value if attacks is not None else "full", seed=seed)
    allowed = LeakageLimits(max_private_accuracy=max_private_accuracy, max_bits=max_bits, max_ssim=max_ssim)
    _bundle(bundle, data, private, settings, allowed, output, page, no_record, json)


def _bundle(
    bundle: Path,
    data: str | None,
    private: str | None,
    settings: AuditSettings,
    limits: LeakageLimits,
    output: Path | None,
    page: Path | None,
    no_record: bool,
    json: bool,
) -> None:
    """Audit it, show and write what was found, record the verdict, and end with BROKEN where that does not hold."""
    from .privacy.audit import audit as run
    from .privacy.audit import record
    from .reports.audit_page import write_audit
    from .reports.audit_table import audit_table

    for path, kind in ((output, "audit"), (page, "")):
        if path is not None:
            check_output(path, kind)
    pictures: list[Samples | None] = []
    with Bar() as bar:
        found = run(
            bundle,
            data=data,
            private=private,
            settings=settings,
            limits=limits,
            progress=bar,
            page=None if page is None else lambda _, samples: pictures.append(samples),
        )
    show(found, audit_table, json)
    if output is not None:
        found.save(output)
        say(f"wrote {output}")
    for sentence in found.verdict.broken:  # before what may still fail
        say(f"edgecut: broken: {sentence}")
    if not no_record:
        say(f"recorded in {bundle}, whose id is now {record(found, bundle)}; it was {found.bundle_id}")
    if page is not None:  # last, and not while auditing: a full disk then costs the page alone
        write_audit(found, pictures[0], page)
        say(f"wrote {page}")
    if not found.verdict.holds:
        raise typer.Exit(BROKEN)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise EdgecutError(f"{name} {why}")


def _sweep(
    plan: Path,
    model: str,
    data: str | None,
    private: str | None,
    effort: Effort,
    seed: int,
    mechanisms: str | None,
    losses: str | None,
    cuts: str | None,
    output: Path,
    page: Path | None,
    leakage_out: Path | None,
    json: bool,
) -> None:
    import dataclasses

    from .privacy.audit_settings import quick
    from .privacy.sweep import LOSSES, MECHANISMS
    from .privacy.sweep import sweep as run
    from .reports.audit_sweep_page import write_sweep
    from .reports.audit_table import sweep_table

    beside = leakage_out or output.with_name(output.name.removesuffix(".json") + ".leakage.json")
    for path in (beside, page):
        if path is not None:
            check_output(path)
    try:
        with Bar() as bar:
            made = run(
                plan,
                model=model,
                data=data,
                private=private,
                mechanisms=_split(mechanisms) or MECHANISMS,
                losses=_numbers(losses) or LOSSES,
                cuts=_split(cuts),
                settings=dataclasses.replace(quick(seed), attacks=effort),
                output=output,
                progress=bar,
            )
    except KeyboardInterrupt:
        if Path(f"{output}.partial").is_file():
            say(f"what was swept so far is in {output}.partial; run the same command again to go on")
        raise
    show(made, sweep_table, json)
    say(f"wrote {output}")
    bits = made.leakage()
    if bits:
        write_bytes(beside, (text_json.dumps(bits, indent=1) + "\n").encode())
        say(f"wrote {beside}, which edgecut plan --leakage reads")
    else:
        say("no cut has an upper bound of bits, so there is nothing for edgecut plan --leakage")
    if page is not None:
        write_sweep(made, page)
        say(f"wrote {page}")


def _split(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _split(text))
    except ValueError:
        raise EdgecutError(f"--losses takes points of accuracy such as 0.5,1,2, not '{text}'") from None
