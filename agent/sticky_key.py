"""The secret behind sticky noise: made on the device at first use, kept in a file that only its user can read.

Who has it and the noise file can tell the noise of any input that he guesses, so it never leaves the device. Without
the file the noise of a known input is other noise: losing it loosens what repeated requests do not tell, no more.
"""

import contextlib
import os
import stat
import tempfile
from typing import Optional

from ..noise_kernels.building import BuildError, cache_folder, private_folder
from .backends import BackendError

SECRET_BYTES = 32


def sticky_secret(side_id: str, folder: Optional[str] = None) -> bytes:
    """The secret of the edge side with that digest, made now if there is none yet. Raises BackendError.

    `folder` is where engines and kernels are kept, too, by default edgecut's folder in the user's cache.
    """
    try:
        place = private_folder(os.path.join(folder or cache_folder(), "sticky"))
        path = os.path.join(place, side_id.rpartition(":")[2] + ".key")
        if not os.path.lexists(path):
            _make(path, place)
        return _read(path)
    except BuildError as error:
        raise BackendError("sticky noise needs a secret, and it cannot be kept, since {}".format(error)) from None
    except OSError as error:
        raise BackendError(
            "the secret of sticky noise in {} cannot be kept ({}); set EDGECUT_CACHE, or give a --cache folder".format(
                error.filename or folder or cache_folder(), error.strerror
            )
        ) from None


def _make(path: str, place: str) -> None:
    """Write a new secret under that name, unless another process was quicker: then its secret stays."""
    handle, beside = tempfile.mkstemp(dir=place)  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        os.remove(beside)


def _read(path: str) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        secret = file.read(SECRET_BYTES + 1)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise BackendError("{} can be read by others than its user; make it 0600, or remove it".format(path))
    if len(secret) != SECRET_BYTES:
        raise BackendError("{} holds no secret of {} bytes; remove it".format(path, SECRET_BYTES))
    return secret
