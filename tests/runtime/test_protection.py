"""TLS, client certificates and tokens on both ports: who gets in, who is told why not, and what a renewal changes."""

from __future__ import annotations

import datetime
import http.client
import io
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgecut.errors import ServerError
from edgecut.runtime import oip, tensors
from edgecut.runtime.request_log import RequestLog
from edgecut.runtime.server import CloudServer, Protection
from edgecut.runtime.tokens import Tokens

pytest.importorskip("onnxruntime")
TOKEN, OTHER = "Planted-Token-0123456789", "Another-Token-9876543210"


class Pair(NamedTuple):
    """Paths of a certificate and its key, and what is in the certificate."""

    certificate: str
    key: str
    pem: bytes


class Authority:
    """Signs certificates for 127.0.0.1 into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.pem = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.path = str(folder / f"{name}.pem")
        Path(self.path).write_bytes(self.pem)

    def pair(self, name: str) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = self._builder(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        pem = made.public_bytes(serialization.Encoding.PEM)
        (self._folder / f"{name}.crt").write_bytes(pem)
        (self._folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Pair(str(self._folder / f"{name}.crt"), str(self._folder / f"{name}.key"), pem)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return x509.CertificateBuilder(
            self._name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - datetime.timedelta(days=1),
            now + datetime.timedelta(days=30),
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# of the cameras\n{TOKEN}\n\n{OTHER}\n")
    return path


def request() -> Any:
    made = oip.message("ModelInferRequest")(model_name="net")
    tensors.append(made.inputs, made.raw_input_contents, "x", np.ones((1, 12), np.float32))
    return made


BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 12], "data": [1.0] * 12}]})


def grpc_infer(server: CloudServer, ca: bytes | None, pair: Pair | None = None, token: str | None = None) -> Any:
    """The status of a request over gRPC, or the number of its outputs."""
    credentials = None
    if ca is not None:
        key = None if pair is None else Path(pair.key).read_bytes()
        credentials = grpc.ssl_channel_credentials(ca, key, None if pair is None else pair.pem)
    made = (
        grpc.insecure_channel(server.address)
        if credentials is None
        else grpc.secure_channel(server.address, credentials)
    )
    with made as channel:
        metadata = None if token is None else [("authorization", f"Bearer {token}")]
        try:
            return len(oip.Stub(channel).ModelInfer(request(), timeout=20, metadata=metadata).outputs)
        except grpc.RpcError as error:
            assert TOKEN not in str(error) and OTHER not in str(error)
            return error.code()


def rest(
    server: CloudServer,
    ca: bytes | None,
    pair: Pair | None = None,
    token: str | None = None,
    path: str = "/v2/models/net/infer",
    seen: list[bytes] | None = None,
) -> int:
    """The status of a request over REST. Raises ssl.SSLError or OSError where there is no connection."""
    assert server.rest_port is not None
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    made = http.client.HTTPConnection(server.host, server.rest_port, timeout=20)
    if ca is not None:
        context = ssl.create_default_context(cadata=ca.decode())
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        made = http.client.HTTPSConnection(server.host, server.rest_port, timeout=20, context=context)
    try:
        made.request("POST" if "infer" in path else "GET", path, BODY if "infer" in path else None, headers)
        if seen is not None:
            seen.append(ssl.DER_cert_to_PEM_cert(made.sock.getpeercert(True)).encode())
        answer = made.getresponse()
        content = answer.read()
        assert TOKEN.encode() not in content and OTHER.encode() not in content
        assert answer.status != 401 or answer.headers["WWW-Authenticate"].startswith("Bearer")
        return answer.status
    finally:
        made.close()


@pytest.fixture
def running(small_models: Path) -> Iterator[Callable[..., tuple[CloudServer, io.StringIO]]]:
    servers: list[CloudServer] = []

    def start(level: str = "info", **protection: Any) -> tuple[CloudServer, io.StringIO]:
        stream = io.StringIO()
        server = CloudServer(
            small_models, rest_port=0, protection=Protection(**protection), log=RequestLog("json", level, stream)
        )
        server.start()
        servers.append(server)
        return server, stream

    yield start
    for server in servers:
        server.stop()


def test_tls_on_both_ports(running: Any, authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("server")
    server, _ = running(certificate=pair.certificate, key=pair.key)
    assert [url.split(":")[0] for url in server.urls] == ["grpcs", "https"]
    assert grpc_infer(server, authority.pem) == 2 and rest(server, authority.pem) == 200
    stranger = Authority(tmp_path, "stranger")
    for ca in (None, stranger.pem):
        assert grpc_infer(server, ca) is grpc.StatusCode.UNAVAILABLE
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            rest(server, ca)
    assert grpc_infer(server, authority.pem) == 2 and rest(server, authority.pem) == 200


def test_a_foreign_client_over_tls_with_a_token(running: Any, authority: Authority, token_file: Path) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    pair = authority.pair("server")
    server, _ = running(certificate=pair.certificate, key=pair.key, token_file=str(token_file))
    with triton.InferenceServerClient(server.address, ssl=True, root_certificates=authority.path) as client:
        given = triton.InferInput("x", [1, 12], "FP32")
        given.set_data_from_numpy(np.ones((1, 12), np.float32))
        answer = client.infer("net", [given], headers={"authorization": f"Bearer {OTHER}"})
        assert answer.as_numpy("z").tolist() == [[-1] * 12]
        with pytest.raises(Exception, match="UNAUTHENTICATED"):
            client.infer("net", [given])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_not_spoken(running: Any, authority: Authority) -> None:
    pair = authority.pair("server")
    server, _ = running(certificate=pair.certificate, key=pair.key)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    made = http.client.HTTPSConnection(server.host, server.rest_port, timeout=20, context=context)
    with pytest.raises((ssl.SSLError, OSError)):
        made.request("GET", "/v2")


def test_clients_that_must_show_a_certificate(running: Any, authority: Authority, tmp_path: Path) -> None:
    pair, client = authority.pair("server"), authority.pair("client")
    stranger = Authority(tmp_path, "stranger").pair("nobody")
    server, _ = running(certificate=pair.certificate, key=pair.key, client_ca=authority.path)
    assert grpc_infer(server, authority.pem, client) == 2 and rest(server, authority.pem, client) == 200
    for other in (None, stranger):
        assert grpc_infer(server, authority.pem, other) is grpc.StatusCode.UNAVAILABLE
        with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
            rest(server, authority.pem, other)


def test_a_renewed_certificate_is_taken_and_a_bad_one_is_not(running: Any, authority: Authority) -> None:
    pair = authority.pair("server")
    server, log = running(certificate=pair.certificate, key=pair.key)
    seen: list[bytes] = []
    assert rest(server, authority.pem, seen=seen) == 200 and seen[-1] == pair.pem
    renewed = authority.pair("renewed")
    os.replace(renewed.certificate, pair.certificate)  # the key is still the old one
    assert rest(server, authority.pem, seen=seen) == 200 and seen[-1] == pair.pem
    assert grpc_infer(server, authority.pem) == 2
    warnings = [line for line in log.getvalue().splitlines() if '"warning"' in line]
    assert len(warnings) == 1 and "do not belong together; the certificate read last" in warnings[0]
    os.replace(renewed.key, pair.key)
    assert rest(server, authority.pem, seen=seen) == 200 and seen[-1] == renewed.pem
    assert ssl.get_server_certificate((server.host, server.port), ca_certs=authority.path).strip() == (
        renewed.pem.decode().strip()
    )
    assert grpc_infer(server, authority.pem) == 2


def test_a_renewed_authority_of_clients(running: Any, authority: Authority, tmp_path: Path) -> None:
    pair, old = authority.pair("server"), authority.pair("old")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.pem)
    server, _ = running(certificate=pair.certificate, key=pair.key, client_ca=str(trusted))
    following = Authority(tmp_path, "following")
    new = following.pair("new")
    assert grpc_infer(server, authority.pem, new) is grpc.StatusCode.UNAVAILABLE
    trusted.write_bytes(following.pem)
    assert grpc_infer(server, authority.pem, new) == 2 and rest(server, authority.pem, new) == 200
    assert grpc_infer(server, authority.pem, old) is grpc.StatusCode.UNAVAILABLE


def test_tokens_on_both_ports(running: Any, token_file: Path) -> None:
    server, log = running(token_file=str(token_file))
    for token in (TOKEN, OTHER):
        assert grpc_infer(server, None, token=token) == 2 and rest(server, None, token=token) == 200
    for wrong in (None, "", "x", TOKEN[:-1], TOKEN + "x", TOKEN.lower(), f"{TOKEN} {OTHER}", "# of the cameras"):
        assert grpc_infer(server, None, token=wrong) is grpc.StatusCode.UNAUTHENTICATED
        assert rest(server, None, token=wrong) == 401
    assert rest(server, None, path="/metrics") == 401 and rest(server, None, None, TOKEN, "/metrics") == 200
    assert rest(server, None, path="/v2/models/net") == 401 and rest(server, None, path="/v2") == 401
    assert rest(server, None, path="/nothing") == 401  # nor what there is
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert rest(server, None, path=path) == 200
    said = log.getvalue()
    assert TOKEN not in said and OTHER not in said and said.count("UNAUTHENTICATED") >= 16


def test_without_a_token_grpc_tells_only_that_it_lives(running: Any, token_file: Path) -> None:
    server, _ = running(token_file=str(token_file))
    open_calls = {"ServerLive", "ServerReady"}
    with grpc.insecure_channel(server.address) as channel:
        for method in oip.methods():
            call = channel.unary_unary(method.path)
            if method.name in open_calls:
                call(b"", timeout=20)
                continue
            with pytest.raises(grpc.RpcError) as raised:
                call(b"\xff\xff", timeout=20)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED  # and not that the bytes are junk
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/edgecut.Probe/Echo")(b"", timeout=20)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_changed_tokens_count_at_once_and_a_bad_file_changes_nothing(running: Any, token_file: Path) -> None:
    server, log = running(token_file=str(token_file))
    token_file.write_text("A-New-One\n")
    assert grpc_infer(server, None, token="A-New-One") == 2 and rest(server, None, token="A-New-One") == 200
    assert grpc_infer(server, None, token=TOKEN) is grpc.StatusCode.UNAUTHENTICATED
    token_file.write_text("\n")
    assert rest(server, None, token="A-New-One") == 200 and rest(server, None, token="") == 401
    token_file.unlink()
    assert rest(server, None, token="A-New-One") == 200
    warnings = [line for line in log.getvalue().splitlines() if '"warning"' in line]
    assert len(warnings) == 2 and all("the tokens read last are still taken" in line for line in warnings)


def test_the_header_is_taken_as_the_standard_has_it(token_file: Path) -> None:
    tokens = Tokens(token_file, print)
    for value, right in {
        f"Bearer {TOKEN}": True,
        f"bearer {TOKEN}": True,
        f"BEARER   {TOKEN} ": True,
        TOKEN: False,
        f"Basic {TOKEN}": False,
        "Bearer": False,
        "Bearer ": False,
        f"Bearer {TOKEN}\u00e9": False,
    }.items():
        assert tokens.allow(value) is right, value


def test_what_cannot_protect_is_refused_at_the_start(small_models: Path, authority: Authority, tmp_path: Path) -> None:
    one, other = authority.pair("one"), authority.pair("other")
    empty, junk, locked = tmp_path / "empty", tmp_path / "junk", tmp_path / "locked"
    empty.write_text("\n# only a remark\n")
    junk.write_bytes(b"\x00\x01 no pem")
    (tmp_path / "blank").write_text(f"{TOKEN}\nwith blank\n")
    key = serialization.load_pem_private_key(Path(one.key).read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
        )
    )
    nothing = str(tmp_path / "nothing")
    for given, words in (
        (Protection(one.certificate, other.key), "do not belong together"),
        (Protection(one.certificate), "both a certificate and its key"),
        (Protection(key=one.key), "both a certificate and its key"),
        (Protection(client_ca=authority.path), "both a certificate and its key"),
        (Protection(nothing, one.key), "nothing cannot be read"),
        (Protection(one.certificate, str(junk)), "must be PEM"),
        (Protection(one.certificate, str(locked)), "without a passphrase"),
        (Protection(one.certificate, one.key, str(junk)), "authority .*junk cannot be used"),
        (Protection(one.certificate, one.key, one.key), "authority .* cannot be used"),
        (Protection(token_file=nothing), "token file .*nothing cannot be read"),
        (Protection(token_file=str(empty)), "has no token"),
        (Protection(token_file=str(tmp_path / "blank")), "line 2"),
    ):
        with pytest.raises(ServerError, match=words) as raised:
            CloudServer(small_models, protection=given).start()
        assert "\n" not in str(raised.value) and TOKEN not in str(raised.value)


def test_plaintext_beyond_loopback_needs_to_be_asked_for(small_models: Path, authority: Authority) -> None:
    pair = authority.pair("server")
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ServerError, match="--plaintext"):
            CloudServer(small_models, host, rest_port=0).start()
    with CloudServer(small_models, "0.0.0.0", protection=Protection(plaintext=True)):
        pass
    with CloudServer(small_models, "0.0.0.0", protection=Protection(pair.certificate, pair.key)):
        pass
    with CloudServer(small_models, "::1", rest_port=0) as server, grpc.insecure_channel(server.address) as channel:
        assert len(oip.Stub(channel).ModelInfer(request(), timeout=20).outputs) == 2
        made = http.client.HTTPConnection("::1", server.rest_port, timeout=20)
        made.request("GET", "/v2")
        assert made.getresponse().status == 200
        made.close()


def test_many_handshakes_that_never_end_leave_room_for_others(running: Any, authority: Authority) -> None:
    pair = authority.pair("server")
    server, _ = running(certificate=pair.certificate, key=pair.key)
    ends = [socket.create_connection((server.host, server.rest_port)) for _ in range(20)]
    assert rest(server, authority.pem) == 200
    for end in ends:
        end.close()
