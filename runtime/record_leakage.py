"""Writing what an audit found into a bundle: its manifest anew, in one step; the two sides stay as they are."""

from __future__ import annotations

import os
from pathlib import Path

from ..artefacts import digest, read_bytes, write_bytes
from ..errors import ArtefactError, BundleError
from .manifest import MANIFEST, MAX_EARLIER_IDS, MAX_MANIFEST_BYTES, Leakage, Manifest
from .verify import verify


def record_leakage(folder: str | os.PathLike[str], leakage: Leakage | None, *, expect_id: str | None = None) -> str:
    """Put `leakage` into the bundle's manifest, or take it out, and return the bundle's new id.

    The bundle is verified first, and has `expect_id` where that is given; the id that it has is kept with the verdict.
    Raises BundleError for anything but a whole bundle in a folder.
    """
    if Path(folder).is_file():
        raise BundleError(f"{folder} is an archive, which is never changed; unpack it, audit the folder and pack that")
    found = verify(folder, expect_id=expect_id)
    if not isinstance(found.manifest, Manifest):
        raise BundleError(f"{folder} is one side of a bundle; what leaks is recorded in the whole bundle's manifest")
    if leakage is not None:
        known = found.manifest.leakage.earlier_ids if found.manifest.leakage is not None else ()
        leakage = leakage.model_copy(update={"earlier_ids": (*known, found.id)[-MAX_EARLIER_IDS:]})
    text = found.manifest.model_copy(update={"leakage": leakage}).to_json().encode()
    target = found.folder / MANIFEST
    new = _place(found.folder) / f".{found.folder.resolve().name}.{MANIFEST}.{os.getpid()}"
    try:
        write_bytes(new, text)
        if digest(read_bytes(target, limit=MAX_MANIFEST_BYTES)) != found.id:  # verifying a large bundle takes seconds
            raise BundleError(f"{folder} was written by somebody else meanwhile; nothing was recorded, audit it again")
        os.replace(new, target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written ({error.strerror or error})") from None
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    finally:
        new.unlink(missing_ok=True)
    return digest(text)


def _place(folder: Path) -> Path:
    """Where the new manifest waits: beside the bundle where that can be, so that no unknown file is ever in it."""
    parent = folder.resolve().parent
    same = parent.stat().st_dev == folder.stat().st_dev
    return parent if same and os.access(parent, os.W_OK) else folder
