"""The Open Inference Protocol's messages and methods, from the descriptor beside this file.

The descriptor lives in a pool of its own: generated stubs of other packages (tritonclient, kserve, mlserver) register
the same names in protobuf's default pool, and a second registration there ends in "duplicate symbol". Messages made
here therefore mix with theirs only as bytes on the wire. `oip.proto` says how to write the descriptor again.

Source: the KServe V2 protocol, https://github.com/kserve/open-inference-protocol (gRPC part).
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"


class Method(NamedTuple):
    """One remote call: its name and its two message classes."""

    name: str
    request: Any
    response: Any
    service: str = SERVICE

    @property
    def path(self) -> str:
        """The name gRPC puts into the `:path` header."""
        return f"/{self.service}/{self.name}"


class Servicer(Protocol):
    """What answers the calls; each method gets a message and the call's context and returns a message."""

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any: ...
    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any: ...
    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any: ...
    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any: ...
    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any: ...
    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any: ...


class Stub:
    """The calls of a channel, `stub.ModelInfer(request, timeout=...)` or `stub.ModelInfer.future(request)`."""

    ServerLive: grpc.UnaryUnaryMultiCallable[Any, Any]
    ServerReady: grpc.UnaryUnaryMultiCallable[Any, Any]
    ModelReady: grpc.UnaryUnaryMultiCallable[Any, Any]
    ServerMetadata: grpc.UnaryUnaryMultiCallable[Any, Any]
    ModelMetadata: grpc.UnaryUnaryMultiCallable[Any, Any]
    ModelInfer: grpc.UnaryUnaryMultiCallable[Any, Any]

    def __init__(self, channel: grpc.Channel) -> None:
        for method in methods():
            call = channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            setattr(self, method.name, call)


@functools.cache
def message(name: str) -> Any:
    """The class of a message, by its name inside the package: `message("ModelInferRequest")`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@functools.cache
def methods() -> tuple[Method, ...]:
    """The service's calls in the order of `oip.proto`."""
    service = _pool().FindServiceByName(SERVICE)
    return tuple(
        Method(one.name, message(one.input_type.name), message(one.output_type.name)) for one in service.methods
    )


def generic_handler(servicer: Servicer) -> grpc.GenericRpcHandler:
    """What `grpc.Server.add_generic_rpc_handlers` takes to let `servicer` answer.

    Bytes that are no message of the protocol are answered with INVALID_ARGUMENT and a sentence; gRPC's own way would
    be INTERNAL and a traceback in the server's log for every one of them.
    """
    import grpc

    handlers = {method.name: handler(method, getattr(servicer, method.name)) for method in methods()}
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def handler(method: Method, answer: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """One call's handler: `answer(request, context)`, or a refusal of bytes that are no such message."""
    import grpc
    from google.protobuf.message import DecodeError

    parse = method.request.FromString

    def call(data: Any, context: grpc.ServicerContext) -> Any:
        try:
            request = parse(data)
        except DecodeError:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the {len(data)} bytes sent to {method.name} are no {method.request.DESCRIPTOR.full_name} message",
            )
        return answer(request, context)

    # Without a deserializer gRPC hands over the bytes as they came.
    return grpc.unary_unary_rpc_method_handler(call, None, method.response.SerializeToString)


@functools.cache
def _pool() -> DescriptorPool:
    from google.protobuf import descriptor_pb2, descriptor_pool

    data = resources.files(__package__).joinpath("oip.binpb").read_bytes()
    private = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        private.AddSerializedFile(file.SerializeToString())
    return private
