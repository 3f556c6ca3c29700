"""Bearer tokens that a server takes, from a file: one a line, empty lines and lines that start with # passed over.

The file is read again when it changes, so a token is withdrawn or added without a restart. A changed file that cannot
be used keeps the tokens read last, and the log says so. No token appears in any message.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterable

from ..errors import ServerError

MAX_FILE_BYTES = 1 << 20
SCHEME = "bearer "

Warn = Callable[[str], None]
Stamp = tuple[tuple[int, int, int], ...]


class Tokens:
    """The tokens of a file; `allow` may be called from several threads."""

    def __init__(self, path: str | os.PathLike[str], warn: Warn) -> None:
        self._path, self._warn = path, warn
        self._stamp = stamp([path])
        self._digests = _read(path)
        self._lock = threading.Lock()

    def allow(self, authorization: str | None) -> bool:
        """Whether the value of an Authorization header holds one of the tokens; takes as long for any wrong one."""
        self._refresh()
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            return False
        digest = _digest(authorization[len(SCHEME) :].strip())
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def _refresh(self) -> None:
        now = stamp([self._path])
        if now == self._stamp:
            return
        with self._lock:
            if now == self._stamp:
                return
            self._stamp = now
            try:
                self._digests = _read(self._path)
            except ServerError as error:
                self._warn(f"{error}; the tokens read last are still taken")


def stamp(paths: Iterable[str | os.PathLike[str]]) -> Stamp:
    """What changes when one of the files does: time, size and inode of each, zeros for a missing one."""
    found = []
    for path in paths:
        try:
            of = os.stat(path)
            found.append((of.st_mtime_ns, of.st_size, of.st_ino))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)


def _read(path: str | os.PathLike[str]) -> tuple[bytes, ...]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ServerError(f"token file {os.fspath(path)} cannot be read ({error.strerror})") from None
    lines = [line.strip() for line in data.splitlines()]
    tokens = [line for line in lines if line and not line.startswith(b"#")]
    if len(data) > MAX_FILE_BYTES or not tokens:
        raise ServerError(f"token file {os.fspath(path)} has no token; write one a line, 1 MiB at most")
    for number, line in enumerate(lines, 1):
        if line and not line.startswith(b"#") and not all(0x21 <= byte <= 0x7E for byte in line):
            raise ServerError(
                f"token file {os.fspath(path)} has a blank or a foreign character within the token of line {number}; "
                "use visible ASCII only"
            )
    return tuple(_digest(token.decode()) for token in tokens)


def _digest(token: str) -> bytes:
    """Of one length whatever the token's, so that a comparison tells nothing of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
