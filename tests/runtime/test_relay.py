"""The emulated link keeps its rate and delay, alters nothing, and passes ends and faults on.

Timing is what a relay is for, so it is asserted: medians of several repetitions, an upper bound generous enough for a
busy machine, and the theoretical minimum as a lower bound that no noise can excuse.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edgecut.errors import ServerError
from edgecut.runtime.relay import LinkShape, Relay, main, relay_process

LINKS = {
    "wifi": LinkShape(uplink_bps=12.8e6, downlink_bps=54.97e6, rtt_s=0.005),
    "lte": LinkShape(uplink_bps=5.85e6, downlink_bps=13.76e6, rtt_s=0.05),
    "3g": LinkShape(uplink_bps=1.1e6, downlink_bps=2.03e6, rtt_s=0.1),
}
FAST = LinkShape(uplink_bps=400e6, downlink_bps=400e6, rtt_s=0.002)


def receive(end: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        data = end.recv(min(65536, size - len(parts)))
        if not data:
            break
        parts += data
    return bytes(parts)


@contextlib.contextmanager
def upstream(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that runs `serve` for each connection in a thread; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one(end: socket.socket) -> None:
            with end, contextlib.suppress(OSError):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                serve(end)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def echo(end: socket.socket) -> None:
    while data := end.recv(65536):
        end.sendall(data)


def swallow(end: socket.socket) -> None:
    """Eight bytes say how many follow; one byte answers when they are there."""
    while header := receive(end, 8):
        receive(end, int.from_bytes(header, "big"))
        end.sendall(b"!")


def connect(port: int) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", port), timeout=20)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.parametrize("name", LINKS)
def test_a_small_message_takes_the_round_trip_and_its_bits(name: str) -> None:
    shape, size = LINKS[name], 480
    least_s = shape.rtt_s + 8 * size / shape.uplink_bps + 8 * size / shape.downlink_bps
    with upstream(echo) as port, relay_process([("127.0.0.1", port)], shape) as ports, connect(ports[0]) as end:

        def exchange() -> None:
            end.sendall(bytes(size))
            assert len(receive(end, size)) == size

        exchange()
        took_s = [timed(exchange) for _ in range(15)]
    # The quickest one: a busy machine holds bytes back, too.
    assert least_s <= min(took_s) <= 1.1 * least_s + 0.002


@pytest.mark.parametrize(("rate_bps", "size"), [(12.8e6, 400_000), (1.1e6, 60_000)])
def test_a_long_message_takes_its_bits_over_the_rate(rate_bps: float, size: int) -> None:
    shape = LinkShape(uplink_bps=rate_bps, downlink_bps=rate_bps, rtt_s=0.005)
    least_s = shape.rtt_s + 8 * (size + 8 + 1) / rate_bps
    message = size.to_bytes(8, "big") + os.urandom(size)
    with upstream(swallow) as port, relay_process([("127.0.0.1", port)], shape) as ports, connect(ports[0]) as end:

        def exchange() -> None:
            end.sendall(message)
            assert receive(end, 1) == b"!"

        took_s = [timed(exchange) for _ in range(4)]
    assert least_s <= min(took_s) <= 1.05 * least_s + 0.002


def test_connections_share_one_rate() -> None:
    size = 100_000
    shape = LinkShape(uplink_bps=12.8e6, downlink_bps=50e6, rtt_s=0.002)
    message = size.to_bytes(8, "big") + bytes(size)
    with (
        upstream(swallow) as first,
        upstream(swallow) as second,
        Relay("127.0.0.1", first, shape, also=[("127.0.0.1", second)]) as relay,
    ):
        ends = [connect(relay.ports[0]), connect(relay.ports[1]), connect(relay.ports[1])]

        def exchange() -> None:
            for end in ends:
                end.sendall(message)
            for end in ends:
                assert receive(end, 1) == b"!"

        took_s = statistics.median(timed(exchange) for _ in range(3))
        for end in ends:
            end.close()
    least_s = shape.rtt_s + 8 * 3 * size / shape.uplink_bps
    assert least_s <= took_s <= 1.1 * least_s + 0.01


def test_bytes_arrive_unaltered_in_both_directions_at_once() -> None:
    size = 3_000_000
    sent, answered = os.urandom(size), os.urandom(size)
    digests: list[str] = []

    def talk(end: socket.socket) -> None:
        sender = threading.Thread(target=end.sendall, args=(answered,))
        sender.start()
        digests.append(hashlib.sha256(receive(end, size)).hexdigest())
        sender.join()

    with upstream(talk) as port, Relay("127.0.0.1", port, FAST) as relay, connect(relay.port) as end:
        sender = threading.Thread(target=end.sendall, args=(sent,))
        sender.start()
        got = receive(end, size)
        sender.join()
        assert end.recv(1) == b""
        assert relay.uplink_bytes == relay.downlink_bytes == size
    assert hashlib.sha256(got).digest() == hashlib.sha256(answered).digest()
    assert digests == [hashlib.sha256(sent).hexdigest()]


def test_a_half_close_lets_the_answer_through() -> None:
    def count(end: socket.socket) -> None:
        total = 0
        while data := end.recv(65536):
            total += len(data)
        end.sendall(str(total).encode())

    with upstream(count) as port, Relay("127.0.0.1", port, FAST) as relay, connect(relay.port) as end:
        end.sendall(bytes(70_000))
        end.shutdown(socket.SHUT_WR)
        assert receive(end, 100) == b"70000"


def test_a_reader_that_stops_stops_the_sender() -> None:
    going = threading.Event()

    def late(end: socket.socket) -> None:
        going.wait(30)
        echo(end)

    with (
        upstream(late) as port,
        Relay("127.0.0.1", port, FAST) as relay,
        connect(relay.port) as end,
    ):
        end.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200_000_000:
                sent += end.send(bytes(65536))
        assert sent < 50_000_000
        going.set()
        end.settimeout(20)
        assert receive(end, 1_000_000) == bytes(1_000_000)


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_reaches_the_other_side(who: str) -> None:
    reset = b"\1\0\0\0\0\0\0\0"
    gone = threading.Event()

    def serve(end: socket.socket) -> None:
        end.sendall(b"x")
        if who == "upstream":
            end.recv(1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            end.close()
            return
        with contextlib.suppress(OSError):
            while end.recv(1):
                pass
        gone.set()

    with upstream(serve) as port, Relay("127.0.0.1", port, FAST) as relay:
        end = connect(relay.port)
        assert receive(end, 1) == b"x"
        if who == "client":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            end.close()
            assert gone.wait(10)
        else:
            end.sendall(b"?")
            with contextlib.suppress(ConnectionResetError):
                assert end.recv(1) == b""
            end.close()


def test_an_upstream_that_refuses_closes_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Relay("127.0.0.1", port, FAST) as relay:
        for _ in range(3):  # and the relay lives on
            with contextlib.suppress(ConnectionError), connect(relay.port) as end:
                assert end.recv(1) == b""


def test_closing_the_relay_closes_its_connections() -> None:
    with upstream(echo) as port:
        relay = Relay("127.0.0.1", port, FAST).start()
        with connect(relay.port) as end:
            end.sendall(b"a")
            assert receive(end, 1) == b"a"
            relay.close()
            with contextlib.suppress(ConnectionError):
                assert end.recv(1) == b""
        relay.close()
        with pytest.raises(ConnectionError):
            connect(relay.port)


def test_a_taken_port_and_an_unknown_host_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=str(port)):
            Relay("127.0.0.1", 1, FAST, listen_port=port)
    with pytest.raises(ServerError, match=r"no\.such\.invalid"):
        Relay("no.such.invalid", 1, FAST)


COMMAND = [sys.executable, "-m", "edgecut.runtime.relay", "--uplink-bps", "1e8", "--downlink-bps", "1e8"]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "end of input"])
def test_the_process_ends_cleanly(how: str) -> None:
    command = [*COMMAND, "--rtt-s", "0.001", "--upstream", "127.0.0.1:9", "--upstream", "localhost:10"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        said = json.loads(process.stdout.readline())
        assert len(said["ports"]) == 2 and said["port"] == said["ports"][0]
        if how == "end of input":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(10) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


@pytest.mark.parametrize(
    ("upstream_text", "rtt", "word"), [("nowhere", "0", "HOST:PORT"), ("127.0.0.1:9", "-1", "rtt_s")]
)
def test_bad_arguments_are_one_sentence(
    upstream_text: str, rtt: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--upstream", upstream_text, "--uplink-bps", "1e6", "--downlink-bps", "1e6", "--rtt-s", rtt]
    assert main(given) == 2
    assert word in capsys.readouterr().err
