"""The server's certificate and the authority its clients must come from, for gRPC and REST alike.

Files are PEM. They are read again when one of them changes, so that a renewed certificate is taken for new
connections without a restart; a renewal that cannot be used keeps the one read last, and the log says so. TLS 1.2 is
the oldest version taken.
"""

from __future__ import annotations

import os
import ssl
import threading
from typing import Any, NamedTuple

import grpc

from ..errors import ServerError
from .tokens import Warn, stamp

MAX_FILE_BYTES = 1 << 20


class _Loaded(NamedTuple):
    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class Certificates:
    """A certificate with its key, and with `client_ca` the demand that clients show one of that authority."""

    def __init__(self, certificate: str, key: str, client_ca: str | None, warn: Warn) -> None:
        self._paths = [certificate, key] + ([client_ca] if client_ca else [])
        self._warn = warn
        self._lock = threading.Lock()
        self._stamp = stamp(self._paths)
        self._loaded = _load(self._paths)

    def context(self) -> ssl.SSLContext:
        """What the next connection is made with."""
        return self._current().context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials that look for renewed files at every new connection."""
        handed: list[_Loaded] = [self._loaded]

        def fetch() -> Any:  # the stubs do not know of None, which keeps the one there is
            current = self._current()
            if current is handed[0]:
                return None
            handed[0] = current
            return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._loaded), fetch, require_client_authentication=self._loaded.client_ca is not None
        )

    def _current(self) -> _Loaded:
        with self._lock:
            now = stamp(self._paths)
            if now != self._stamp:
                self._stamp = now
                try:
                    self._loaded = _load(self._paths)
                except ServerError as error:
                    self._warn(f"{error}; the certificate read last is still used")
            return self._loaded


def _configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    pair = (loaded.key, loaded.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=loaded.client_ca)


def _load(paths: list[str]) -> _Loaded:
    """Read, and hold one against the other. Raises ServerError."""
    data = [_read(path) for path in paths]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    certificate, key = paths[:2]
    try:
        # A key with a passphrase would be asked for on the terminal; nobody sits there.
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ServerError(f"certificate {certificate} and key {key} do not belong together") from None
        raise ServerError(
            f"certificate {certificate} with key {key} cannot be used; both must be PEM, the key without a passphrase"
        ) from None
    if len(paths) > 2:
        try:
            context.load_verify_locations(cadata=data[2].decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ServerError(
                f"the clients' authority {paths[2]} cannot be used; it must be a PEM certificate"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    if [_read(path) for path in paths] != data:
        raise ServerError(f"certificate {certificate} or its key changed while they were read")
    return _Loaded(data[0], data[1], data[2] if len(paths) > 2 else None, context)


def _no_password() -> str:
    raise ValueError


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ServerError(
            f"{os.fspath(path)} cannot be read ({error.strerror}); check the path and its rights"
        ) from None
    if not data or len(data) > MAX_FILE_BYTES:
        raise ServerError(f"{os.fspath(path)} is empty or larger than 1 MiB; give a PEM file")
    return data
