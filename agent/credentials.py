"""The files a connection is protected with: certificates, keys and a bearer token, read again when they change.

An error names the file, never what is in it. A token leaves this module only towards the server; `hide` takes it out of
whatever a server says, because one that echoes its request would otherwise have it printed here.
"""

import contextlib
import os
import ssl
import sys
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

from .transport import Security, TransportError

MAX_FILE_BYTES = 1 << 20
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")
_Stamp = Tuple[int, int, int, int]
_Stamps = Dict[str, _Stamp]


class Pem(NamedTuple):
    """What gRPC takes instead of an SSLContext; `ca` None is its own list."""

    ca: Optional[bytes]
    key: Optional[bytes]
    certificate: Optional[bytes]


class Credentials:
    """One server's credentials; `tls` whether its address asks for TLS, `application` its protocol as ALPN names it.

    Every method raises TransportError for files that cannot be used, and says that it may be retried where they could
    be before: they are perhaps just being written again.
    """

    def __init__(self, security: Security, tls: bool, application: str) -> None:
        if (security.certificate is None) != (security.key is None):
            raise TransportError(
                "insecure", "a certificate needs its key, and a key its certificate; give both or none"
            )
        self._security, self._tls, self._application = security, tls, application
        self._token = ""
        self._token_stamp = None  # type: Optional[_Stamp]
        self._stamps = {}  # type: _Stamps
        self._context = None  # type: Optional[ssl.SSLContext]
        self.authorization()
        self.context()

    def authorization(self) -> Optional[str]:
        """The value of the header `authorization`, None where there is no token."""
        path = self._security.token_file
        if path is None:
            return None
        with _again(bool(self._token)):
            stamp = _stamp(path, "unauthenticated")
            if stamp != self._token_stamp:
                self._token, self._token_stamp = _token(path), stamp
        return "Bearer " + self._token

    def context(self) -> Optional[ssl.SSLContext]:
        """What makes and checks a TLS connection, another one after a file has changed; None without TLS."""
        if not self._tls:
            return None
        paths = [path for path in (self._security.ca, self._security.certificate, self._security.key) if path]
        with _again(self._context is not None):
            stamps = {path: _stamp(path, "insecure") for path in paths}
            if self._context is None or stamps != self._stamps:
                made = _context(self._security)
                made.set_alpn_protocols([self._application])
                self._context, self._stamps = made, stamps
        return self._context

    def pem(self) -> Pem:
        """The same files as bytes."""
        ca, key, certificate = (
            None if path is None else _read(path, "insecure")
            for path in (self._security.ca or _system_ca(), self._security.key, self._security.certificate)
        )
        return Pem(ca, key, certificate)

    def hide(self, text: str) -> str:
        """One printable line of what a server says, at most 300 characters, without the token."""
        if self._token:
            text = text.replace(self._token, "[token]")
        return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:300]


@contextlib.contextmanager
def _again(retry: bool) -> Iterator[None]:
    try:
        yield
    except TransportError as error:
        error.retry = retry
        raise


def _token(path: str) -> str:
    token = _read(path, "unauthenticated").split(b"\n", 1)[0].strip()
    if not token or not all(0x21 <= byte <= 0x7E for byte in token):
        sentence = "the token file {} holds no token of visible ASCII in its first line".format(path)
        raise TransportError("unauthenticated", sentence)
    return token.decode("ascii")


def tls_reason(error: Exception) -> str:
    """OpenSSL's words for a failed handshake."""
    reason = str(getattr(error, "reason", "") or "")
    if reason in _NO_TLS:
        return "no TLS is spoken there"
    words = getattr(error, "verify_message", "") or reason.replace("_", " ").lower() or error
    return " ".join(str(words).split())[:200]


def _context(security: Security) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and host name
    if sys.version_info < (3, 10):
        context.options |= ssl.OP_NO_SSLv3 | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    if security.ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cadata=_read(security.ca, "insecure").decode("ascii"))
        except (ValueError, ssl.SSLError):
            raise TransportError("insecure", "{} holds no certificate in PEM".format(security.ca)) from None
    if security.certificate is not None and security.key is not None:
        for path in (security.certificate, security.key):
            _read(path, "insecure")
        try:
            context.load_cert_chain(security.certificate, security.key, _no_password)
        except (ValueError, OSError):  # ssl.SSLError is an OSError
            raise TransportError(
                "insecure",
                "{} and {} are not a certificate and its own key in PEM without a password".format(
                    security.certificate, security.key
                ),
            ) from None
    return context


def _no_password() -> str:
    raise ValueError("a key with a password; OpenSSL would ask for it at the terminal")


def _system_ca() -> Optional[str]:
    """The file with the system's authorities, which gRPC does not look for itself."""
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, os.path.join(paths.capath or "", "ca-certificates.crt")):
        if path and os.path.isfile(path):
            return path
    return None


def _stamp(path: str, kind: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, kind, error) from None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def _read(path: str, kind: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, kind, error) from None
    if not data.strip() or len(data) > MAX_FILE_BYTES:
        raise TransportError(kind, "{} is {}".format(path, "too large" if data.strip() else "empty"))
    return data


def _unreadable(path: str, kind: str, error: Any) -> TransportError:
    return TransportError(kind, "{} cannot be read ({})".format(path, error.strerror or error))
