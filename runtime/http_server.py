"""A thin HTTP/1.1 server: a thread for each connection, kept open, with bounds on everything a client can stretch.

There are at most `max_connections`; what bounds each of them is in `http_connection`. What the standard library has
for this reads every head through the parser of e-mails, which takes as long as a small model.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

from ..errors import ServerError
from .http_connection import Application, Connection


class HttpServer:
    """Listens from `start` to `stop`; `context` makes connections TLS."""

    def __init__(
        self,
        host: str,
        port: int,
        application: Application,
        max_connections: int = 256,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self.host, self.port = host, port
        self._application, self._most, self._context = application, max_connections, context
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Condition()
        self._connections: set[Connection] = set()
        self._stopping = False

    @property
    def connections(self) -> int:
        """How many there are at this moment."""
        return len(self._connections)

    def start(self) -> int:
        """Listen and return the port. Raises ServerError."""
        try:
            family, _, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            self._listener = socket.create_server(address[:2], family=family, backlog=128)
        except (OSError, UnicodeError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "no such name"
            raise ServerError(
                f"cannot listen on {self.host}:{self.port} ({reason}); choose another host or port"
            ) from None
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="edgecut-rest", daemon=True)
        self._acceptor.start()
        return self.port

    def stop(self, grace_s: float) -> None:
        """Take no new connections, close idle ones, let the others answer for at most `grace_s`, cut off the rest."""
        if self._listener is None or self._acceptor is None:
            return
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                if not connection.busy:
                    connection.cut()
            self._lock.wait_for(lambda: not self._connections, grace_s)
            for connection in self._connections:
                connection.cut()
            self._lock.wait_for(lambda: not self._connections, 1.0)
        self._listener = self._acceptor = None

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                end, address = self._listener.accept()
            except OSError:
                if self._stopping:
                    return
                time.sleep(0.05)  # out of file descriptors: some will come back
                continue
            peer = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
            with self._lock:
                full = len(self._connections) >= self._most
                connection = Connection(self._application, end, peer, self._context, lambda: self._stopping)
                if not full:
                    self._connections.add(connection)
            if full:
                sentence = f"this server has {self._most} connections, which is all it takes; retry later"
                connection.refuse(self._application.error(503, sentence, peer))
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="edgecut-rest", daemon=True).start()
            except RuntimeError:  # no more threads
                self._forget(connection)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self._connections.discard(connection)
            self._lock.notify_all()
