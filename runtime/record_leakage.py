"""Writing what an audit found into a bundle: its manifest anew, in one step; the two sides stay as they are."""

from __future__ import annotations

import os
from pathlib import Path

from ..artefacts import digest, write_bytes
from ..errors import ArtefactError, BundleError
from .manifest import MANIFEST, Leakage, Manifest
from .verify import verify


def record_leakage(folder: str | os.PathLike[str], leakage: Leakage | None, *, expect_id: str | None = None) -> str:
    """Put `leakage` into the bundle's manifest, or take it out, and return the bundle's new id.

    The bundle is verified first, and has `expect_id` where that is given. Raises BundleError for anything but a whole
    bundle in a folder.
    """
    if Path(folder).is_file():
        raise BundleError(f"{folder} is an archive, which is never changed; unpack it, audit the folder and pack that")
    found = verify(folder, expect_id=expect_id)
    if not isinstance(found.manifest, Manifest):
        raise BundleError(f"{folder} is one side of a bundle; what leaks is recorded in the whole bundle's manifest")
    text = found.manifest.model_copy(update={"leakage": leakage}).to_json().encode()
    try:
        write_bytes(found.folder / MANIFEST, text)
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    return digest(text)
