"""`edgecut verify`, and what every reader of a bundle does first: check each file before any of it is used.

Refused are missing, altered, additional and linked files, paths that leave the folder, and manifests that do not
parse. Either side can be checked alone, as it is shipped alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..artefacts import MAX_JSON_BYTES, digest, file_digest, read_bytes
from ..errors import ArtefactError, BundleError
from .manifest import CLOUD, EDGE, MANIFEST, CloudManifest, EdgeManifest, Manifest, StoredFile

M = TypeVar("M", Manifest, EdgeManifest, CloudManifest)
AGAIN = "get the bundle again, or write it again with edgecut bundle"


@dataclass(frozen=True)
class Verified:
    """A side or bundle whose files are all as its manifest says; `id` is the manifest's digest."""

    folder: Path
    id: str
    manifest: Manifest | EdgeManifest | CloudManifest
    files: int
    size_bytes: int


def verify(folder: str | os.PathLike[str], *, expect_id: str | None = None) -> Verified:
    """Check a bundle, or one side of it. Raises BundleError with the first thing that is wrong."""
    root = Path(folder)
    kind = _kind(root)
    if kind == EdgeManifest.KIND:
        found: Verified = verify_edge(root)
    elif kind == CloudManifest.KIND:
        found = verify_cloud(root)
    else:
        found = _verify_bundle(root)
    if expect_id is not None and found.id != expect_id:
        raise BundleError(f"{root} has the id {found.id}, but {expect_id} was expected; {AGAIN}")
    return found


def verify_edge(folder: Path) -> Verified:
    """Check an edge side. Raises BundleError."""
    text = _manifest_bytes(folder)
    manifest = _parsed(EdgeManifest, text, folder)
    return _checked(folder, text, manifest, manifest.files, nested=())


def verify_cloud(folder: Path) -> Verified:
    """Check a cloud side. Raises BundleError."""
    text = _manifest_bytes(folder)
    manifest = _parsed(CloudManifest, text, folder)
    return _checked(folder, text, manifest, manifest.files, nested=())


def _verify_bundle(root: Path) -> Verified:
    text = _manifest_bytes(root)
    manifest = _parsed(Manifest, text, root)
    edge, cloud = verify_edge(root / EDGE), verify_cloud(root / CLOUD)
    for side, stated in ((edge, manifest.edge_digest), (cloud, manifest.cloud_digest)):
        if side.id != stated:
            raise BundleError(f"{side.folder} is not the side that {root / MANIFEST} names; {AGAIN}")
    whole = _checked(root, text, manifest, manifest.files, nested=(EDGE, CLOUD))
    return Verified(
        folder=root,
        id=whole.id,
        manifest=manifest,
        files=whole.files + edge.files + cloud.files,
        size_bytes=whole.size_bytes + edge.size_bytes + cloud.size_bytes,
    )


def _kind(root: Path) -> str:
    try:
        parsed = json.loads(_manifest_bytes(root))
    except (ValueError, RecursionError):
        raise BundleError(f"{root / MANIFEST} is not JSON; {AGAIN}") from None
    kind = parsed.get("kind") if isinstance(parsed, dict) else None
    if kind not in (Manifest.KIND, EdgeManifest.KIND, CloudManifest.KIND):
        raise BundleError(f"{root / MANIFEST} is not a bundle's manifest; {AGAIN}")
    return str(kind)


def _manifest_bytes(root: Path) -> bytes:
    if not root.is_dir():
        raise BundleError(f"there is no bundle folder {root}; check the path")
    path = root / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"{root} has no {MANIFEST}, so it is no bundle; {AGAIN}")
    try:
        return read_bytes(path, limit=MAX_JSON_BYTES)
    except ArtefactError as error:
        raise BundleError(str(error)) from None


def _parsed(kind: type[M], text: bytes, root: Path) -> M:
    try:
        return kind.from_json(text, where=str(root / MANIFEST))
    except ArtefactError as error:
        raise BundleError(str(error)) from None


def _checked(
    root: Path,
    text: bytes,
    manifest: Manifest | EdgeManifest | CloudManifest,
    files: tuple[StoredFile, ...],
    nested: tuple[str, ...],
) -> Verified:
    for stored in files:
        _check_file(root, stored)
    listed = {stored.path for stored in files} | {MANIFEST}
    for path in _present(root, nested):
        if path not in listed:
            raise BundleError(f"{root / path} is not in the manifest; remove it, or {AGAIN}")
    size = sum(stored.size_bytes for stored in files) + len(text)
    return Verified(folder=root, id=digest(text), manifest=manifest, files=len(files) + 1, size_bytes=size)


def _check_file(root: Path, stored: StoredFile) -> None:
    if not stored.safe:
        raise BundleError(f"{root / MANIFEST} names the unsafe path {stored.path!r}; do not use this bundle")
    path = root / stored.path
    parts = [root.joinpath(*Path(stored.path).parts[: i + 1]) for i in range(len(Path(stored.path).parts))]
    if any(part.is_symlink() for part in parts):
        raise BundleError(f"{path} is or lies behind a link, which a bundle may not hold; {AGAIN}")
    if not path.is_file():
        raise BundleError(f"{path} is missing; {AGAIN}")
    try:
        size = path.stat().st_size
        if size != stored.size_bytes:
            raise BundleError(f"{path} has {size} bytes where its manifest says {stored.size_bytes}; {AGAIN}")
        if file_digest(path) != stored.digest:
            raise BundleError(f"{path} was altered, its digest is not the manifest's; {AGAIN}")
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check its permissions") from None


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
