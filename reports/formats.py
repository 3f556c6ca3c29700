"""Which form a report or a comparison takes: a page, Markdown, JSON or CSV, written to a file or given back as text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ..artefacts import check_kind, write_bytes
from ..errors import EdgecutError, unknown
from .comma_separated import comparison_rows, report_rows
from .compare import RunComparison
from .content import Report
from .markdown import comparison_text, report_text

Format = Literal["html", "md", "json", "csv"]
FORMATS: tuple[Format, ...] = ("html", "md", "json", "csv")


def text_of(made: Report | RunComparison, form: str) -> str:
    """The whole text in one form. Raises EdgecutError for an unknown one."""
    if form == "html":
        if isinstance(made, Report):
            from .html import render

            return render(made)
        from .comparison_page import render_comparison

        return render_comparison(made)
    if form == "md":
        return report_text(made) if isinstance(made, Report) else comparison_text(made)
    if form == "csv":
        return report_rows(made) if isinstance(made, Report) else comparison_rows(made)
    if form == "json":
        return made.to_json()
    raise EdgecutError(unknown("format", form, FORMATS))


def write(made: Report | RunComparison, form: str, output: str | os.PathLike[str]) -> Path:
    """Write one form to `output`, a file or a folder; beside a page its JSON under the same stem."""
    text, target = text_of(made, form), Path(output)
    if target.is_dir() or (form == "html" and target.suffix.lower() not in (".html", ".htm")):
        target = target / f"{'report' if isinstance(made, Report) else 'comparison'}.{form}"
    if form == "html":
        made.save(target.with_suffix(".json"))
    check_kind(target, made.KIND)
    return write_bytes(target, text.encode())
