"""The probe against a real server behind a relay of known rates and delay, against third parties, faults and time.

What a relay shapes is known, so the rates found are asserted; the tolerance is for a busy machine. A round trip can
only come out too long, never too short.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
from onnx import TensorProto, helper

from edgecut.errors import ArtefactError, LinkError, ServerError
from edgecut.partitioner.link import Link, load_link
from edgecut.runtime import echo, oip
from edgecut.runtime.ping import round_trips
from edgecut.runtime.probe import _rate, _Taken, probe
from edgecut.runtime.processes import child, cloud_server, first_line
from edgecut.runtime.relay import LinkShape, relay_process
from edgecut.runtime.repository import write_model
from edgecut.runtime.server import CloudServer

pytest.importorskip("onnxruntime")

MAX_BYTES = 1 << 20
LINKS = {
    "20/50, 10 ms": LinkShape(uplink_bps=20e6, downlink_bps=50e6, rtt_s=0.01),
    "2/8, 40 ms": LinkShape(uplink_bps=2e6, downlink_bps=8e6, rtt_s=0.04),
}
QUICK_S = 4.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "test", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    write_model(folder, "net", model.SerializeToString(), [("x", "TYPE_FP32", [4])], [("y", "TYPE_FP32", [4])])
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[tuple[str, int]]:
    with cloud_server(root, threads=1) as address:
        yield address


@contextlib.contextmanager
def own_server(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process to be maltreated."""
    with child(["edgecut.runtime.server", os.fspath(root)], "the server") as process:
        yield process, first_line(process, "the server").rpartition("grpc://")[2]


class ThirdParty:
    """A server of the protocol alone: it is ready, has no model, and takes a megabyte at most."""

    def __init__(self, code: grpc.StatusCode | None = grpc.StatusCode.NOT_FOUND) -> None:
        self.code = code
        self.largest = 0

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.message("ServerLiveResponse")(live=True)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.largest = max(self.largest, len(request.raw_input_contents[0]))
        if self.code is not None:
            context.abort(self.code, f"there is no model {request.model_name}")
        return oip.message("ModelInferResponse")()

    ServerReady = ModelReady = ServerMetadata = ModelMetadata = ServerLive


@contextlib.contextmanager
def third_party(servicer: ThirdParty) -> Iterator[tuple[str, int]]:
    options = [("grpc.max_receive_message_length", MAX_BYTES)]
    running = grpc.server(ThreadPoolExecutor(2), options=options)
    running.add_generic_rpc_handlers((oip.generic_handler(servicer),))
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield "127.0.0.1", port
    running.stop(0).wait()


@pytest.mark.parametrize("name", LINKS)
def test_a_known_link_is_found(name: str, server: tuple[str, int], tmp_path: Path) -> None:
    shape, path = LINKS[name], tmp_path / "mine.link.json"
    told: list[tuple[str, float]] = []
    with relay_process([server], shape) as ports:
        address = f"127.0.0.1:{ports[0]}"
        link = probe(
            address,
            max_seconds=QUICK_S,
            radio="lte",
            output=path,
            progress=lambda what, share: told.append((what, share)),
        )
    assert link.uplink_bps == pytest.approx(shape.uplink_bps, rel=0.15)
    assert link.downlink_bps == pytest.approx(shape.downlink_bps, rel=0.15)
    assert shape.rtt_s <= link.rtt_s <= 1.3 * shape.rtt_s + 0.005
    for value, interval in (
        (link.uplink_bps, link.uplink_interval_bps),
        (link.downlink_bps, link.downlink_interval_bps),
        (link.rtt_s, link.rtt_interval_s),
    ):
        assert interval is not None and interval[0] <= value <= interval[1]
    assert (link.name, link.provenance) == (f"probe {address}", "measured")
    # Huang et al., table 4, at the rates measured as far as the preset's go
    assert link.radio_tx_w == pytest.approx((438.39 * min(link.uplink_bps / 1e6, 5.85) + 1288.04) / 1000)
    assert link.radio_rx_w == pytest.approx((51.97 * min(link.downlink_bps / 1e6, 13.76) + 1288.04) / 1000)
    assert load_link(path).uplink_bps == link.uplink_bps
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0
    check_samples(link, shape.rtt_s)


def check_samples(link: Link, rtt_s: float) -> None:
    """What the file keeps is what its sentence says, and neither call nor ping was quicker than the relay's delay."""
    for way in ("uplink", "downlink"):
        taken = [one for one in link.samples if one.what == way]
        sizes = [one.size_bytes for one in taken]
        count = sum(len(one.elapsed_s) for one in taken)
        assert f"{way} from {count} transfers of {min(sizes):,} to {max(sizes):,} bytes" in link.source
        assert len(sizes) == len(set(sizes)) >= 3
    by_name = {one.what: one.elapsed_s for one in link.samples}
    assert f"median of {len(by_name['ping'])} HTTP/2 pings" in link.source
    assert min(by_name["request"] + by_name["ping"]) >= rtt_s > min(by_name["connect"])  # the relay accepts at once


def test_without_a_radio_its_power_is_unknown_and_a_rate_given_is_measured_all_the_same(
    server: tuple[str, int],
) -> None:
    link = probe("{}:{}".format(*server), max_seconds=2.0, largest_bytes=1 << 20, downlink_bps=10.0)
    assert link.downlink_bps > 1e6 and link.downlink_interval_bps != (10.0, 10.0)
    assert (link.radio_tx_w, link.radio_rx_w, link.radio_source) == (None, None, "")
    assert max(one.size_bytes for one in link.samples) <= 1 << 20


def test_a_third_party_must_be_given_the_downlink(tmp_path: Path) -> None:
    with third_party(ThirdParty()) as address, pytest.raises(ServerError, match="give it with --downlink-mbps"):
        probe("{}:{}".format(*address), max_seconds=2.0, output=tmp_path / "link.json")
    assert not list(tmp_path.iterdir())


def test_a_third_party_is_measured_one_way() -> None:
    shape = LinkShape(uplink_bps=8e6, downlink_bps=8e6, rtt_s=0.01)
    with third_party(ThirdParty()) as address, relay_process([address], shape) as ports:
        link = probe(f"127.0.0.1:{ports[0]}", max_seconds=3.0, downlink_bps=7e6)
    assert link.uplink_bps == pytest.approx(8e6, rel=0.15)
    assert (link.downlink_bps, link.downlink_interval_bps) == (7e6, None)
    assert "downlink as given, not measured" in link.source
    assert link.rtt_s >= 0.01


def test_a_third_party_is_never_sent_more_than_it_takes() -> None:
    servicer = ThirdParty(grpc.StatusCode.INVALID_ARGUMENT)
    with third_party(servicer) as address:
        link = probe("{}:{}".format(*address), max_seconds=2.0, downlink_bps=1e9)
    largest = max(one.size_bytes for one in link.samples)
    assert MAX_BYTES // 8 < largest <= servicer.largest <= MAX_BYTES


def test_a_third_party_that_answers_for_anything_is_refused() -> None:
    with third_party(ThirdParty(None)) as address, pytest.raises(ServerError, match="models it does not have"):
        probe("{}:{}".format(*address), max_seconds=2.0, downlink_bps=1e9)


GONE, SILENT = "went away .*; start it again", "did not answer within .*check the server"


@pytest.mark.parametrize(
    ("number", "moment", "sentence"),
    [
        (signal.SIGKILL, "round trips", "cannot be reached"),
        (signal.SIGKILL, "finding the sizes for the downlink", GONE),
        (signal.SIGKILL, "measuring the uplink", GONE),
        (signal.SIGSTOP, "measuring the uplink", SILENT),
    ],
)
def test_a_server_lost_midway_is_one_sentence(
    number: signal.Signals, moment: str, sentence: str, root: Path, tmp_path: Path
) -> None:
    with own_server(root) as (process, address):

        def lose(what: str, share: float) -> None:
            if what == moment:
                process.send_signal(number)
                if number is signal.SIGKILL:
                    process.wait()

        try:
            with pytest.raises(ServerError) as caught:
                probe(address, max_seconds=2.0, output=tmp_path / "link.json", progress=lose)
        finally:
            if number is signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
    text = str(caught.value)
    assert "\n" not in text and address in text
    assert re.search(sentence, text), text
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(server: tuple[str, int], tmp_path: Path) -> None:
    code = (
        "import sys; from edgecut.runtime.probe import probe; "
        "probe(sys.argv[1], output=sys.argv[2], progress=lambda what, share: print(what, flush=True))"
    )
    command = [sys.executable, "-c", code, "{}:{}".format(*server), os.fspath(tmp_path / "link.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("measuring"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not list(tmp_path.iterdir())


def test_too_little_time_says_how_to_get_more(server: tuple[str, int], tmp_path: Path) -> None:
    shape = LinkShape(uplink_bps=2e5, downlink_bps=2e5, rtt_s=0.2)
    with relay_process([server], shape) as ports, pytest.raises(LinkError, match="allow more with --max-seconds"):
        probe(f"127.0.0.1:{ports[0]}", max_seconds=1.0, output=tmp_path / "link.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"radio": "wfi"}, LinkError, "unknown radio 'wfi', did you mean 'wifi'; known: 3g, lte, wifi"),
        ({"max_seconds": 0}, LinkError, "give positive numbers"),
        ({"max_seconds": float("nan")}, LinkError, "give positive numbers"),
        ({"repeats": 0}, LinkError, "give positive numbers"),
        ({"smallest_bytes": 10, "largest_bytes": 9}, LinkError, "the smaller size first"),
        ({"downlink_bps": 0.0}, LinkError, "give the rate in Mbit/s"),
        ({"output": "/proc/no/link.json"}, ArtefactError, "choose another output path"),
        ({"server": "localhost"}, ServerError, "give HOST:PORT"),
        ({"server": "127.0.0.1:1"}, ServerError, "start edgecut serve there"),
    ],
)
def test_what_cannot_be_probed_is_one_sentence(
    given: dict[str, Any], error: type[Exception], sentence: str, server: tuple[str, int]
) -> None:
    given = {"server": "{}:{}".format(*server), **given}
    with pytest.raises(error, match=sentence):
        probe(given.pop("server"), **given)


def points(rate_bps: float, base_s: float, sizes: list[int]) -> list[_Taken]:
    return [_Taken("uplink", size, base_s + 8 * size / rate_bps) for size in sizes]


def test_the_slope_ignores_what_each_call_costs_and_what_was_held_up() -> None:
    clean = points(3e6, 0.05, [1000, 2000, 5000, 9000] * 4)
    held = [
        one._replace(elapsed_s=one.elapsed_s + 2) if index in (2, 7, 11) else one for index, one in enumerate(clean)
    ]
    for taken in (clean, held):
        rate = _rate("a:1", taken)
        assert rate.bps == pytest.approx(3e6)
        assert (
            rate.interval_bps is not None and rate.interval_bps[0] <= rate.bps * 1.0001 <= rate.interval_bps[1] * 1.001
        )


def test_no_rate_is_made_up() -> None:
    with pytest.raises(LinkError, match="too fast to be measured with 9000 bytes"):
        _rate("a:1", [one._replace(elapsed_s=1 / one.size_bytes) for one in points(1e6, 0, [1000, 2000, 9000] * 3)])
    noisy = [
        one._replace(elapsed_s=one.elapsed_s + 0.05 * (index % 2))
        for index, one in enumerate(points(1e9, 0.05, [1000, 2000, 5000, 9000, 11000] * 2))
    ]
    assert _rate("a:1", noisy).interval_bps is None
    with pytest.raises(LinkError, match="time for 4 transfers one way, 5 are needed"):
        _rate("a:1", points(1e6, 0.05, [1000, 2000, 3000, 4000]))
    with pytest.raises(LinkError, match="allow more"):
        _rate("a:1", points(1e6, 0.05, [1000, 2000] * 4))


@contextlib.contextmanager
def speaker(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that lets `answer` deal with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as end, contextlib.suppress(OSError):
                        answer(end)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
JUNK: dict[str, Callable[[socket.socket], None]] = {
    "silence, then the end": lambda end: end.recv(100) and None,
    "another protocol": lambda end: end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a farewell": lambda end: end.sendall(SETTINGS + bytes((0, 0, 0, 7, 0, 0, 0, 0, 0))),
    "a wrong answer": lambda end: (
        end.sendall(SETTINGS + bytes((0, 0, 8, 6, 1, 0, 0, 0, 0)) + b"12345678"),
        end.recv(9),
    )[0],
}


@pytest.mark.parametrize("name", JUNK)
def test_who_answers_no_ping_has_only_connections(name: str) -> None:
    with speaker(JUNK[name]) as port:
        found = round_trips("127.0.0.1", port, connections=3, until=time.monotonic() + 5, timeout_s=2.0)
    assert found.pings_s == () and len(found.connects_s) == 1


def test_pings_leave_the_server_well(root: Path) -> None:
    with CloudServer(root, workers=1) as running:
        for _ in range(3):
            found = round_trips("127.0.0.1", running.port, connections=4, until=time.monotonic() + 5, timeout_s=5.0)
            assert (len(found.connects_s), len(found.pings_s)) == (4, 8)
        with grpc.insecure_channel(running.address) as channel:
            assert oip.Stub(channel).ServerLive(oip.message("ServerLiveRequest")(), timeout=5).live


@pytest.fixture
def call(root: Path) -> Iterator[Callable[[bytes], bytes]]:
    """The raw call at a server of small messages: bytes in, bytes out."""
    with (
        CloudServer(root, workers=1, max_message_bytes=MAX_BYTES) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        raw = channel.unary_unary("/edgecut.Probe/Echo")
        yield lambda data: bytes(raw(data, timeout=10))


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_the_call_takes_and_gives_bytes(size: int, call: Callable[[bytes], bytes]) -> None:
    """Encoded by hand: field 1 is bytes, field 2 a number."""
    answer = call(b"\x0a\x03abc\x10" + varint(size))
    if size == 0:
        assert answer == b""
        return
    head = b"\x0a" + varint(size)
    assert answer.startswith(head) and len(answer) == len(head) + size
    assert call(b"\x0a" + varint(size) + bytes(size)) == b""


@pytest.mark.parametrize(
    ("data", "code", "sentence"),
    [
        (b"\x10" + varint(MAX_BYTES), "RESOURCE_EXHAUSTED", "larger than this server's 1048576"),
        (b"\x10" + varint(2**64 - 1), "RESOURCE_EXHAUSTED", "an answer of 18446744073709551615 bytes"),
        (b"\x0a" + varint(MAX_BYTES) + bytes(MAX_BYTES), "RESOURCE_EXHAUSTED", "larger than max"),
        (b"\xff\xff", "INVALID_ARGUMENT", "no edgecut.EchoRequest message"),
    ],
    ids=["answer", "any answer", "request", "junk"],
)
def test_the_call_is_refused_like_any_other(
    data: bytes, code: str, sentence: str, call: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(data)
    assert caught.value.code().name == code
    assert sentence in caught.value.details()
    assert call(b"") == b""


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_payloads_do_not_compress(size: int) -> None:
    data = echo.random_bytes(size)
    assert len(data) == size
    assert len(zlib.compress(data, 6)) >= size
