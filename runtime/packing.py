"""`edgecut pack` and `edgecut unpack`: a bundle, or one side of it, to an archive and back, verified both ways."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ..errors import BundleError
from .archive import AGAIN, read_archive, write_archive
from .contents import Verified
from .verify import verified_files, verify


def pack(folder: str | os.PathLike[str], output: str | os.PathLike[str], *, expect_id: str | None = None) -> Verified:
    """Write a bundle or side to the archive `output`, replacing it in one step, and return the archive, verified.

    Raises BundleError where the folder is damaged or has another id than `expect_id`, or the archive cannot be written.
    """
    _, files = verified_files(folder, expect_id=expect_id)
    return verify(write_archive(Path(folder), Path(output), files))


def unpack(
    archive: str | os.PathLike[str], output: str | os.PathLike[str], *, expect_id: str | None = None
) -> Verified:
    """Unpack a bundle or side into the new folder `output`, each file verified before it is written.

    Raises BundleError for whatever is not an archive of `pack`, whole and undamaged, or has another id than
    `expect_id`, and where `output` exists; nothing is left behind then.
    """
    target = Path(output)
    if target.exists() or target.is_symlink():
        raise BundleError(f"{target} exists already; choose another folder")
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
    except OSError as error:
        raise BundleError(f"{target} cannot be written ({error.strerror}); choose another folder") from None
    try:
        found = read_archive(Path(archive), lambda name, data: _write(folder, name, data))
        if expect_id is not None and found.id != expect_id:
            raise BundleError(f"{archive} has the id {found.id}, but {expect_id} was expected; {AGAIN}")
        folder.chmod(0o755)
        folder.rename(target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written ({error.strerror}); free some space there") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Verified(target, found.id, found.manifest, found.files, found.size_bytes)


def _write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)
