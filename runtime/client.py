"""Asking a server of the Open Inference Protocol, ours or anybody's, over one gRPC channel that is kept open.

Every failure becomes a ServerError whose sentence says which server, what happened, and what to do. Nothing is
retried here.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from types import TracebackType
from typing import Self

import grpc
import numpy as np

from ..errors import ServerError
from ..models.spec import TensorSpec
from . import oip
from .tensors import Array, TensorError, append, datatype_of, decode_all

CONNECT_S = 10.0
ASK_S = 0.5
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.enable_http_proxy", 0),
]


class CloudClient:
    """One channel to `server` (HOST:PORT). A context manager; one thread at a time."""

    def __init__(self, server: str, timeout_s: float = 10.0) -> None:
        self.server, self.timeout_s = server, timeout_s
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ServerError(f"'{server}' is not an address; give HOST:PORT, as edgecut serve prints it")
        if not 0 < timeout_s < math.inf:
            raise ServerError(f"a server cannot answer within {timeout_s:g} s; give a positive number of seconds")
        self._channel = grpc.insecure_channel(server, options=_OPTIONS)
        self._stub = oip.Stub(self._channel)
        self._request = oip.message("ModelInferRequest")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; requests under way are cancelled."""
        self._channel.close()

    def check_model(self, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        """Raise ServerError unless the server is there and serves this very model: names, datatypes and shapes."""
        request = oip.message("ModelMetadataRequest")(name=name)
        try:
            self._connect()
            answer = self._stub.ModelMetadata(request, timeout=CONNECT_S)
        except grpc.RpcError as error:
            raise self.failure(error, CONNECT_S) from None
        for what, expected, found in (("input", inputs, answer.inputs), ("output", outputs, answer.outputs)):
            got = {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in found}
            for spec in expected:
                if not _agrees(spec, got.get(spec.name)):
                    raise ServerError(
                        f"{self.server} serves another model as '{name}': its {what}s are {got}, {spec.name} "
                        f"{spec.dtype} {list(spec.shape)} was expected; serve this bundle's cloud side there"
                    )

    def _connect(self) -> None:
        """Wait for the connection, which at a server of another protocol never becomes ready."""
        ready = grpc.channel_ready_future(self._channel)
        end = time.monotonic() + CONNECT_S
        while True:
            with contextlib.suppress(grpc.FutureTimeoutError):
                ready.result(timeout=min(ASK_S, CONNECT_S))
                return
            reason = self._unreachable()
            if reason or time.monotonic() > end:
                ready.cancel()
                raise ServerError(
                    f"no server of the Open Inference Protocol answers at {self.server}{reason}; start edgecut serve "
                    "there, or check the address"
                )

    def _unreachable(self) -> str:
        """Why the address cannot be connected to: gRPC keeps trying one that refuses, without a word."""
        host, _, port = self.server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            return f" ({error.strerror or error})"
        return ""

    def infer(self, model: str, tensors: list[tuple[str, Array]]) -> dict[str, Array]:
        """Send a request and wait for its answer, tensors by name. Arrays are [batch, ...]. Raises ServerError."""
        request = self._request(model_name=model)
        for name, array in tensors:
            append(request.inputs, request.raw_input_contents, name, array)
        try:
            response = self._stub.ModelInfer(request, timeout=self.timeout_s)
            return decode_all(response.outputs, response.raw_output_contents)
        except grpc.RpcError as error:
            raise self.failure(error, self.timeout_s) from None
        except TensorError as error:
            raise ServerError(f"{self.server} sent a damaged answer ({error})") from None

    def failure(self, error: grpc.RpcError, waited_s: float) -> ServerError:
        """A sentence for what gRPC reports after at most `waited_s` seconds."""
        code: grpc.StatusCode = error.code()
        detail = " ".join(str(error.details() or "").split())[:300]
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerError(f"{self.server} did not answer within {waited_s:g} s; check the server and the link")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return ServerError(f"{self.server} cannot be reached or went away ({detail}); start it again, then retry")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ServerError(f"{self.server} does not speak the Open Inference Protocol; start edgecut serve there")
        return ServerError(f"{self.server} refused the request: {detail or code.name}")


def _agrees(spec: TensorSpec, found: tuple[str, tuple[int, ...]] | None) -> bool:
    if found is None or found[0] != datatype_of(np.dtype(spec.dtype)):
        return False
    shape = found[1][1:]
    return len(shape) == len(spec.shape) and all(a in (-1, b) for a, b in zip(shape, spec.shape, strict=True))
