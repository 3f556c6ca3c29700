"""What `edgecut doctor` finds: one line for everything that edgecut could use here, and why not where it cannot."""

from __future__ import annotations

from typing import Literal

from ..artefacts import Record

Group = Literal["devices", "runtimes", "backends", "meters", "compilers", "tools", "storage", "versions"]
Status = Literal["usable", "unusable", "unknown"]


class Check(Record):
    """One thing tried out. `detail` says what was found or why it is of no use, `remedy` what to do about it."""

    group: Group
    name: str
    status: Status
    detail: str
    remedy: str = ""


class Diagnosis(Record):
    """All checks, group by group."""

    checks: tuple[Check, ...]
    elapsed_s: float

    def find(self, group: Group, name: str) -> Check | None:
        """The check of that name, if it was made."""
        return next((check for check in self.checks if (check.group, check.name) == (group, name)), None)
