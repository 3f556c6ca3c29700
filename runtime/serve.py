"""`edgecut serve`: verify what is given, bundles' cloud sides or model repositories, and serve it until stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BundleError, ServerError
from .batching import Batching
from .manifest import CLOUD, MANIFEST, REPOSITORY, EdgeManifest
from .providers import session_maker
from .request_log import RequestLog
from .served import MakeSession
from .server import MAX_CONNECTIONS, MAX_MESSAGE_BYTES, QUEUE, CloudServer, Protection
from .server import serve as run
from .verify import verified_files

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

REST_PORT = 8000
Folder = str | os.PathLike[str]
Files = dict[str, bytes]
"""By path, links followed."""


def serve(
    folders: Folder | Sequence[Folder],
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    rest_port: int | None = None,
    threads: int = 1,
    workers: int = 8,
    queue: int = QUEUE,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    max_connections: int = MAX_CONNECTIONS,
    provider: str = "cpu",
    allow_nonfinite: bool = False,
    batching: Batching | None = None,
    protection: Protection | None = None,
    log_format: str = "text",
    log_level: str = "warning",
    grace_s: float = 10.0,
    expect_id: str | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests at hand; prints a line for each address it answers at.

    Each of `folders` is a bundle, its cloud side, or a model repository in Triton's layout. `rest_port` None serves no
    REST. Raises BundleError where one is damaged or an edge side, ServerError where an address, a certificate or a
    token file cannot be used, ModelError for an unusable model, DeviceError where the provider is not to be had.
    """
    given = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    if expect_id is not None and len(given) != 1:
        raise BundleError("an id is of one folder; serve one where --expect-id is given")
    for name, value in (("workers", workers), ("connections", max_connections), ("bytes a message", max_message_bytes)):
        if value < 1:
            raise ServerError(f"a server cannot do with {value} {name}; give 1 or more")
    if queue < 0:
        raise ServerError(f"a queue cannot hold {queue} requests; give 0 or more")
    files: Files = {}
    roots = [repository_of(Path(folder), expect_id, files) for folder in given]
    make_session = _from_verified(session_maker(provider, threads), files, roots)
    server = CloudServer(
        roots,
        host,
        port,
        threads,
        workers,
        max_message_bytes,
        make_session,
        allow_nonfinite,
        rest_port=rest_port,
        queue=queue,
        max_connections=max_connections,
        batching=batching,
        protection=protection,
        log=RequestLog(log_format, log_level),
    )
    run(server, grace_s)


def rest_port_of(text: str | None, port: int) -> int | None:
    """The REST port that `--rest-port` means: a number or none; where it is left out 8000, or any beside a gRPC port 0.

    Raises ServerError.
    """
    if text is None:
        return REST_PORT if port else 0
    if text in ("none", "-1"):
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ServerError(f"'{text}' is no port for REST; give a number, 0 for any free one, or none")
    return int(text)


def repository_of(folder: Path, expect_id: str | None, files: Files | None = None) -> Path:
    """The model repository in a folder that was given to serve; what was verified on the way is kept in `files`."""
    if folder.is_file():
        raise BundleError(f"{folder} is a file; give the folder of a bundle's cloud side, an archive unpacked")
    if folder.is_dir() and not (folder / MANIFEST).exists():
        if expect_id is not None:
            raise BundleError(f"{folder} has no {MANIFEST}, so its id cannot be checked; give a bundle's cloud side")
        return folder
    found, kept = verified_files(folder, expect_id=expect_id)
    if isinstance(found.manifest, EdgeManifest):
        raise BundleError(f"{folder} is an edge side, which is never served; give the bundle's folder {CLOUD}")
    side = folder if (folder / REPOSITORY).is_dir() else folder / CLOUD
    if files is not None:
        root = os.path.realpath(folder)
        files.update({os.path.join(root, path): data for path, data in kept.items() if path.endswith(".onnx")})
    return side / REPOSITORY


def _from_verified(make_session: MakeSession, files: Files, repositories: Sequence[Path]) -> MakeSession:
    """Sessions of the bytes that were verified, not of whatever lies in their place a moment later."""
    verified = [root for root in map(os.path.realpath, repositories) if any(path.startswith(root) for path in files)]

    def made(model: bytes | str) -> InferenceSession:
        path = os.path.realpath(os.fsdecode(model))
        data = files.pop(path, None)
        if data is None and any(path.startswith(root + os.sep) for root in verified):
            raise BundleError(f"{path} was put there after the bundle was verified; get the bundle again")
        return make_session(path if data is None else data)

    return made
