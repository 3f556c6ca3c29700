"""grpc.health.v1: Check and Watch, for orchestrators and load balancers that ask every gRPC server so.

    service grpc.health.v1.Health {
      rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
      rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse); }
    message HealthCheckRequest { string service = 1; }
    message HealthCheckResponse { enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
      ServingStatus status = 1; }

The service "" is the whole server; the inference service and each model have their names. The descriptor lives in a
pool of its own, like that of `oip`.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Container, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from .oip import Method, handler

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# Each holds a thread for as long as it watches.
MAX_WATCHERS = 16


@functools.cache
def methods() -> tuple[Method, Method]:
    """Check and Watch."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    file.message_type.add(name="HealthCheckRequest").field.add(
        name="service", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL
    )
    # An enum travels as the number that it is.
    file.message_type.add(name="HealthCheckResponse").field.add(
        name="status", number=1, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = [pool.FindMessageTypeByName(f"grpc.health.v1.HealthCheck{end}") for end in ("Request", "Response")]
    request, response = (message_factory.GetMessageClass(one) for one in found)
    return Method("Check", request, response, SERVICE), Method("Watch", request, response, SERVICE)


class Health:
    """What answers. `allowed` says whether a call may ask for more than the server as a whole."""

    def __init__(
        self, names: Container[str], ready: Callable[[], bool], allowed: Callable[[grpc.ServicerContext], bool]
    ) -> None:
        self._names, self._ready, self._allowed = names, ready, allowed
        self._changed = threading.Condition()
        self._watchers = 0
        self._closed = False

    def handler(self) -> grpc.GenericRpcHandler:
        """What `grpc.Server.add_generic_rpc_handlers` takes."""
        check, watch = methods()
        streaming: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
            self._watch, None, watch.response.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": handler(check, self._check), "Watch": streaming})

    def tell(self) -> None:
        """Readiness changed: tell those who watch."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let all watchers go; they would hold up the stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _status(self, service: str, context: grpc.ServicerContext) -> int:
        if service and not self._allowed(context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a bearer token that this server knows is needed")
        if service not in self._names:
            return SERVICE_UNKNOWN
        return SERVING if self._ready() else NOT_SERVING

    def _check(self, request: Any, context: grpc.ServicerContext) -> Any:
        status = self._status(request.service, context)
        if status == SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service '{request.service[:100]}' here")
        return methods()[0].response(status=status)

    def _watch(self, data: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            request = methods()[1].request.FromString(data)
        except DecodeError:
            sentence = f"the {len(data)} bytes sent to Watch are no {SERVICE}CheckRequest message"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, sentence)
        with self._changed:
            if self._watchers >= MAX_WATCHERS:
                sentence = f"this server has {MAX_WATCHERS} watchers, which is all it takes; use Check"
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence)
            self._watchers += 1
        try:
            context.add_callback(self.tell)  # so that the thread is free once the client is gone
            told = -1
            while context.is_active() and not self._closed:
                status = self._status(request.service, context)
                if status == told:
                    with self._changed:
                        self._changed.wait(timeout=1.0)
                    continue
                told = status
                yield methods()[1].response(status=status)
        finally:
            with self._changed:
                self._watchers -= 1
