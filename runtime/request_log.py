"""The server's log on standard error: one line an event, as text or as JSON, and never a payload, token or value.

Levels are those of logging. At `info` there is a line for every request; at `warning`, the default, only what needs
somebody's eye. What a client made up, its request's id and the names it asked for, is cut short and quoted.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
from typing import Any, TextIO

from ..errors import ServerError, unknown

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("text", "json")
MAX_CHARACTERS = 100


class RequestLog:
    """Writes lines from any thread. Raises ServerError for an unknown format or level."""

    def __init__(self, form: str = "text", level: str = "warning", stream: TextIO | None = None) -> None:
        if form not in FORMATS:
            raise ServerError(unknown("log format", form, FORMATS))
        if level not in LEVELS:
            raise ServerError(unknown("log level", level, LEVELS))
        self._json, self._least, self._stream = form == "json", LEVELS[level], stream
        self._lock = threading.Lock()

    def takes(self, level: str) -> bool:
        """Whether lines of that level are written."""
        return LEVELS[level] >= self._least

    def warn(self, sentence: str) -> None:
        """Something for somebody's eye."""
        self.write("warning", sentence)

    def write(self, level: str, event: str, **fields: Any) -> None:
        """One line: when, the level, what happened, and `fields`; those that are None are left out."""
        if not self.takes(level):
            return
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": level, "event": event}
        line.update((name, _short(value)) for name, value in fields.items() if value is not None)
        if self._json:
            text = json.dumps(line)
        else:
            rest = "".join(f" {name}={json.dumps(value)}" for name, value in list(line.items())[3:])
            text = f"{when} {level} {_one_line(event)}{rest}"
        with self._lock:
            try:
                print(text, file=self._stream or sys.stderr, flush=True)
            except (OSError, ValueError):  # nobody reads it any more; requests go on
                return


def _short(value: Any) -> Any:
    return value[:MAX_CHARACTERS] if isinstance(value, str) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())
