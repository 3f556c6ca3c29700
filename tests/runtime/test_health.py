"""grpc.health.v1, asked with messages made by hand: byte 0x08 and the status, a service's name as field 1."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgecut.runtime import health
from edgecut.runtime.server import CloudServer, Protection

pytest.importorskip("onnxruntime")
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


def named(service: str) -> bytes:
    data = service.encode()
    return b"\x0a" + bytes([len(data)]) + data if data else b""


def check(channel: grpc.Channel, service: str = "", **more: Any) -> Any:
    try:
        return channel.unary_unary(CHECK)(named(service), timeout=20, **more)
    except grpc.RpcError as error:
        return error.code()


def test_check_knows_the_server_its_service_and_its_models(small_models: Path) -> None:
    with CloudServer(small_models) as server, grpc.insecure_channel(server.address) as channel:
        for service in ("", "inference.GRPCInferenceService", "net"):
            assert check(channel, service) == SERVING
        assert check(channel, "nothing") is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(CHECK)(b"\xff", timeout=20)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        server.drain()
        assert check(channel) == NOT_SERVING and check(channel, "net") == NOT_SERVING


def test_watch_tells_every_change_and_ends_with_the_server(small_models: Path) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with CloudServer(small_models) as server, grpc.insecure_channel(server.address) as channel:
        stream = channel.unary_stream(WATCH)(named(""), timeout=60)

        def read() -> None:
            try:
                for message in stream:
                    told.put(message)
            except grpc.RpcError as error:
                told.put(error.code())
            told.put("end")

        threading.Thread(target=read, daemon=True).start()
        assert told.get(timeout=20) == SERVING
        server.drain()
        assert told.get(timeout=20) == NOT_SERVING
        unknown = channel.unary_stream(WATCH)(named("nothing"), timeout=60)
        assert next(unknown) == UNKNOWN
        with pytest.raises(grpc.RpcError) as raised:
            next(channel.unary_stream(WATCH)(b"\xff", timeout=20))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        server.stop(20)
        assert told.get(timeout=20) in ("end", grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_watchers_are_few_and_those_that_go_make_room(small_models: Path) -> None:
    with CloudServer(small_models) as server, grpc.insecure_channel(server.address) as channel:
        streams = [channel.unary_stream(WATCH)(b"", timeout=60) for _ in range(health.MAX_WATCHERS)]
        assert all(next(stream) == SERVING for stream in streams)
        with pytest.raises(grpc.RpcError, match="watchers") as raised:
            next(channel.unary_stream(WATCH)(b"", timeout=20))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(channel) == SERVING
        streams[0].cancel()
        again = None
        while again is None:
            try:
                again = next(channel.unary_stream(WATCH)(b"", timeout=20))
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert again == SERVING
        for stream in streams:
            stream.cancel()


def test_without_a_token_only_the_server_as_a_whole_is_told_of(small_models: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("one-token")
    good = [("authorization", "Bearer one-token")]
    with (
        CloudServer(small_models, protection=Protection(token_file=str(tokens))) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert check(channel) == SERVING
        assert check(channel, "net") is grpc.StatusCode.UNAUTHENTICATED
        assert check(channel, "nothing") is grpc.StatusCode.UNAUTHENTICATED
        assert check(channel, "net", metadata=good) == SERVING
        with pytest.raises(grpc.RpcError) as raised:
            next(channel.unary_stream(WATCH)(b"", timeout=20))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert next(channel.unary_stream(WATCH)(b"", timeout=20, metadata=good)) == SERVING
