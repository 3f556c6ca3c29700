"""The command line: one command per arrow of the data flow, each a thin layer over the Python function of its name.

Artefacts go to files, tables and progress to the terminal, `--json` to standard output. What the user, a file, a
device or a server got wrong ends in one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_audit, cli_bundle, cli_devices, cli_learn, cli_plan, cli_report, cli_retrain, cli_run, cli_serve
from .cli_options import Data, Json, ModelOption, Slowdown, show
from .errors import EdgecutError
from .noise_kernels.mechanism import MECHANISMS
from .terminal import Bar, say

app = typer.Typer(
    name="edgecut",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Split a neural network between an edge device and the cloud: profile, plan, learn, bundle, serve, measure, "
    "report. 'edgecut demo' walks all of it on real digits.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"edgecut {version('edgecut')}")
        raise typer.Exit()


INTERRUPTED = 130


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before any command."""


app.registered_commands.extend(cli_devices.app.registered_commands)


app.registered_commands.extend(cli_plan.app.registered_commands)
app.registered_commands.extend(cli_learn.app.registered_commands)
app.registered_commands.extend(cli_retrain.app.registered_commands)


for more in (cli_bundle, cli_serve, cli_run, cli_audit):
    app.registered_commands.extend(more.app.registered_commands)


@app.command()
def measure(
    bundle: Annotated[Path, typer.Argument(help="The bundle to measure.")],
    model: ModelOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="The measurement to write.")],
    link: Annotated[str | None, typer.Option(help="wifi, lte, 3g or a file; by default the plan's.")] = None,
    edge_slowdown: Annotated[float | None, typer.Option(min=1.0, help="By default the plan's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each side.")] = 1,
    data: Data = None,
    max_seconds: Annotated[float, typer.Option(help="Stop measuring after this long.")] = 30.0,
    real_link: Annotated[
        bool, typer.Option("--real-link", help="Kernel TCP through two network namespaces; root, or user namespaces.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure the split and its baselines end to end, through real processes and an emulated link."""
    from .reports.terminal import measurement_table
    from .runtime.measure import measure as run

    with Bar() as bar:
        made = run(
            bundle,
            model=model,
            link=link,
            edge_slowdown=edge_slowdown,
            threads=threads,
            data=data,
            max_seconds=max_seconds,
            real_link=real_link,
            output=output,
            progress=bar,
        )
    show(made, measurement_table, json)
    say(f"wrote {output}")


app.registered_commands.extend(cli_report.app.registered_commands)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for all results.")] = Path("demo"),
    link: Annotated[str, typer.Option(help="wifi, lte, 3g, or a .link.json file.")] = "wifi",
    edge_slowdown: Slowdown = 2.0,
    data: Data = None,
    mechanism: Annotated[str, typer.Option(help="Of the noise: " + ", ".join(MECHANISMS) + ".")] = "shredder",
) -> None:
    """LeNet-5 on real handwritten digits, from profile to report, one step after the other."""
    from .demo import run

    run(output, link, edge_slowdown, data, mechanism)


def main() -> None:
    """The console script: exit code 0, 2 for a fault outside edgecut, 130 when interrupted or terminated."""
    # A plain SIGTERM ends Python without any clearing up; `serve` sets a handler of its own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except EdgecutError as error:
        print(f"edgecut: {error}", file=sys.stderr)
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except typer.Exit as ended:
        status = ended.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        print(f"edgecut: standard output cannot be written ({error.strerror}); send it elsewhere", file=sys.stderr)
        # What is still buffered would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 2
    except Exception as error:
        status = _usage(error)
    if status == INTERRUPTED:  # which is also what typer makes of Ctrl-C
        print("edgecut: interrupted; nothing half-written was left behind", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _usage(error: Exception) -> int:
    """Show what is wrong with the command line itself; anything else is a defect and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", 2))
