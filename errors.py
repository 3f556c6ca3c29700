"""What edgecut raises when the user, a file, a device or a server is at fault.

Every message is one sentence that says what is wrong, where, and what to do; the command line prints it and
exits with 2. Anything else that escapes is a defect of edgecut and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgecutError(Exception):
    """Base of every error whose cause lies outside edgecut; `str(error)` is a sentence for a person."""


class ModelError(EdgecutError):
    """A model cannot be found, read, cut or run as asked."""


class DataError(EdgecutError):
    """A data set or an input array has the wrong file, shape, dtype or values."""


class ArtefactError(EdgecutError):
    """A file edgecut wrote earlier is missing, damaged, of another kind or of another model."""


class DeviceError(EdgecutError):
    """A device or its runtime is unknown or cannot be used here."""


class LinkError(EdgecutError):
    """A link preset or link file is unknown or unusable."""


class BundleError(EdgecutError):
    """A bundle, or one side of it, is incomplete, altered or unsafe to read."""


class ServerError(EdgecutError):
    """A cloud server cannot be reached, went away, or answers something else than was asked."""


def unknown(what: str, name: str, known: Iterable[str], remedy: str = "") -> str:
    """One sentence for an unknown name: names the nearest known one, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f", did you mean '{near[0]}'" if near else ""
    return f"unknown {what} '{name}'{guess}; known: {', '.join(names)}{remedy}"
