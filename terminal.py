"""How the command line talks: tables on standard output, words and progress on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def console() -> Console:
    """Standard output."""
    from rich.console import Console

    return Console(highlight=False)


def say(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr)


class Bar:
    """A progress bar on standard error, called with what is going on and the share done; silent without a terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("", total=1.0)
        return self

    def __call__(self, what: str, share: float) -> None:
        """Show `what` is being done and the share of it that is, from 0 to 1."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what, completed=share)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
