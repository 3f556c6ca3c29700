"""`edgecut verify`, and what every reader of a bundle does first: check each file before any of it is used.

Refused are missing, altered, additional and linked files, paths that leave the folder, manifests that do not parse or
say a thing twice, and models that take weights from elsewhere. Either side can be checked alone, as it is shipped
alone, and so can an archive of either. A file is opened once, by following no link and waiting for no pipe; what runs
it gets those very bytes from `verified_files`, whatever the folder holds a moment later.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import BundleError
from .archive import verify_archive
from .contents import AGAIN, AnyManifest, Verified, check_file, check_side, parse_manifest, summary
from .manifest import CLOUD, EDGE, MANIFEST, MAX_MANIFEST_BYTES, CloudManifest, EdgeManifest, Manifest, StoredFile

__all__ = ["Verified", "verified_files", "verify", "verify_cloud", "verify_edge"]

Keep = Callable[[str, bytes], None]
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def verify(folder: str | os.PathLike[str], *, expect_id: str | None = None) -> Verified:
    """Check a bundle or one side of it, as a folder or packed. Raises BundleError with the first thing wrong."""
    root = Path(folder)
    found = verify_archive(root) if root.is_file() else _verify_folder(root, lambda *_: None)
    return _expected(found, expect_id)


def verified_files(
    folder: str | os.PathLike[str], *, expect_id: str | None = None
) -> tuple[Verified, dict[str, bytes]]:
    """What `verify` finds, and the bytes of every file of a bundle or side, by path inside of it. Raises BundleError.

    What is returned is what was checked: nothing is read twice.
    """
    kept: dict[str, bytes] = {}
    return _expected(_verify_folder(Path(folder), kept.__setitem__), expect_id), kept


def verify_edge(folder: Path) -> Verified:
    """Check an edge side. Raises BundleError."""
    return _verify_folder(folder, lambda *_: None, EdgeManifest)


def verify_cloud(folder: Path) -> Verified:
    """Check a cloud side. Raises BundleError."""
    return _verify_folder(folder, lambda *_: None, CloudManifest)


def _expected(found: Verified, expect_id: str | None) -> Verified:
    if expect_id is not None and found.id != expect_id:
        raise BundleError(f"{found.folder} has the id {found.id}, but {expect_id} was expected; {AGAIN}")
    return found


def _verify_folder(root: Path, keep: Keep, kind: type[AnyManifest] | None = None) -> Verified:
    text = _manifest_bytes(root)
    manifest = parse_manifest(text, str(root / MANIFEST), kind)
    sides: dict[str, tuple[bytes, AnyManifest]] = {}
    if isinstance(manifest, Manifest):
        for side, of in ((EDGE, EdgeManifest), (CLOUD, CloudManifest)):
            if (root / side).is_symlink():
                raise BundleError(f"{root / side} is a link, which a bundle may not hold; {AGAIN}")
            raw = _manifest_bytes(root / side)
            sides[side] = raw, parse_manifest(raw, str(root / side / MANIFEST), of)
            check_side(str(root), side, raw, manifest)
    for side, (raw, part) in sides.items():
        _check_files(root / side, raw, part, (), _below(side, keep))
    _check_files(root, text, manifest, tuple(sides), keep)
    return summary(root, text, manifest, sides)


def _below(side: str, keep: Keep) -> Keep:
    return lambda path, data: keep(f"{side}/{path}", data)


def _check_files(root: Path, text: bytes, manifest: AnyManifest, nested: tuple[str, ...], keep: Keep) -> None:
    listed = {stored.path for stored in manifest.files} | {MANIFEST}
    for path in _present(root, nested):
        if path not in listed:
            raise BundleError(f"{root / path} is not in the manifest; remove it, or {AGAIN}")
    keep(MANIFEST, text)
    for stored in manifest.files:
        data = _read(root, stored)
        check_file(str(root / stored.path), stored, data)
        keep(stored.path, data)


def _manifest_bytes(root: Path) -> bytes:
    if root.is_file():
        raise BundleError(f"{root} is a file, where a bundle's folder is needed; unpack it where it is an archive")
    if not root.is_dir():
        raise BundleError(f"there is no bundle folder {root}; check the path")
    path = root / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"{root} has no {MANIFEST}, so it is no bundle; {AGAIN}")
    return _read_regular(root, MANIFEST, MAX_MANIFEST_BYTES, None)


def _read(root: Path, stored: StoredFile) -> bytes:
    return _read_regular(root, stored.path, stored.size_bytes, stored.size_bytes)


def _read_regular(root: Path, path: str, limit: int, exact: int | None) -> bytes:
    """The bytes of a plain file below `root`, at most `limit`; no folder on the way may be a link."""
    shown = root / path
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        *folders, name = path.split("/")
        for folder in folders:
            opened.append(os.open(folder, _NO_LINK | os.O_DIRECTORY, dir_fd=opened[-1]))
        opened.append(os.open(name, _NO_LINK, dir_fd=opened[-1]))
        about = os.fstat(opened[-1])
        if not stat.S_ISREG(about.st_mode):
            raise BundleError(f"{shown} is missing, what lies there is no file; {AGAIN}")
        if exact is not None and about.st_size != exact:
            raise BundleError(f"{shown} has {about.st_size} bytes where its manifest says {exact}; {AGAIN}")
        with open(opened[-1], "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BundleError(_reason(root, path, error)) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if len(data) > limit:
        raise BundleError(f"{shown} has more than {limit} bytes; {AGAIN}")
    return data


def _reason(root: Path, path: str, error: OSError) -> str:
    parts = path.split("/")
    if any(root.joinpath(*parts[: count + 1]).is_symlink() for count in range(len(parts))):
        return f"{root / path} is or lies behind a link, which a bundle may not hold; {AGAIN}"
    if isinstance(error, FileNotFoundError | NotADirectoryError) or not (root / path).is_file():
        return f"{root / path} is missing; {AGAIN}"
    return f"{root / path} cannot be read ({error.strerror}); check its permissions"


def _present(root: Path, nested: tuple[str, ...]) -> list[str]:
    """Every file and link below `root`, by relative path, but for the sides in `nested`, which check their own."""
    found = []
    for folder, folders, files in os.walk(root, followlinks=False):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        if here == root:
            folders[:] = [name for name in folders if name not in nested]
        found += [(here / name).relative_to(root).as_posix() for name in (*files, *links)]
    return found
