"""The cloud server: ONNX Runtime behind the Open Inference Protocol over gRPC, with a pool of threads.

It serves a folder in Triton's layout and answers every malformed request with a status and one sentence:
NOT_FOUND for a model or version, INVALID_ARGUMENT for tensors, RESOURCE_EXHAUSTED for size, INTERNAL without any of
the payload where inference itself fails. Inputs that hold NaN or infinity are refused unless allowed: they come
from a fault upstream and would come back as a plausible answer. One call beyond the protocol answers `edgecut probe`,
see `echo`. There is no encryption and no login here: bind it to loopback or put a proxy in front.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

import grpc

from ..errors import EdgecutError, ServerError
from ..models.session import open_session
from . import echo, oip
from .processes import await_end_of_input, await_ending
from .repository import PLATFORM, read_repository
from .served import MakeSession, Refusal, ServedModel

if TYPE_CHECKING:
    from types import TracebackType


_STOPPING = (signal.SIGTERM, signal.SIGINT)
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Calls beyond these many for each worker are answered RESOURCE_EXHAUSTED instead of piling up in memory.
WAITING_PER_WORKER = 32


class CloudServer:
    """A server of every model and version below `models_root`, in threads of this process.

    Args:
        models_root: A model repository, see `repository`.
        host: The address to listen on.
        port: The port, 0 for any free one.
        threads: Threads of one inference.
        workers: Requests that are worked on at the same time.
        max_message_bytes: The largest request or answer.
        make_session: Makes the session of a model file; by default `open_session` with `threads`.
        allow_nonfinite: Whether inputs may hold NaN or infinity.
    """

    def __init__(
        self,
        models_root: str | os.PathLike[str],
        host: str = "127.0.0.1",
        port: int = 0,
        threads: int = 1,
        workers: int = 8,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        make_session: MakeSession | None = None,
        allow_nonfinite: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.models: dict[str, dict[str, ServedModel]] = {}
        self._root = models_root
        self._workers = workers
        self._max_message_bytes = max_message_bytes
        self._make_session = make_session or (lambda model: open_session(model, threads))
        self._finite = not allow_nonfinite
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> int:
        """Load all models, listen, and return the port.

        Raises:
            BundleError: the repository is unreadable, empty or inconsistent.
            ModelError: a model file is damaged or is not what its configuration says.
            DeviceError: ONNX Runtime is missing.
            ServerError: the address is taken or is none of this machine.
        """
        if self._server is not None:
            raise ServerError("this server runs already; stop it first")
        for stored in read_repository(self._root):
            # The highest version last, so that it is the one a request without a version finds.
            self.models[stored.name] = {
                str(version): ServedModel(stored, version, self._make_session, finite=self._finite)
                for version in stored.versions
            }
        self._listen()
        return self.port

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no new requests, finish those at hand for at most `grace_s` seconds, then cut off the rest."""
        if self._server is None or self._pool is None:
            return
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=True)
        self._server = self._pool = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """host:port, with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _listen(self) -> None:
        _check_address(self.host, self.port)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="edgecut-serve")
        self._server = grpc.server(
            self._pool,
            options=_options(self._max_message_bytes),
            maximum_concurrent_rpcs=self._workers * WAITING_PER_WORKER,
        )
        echoing = echo.generic_handler(self._max_message_bytes)
        self._server.add_generic_rpc_handlers((oip.generic_handler(_Servicer(self.models)), echoing))
        try:
            self.port = self._server.add_insecure_port(self.address)
        except RuntimeError:
            self._server = None
            raise ServerError(f"cannot listen on {self.address}; choose another host or port") from None
        self._server.start()


class _Servicer:
    """The protocol's six calls over the loaded models."""

    def __init__(self, models: Mapping[str, Mapping[str, ServedModel]]) -> None:
        self._models = models
        self._live = oip.message("ServerLiveResponse")(live=True)
        self._ready = oip.message("ServerReadyResponse")(ready=True)

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._live

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._ready

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            self._find(request.name, request.version)
        except Refusal:
            return oip.message("ModelReadyResponse")(ready=False)
        return oip.message("ModelReadyResponse")(ready=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.message("ServerMetadataResponse")(name="edgecut", version=_own_version())

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            model = self._find(request.name, request.version)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
        response = oip.message("ModelMetadataResponse")(name=model.name, platform=PLATFORM)
        response.versions.extend(self._models[model.name])
        for field, specs in ((response.inputs, model.inputs), (response.outputs, model.outputs)):
            for spec in specs.values():
                field.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return self._find(request.model_name, request.model_version).infer(request)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    def _find(self, name: str, version: str) -> ServedModel:
        versions = self._models.get(name)
        if versions is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no model '{name[:100]}' here; there is {sorted(self._models)}")
        model = versions.get(version or list(versions)[-1])
        if model is None:
            sentence = f"model '{name}' has no version '{version[:100]}'; there is {list(versions)}"
            raise Refusal(grpc.StatusCode.NOT_FOUND, sentence)
        return model


def serve(
    models_root: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    threads: int = 1,
    workers: int = 8,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    make_session: MakeSession | None = None,
    allow_nonfinite: bool = False,
    grace_s: float = 10.0,
    until_input_ends: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests at hand and return; main thread only.

    Prints one line once it answers. Arguments and errors are those of `CloudServer`; `grace_s` bounds the finishing,
    and `until_input_ends` stops it also when standard input closes, because the parent is gone.
    """
    # A SimpleQueue, because its put is safe in a signal handler; an Event's set can wait for a lock held below it.
    stopping: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {number: signal.signal(number, lambda number, _: stopping.put(number)) for number in _STOPPING}
    _keep_freed_memory()
    server = CloudServer(
        models_root, host, port, threads, workers, max_message_bytes, make_session, allow_nonfinite=allow_nonfinite
    )
    try:
        server.start()
        print(f"serving {', '.join(server.models)} on grpc://{server.address}", flush=True)
        if until_input_ends:
            threading.Thread(target=await_end_of_input, args=(stopping,), daemon=True).start()
        await_ending(stopping)
    finally:
        server.stop(grace_s)
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m edgecut.runtime.server MODELS_ROOT [THREADS]`, a child on a free port of loopback; the exit status."""
    parser = argparse.ArgumentParser(prog="edgecut.runtime.server", description="Serve a model repository to a parent.")
    parser.add_argument("models_root")
    parser.add_argument("threads", type=int, nargs="?", default=1, help="of one inference")
    given = parser.parse_args(arguments)
    try:
        serve(given.models_root, threads=given.threads, until_input_ends=True)
    except EdgecutError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


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


def _check_address(host: str, port: int) -> None:
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


def _own_version() -> str:
    try:
        return metadata.version("edgecut")
    except metadata.PackageNotFoundError:
        return "unknown"


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of one request for the next; giving it back each time costs as much as the request."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, size_bytes in ((-3, 32 << 20), (-1, 256 << 20), (-2, 16 << 20)):  # mmap and trim threshold, top pad
            libc.mallopt(option, size_bytes)


if __name__ == "__main__":
    sys.exit(main())
