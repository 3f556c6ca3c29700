"""The cloud server: ONNX Runtime behind the Open Inference Protocol, over gRPC and, where asked, REST on a second port.

It serves folders in Triton's layout and answers every malformed request with a status and one sentence: NOT_FOUND for
a model or version, INVALID_ARGUMENT for tensors, RESOURCE_EXHAUSTED for size, memory or a full queue,
DEADLINE_EXCEEDED where the client's deadline passed in the queue, UNAVAILABLE while stopping, INTERNAL without any of
the payload where inference itself fails. Inputs that hold NaN or infinity are refused unless allowed: they come from a
fault upstream and would come back as a plausible answer. One call beyond the protocol answers `edgecut probe`, see
`echo`. Beyond loopback it listens with TLS only, unless told otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import ipaddress
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple, Self

from ..errors import EdgecutError, ServerError
from ..models.session import open_session
from .admission import HELD_MESSAGES, LEAST_HELD_BYTES, Admission
from .batching import Batching
from .catalogue import Catalogue
from .desk import Desk
from .grpc_server import GrpcServer
from .http_server import HttpServer
from .metrics import Metrics
from .processes import await_end_of_input, await_ending
from .request_log import RequestLog
from .rest import Rest
from .served import MakeSession, ServedModel
from .tls import Certificates
from .tokens import Tokens

if TYPE_CHECKING:
    from types import TracebackType

_STOPPING = (signal.SIGTERM, signal.SIGINT)
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Made here, because there may be no memory for it later.
_LOST_THREAD = b"the server lost a thread that it cannot do without, for want of memory perhaps; start it again\n"
QUEUE = 128
MAX_CONNECTIONS = 256
Root = str | os.PathLike[str]


class Protection(NamedTuple):
    """What connections are protected with: paths of PEM files and of a file of bearer tokens, never their contents.

    `plaintext` allows listening without TLS on other addresses than loopback.
    """

    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    token_file: str | None = None
    plaintext: bool = False


class CloudServer:
    """A server of every model and version below `models_root`, in threads of this process.

    Args:
        models_root: A model repository, see `repository`, or several; no model may be in two of them.
        host: The address to listen on.
        port: The port of gRPC, 0 for any free one.
        threads: Threads of one inference.
        workers: Requests that are worked on at the same time.
        max_message_bytes: The largest request or answer.
        make_session: Makes the session of a model file; by default `open_session` with `threads`.
        allow_nonfinite: Whether inputs may hold NaN or infinity.
        rest_port: The port of REST, 0 for any free one, None for none.
        queue: Requests that wait for a worker; those beyond are refused at once.
        max_connections: To the REST port, at the same time.
        batching: Whether and how requests are stacked.
        protection: TLS and tokens.
        log: Where requests and warnings are written; by default warnings to standard error.
    """

    def __init__(
        self,
        models_root: Root | Sequence[Root],
        host: str = "127.0.0.1",
        port: int = 0,
        threads: int = 1,
        workers: int = 8,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        make_session: MakeSession | None = None,
        allow_nonfinite: bool = False,
        *,
        rest_port: int | None = None,
        queue: int = QUEUE,
        max_connections: int = MAX_CONNECTIONS,
        batching: Batching | None = None,
        protection: Protection | None = None,
        log: RequestLog | None = None,
    ) -> None:
        self.host, self.port, self.rest_port = host, port, rest_port
        self.catalogue = Catalogue()
        self.metrics = Metrics()
        self.log = log or RequestLog()
        self.admission = Admission(workers, queue, max(LEAST_HELD_BYTES, HELD_MESSAGES * max_message_bytes))
        self._roots = [models_root] if isinstance(models_root, (str, os.PathLike)) else list(models_root)
        self._max_message_bytes, self._max_connections = max_message_bytes, max_connections
        self._make_session = make_session or (lambda model: open_session(model, threads))
        self._finite = not allow_nonfinite
        self._batching = batching or Batching()
        self._protection = protection or Protection()
        self._grpc: GrpcServer | None = None
        self._rest: HttpServer | None = None

    @property
    def models(self) -> dict[str, dict[str, ServedModel]]:
        """The models by name and version."""
        return self.catalogue.models

    @property
    def address(self) -> str:
        """host:port of gRPC, with an IPv6 host in brackets."""
        return _address(self.host, self.port)

    @property
    def urls(self) -> list[str]:
        """Where it listens, gRPC first."""
        tls = "s" if self._protection.certificate else ""
        found = [f"grpc{tls}://{self.address}"]
        if self.rest_port is not None:
            found.append(f"http{tls}://{_address(self.host, self.rest_port)}")
        return found

    def start(self) -> int:
        """Load all models, listen, and return the port of gRPC.

        Raises:
            BundleError: a repository is unreadable, empty or inconsistent, or two have a model of one name.
            ModelError: a model file is damaged or is not what its configuration says.
            DeviceError: ONNX Runtime is missing.
            ServerError: an address is taken or is none of this machine, would be open without TLS, or a certificate,
                key or token file cannot be used.
        """
        if self._grpc is not None:
            raise ServerError("this server runs already; stop it first")
        tokens, certificates = self._secrets()
        for port in (self.port, *([] if self.rest_port is None else [self.rest_port])):
            _check_address(self.host, port, self._protection)
        self.catalogue.load(self._roots, self._make_session, finite=self._finite)
        desk = Desk(self.catalogue, self.admission, self.metrics, self.log, self._batching)
        version = own_version()
        grpc_server = GrpcServer(desk, self._max_message_bytes, tokens, certificates, version)
        self.port = grpc_server.start(self.address)
        self._grpc = grpc_server
        if self.rest_port is not None:
            rest = Rest(desk, tokens, self._max_message_bytes, version)
            context = None if certificates is None else certificates.context
            http = HttpServer(self.host, self.rest_port, rest, self._max_connections, context)
            rest.connections = lambda: http.connections
            try:
                self.rest_port = http.start()
            except ServerError:
                self.stop(0.0)
                raise
            self._rest = http
        return self.port

    def drain(self) -> None:
        """Be no longer ready and refuse new requests; those that are held go on."""
        self.admission.close()
        if self._grpc is not None:
            self._grpc.tell()

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no new requests, finish those at hand for at most `grace_s` seconds, then cut off the rest."""
        if self._grpc is None:
            return
        end = time.monotonic() + grace_s
        self.drain()
        self.admission.wait_until_empty(grace_s)
        if self._rest is not None:
            self._rest.stop(max(0.0, end - time.monotonic()))
        self._grpc.stop(max(0.0, end - time.monotonic()))
        self._grpc = self._rest = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _secrets(self) -> tuple[Tokens | None, Certificates | None]:
        """What was asked for, read and checked. Raises ServerError."""
        given = self._protection
        if bool(given.certificate) != bool(given.key) or (given.client_ca and not given.certificate):
            raise ServerError("TLS needs both a certificate and its key; give --tls-cert and --tls-key")
        certificates = None
        if given.certificate and given.key:
            certificates = Certificates(given.certificate, given.key, given.client_ca, self.log.warn)
        return None if given.token_file is None else Tokens(given.token_file, self.log.warn), certificates


def serve(server: CloudServer, grace_s: float = 10.0, until_input_ends: bool = False) -> None:
    """Run a server until SIGTERM or SIGINT, finish the requests at hand, and return; main thread only.

    Prints a line for each address once it answers. `grace_s` bounds the finishing, a second signal ends the process at
    once, and `until_input_ends` stops it also when standard input closes, because the parent is gone.
    """
    # A SimpleQueue, because its put is safe in a signal handler; an Event's set can wait for a lock held below it.
    stopping: queue.SimpleQueue[int] = queue.SimpleQueue()
    _keep_freed_memory()
    threading.excepthook = _end_with_thread
    with _signals_into(stopping):
        try:
            server.start()
            first, *others = server.urls
            gc.collect()
            gc.freeze()  # nothing that is loaded now is looked through again while requests wait
            print(f"serving {', '.join(server.models)} on {first}", *(f"and on {url}" for url in others), sep="\n")
            sys.stdout.flush()
            if until_input_ends:
                threading.Thread(target=await_end_of_input, args=(stopping,), daemon=True).start()
            await_ending(stopping)
            server.drain()
            threading.Thread(target=_end_at_once, args=(stopping,), daemon=True).start()
        finally:
            server.stop(grace_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m edgecut.runtime.server MODELS_ROOT [THREADS]`, a child on a free port of loopback; the exit status."""
    parser = argparse.ArgumentParser(prog="edgecut.runtime.server", description="Serve a model repository to a parent.")
    parser.add_argument("models_root")
    parser.add_argument("threads", type=int, nargs="?", default=1, help="of one inference")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--rest", action="store_true", help="answer REST too, on a free port of its own")
    parser.add_argument("--plaintext", action="store_true", help="also where that is no loopback address")
    given = parser.parse_args(arguments)
    protection = Protection(plaintext=given.plaintext)
    try:
        server = CloudServer(
            given.models_root,
            given.host,
            threads=given.threads,
            rest_port=0 if given.rest else None,
            protection=protection,
        )
        serve(server, until_input_ends=True)
    except EdgecutError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def own_version() -> str:
    """Of edgecut."""
    try:
        return metadata.version("edgecut")
    except metadata.PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def _signals_into(stopping: queue.SimpleQueue[int]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda number, _: stopping.put(number)) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_thread(lost: threading.ExceptHookArgs) -> None:
    """Without a thread of gRPC's own its port would never answer again; a process that ends is noticed."""
    if lost.exc_type is not MemoryError and (lost.thread is None or not lost.thread.name.endswith("(_serve)")):
        threading.__excepthook__(lost)
        return
    os.write(2, _LOST_THREAD)
    os._exit(1)


def _end_at_once(stopping: queue.SimpleQueue[int]) -> None:
    """What a second signal does. The end of input, a 0, is none."""
    while not (number := stopping.get()):
        pass
    os._exit(128 + number)


def _check_address(host: str, port: int, protection: Protection) -> None:
    """Bind once before gRPC does, which knows no reason and logs a page where it fails. Raises ServerError."""
    if not 0 <= port <= 65535:  # the resolver would cut off the upper bits
        raise ServerError(f"cannot listen on port {port}; choose one from 0, any free one, to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # a name with a part beyond 63 letters is a UnicodeError
        reason = getattr(error, "strerror", None) or "no such name"
        raise ServerError(f"cannot listen on {host}:{port} ({reason}); choose another host or port") from None
    if not (protection.certificate or protection.plaintext or ipaddress.ip_address(str(address[0])).is_loopback):
        raise ServerError(
            f"{host} can be reached from other machines, and there is no TLS; give --tls-cert and --tls-key, or "
            "--plaintext where the network itself is protected"
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of one request for the next; giving it back each time costs as much as the request."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, size_bytes in ((-3, 32 << 20), (-1, 256 << 20), (-2, 16 << 20)):  # mmap and trim threshold, top pad
            libc.mallopt(option, size_bytes)


if __name__ == "__main__":
    sys.exit(main())
