"""Connecting to a server within a deadline, and finding out why that does not work.

Deadlines are values of `time.monotonic()`. A name server that is silent holds nobody up: a name is looked up in a
thread of its own, and what it stood for last is used where there is no answer in time.
"""

import queue
import socket
import ssl
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

from .credentials import tls_reason
from .transport import Address

_Places = Dict[Address, List[Any]]
_LOOKED_UP = {}  # type: _Places


def connect(address: Address, deadline: float) -> socket.socket:
    """A connection without delayed sending. Raises OSError, socket.timeout when the time is up."""
    places = _look_up(address, deadline)
    failed = socket.timeout("timed out")  # type: OSError
    for i, (family, kind, protocol, _, place) in enumerate(places):
        end = socket.socket(family, kind, protocol)
        try:
            # The later addresses of a name get their share of the time.
            end.settimeout(left_s(deadline) / (len(places) - i))
            end.connect(place)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return end
        except OSError as error:
            failed = error
            end.close()
    raise failed


def left_s(deadline: float) -> float:
    """Seconds to a deadline. Raises socket.timeout when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left


def words(error: OSError) -> str:
    """What a person is told of a failed connection, without the number."""
    return tls_reason(error) if isinstance(error, ssl.SSLError) else str(error.strerror or error)


def why_not(address: Address, context: Optional[ssl.SSLContext], timeout_s: float) -> Tuple[str, str]:
    """Why a server is not connected to, found out by connecting once more: a kind of TransportError, and the words.

    gRPC tells this in words that differ from version to version, or not at all. Where nothing is to be seen the kind
    is `unavailable` and the words are empty.
    """
    deadline = time.monotonic() + timeout_s
    trusted = False
    try:
        with connect(address, deadline) as plain:
            if context is None:
                if _speaks_tls(plain, deadline):
                    return "insecure", "TLS is spoken there; give {}s://{}".format(address.scheme, address.target)
                return "unavailable", ""
            plain.settimeout(left_s(deadline))
            with context.wrap_socket(plain, server_hostname=address.host) as end:
                # Since TLS 1.3 a server that wants a certificate says so only after the handshake, or closes.
                trusted = True
                end.settimeout(left_s(deadline))
                if end.recv(1):
                    return "unavailable", ""
    except socket.timeout:
        return "unavailable", ""
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError):
        pass
    except (ssl.SSLError, ssl.CertificateError) as error:  # the second is of its own until Python 3.7
        return "insecure", tls_reason(error)
    except (OSError, UnicodeError) as error:
        return "unavailable", words(error) if isinstance(error, OSError) else "no host has such a name"
    ends = "it ends the connection after the TLS handshake, perhaps because it wants a certificate of this side"
    return "unavailable", ends if trusted else ""


def _speaks_tls(plain: socket.socket, deadline: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent on this connection
    try:
        plain.settimeout(left_s(deadline))
        context.wrap_socket(plain).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # only TLS answers with one
    except OSError:
        return False
    return True


def _look_up(address: Address, deadline: float) -> List[Any]:
    """What getaddrinfo says, in time."""
    answers = queue.Queue()  # type: queue.Queue[Any]

    def ask(flags: int = 0) -> None:
        try:
            answers.put(socket.getaddrinfo(address.host, address.port, 0, socket.SOCK_STREAM, 0, flags))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    ask(socket.AI_NUMERICHOST)
    found = answers.get()
    if not isinstance(found, list):
        threading.Thread(target=ask, daemon=True).start()
        try:
            found = answers.get(timeout=left_s(deadline) / (2 if address in _LOOKED_UP else 1))
        except queue.Empty:
            found = socket.timeout("the name was not found in time")
    if isinstance(found, list):
        _LOOKED_UP[address] = found
    elif address in _LOOKED_UP:
        found = _LOOKED_UP[address]
    elif isinstance(found, UnicodeError):
        raise OSError("no host has such a name")
    else:
        raise found
    return list(found)
