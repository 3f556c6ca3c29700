"""The edge side of a bundle, read into memory: each byte is checked as it is read, and only these bytes are used.

A file that is changed after the check is never opened again, so nobody can swap one in between. Refused are missing,
altered, additional and linked files, paths that leave the folder, sizes beyond any model's, and a manifest that does
not parse, however it is nested. The digests find damage, not a forger: `expect_id` pins a side.
"""

import hashlib
import os
import stat
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional

from .edge_manifest import AGAIN, Description, SideError, Stored, parse

MANIFEST, EDGE_MODEL, NOISE = "manifest.json", "edge.onnx", "noise.npz"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16
_PIECE = 1 << 20


class EdgeSide(NamedTuple):
    """A side whose files are all as its manifest says. `files` holds those that were wanted, `id` is its digest."""

    folder: str
    id: str
    description: Description
    files: Mapping[str, bytes]


Wanted = Callable[[Description], Iterable[str]]


def model_and_noise(description: Description) -> Iterable[str]:
    """What every session needs."""
    return (EDGE_MODEL, NOISE)


def read_edge_side(folder: str, wanted: Wanted = model_and_noise, expect_id: Optional[str] = None) -> EdgeSide:
    """Read and check a side; the files that `wanted` names are kept. Raises SideError with the first fault."""
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SideError("there is no bundle folder {} ({}); check the path".format(folder, error.strerror)) from None
    try:
        return _read(folder, root, wanted, expect_id)
    except OSError as error:
        raise SideError("{} cannot be read ({}); check its permissions".format(folder, error.strerror)) from None
    finally:
        os.close(root)


def _read(folder: str, root: int, wanted: Wanted, expect_id: Optional[str]) -> EdgeSide:
    where = os.path.join(folder, MANIFEST)
    text = _manifest_bytes(where, root)
    found = "sha256:" + hashlib.sha256(text).hexdigest()
    if expect_id is not None and found != expect_id:
        raise SideError("{} has the id {}, but {} was expected; {}".format(folder, found, expect_id, AGAIN))
    description = parse(text, where)
    keep = set(wanted(description))
    listed = {stored.path for stored in description.files}
    for name in sorted(keep - listed):
        raise SideError("there is no file {} in its manifest; {}".format(os.path.join(folder, name), AGAIN))
    files: Dict[str, bytes] = {}
    for stored in description.files:
        data = _checked(folder, root, stored, stored.path in keep)
        if stored.path in keep:
            files[stored.path] = data
    for path in _present(folder, root):
        if path not in listed and path != MANIFEST:
            raise SideError("{} is not in the manifest; remove it, or {}".format(os.path.join(folder, path), AGAIN))
    return EdgeSide(folder, found, description, files)


def _manifest_bytes(where: str, root: int) -> bytes:
    opened = _open(where, root, MANIFEST)
    with os.fdopen(opened, "rb") as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise SideError("{} has more than {} bytes; {}".format(where, MAX_MANIFEST_BYTES, AGAIN))
    return text


def _open(where: str, root: int, path: str) -> int:
    """A descriptor of a plain file below `root`, with no link on the way. The caller closes it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    folders, here = path.split("/")[:-1], root
    try:
        for name in folders:
            deeper = os.open(name, flags | os.O_DIRECTORY, dir_fd=here)
            if here != root:
                os.close(here)
            here = deeper
        # A pipe in a file's place would make an ordinary open wait for its writer.
        opened = os.open(path.split("/")[-1], flags | os.O_NONBLOCK, dir_fd=here)
    except FileNotFoundError:
        raise SideError("{} is missing; {}".format(where, AGAIN)) from None
    except OSError as error:
        if _is_link(root, path):
            raise SideError(
                "{} is or lies behind a link, which a bundle may not hold; {}".format(where, AGAIN)
            ) from None
        raise SideError("{} cannot be read ({}); check its permissions".format(where, error.strerror)) from None
    finally:
        if here != root:
            os.close(here)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise SideError("{} is no plain file; {}".format(where, AGAIN))
    return opened


def _is_link(root: int, path: str) -> bool:
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        try:
            if stat.S_ISLNK(os.lstat("/".join(parts[:count]), dir_fd=root).st_mode):
                return True
        except OSError:
            return False
    return False


def _checked(folder: str, root: int, stored: Stored, keep: bool) -> bytes:
    """A file's bytes where they are to be kept, and none else; as its manifest says in either case."""
    where = os.path.join(folder, stored.path)
    sha, size = hashlib.sha256(), 0
    kept: List[bytes] = []
    with os.fdopen(_open(where, root, stored.path), "rb", buffering=0) as file:
        there = os.fstat(file.fileno()).st_size
        if there == stored.size_bytes:
            # One byte more than it should have, so that a file that grows is noticed.
            while size <= stored.size_bytes:
                piece = file.read(min(_PIECE, stored.size_bytes + 1 - size))
                if not piece:
                    break
                sha.update(piece)
                size += len(piece)
                if keep:
                    kept.append(piece)
            there = size
    if there != stored.size_bytes:
        raise SideError("{} has {} bytes where its manifest says {}; {}".format(where, there, stored.size_bytes, AGAIN))
    if "sha256:" + sha.hexdigest() != stored.digest:
        raise SideError("{} was altered, its digest is not the manifest's; {}".format(where, AGAIN))
    return b"".join(kept)


def _present(folder: str, root: int) -> List[str]:
    """Every file and link below `root`, by relative path."""
    found = []
    for here, folders, files, descriptor in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        if here.count("/") > MAX_DEPTH:
            raise SideError("{} holds folders in folders without end; {}".format(folder, AGAIN))
        links = [name for name in folders if stat.S_ISLNK(os.lstat(name, dir_fd=descriptor).st_mode)]
        found += [os.path.normpath(os.path.join(here, name)) for name in [*files, *links]]
    return sorted(found)
