"""TLS on both transports: who is trusted, who is not and with which reason, and files that are renewed."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgecut.agent.caller import Caller, Policy
from edgecut.agent.oip_http import HttpTransport
from edgecut.agent.transport import Security, Transport, TransportError, open_transport
from edgecut.runtime.ping import round_trips

X = np.zeros((1, 2), np.float32)
NOW = datetime.datetime.now(datetime.UTC)


class Signed(NamedTuple):
    """A certificate with its key."""

    key: Any
    certificate: Any

    def save(self, folder: Path, name: str) -> tuple[str, str]:
        """Paths of the certificate and of the key; old files are replaced as a renewal does it."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for ending, data in ((".pem", self.pem), (".key", key)):
            (folder / f"{name}.new").write_bytes(data)
            os.replace(folder / f"{name}.new", folder / f"{name}{ending}")
        return str(folder / f"{name}.pem"), str(folder / f"{name}.key")

    @property
    def pem(self) -> bytes:
        return bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


def sign(issuer: Signed | None, *names: str, days: int = 9) -> Signed:
    """A certificate for names and addresses, or an authority's own where there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "authority")])
    made = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    made = made.issuer_name(issuer.certificate.subject if issuer else subject)
    made = made.serial_number(x509.random_serial_number()).not_valid_before(NOW - datetime.timedelta(days=20))
    made = made.not_valid_after(NOW + datetime.timedelta(days=days))
    if issuer is None:
        made = made.add_extension(x509.BasicConstraints(True, None), True)
    else:
        alternatives: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
        ]
        made = made.add_extension(x509.SubjectAlternativeName(alternatives), False)
    return Signed(key, made.sign((issuer or Signed(key, None)).key, hashes.SHA256()))


class Files(NamedTuple):
    """Paths in PEM; the pairs are (certificate, key)."""

    folder: Path
    ca: str
    other_ca: str
    server: tuple[str, str]
    misnamed: tuple[str, str]
    expired: tuple[str, str]
    edge: tuple[str, str]
    foreign_edge: tuple[str, str]
    authority: Signed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ours, theirs = sign(None), sign(None)
    return Files(
        folder,
        ours.save(folder, "ca")[0],
        theirs.save(folder, "other")[0],
        sign(ours, "localhost", "127.0.0.1").save(folder, "server"),
        sign(ours, "elsewhere.test").save(folder, "misnamed"),
        sign(ours, "127.0.0.1", days=-1).save(folder, "expired"),
        sign(ours, "edge").save(folder, "edge"),
        sign(theirs, "edge").save(folder, "foreign"),
        ours,
    )


class Mirror(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda data, context: b"")  # an answer without outputs


@contextlib.contextmanager
def grpc_server(pair: tuple[str, str] | None, client_ca: str | None = None) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Mirror(),))
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        chain, key = (Path(path).read_bytes() for path in pair)
        ca = Path(client_ca).read_bytes() if client_ca else None
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)], ca, bool(client_ca)))
    server.start()
    try:
        yield f"grpc{'s' if pair else ''}://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


class Empty(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps({"outputs": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def http_server(pair: tuple[str, str] | None, client_ca: str | None = None) -> Iterator[str]:
    with Quiet(("127.0.0.1", 0), Empty) as server:
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*pair)
            if client_ca:
                context.load_verify_locations(client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http{'s' if pair else ''}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


Start = Callable[..., AbstractContextManager[str]]
both = pytest.mark.parametrize("start", [grpc_server, http_server], ids=["grpc", "http"])


@contextlib.contextmanager
def opened(address: str, security: Security) -> Iterator[Transport]:
    made = open_transport(address, security)
    try:
        yield made
    finally:
        made.close()


def refused(address: str, security: Security, kind: str = "insecure") -> str:
    with opened(address, security) as made, pytest.raises(TransportError) as raised:
        made.infer("m", [("x", X)], 10)
    assert (raised.value.kind, raised.value.retry) == (kind, kind != "insecure"), str(raised.value)
    assert address in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


@both
def test_a_trusted_server(start: Start, files: Files) -> None:
    with start(files.server) as address:
        for name in ("127.0.0.1", "localhost"):
            with opened(address.replace("127.0.0.1", name), Security(ca=files.ca)) as made:
                used = set()
                for _ in range(3):
                    assert made.infer("m", [("x", X)], 10) == {}
                    used.add(made._idle[0][0] if isinstance(made, HttpTransport) else None)
                assert len(used) == 1
    with start(files.server, files.ca) as address:
        pair = Security(files.ca, *files.edge)
        with opened(address, pair) as made:
            assert made.infer("m", [("x", X)], 10) == {}


@both
def test_a_server_that_is_not_trusted(start: Start, files: Files) -> None:
    with start(files.server) as address:
        assert "certificate" in refused(address, Security(ca=files.other_ca))
        assert "certificate" in refused(address, Security())
    with start(files.misnamed) as address:
        assert "127.0.0.1" in refused(address, Security(ca=files.ca))
    with start(files.expired) as address:
        assert "expired" in refused(address, Security(ca=files.ca))


@both
def test_a_server_that_does_not_trust_us(start: Start, files: Files) -> None:
    with start(files.server, files.ca) as address:
        for security in (Security(files.ca), Security(files.ca, *files.foreign_edge)):
            if start is http_server:  # OpenSSL says why
                assert "is not safe" in refused(address, security)
            else:  # gRPC's server closes the connection without a word, as a proxy does whose server is away
                assert "wants a certificate of this side" in refused(address, security, "unavailable")


@both
def test_plaintext_and_tls_take_each_other_for_what_they_are(start: Start, files: Files) -> None:
    with start(files.server) as address:
        scheme = address.split("s:")[0]
        assert f"TLS is spoken there; give {scheme}s://" in refused(address.replace("s://", "://"), Security())
    with start(None) as address:
        assert "no TLS is spoken there" in refused(address.replace("://", "s://"), Security(ca=files.ca))


@both
def test_nobody_there_with_tls(start: Start, files: Files) -> None:
    with start(files.server) as address:
        pass
    assert "no server" in refused(address, Security(ca=files.ca), "unavailable")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        with opened(address.rsplit(":", 1)[0] + f":{silent.getsockname()[1]}", Security(ca=files.ca)) as made:
            with pytest.raises(TransportError, match=r"not within 0.3 s") as raised:
                made.infer("m", [("x", X)], 0.3)
            assert raised.value.kind == "deadline"


@both
def test_renewed_files_are_taken_by_the_next_request(start: Start, files: Files, tmp_path: Path) -> None:
    certificate, key = Path(tmp_path / "edge.pem"), Path(tmp_path / "edge.key")
    ca = tmp_path / "ca.pem"
    security = Security(str(ca), str(certificate), str(key))
    ca.write_bytes(Path(files.ca).read_bytes())
    sign(files.authority, "edge").save(tmp_path, "edge")
    with start(files.server, files.ca) as address, opened(address, security) as made:
        assert made.infer("m", [("x", X)], 10) == {}
        sign(files.authority, "edge").save(tmp_path, "edge")
        assert made.infer("m", [("x", X)], 10) == {}
        certificate.write_bytes(Path(files.edge[0]).read_bytes())  # half a renewal: the key is still the old one
        with pytest.raises(TransportError, match="are not a certificate and its own key") as raised:
            made.infer("m", [("x", X)], 10)
        assert raised.value.retry
        key.write_bytes(Path(files.edge[1]).read_bytes())
        assert made.infer("m", [("x", X)], 10) == {}
        ca.write_bytes(Path(files.other_ca).read_bytes())
        with pytest.raises(TransportError) as raised:
            made.infer("m", [("x", X)], 10)
        assert raised.value.kind == "insecure"


def test_a_key_with_a_password_is_refused_without_asking_for_it(files: Files, tmp_path: Path) -> None:
    locked = files.authority.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    (tmp_path / "k").write_bytes(locked)
    with pytest.raises(TransportError, match="without a password"):
        open_transport("grpcs://a:1", Security(files.ca, files.ca, str(tmp_path / "k")))


@both
def test_what_is_not_safe_is_not_retried(start: Start, files: Files) -> None:
    pauses: list[float] = []
    with start(files.server) as address:
        caller = Caller(address, Security(files.other_ca), Policy(), pause=pauses.append)
        with pytest.raises(TransportError, match="is not safe"):
            caller.infer("m", [("x", X)])
        caller.close()
    assert pauses == []


def test_pings_go_through_tls(files: Files) -> None:
    context = ssl.create_default_context(cafile=files.ca)
    context.set_alpn_protocols(["h2"])
    with grpc_server(files.server) as address:
        trips = round_trips("127.0.0.1", int(address.rsplit(":", 1)[1]), 2, float("inf"), 5.0, context)
    assert len(trips.connects_s) == 2 and len(trips.pings_s) == 4
