"""Addresses: what is one, what it may be spoken to with, and that nothing goes out in plaintext by accident."""

from __future__ import annotations

import sys

import pytest

from edgecut.agent.oip_grpc import GrpcTransport
from edgecut.agent.oip_http import HttpTransport
from edgecut.agent.transport import (
    Address,
    Security,
    Transport,
    TransportError,
    failure,
    open_transport,
    parse_address,
)

PLAIN = Security(allow_plaintext=True)
PAIR = Security(ca="ca.pem", certificate="c.pem", key="k.pem")


@pytest.mark.parametrize(
    ("server", "security", "expected"),
    [
        ("localhost:8001", Security(), Address("grpc", "localhost", 8001)),
        ("127.0.0.1:8001", Security(), Address("grpc", "127.0.0.1", 8001)),
        ("127.8.9.1:1", Security(), Address("grpc", "127.8.9.1", 1)),
        ("[::1]:8001", Security(), Address("grpc", "::1", 8001)),
        ("http://[::1]:8000/", Security(), Address("http", "::1", 8000)),
        ("http://127.0.0.1", Security(), Address("http", "127.0.0.1", 80)),
        ("https://cloud.example", Security(), Address("https", "cloud.example", 443)),
        ("grpcs://10.0.0.1:65535", Security(), Address("grpcs", "10.0.0.1", 65535)),
        ("10.0.0.1:8001", PLAIN, Address("grpc", "10.0.0.1", 8001)),
        ("my_box-1.lan:8001", PLAIN, Address("grpc", "my_box-1.lan", 8001)),
        ("cloud:8001", Security(ca="ca.pem"), Address("grpcs", "cloud", 8001)),
        ("localhost:8001", PAIR, Address("grpcs", "localhost", 8001)),
    ],
)
def test_an_address(server: str, security: Security, expected: Address) -> None:
    assert parse_address(server, security) == expected
    assert parse_address(server, security).tls == expected.scheme.endswith("s")


def test_what_a_name_server_is_not_asked_for() -> None:
    assert parse_address("[::ffff:127.0.0.1]:1").loopback and not Address("grpc", "::ffff:8.8.8.8", 1).loopback
    assert Address("grpc", "2001:db8::1", 7).target == "[2001:db8::1]:7"


WRONG = ["", "localhost", ":1", "a:", "a:0", "a:65536", "a:x", "a:-1", "::1:80", "grpc://a", "http://a/b", "a b:1"]
WRONG += [
    "http://user@a:1",
    "a:1/",
    "http://a:1?x",
    "a\n:1",
    "a:1\n",
    "http://a\r\nX: y",
    "a:1,b:2",
    "unix:/s",
    "ftp://a",
]
WRONG += ["http://a:" + "1" * 5000, "x" * 5000, "http//a:1", "[a]:1", "1.2.3.4:\uff15"]


@pytest.mark.parametrize("server", WRONG)
def test_what_is_no_address(server: str) -> None:
    with pytest.raises(TransportError, match="is not an address") as raised:
        parse_address(server, PLAIN)
    assert raised.value.kind == "protocol" and not raised.value.retry
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "server", ["10.0.0.1:8001", "cloud:8001", "http://0.0.0.0", "grpc://[::2]:1", "localhost.evil:1"]
)
def test_plaintext_to_another_machine_must_be_allowed(server: str) -> None:
    with pytest.raises(TransportError, match=r"could read and change .* TLS \((grpc|http)s://.*--plaintext") as raised:
        open_transport(server)
    assert raised.value.kind == "insecure" and not raised.value.retry


@pytest.mark.parametrize("server", ["grpc://localhost:1", "http://cloud:1"])
@pytest.mark.parametrize("security", [PAIR, PAIR._replace(allow_plaintext=True), Security(ca="x"), Security(key="x")])
def test_certificates_are_never_given_in_vain(server: str, security: Security) -> None:
    with pytest.raises(TransportError, match="is plaintext, but certificates were given") as raised:
        open_transport(server, security)
    assert raised.value.kind == "insecure"


def test_the_scheme_chooses_the_transport() -> None:
    made: list[Transport] = [
        open_transport(server) for server in ("localhost:1", "grpc://localhost:1", "http://[::1]:1")
    ]
    assert [type(one) for one in made] == [GrpcTransport, GrpcTransport, HttpTransport]
    assert [one.server for one in made] == ["localhost:1", "grpc://localhost:1", "http://[::1]:1"]
    for one in made:
        one.close()


def test_without_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(TransportError, match="grpcio is not installed here; install it, or give http://"):
        open_transport("localhost:8001")
    open_transport("http://localhost:8000").close()


def test_the_sentences() -> None:
    with pytest.raises(ValueError):
        TransportError("lost", "no such kind")
    for kind in TransportError.KINDS:
        error = failure(kind, "a:1", "because", 2.5)
        assert str(error).count("a:1") == 1 and error.kind == kind and "{" not in str(error)
        assert error.retry == (kind in ("unavailable", "cancelled", "deadline", "full"))
    assert "within 2.5 s" in str(failure("deadline", "a:1", waited_s=2.5, met=False))
