"""The files that edgecut writes and reads: JSON with a kind and a version, written beside and then renamed.

A reader never sees half a file, and a failed or interrupted writer leaves what was there before. `sha256:<hex>`
is how a digest is spelled everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ArtefactError

MAX_JSON_BYTES = 256 * 1024 * 1024


class Record(BaseModel):
    """A frozen value; unknown fields are refused, so that a misspelt one is never silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artefact(Record):
    """A `Record` that is a file of its own, with `kind` and `version` in its first lines."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    kind: str = ""
    version: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "KIND" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} must set KIND")

    def to_json(self) -> str:
        """The file's text."""
        return self.model_copy(update={"kind": self.KIND, "version": self.VERSION}).model_dump_json(indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to `path`, replacing it in one step, but no edgecut file of another kind. Raises ArtefactError."""
        check_kind(path, self.KIND)
        return write_bytes(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check a file. Raises ArtefactError naming the file and the first thing wrong with it."""
        return cls.from_json(read_bytes(path, limit=MAX_JSON_BYTES), where=str(path))

    @classmethod
    def from_json(cls, text: bytes | str, where: str) -> Self:
        """Parse the text of a file called `where` in messages. Raises ArtefactError."""
        try:
            # First what the file says it is: the fields of another kind or version fit anyway not.
            head = _Head.model_validate_json(text)
            if head.kind in ("", cls.KIND) and head.version in (0, cls.VERSION):
                value = cls.model_validate_json(text)
        except ValidationError as error:
            raise ArtefactError(
                f"{where} is not a usable {cls.KIND} file ({first_fault(error)}); write it again with edgecut"
            ) from None
        if head.kind != cls.KIND:
            raise ArtefactError(
                f"{where} is {_a(head.kind or 'nameless')} file, but {_a(cls.KIND)} file is needed here"
            )
        if head.version != cls.VERSION:
            raise ArtefactError(
                f"{where} has format version {head.version}, this edgecut reads {cls.VERSION}; write it again"
            )
        return value


def check_kind(path: str | os.PathLike[str], kind: str) -> None:
    """Raise ArtefactError where writing a `kind` to `path` would destroy an edgecut file of another kind."""
    found = _kind_of(path)
    if found not in (None, "", kind):
        made = _a(kind) if kind else "the result"
        raise ArtefactError(f"{path} is {_a(found)} file, which {made} would replace; choose another output path")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _kind_of(path: str | os.PathLike[str]) -> str | None:
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return None
    found = re.match(rb'\{\s*"kind":\s*"([a-z0-9-]+)"', start)
    return found[1].decode() if found else None


class _Head(BaseModel):
    kind: str = ""
    version: int = 0


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's findings as `place: what`."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])


def digest(data: bytes) -> str:
    """`sha256:<hex>` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """`sha256:<hex>` of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """A file's bytes. Raises ArtefactError where it is missing, unreadable or larger than `limit` bytes."""
    try:
        size = os.stat(path).st_size
        if size <= limit:
            with open(path, "rb") as file:
                data = file.read(limit + 1)  # a device, or a file still growing, has more than it says
            size = len(data)
        if size > limit:
            raise ArtefactError(f"{path} has {size} bytes or more, and such a file may have at most {limit}")
        return data
    except FileNotFoundError:
        raise ArtefactError(f"there is no file {path}; check the path or write it first") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise ArtefactError(f"{target} cannot be written ({error.strerror}); choose another output path") from None
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except OSError as error:
        raise ArtefactError(
            f"{target} cannot be written ({error.strerror or error}); choose another output path"
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def check_output(path: str | os.PathLike[str], kind: str = "") -> None:
    """Raise ArtefactError now where `path` could not be written later, when what took long would be lost.

    `kind` is what will be written, empty where that is no edgecut file with a kind: no other kind is replaced.
    """
    check_kind(path, kind)
    target = Path(path)
    try:
        place = next(folder for folder in target.absolute().parents if folder.exists())
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=place)
    except OSError as error:
        raise ArtefactError(f"{target} cannot be written ({error.strerror}); choose another output path") from None
    os.close(handle)
    os.unlink(name)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` in one step and return the path. Raises ArtefactError."""
    with writing(path) as beside:
        beside.write_bytes(data)
    return Path(path)


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Of those of the packages that are installed: of onnxruntime and onnxruntime-gpu it is one."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
