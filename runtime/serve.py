"""`edgecut serve`: verify a bundle's cloud side, then serve it until told to stop."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BundleError
from ..models.session import open_session
from .manifest import CLOUD, MANIFEST, REPOSITORY, EdgeManifest
from .server import MAX_MESSAGE_BYTES
from .server import serve as serve_repository
from .verify import verify


def serve(
    folder: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    threads: int = 1,
    workers: int = 8,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    expect_id: str | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests at hand; prints one line once it answers.

    `folder` is a bundle, its cloud side, or a model repository in Triton's layout. Raises BundleError where it is
    damaged or an edge side, ServerError where the address cannot be used, ModelError for an unusable model.
    """
    serve_repository(
        _repository(Path(folder), expect_id),
        host,
        port,
        threads=threads,
        workers=workers,
        max_message_bytes=max_message_bytes,
        make_session=lambda model: open_session(model, threads),
    )


def _repository(folder: Path, expect_id: str | None) -> Path:
    if folder.is_dir() and not (folder / MANIFEST).exists():
        if expect_id is not None:
            raise BundleError(f"{folder} has no {MANIFEST}, so its id cannot be checked; give a bundle's cloud side")
        return folder
    found = verify(folder, expect_id=expect_id)
    if isinstance(found.manifest, EdgeManifest):
        raise BundleError(f"{folder} is an edge side, which is never served; give the bundle's folder {CLOUD}")
    side = folder if (folder / REPOSITORY).is_dir() else folder / CLOUD
    return side / REPOSITORY
