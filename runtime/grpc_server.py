"""The Open Inference Protocol over gRPC: the protocol's six calls, the health service, and the echo of `edgecut probe`.

An inference request in its usual form is read and answered without protobuf, see `agent/oip_wire`; every other goes
through the messages of `oip`. Threads only wait or copy: how many requests are in work is the desk's affair, so that
liveness is answered while the server is full.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..agent import oip_wire
from ..errors import ServerError
from . import echo, oip
from .catalogue import EXTENSIONS
from .desk import Desk
from .health import MAX_WATCHERS, SERVICE, Health
from .repository import PLATFORM
from .served import Refusal, timeout_s, unpack
from .tls import Certificates
from .tokens import Tokens

# Threads beyond those of requests: watchers, and calls that are answered at once.
SPARE_THREADS = MAX_WATCHERS + 16
NO_TOKEN = "a bearer token that this server knows is needed"
# Without a token a probe learns whether the server as a whole lives and is ready, and nothing else.
OPEN = frozenset({f"/{oip.SERVICE}/ServerLive", f"/{oip.SERVICE}/ServerReady", f"/{SERVICE}/Check"})


class GrpcServer:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        desk: Desk,
        max_message_bytes: int,
        tokens: Tokens | None,
        certificates: Certificates | None,
        version: str,
    ) -> None:
        threads = desk.admission.workers + desk.admission.queue + SPARE_THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="edgecut-serve")
        self._certificates = certificates
        self._server = grpc.server(
            self._pool,
            interceptors=[] if tokens is None else [_Guard(tokens, desk)],
            options=_options(max_message_bytes),
            maximum_concurrent_rpcs=threads,
        )
        names = {"", oip.SERVICE, *desk.catalogue.models}
        self._health = Health(names, lambda: desk.ready, lambda context: tokens is None or _allowed(tokens, context))
        servicer = Servicer(desk, version)
        handlers: dict[str, Any] = {one.name: oip.handler(one, getattr(servicer, one.name)) for one in oip.methods()}
        # Bytes there, bytes back.
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(servicer.infer_bytes, None, None)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(oip.SERVICE, handlers),
                self._health.handler(),
                echo.generic_handler(max_message_bytes),
            )
        )

    def start(self, address: str) -> int:
        """Listen on host:port and return the port. Raises ServerError."""
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._certificates.grpc_credentials())
        except RuntimeError:
            raise ServerError(f"cannot listen on {address}; choose another host or port") from None
        self._server.start()
        return port

    def tell(self) -> None:
        """Readiness changed: tell those who watch."""
        self._health.tell()

    def stop(self, grace_s: float) -> None:
        """Take no new calls, finish those at hand for at most `grace_s`, then cut off the rest."""
        self._health.close()
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=True)


class Servicer:
    """The protocol's six calls at a desk."""

    def __init__(self, desk: Desk, version: str) -> None:
        self._desk, self._version = desk, version
        self._parse = oip.message("ModelInferRequest").FromString

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.message("ServerLiveResponse")(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.message("ServerReadyResponse")(ready=self._desk.ready)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self._desk.catalogue.find(request.name, request.version)
        except Refusal:
            return oip.message("ModelReadyResponse")(ready=False)
        return oip.message("ModelReadyResponse")(ready=self._desk.ready)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.message("ServerMetadataResponse")(name="edgecut", version=self._version, extensions=EXTENSIONS)

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            model = self._desk.catalogue.find(request.name, request.version)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
        response = oip.message("ModelMetadataResponse")(name=model.name, platform=PLATFORM)
        response.versions.extend(self._desk.catalogue.models[model.name])
        for field, specs in ((response.inputs, model.inputs), (response.outputs, model.outputs)):
            for spec in specs.values():
                field.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The same as `infer_bytes`, between messages."""
        answer = self.infer_bytes(request.SerializeToString(), context)
        return oip.message("ModelInferResponse").FromString(answer)

    def infer_bytes(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """The bytes of a ModelInferResponse to those of a ModelInferRequest."""
        desk = self._desk
        try:
            with desk.receive("grpc", _peer(context) if desk.log.takes("info") else "", len(data)) as call:
                call.active, call.remaining = context.is_active, context.time_remaining
                model, outputs = desk.infer(call, oip_wire.decode_request(data) or self._unusual(data, call))
                answer = oip_wire.encode_response(model.name, model.version, call.request_id, outputs)
                call.sent = len(answer)
                return answer
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    def _unusual(self, data: bytes, call: Any) -> oip_wire.Request:
        """A request as protobuf reads it. Raises Refusal."""
        try:
            request = self._parse(data)
        except DecodeError:
            sentence = f"the {len(data)} bytes sent to ModelInfer are no inference.ModelInferRequest message"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, sentence) from None
        self._desk.catalogue.find(request.model_name, request.model_version)  # what is wrong first is said first
        if "timeout" in request.parameters:
            call.until(timeout_s(request.parameters["timeout"].int64_param))
        return unpack(request)


class _Guard(grpc.ServerInterceptor):
    """Refuses calls without a token before their message is looked at."""

    def __init__(self, tokens: Tokens, desk: Desk) -> None:
        self._tokens, self._desk = tokens, desk
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(self._refuse, None, None)

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if details.method in OPEN or self._tokens.allow(_authorization(details.invocation_metadata)):
            return continuation(details)
        return self._refusal

    def _refuse(self, _: Any, context: grpc.ServicerContext) -> Any:
        self._desk.refuse("grpc", _peer(context), "UNAUTHENTICATED")
        context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)


def _allowed(tokens: Tokens, context: grpc.ServicerContext) -> bool:
    return tokens.allow(_authorization(context.invocation_metadata()))


def _authorization(metadata: Any) -> str | None:
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str):
            return value
    return None


def _peer(context: grpc.ServicerContext) -> str:
    """host:port out of gRPC's `ipv4:host:port`, which escapes the brackets of IPv6."""
    return str(context.peer()).partition(":")[2].replace("%5B", "[").replace("%5D", "]")


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        # Else a second server on the port would silently share its connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # An edge device that went away without a word is noticed within a minute and a half.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
