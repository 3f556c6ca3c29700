"""The one call of our server beyond the Open Inference Protocol: bytes there, other bytes back, nothing computed.

    service edgecut.Probe { rpc Echo(EchoRequest) returns (EchoResponse); }
    message edgecut.EchoRequest { bytes payload = 1; uint64 answer_bytes = 2; }
    message edgecut.EchoResponse { bytes payload = 1; }

The payload sent is read and dropped; the answer holds `answer_bytes` random bytes, so that nothing on the way can
compress them. Messages, limits, workers and refusals are those of the other calls. The descriptor lives in a pool of
its own, like that of `oip`.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from .oip import Method, handler

if TYPE_CHECKING:
    import grpc

SERVICE = "edgecut.Probe"
# What a message has beside its payload, generously: two fields' tags and lengths.
OVERHEAD_BYTES = 32
# Longer than the window of any compressor on the way (LZ4 and deflate look back 64 KiB at most).
_BLOCK_BYTES = 1 << 20


@functools.cache
def method() -> Method:
    """The call and its two message classes."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="edgecut_echo.proto", package="edgecut", syntax="proto3")
    for name in ("EchoRequest", "EchoResponse"):
        fields = file.message_type.add(name=name).field
        fields.add(name="payload", number=1, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
        if name == "EchoRequest":
            fields.add(name="answer_bytes", number=2, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = [pool.FindMessageTypeByName(f"edgecut.{name}") for name in ("EchoRequest", "EchoResponse")]
    request, response = (message_factory.GetMessageClass(one) for one in found)
    return Method("Echo", request, response, SERVICE)


def generic_handler(max_message_bytes: int) -> grpc.GenericRpcHandler:
    """What `grpc.Server.add_generic_rpc_handlers` takes to answer the call, within `max_message_bytes` an answer."""
    import grpc

    response = method().response

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if request.answer_bytes > max_message_bytes - OVERHEAD_BYTES:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"an answer of {request.answer_bytes} bytes is larger than this server's {max_message_bytes}",
            )
        return response(payload=random_bytes(request.answer_bytes))

    return grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler(method(), answer)})


def random_bytes(size: int) -> bytes:
    """`size` bytes that do not compress on the way; made once, because making them would be timed."""
    block = _block()
    return block * (size // len(block)) + block[: size % len(block)]


@functools.cache
def _block() -> bytes:
    return os.urandom(_BLOCK_BYTES)
