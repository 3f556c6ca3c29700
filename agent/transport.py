"""One server of the Open Inference Protocol as the edge sees it: its address, what protects the way there, one request.

    HOST:PORT           gRPC, with TLS where an authority or a certificate is given, as edgecut serve prints it
    grpc://  grpcs://   gRPC, without and with TLS; needs grpcio
    http://  https://   HTTP/1.1 with the binary tensor extension; needs nothing but the standard library

Plaintext goes to this machine's own loopback only, elsewhere it must be allowed in so many words. Several servers are
written one after the other with commas between, see `caller`.
"""

import ipaddress
import re
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

Tensors = Sequence[Tuple[str, Any]]
"""Names and NumPy arrays [batch, ...]."""
Metadata = Dict[str, Any]
"""{"inputs": [(name, datatype, shape), ...], "outputs": [...]}, as the protocol names them; -1 is any size."""

SCHEMES = ("grpc", "grpcs", "http", "https")
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_ADDRESS = re.compile(r"(?:([a-z]+)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*))(?::([0-9]{1,5}))?(/?)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Security(NamedTuple):
    """What a connection is protected with: paths, never contents."""

    ca: Optional[str] = None
    """PEM of the authority that signed the server's certificate; None with a TLS scheme is the system's own list."""
    certificate: Optional[str] = None
    """PEM chain of this side, for mutual TLS; its key is `key`."""
    key: Optional[str] = None
    token_file: Optional[str] = None
    """Bearer token: the first line, read again when the file changes."""
    allow_plaintext: bool = False
    """Whether plaintext may go to a host that is not loopback."""


NOTHING = Security()
"""No certificates, no token, plaintext to loopback only."""


class TransportError(Exception):
    """Why there is no answer: one sentence for a person.

    `kind` is one of KINDS, `retry` whether the identical message may be sent again, `code` the status where the server
    gave one: gRPC's name or HTTP's number; `met` whether that server had ever answered this side.
    """

    KINDS = (
        "unavailable",  # nobody there, or gone before the answer
        "cancelled",  # given up by the server or by closing this side
        "deadline",  # no answer in time
        "refused",  # the server does not want this very request
        "full",  # too many requests for now
        "unauthenticated",  # no token, or a wrong one
        "insecure",  # certificates, names, plaintext
        "damaged",  # the answer contradicts itself
        "protocol",  # another protocol, or an address that is none
    )
    RETRIED = frozenset(("unavailable", "cancelled", "deadline", "full"))

    def __init__(
        self, kind: str, sentence: str, retry: Optional[bool] = None, code: str = "", met: bool = True
    ) -> None:
        if kind not in self.KINDS:
            raise ValueError(kind)
        super().__init__(sentence)
        self.kind = kind
        self.retry = kind in self.RETRIED if retry is None else retry
        self.code = code
        self.met = met


_SENTENCES = {
    "unavailable": "{server} cannot be reached or went away{detail}; start it again, then retry",
    "cancelled": "the request to {server} was given up{detail}; retry",
    "deadline": "{server} did not answer within {waited_s:g} s; check the server and the link",
    "refused": "{server} refused the request{detail}",
    "full": "{server} has too much to do{detail}; retry later",
    "unauthenticated": "{server} does not accept this side's token or certificate{detail}; check the token file",
    "insecure": "the connection to {server} is not safe{detail}; check the address and the certificates",
    "damaged": "{server} sent a damaged answer{detail}",
    "protocol": "{server} does not speak the Open Inference Protocol{detail}; start edgecut serve there",
}
_NOBODY = (
    "no server of the Open Inference Protocol answers at {server}{detail}; start edgecut serve there, or check the "
    "address"
)


def failure(
    kind: str, server: str, detail: str = "", waited_s: float = 0.0, met: bool = True, code: str = ""
) -> TransportError:
    """The error with the usual sentence. `met` is whether that server has ever answered this side."""
    sentence = _SENTENCES[kind]
    if not met and kind in ("unavailable", "deadline"):
        sentence = _NOBODY
        detail = detail or (kind == "deadline" and "not within {:g} s".format(waited_s)) or ""
    if detail:
        detail = ": " + detail if kind == "refused" else " ({})".format(detail)
    return TransportError(kind, sentence.format(server=server, detail=detail, waited_s=waited_s), code=code, met=met)


class Address(NamedTuple):
    """Where a server is: `scheme` is one of SCHEMES, `host` has no brackets."""

    scheme: str
    host: str
    port: int

    @property
    def tls(self) -> bool:
        return self.scheme in ("grpcs", "https")

    @property
    def target(self) -> str:
        """HOST:PORT, an IPv6 host in brackets."""
        return ("[{}]:{}" if ":" in self.host else "{}:{}").format(self.host, self.port)

    @property
    def loopback(self) -> bool:
        """Whether what is sent there stays on this machine; no name is looked up to find out."""
        if self.host.lower() == "localhost":
            return True
        try:
            found = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return (getattr(found, "ipv4_mapped", None) or found).is_loopback


class Transport:
    """One server. Thread-safe, and reuses its connections."""

    server = ""
    """The address as it was given."""

    def infer(self, model: str, tensors: Tensors, timeout_s: float) -> Dict[str, Any]:
        """The answer's tensors by name, read-only. Raises TransportError within `timeout_s`."""
        raise NotImplementedError

    def metadata(self, model: str, timeout_s: float) -> Metadata:
        """What the server says of a model. Raises TransportError within `timeout_s`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections; requests under way end."""


def open_transport(server: str, security: Security = NOTHING) -> Transport:
    """A transport for one address, without touching the network yet.

    Raises TransportError for an address that is none, plaintext that is not allowed, files that cannot be read, and a
    missing grpcio.
    """
    address = parse_address(server, security)
    if address.scheme.startswith("http"):
        from .oip_http import HttpTransport

        return HttpTransport(server, address, security)
    from .oip_grpc import GrpcTransport

    return GrpcTransport(server, address, security)


def parse_address(server: str, security: Security = NOTHING) -> Address:
    """An address that may be spoken to with that security. Raises TransportError."""
    found = _ADDRESS.fullmatch(server)
    scheme, host, digits, slash = found.groups() if found else ("", "", "", "")
    if scheme and scheme not in SCHEMES:
        raise TransportError("protocol", "{!r} is not an address; known are {}".format(_shown(server), _known()))
    port = int(digits) if digits else _DEFAULT_PORTS.get(scheme or "", 0)
    if not host or not 0 < port < 65536 or (slash and not scheme) or (host[0] == "[" and not _is_ipv6(host[1:-1])):
        raise TransportError(
            "protocol",
            "{!r} is not an address; give HOST:PORT, as edgecut serve prints it, or {}".format(
                _shown(server), _known()
            ),
        )
    protected = security.ca is not None or security.certificate is not None or security.key is not None
    address = Address(scheme or ("grpcs" if protected else "grpc"), host.strip("[]"), port)
    if address.tls:
        return address
    if protected:
        raise TransportError(
            "insecure",
            "{} is plaintext, but certificates were given; give {}s://{}".format(
                server, address.scheme, address.target
            ),
        )
    if not address.loopback and not security.allow_plaintext:
        raise TransportError(
            "insecure",
            "{} is another machine, and whoever is on the way could read and change plaintext; use TLS ({}s://{}, with "
            "--ca where its authority is not the system's), or allow it with --plaintext".format(
                server, address.scheme, address.target
            ),
        )
    return address


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _shown(server: str) -> str:
    """What is no address, without a password that may be in it."""
    return re.sub("[^/@]*@", "...@", server[:200])


def _known() -> str:
    return ", ".join("{}://".format(scheme) for scheme in SCHEMES)
