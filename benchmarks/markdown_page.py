"""A page of Markdown from blocks: prose is wrapped, tables and headings stay as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 120


def document(blocks: Iterable[str]) -> str:
    """The whole page."""
    return "\n\n".join(map(_wrapped, blocks)) + "\n"


def _wrapped(block: str) -> str:
    """Prose in lines of the other documents' width; tables and headings as they are."""
    if block.startswith(("|", "#")):
        return block
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  " if line.startswith("* ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in block.splitlines()
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One table; an empty cell is a space."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)
