"""The Open Inference Protocol over gRPC: one channel that is kept open, with messages made by hand (`oip_wire`).

What gRPC does by itself: it connects again in the background with pauses from 50 ms to 1 s, sends the deadline along,
and ends a connection on which sent bytes stay unacknowledged for 10 s. What it does not: a connection that has answered
before and misses a deadline is replaced, because a path that lost it (a NAT's table, a moved radio) never says so.
"""

import re
import threading
import time
from typing import Any, Dict, Optional

from .credentials import Credentials
from .oip_wire import decode_metadata, decode_response, encode_name, encode_request
from .protobuf import WireError
from .reach import why_not
from .transport import MAX_MESSAGE_BYTES, Address, Metadata, Security, Tensors, Transport, TransportError, failure

SERVICE = "/inference.GRPCInferenceService/"
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # `caller` retries, within its own bounds
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel would go on with the old one's connection
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),  # how long connecting may take, despite its name
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 10000),
)
_WHY_S = 0.5
_KINDS = {
    "CANCELLED": "cancelled",
    "DEADLINE_EXCEEDED": "deadline",
    "RESOURCE_EXHAUSTED": "full",
    "UNAUTHENTICATED": "unauthenticated",
    "PERMISSION_DENIED": "unauthenticated",
    "UNIMPLEMENTED": "protocol",
}
_TLS = re.compile(r"handshake failed|verification|security handshaker", re.IGNORECASE)
_LOST = re.compile(r"RST_STREAM|stream removed", re.IGNORECASE)
_TOO_LARGE = re.compile(r"larger than", re.IGNORECASE)


class _Channel:
    """A channel and the calls under way on it; it closes when it was let go of and the last of them has ended."""

    def __init__(self, channel: Any, context: Any) -> None:
        self.channel, self.context = channel, context
        self.calls = {}  # type: Dict[str, Any]
        self.users = 0
        self.answered = self.let_go = False

    def call(self, path: str) -> Any:
        if path not in self.calls:
            self.calls[path] = self.channel.unary_unary(path)  # without serialisers: bytes as they are
        return self.calls[path]


class GrpcTransport(Transport):
    """See `transport.open_transport`."""

    def __init__(self, server: str, address: Address, security: Security) -> None:
        try:
            import grpc
        except ImportError:
            raise TransportError(
                "protocol",
                "{} is asked over gRPC, but grpcio is not installed here; install it, or give http:// and the server's "
                "REST port".format(server),
            ) from None
        self._grpc = grpc
        self.server, self.address = server, address
        self._credentials = Credentials(security, address.tls, "h2")
        self._lock = threading.Lock()
        self._channel = None  # type: Optional[_Channel]
        self._leaving = set()  # type: Any
        self._closed = False
        self._met = False

    def infer(self, model: str, tensors: Tensors, timeout_s: float) -> Dict[str, Any]:
        try:
            message = encode_request(model, tensors)
        except WireError as error:
            raise TransportError("refused", "nothing was sent to {}: {}".format(self.server, error)) from None
        answer = self.ask(SERVICE + "ModelInfer", message, timeout_s)
        try:
            return decode_response(answer)
        except WireError as error:
            raise self._failure("damaged", str(error)) from None

    def metadata(self, model: str, timeout_s: float) -> Metadata:
        answer = self.ask(SERVICE + "ModelMetadata", encode_name(model), timeout_s)
        try:
            return decode_metadata(answer)
        except WireError as error:
            raise self._failure("damaged", str(error)) from None

    def ask(self, path: str, message: bytes, timeout_s: float) -> bytes:
        """Any call of the server with a message's bytes, the answer's bytes. Raises TransportError."""
        deadline = time.monotonic() + timeout_s
        if len(message) > MAX_MESSAGE_BYTES:
            words = "{} bytes are larger than {}".format(len(message), MAX_MESSAGE_BYTES)
            raise self._failure("refused", words, code="RESOURCE_EXHAUSTED")
        if timeout_s <= 0:
            raise self._failure("deadline", waited_s=max(timeout_s, 0.0))
        token = self._credentials.authorization()
        channel = self._take()
        try:
            answer = channel.call(path)(
                message, timeout=timeout_s, metadata=None if token is None else (("authorization", token),)
            )  # type: bytes
            channel.answered = self._met = True
            return answer
        except self._grpc.RpcError as error:
            raise self._refusal(error, channel, deadline, timeout_s) from None
        except ValueError:  # the channel was closed meanwhile
            raise self._closing() from None
        finally:
            self._give_back(channel)

    def close(self) -> None:
        with self._lock:
            channels = self._leaving | {self._channel} - {None}
            self._channel, self._closed = None, True
        for channel in channels:
            channel.channel.close()

    def _take(self) -> _Channel:
        context = self._credentials.context()
        with self._lock:
            if self._closed:
                raise self._closing()
            found = self._channel
            if found is None or found.context is not context:
                self._drop(found)
                found = self._channel = self._open(context)
            found.users += 1
            return found

    def _open(self, context: Any) -> _Channel:
        # The form with three slashes is never taken for another scheme, whatever the host is called.
        target = "dns:///" + self.address.target
        if context is None:
            return _Channel(self._grpc.insecure_channel(target, options=_OPTIONS), None)
        made = self._grpc.ssl_channel_credentials(*self._credentials.pem())
        return _Channel(self._grpc.secure_channel(target, made, options=_OPTIONS), context)

    def _drop(self, channel: Optional[_Channel]) -> None:
        """Use a channel for no further calls; under the lock."""
        if channel is None:
            return
        channel.let_go = True
        if self._channel is channel:
            self._channel = None
        if channel.users == 0:
            channel.channel.close()
        else:
            self._leaving.add(channel)

    def _give_back(self, channel: _Channel) -> None:
        with self._lock:
            channel.users -= 1
            last = channel.let_go and channel.users == 0
            if last:
                self._leaving.discard(channel)
        if last:
            channel.channel.close()

    def _refusal(self, error: Any, channel: _Channel, deadline: float, timeout_s: float) -> TransportError:
        """What a status means, beginning with those that come from gRPC itself."""
        code = error.code().name  # type: str
        detail = str(error.details() or "")
        if self._closed:
            return self._closing()
        if code == "UNAVAILABLE":
            return self._unavailable(detail, channel, deadline)
        if code in ("INTERNAL", "UNKNOWN") and _LOST.search(detail):
            return self._failure("unavailable", detail, code=code)
        if code == "DEADLINE_EXCEEDED":
            if channel.answered:
                with self._lock:
                    self._drop(channel)
            return self._failure("deadline", waited_s=timeout_s, code=code)
        channel.answered = self._met = True
        kind = _KINDS.get(code, "refused")
        if kind == "full" and _TOO_LARGE.search(detail):
            kind = "refused"
        return self._failure(kind, detail or code, code=code) if kind != "protocol" else self._failure(kind, code=code)

    def _unavailable(self, detail: str, channel: _Channel, deadline: float) -> TransportError:
        kind, words = "unavailable", ""
        left = deadline - time.monotonic()
        if left > 0 and re.search("connect|handshake|resol|closed|verif|reset", detail, re.IGNORECASE):
            kind, words = why_not(self.address, channel.context, min(left, _WHY_S))
        if not words and _TLS.search(detail):
            kind = "insecure"
        return self._failure(kind, words or detail, code="UNAVAILABLE")

    def _failure(self, kind: str, detail: str = "", waited_s: float = 0.0, code: str = "") -> TransportError:
        return failure(kind, self.server, self._credentials.hide(detail), waited_s, self._met, code)

    def _closing(self) -> TransportError:
        return TransportError("cancelled", "the connection to {} was closed on this side".format(self.server), False)
