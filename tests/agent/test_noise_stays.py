"""Nothing about the noise reaches the cloud but the sum it is part of: wire, metadata, logs and error texts.

Edge sides that differ in their noise alone, or in its mechanism, talk to one server process. With the noisy activations
taken out, what they sent, were answered and left in the log must be the same, byte for byte where time is no part of
it. The files of a cloud side are looked through in tests/runtime (test_bundle.py, test_int8_wire.py and
test_mechanism_bundles.py), the steps of the sampler in tests/noise_kernels/test_one_path.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from edgecut.agent import oip_wire
from edgecut.agent.inputs import InputError
from edgecut.agent.session import Session, open_parts
from edgecut.agent.transport import TransportError
from edgecut.models.quantise import with_int8_inputs
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.runtime import oip
from edgecut.runtime.repository import write_model

REQUESTS = 5


class Seen(NamedTuple):
    """What a session let out: requests and answers without their payloads, refusals, and the payloads."""

    up: bytes
    down: bytes
    errors: list[str]
    sent: list[bytes]


class Tap:
    """A TCP relay that keeps what passes, each way."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream, self.up, self.down = upstream, bytearray(), bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(self.upstream)
                for source, sink, kept in ((near, far, self.up), (far, near, self.down)):
                    threading.Thread(target=self._copy, args=(source, sink, kept), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def other_noise(side: Any) -> None:
    """Another number of distributions, other locations, scales and orders, in the same edge side."""
    generator = np.random.default_rng(1)
    side.collection = NoiseCollection(
        loc=generator.normal(0, 50, 9),
        scale=np.full(9, 1000.0),
        orders=np.stack([generator.permutation(40) for _ in range(9)]),
        tensors=[("a", (40,))],
        model_digest="sha256:" + "a" * 64,
        cut="a",
    )
    (side.folder / "noise.npz").write_bytes(side.collection.to_bytes())
    side.write()


def other_mechanism(side: Any, mechanism: str, place: str = "cut", sticky: bool = False) -> None:
    """Noise of another mechanism in the same edge side."""
    tensors = [("a", (40,))] if place == "cut" else [("x", (6,))]
    n = tensors[0][1][0]
    law = "laplace" if mechanism in ("laplace", "cloak") else "normal"
    mixing = np.tri(n) if mechanism == "gaussian" else None
    scale = np.full(n, 0.0 if mechanism == "none" else 2.0)
    noise = ElementNoise(mechanism, law, np.zeros(n), scale, tensors, "sha256:" + "a" * 64, "a", mixing, place)
    (side.folder / "noise.npz").write_bytes(noise.to_bytes())
    side.write(mechanism=mechanism, **({"sticky": True} if sticky else {}))


def session_of(side: Any, server: str) -> tuple[Session, list[bytes]]:
    """A session, and the payloads that it hands to its connection."""
    part, caller = open_parts(str(side.folder), server)
    sent: list[bytes] = []
    plain = caller.infer

    def infer(model: str, tensors: Any, timeout_s: float | None = None) -> Any:
        sent.append(b"".join(array.tobytes() for _, array in tensors))
        return plain(model, tensors, timeout_s)

    caller.infer = infer  # type: ignore[method-assign]
    return Session(part, caller), sent


def talk(side: Any, server: str) -> tuple[list[str], list[bytes], list[np.ndarray]]:
    """Requests that are answered, one that the edge refuses, one that the server does."""
    errors, answers = [], []
    session, sent = session_of(side, server)
    with session:
        x = np.linspace(-1, 1, 6, dtype=np.float32)[None]
        for _ in range(REQUESTS):
            answers.append(session.infer(x))
        with pytest.raises(InputError) as refused:
            session.infer(np.full_like(x, np.nan))
        errors.append(str(refused.value))
        noisy = session.part.protected(x)
        for arrays in (noisy[0][:, :-1], np.full(noisy[0].shape, np.nan, np.float32)):
            with pytest.raises(TransportError) as failed:
                session.caller.infer("small", [("a", arrays)])
            errors.append(str(failed.value))
        with pytest.raises(TransportError) as unknown:
            session.caller.infer("another", [("a", noisy[0])])
        errors.append(str(unknown.value))
    return errors, sent, answers


@pytest.fixture(params=["float32", "int8"])
def wire(request: pytest.FixtureRequest, side: Any) -> str:
    """What the side sends; int8 in steps of 1."""
    name: str = request.param
    if name == "int8":
        side.write(wire={"dtype": "int8", "steps": [1.0]})
    return name


@pytest.fixture
def logged(tmp_path: Path, cloud_bytes: bytes, wire: str) -> Iterator[tuple[str, int, Path]]:
    """Host and REST port of a server that logs every request, and its log."""
    taken = "TYPE_FP32" if wire == "float32" else "TYPE_INT8"
    cloud = cloud_bytes if wire == "float32" else with_int8_inputs(cloud_bytes, {"a": 1.0}, "small")
    write_model(tmp_path / "models", "small", cloud, [("a", taken, (40,))], [("y", "TYPE_FP32", (3,))])
    command = [sys.executable, "-P", "-m", "edgecut", "serve", str(tmp_path / "models"), "--port", "0"]
    log = tmp_path / "log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*command, "--log-format", "json", "--log-level", "info"], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            process.stdout.readline()
            host, _, port = process.stdout.readline().strip().rpartition("http://")[2].rpartition(":")
            yield host, int(port), log
        finally:
            process.kill()


def without_values(kept: bytes, payloads: list[bytes]) -> bytes:
    """A conversation with its tensors and its times taken out."""
    for payload in payloads:
        assert kept.count(payload) >= 1, "a payload was not sent as it is"
        kept = kept.replace(payload, b"<payload>", 1)
    return re.sub(rb"(?i)^date: .*$", b"", kept, flags=re.MULTILINE)


def lines_of(log: Path, start: int) -> list[dict[str, Any]]:
    """What was logged since, without times and ports."""
    found = [json.loads(line) for line in log.read_text()[start:].splitlines()]
    changing = ("seconds", "queued_s", "inference_s", "peer", "time", "at", "ts", "timestamp")
    return [{key: value for key, value in line.items() if key not in changing} for line in found]


CHANGES: tuple[Callable[[Any], None], ...] = (
    lambda side: None,
    other_noise,
    lambda side: other_mechanism(side, "laplace"),
    lambda side: other_mechanism(side, "gaussian"),
    lambda side: other_mechanism(side, "channel"),
    lambda side: other_mechanism(side, "cloak", "input"),
    lambda side: other_mechanism(side, "none"),
    lambda side: other_mechanism(side, "cloak", "cut", sticky=True),
)
REPEATING = CHANGES[-2:]
"""No noise, and sticky noise: the same input is the same message, by design."""


def test_another_noise_or_mechanism_looks_the_same_from_outside(
    side: Any, logged: tuple[str, int, Path], wire: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port, log = logged
    tap = Tap((host, port))
    seen, entries, texts = [], [], []
    for change in CHANGES:
        change(side)
        if change is CHANGES[-1]:
            monkeypatch.setenv("EDGECUT_CACHE", str(tmp_path / "cache"))  # for its secret
        tap.up.clear()
        tap.down.clear()
        start = len(log.read_text())
        errors, sent, answers = talk(side, f"http://127.0.0.1:{tap.port}")
        assert len(sent) == REQUESTS + 3 and (change in REPEATING or len(set(sent)) == len(sent))
        down = [answer.tobytes() for answer in answers]
        seen.append(Seen(without_values(bytes(tap.up), sent), without_values(bytes(tap.down), down), errors, sent))
        entries.append(lines_of(log, start))
        texts.append(log.read_text()[start:])
    one = seen[0]
    for other, entry in zip(seen[1:], entries[1:], strict=True):
        assert one.up == other.up and one.down == other.down and one.errors == other.errors
        assert entries[0] == entry and len(entry) >= REQUESTS + 3
    assert one.up.count(b"<payload>") == REQUESTS + 3 and len(one.errors) == 4
    secret = "noise|laplace|shredder|cloak|gauss|sticky|mechanism|distribution|chacha|nonce|loc\\b|scale"
    for text in (one.up.decode(), one.down.decode(), *texts):
        assert not re.search(secret, text, re.IGNORECASE)
    # The control: what was taken out does differ by far more than the sampling itself.
    spread = [np.std(np.frombuffer(b"".join(each.sent[:REQUESTS]), wire)) for each in seen[:2]]
    assert spread[1] > (50 if wire == "float32" else 10) * spread[0]  # int8 ends at 127


def test_over_grpc_a_request_is_the_activation_and_nothing_else(side: Any, wire: str) -> None:
    taken: list[tuple[bytes, list[tuple[str, str]]]] = []
    outputs = [("y", np.zeros((1, 3), np.float32))]

    def infer(data: bytes, context: grpc.ServicerContext) -> bytes:
        taken.append((data, sorted((key, str(value)) for key, value in context.invocation_metadata())))
        return oip_wire.encode_response("small", "1", "", outputs)

    def metadata(_: bytes, context: grpc.ServicerContext) -> bytes:
        answer = oip.message("ModelMetadataResponse")(name="small")
        answer.inputs.add(name="a", datatype={"float32": "FP32", "int8": "INT8"}[wire], shape=(-1, 40))
        answer.outputs.add(name="y", datatype="FP32", shape=(-1, 3))
        return bytes(answer.SerializeToString())

    calls = {"ModelInfer": infer, "ModelMetadata": metadata}
    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(oip.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        told = []
        for turn in range(2):
            if turn:
                other_noise(side)
            session, sent = session_of(side, f"127.0.0.1:{port}")
            with session:
                for _ in range(REQUESTS):
                    session.infer(np.ones((1, 6), np.float32))
            for (data, _), payload in zip(taken[turn * REQUESTS :], sent, strict=True):
                noisy = np.frombuffer(payload, wire).reshape(1, 40)
                assert data == oip_wire.encode_request("small", [("a", noisy)])
            told.append([headers for _, headers in taken[turn * REQUESTS :]])
        assert told[0] == told[1] and all({key for key, _ in headers} == {"user-agent"} for headers in told[0])
    finally:
        server.stop(0).wait()
