"""The real link: its packets' fate as a unit, and, deep, namespaces and TUN devices measured with iperf3.

The relay's rules are tested over socket pairs that keep packets apart as a TUN device does. Times have lower bounds
that nothing can excuse; where the link is to be accurate, the best of several tries counts, since a busy machine only
ever makes it slower.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecut.errors import LinkError
from edgecut.partitioner.link import PRESETS
from edgecut.runtime import namespaces, tunnel
from edgecut.runtime.relay import LinkShape
from edgecut.runtime.tunnel import RealLink, TunnelShape, carrying, real_link

FAST = TunnelShape(uplink_bps=1e9, downlink_bps=1e9, rtt_s=0.0)


class Wire:
    """A packet relay between two ends that are sockets here, with a real link's controls."""

    def __init__(self, shape: TunnelShape, seed: int | None = 1) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        pairs = [socket.socketpair(socket.AF_UNIX, kind) for _ in range(2)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (self.edge, edge), (self.cloud, cloud) = pairs
        for end in (self.edge, self.cloud):
            end.settimeout(10)
        ours.settimeout(10)
        relay = tunnel._PacketRelay(edge.fileno(), cloud.fileno(), theirs, shape, seed)
        nowhere = namespaces.Namespace("", [])
        self.link = RealLink(ours, shape, nowhere, nowhere, "none")
        self._ends = [*pairs[0], *pairs[1], ours, theirs]
        self._thread = threading.Thread(target=relay.run)
        self._thread.start()

    def close(self) -> None:
        self._ends[4].close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        for end in self._ends:
            end.close()


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    made: list[Wire] = []

    def make(shape: TunnelShape, seed: int | None = 1) -> Wire:
        made.append(Wire(shape, seed))
        return made[-1]

    yield make
    for one in made:
        one.close()


def packet(payload: bytes = b"", *, source: int = 1, target: int = 2, flags: int = 0x10, protocol: int = 6) -> bytes:
    """An IPv4 packet with just enough of a TCP header from port `source` to port `target`."""
    addresses = bytes([10, 0, 0, source % 256, 10, 0, 0, target % 256])
    tcp = struct.pack(">HHIIBB", source, target, 0, 0, 0x50, flags) + bytes(6)
    return bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(2) + addresses + tcp + payload


def arrived(end: socket.socket) -> list[bytes]:
    """What is there until nothing comes for a while."""
    end.settimeout(0.2)
    got = []
    with contextlib.suppress(TimeoutError):
        while True:
            got.append(end.recv(65536))
    return got


def test_a_link_that_carries_payload_at_a_rate_has_room_for_headers() -> None:
    shape = carrying(LinkShape(uplink_bps=1448e3, downlink_bps=2896e3, rtt_s=0.05))
    assert (shape.uplink_bps, shape.downlink_bps, shape.rtt_s) == (pytest.approx(1.5e6), pytest.approx(3e6), 0.05)


def test_packets_arrive_in_order_both_ways_and_are_counted(wire: Callable[..., Wire]) -> None:
    one = wire(FAST.model_copy(update={"jitter_s": 0.01}))
    sent = [packet(bytes([i]) * i) for i in range(40)]
    for item in sent:
        one.edge.send(item)
        one.cloud.send(item + b"back")
    assert arrived(one.cloud) == sent
    assert arrived(one.edge) == [item + b"back" for item in sent]
    up, down = one.link.counts()
    assert (up.packets, up.bytes) == (40, sum(map(len, sent)))
    assert (down.packets, down.bytes) == (40, sum(map(len, sent)) + 160)
    assert up.lost == up.overflowed == up.cut == down.lost == 0


def test_what_is_not_ip_version_four_is_not_carried(wire: Callable[..., Wire]) -> None:
    one = wire(FAST)
    one.edge.send(b"\x60" + bytes(50))
    one.edge.send(packet(b"x"))
    assert arrived(one.cloud) == [packet(b"x")]


@pytest.mark.parametrize("way", ["uplink", "downlink"])
def test_no_packet_is_early(wire: Callable[..., Wire], way: str) -> None:
    rates = {"uplink_bps": 1e9, "downlink_bps": 1e9, f"{way}_bps": 400_000.0}
    one = wire(TunnelShape(**rates, rtt_s=0.06, queue_s=5))
    source, sink = (one.edge, one.cloud) if way == "uplink" else (one.cloud, one.edge)
    start = time.monotonic()
    item = packet(bytes(460))
    for _ in range(10):
        source.send(item)
    for count in range(1, 11):
        assert sink.recv(65536) == item
        assert time.monotonic() - start >= 0.03 + count * 8 * len(item) / 400_000


def test_a_new_rate_holds_for_packets_that_wait(wire: Callable[..., Wire]) -> None:
    one = wire(TunnelShape(uplink_bps=8 * 1000, downlink_bps=1e9, rtt_s=0, queue_s=60))  # two packets a second
    for _ in range(30):
        one.edge.send(packet(bytes(460)))
    one.cloud.recv(65536)
    one.link.change(uplink_bps=1e9)
    start = time.monotonic()
    for _ in range(29):
        one.cloud.recv(65536)
    assert time.monotonic() - start < 10  # at the old rate 14.5 s
    assert one.link.shape.uplink_bps == 1e9


def test_the_queue_is_bounded(wire: Callable[..., Wire]) -> None:
    one = wire(TunnelShape(uplink_bps=8e5, downlink_bps=1e9, rtt_s=0, queue_s=0.001))
    for _ in range(300):
        one.edge.send(packet(bytes(1460)))
    got = len(arrived(one.cloud))
    up, _ = one.link.counts()
    assert got == up.packets and got + up.overflowed == 300
    # The queue holds its least, 32 packets; some more leave it while the others come.
    assert 32 <= got < 200


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.5, 1.0])
def test_loss_is_the_share_that_was_asked_for(wire: Callable[..., Wire], loss: float) -> None:
    one, count = wire(FAST.model_copy(update={"loss": loss})), 2000
    one.cloud.settimeout(0)
    for sent in range(20, count + 1, 20):
        for _ in range(20):
            one.edge.send(packet(b"x"))
        up = one.link.counts()[0]
        while up.packets + up.lost < sent:
            up = one.link.counts()[0]
        with contextlib.suppress(BlockingIOError):
            while one.cloud.recv(65536):
                pass
    deviation = (count * loss * (1 - loss)) ** 0.5
    assert abs(up.lost - count * loss) <= 5 * deviation


def test_a_seed_repeats_the_losses(wire: Callable[..., Wire]) -> None:
    def fate(seed: int) -> list[bytes]:
        one = wire(FAST.model_copy(update={"loss": 0.3}), seed)
        for i in range(60):
            one.edge.send(packet(bytes([i])))
        return arrived(one.cloud)

    assert fate(3) == fate(3) != fate(4)


def test_a_cut_loses_what_comes_and_what_is_under_way(wire: Callable[..., Wire]) -> None:
    one = wire(TunnelShape(uplink_bps=1e9, downlink_bps=1e9, rtt_s=4))
    one.edge.send(packet(b"under way"))
    while not one.link.counts()[0].cut:
        one.link.cut()  # until the packet was read
    one.edge.send(packet(b"lost"))
    while one.link.counts()[0].cut < 2:
        time.sleep(0.01)
    one.link.change(rtt_s=0)
    one.link.restore()
    one.edge.send(packet(b"carried"))
    assert arrived(one.cloud) == [packet(b"carried")]


def test_forgotten_connections_are_lost_and_new_ones_carried(wire: Callable[..., Wire]) -> None:
    one = wire(FAST)
    old = {"source": 1000, "target": 2000}
    one.edge.send(packet(b"old", **old))
    assert one.cloud.recv(65536) == packet(b"old", **old)
    one.link.forget()
    new = packet(b"", source=1001, target=2000, flags=0x02)
    answer = packet(b"", source=2000, target=1001, flags=0x12)
    more = packet(b"new", source=1001, target=2000)
    other = packet(b"not TCP", protocol=17)
    for item in (packet(b"old", **old), new, more, packet(b"reset", flags=0x04, **old), other):
        one.edge.send(item)
    for item in (packet(b"old", source=2000, target=1000), answer):
        one.cloud.send(item)
    assert arrived(one.cloud) == [new, more, other] and arrived(one.edge) == [answer]
    one.link.forget()
    one.edge.send(more)
    assert arrived(one.cloud) == []


def test_an_unusable_shape_is_one_sentence(wire: Callable[..., Wire]) -> None:
    one = wire(FAST)
    for values in ({"loss": 1.5}, {"uplink_bps": 0.0}, {"rtt_s": -1.0}, {"queue_s": 0.0}, {"loss": float("nan")}):
        with pytest.raises(LinkError, match=rf"the link is unusable \({next(iter(values))}"):
            one.link.change(**values)
    assert one.link.shape == FAST


def test_a_relay_that_is_gone_is_said() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nowhere = namespaces.Namespace("", [])
    link = RealLink(ours, FAST, nowhere, nowhere, "none")
    theirs.close()
    with pytest.raises(LinkError, match=r"relay .*make the link again"):
        link.cut()
    ours.close()


# From here on real namespaces.

SCRIPTS = {
    "echo": "import socket,sys\n"
    "s=socket.create_server(('0.0.0.0',7000)); print('up',flush=True)\n"
    "while True:\n e,_=s.accept(); e.setsockopt(6,1,1)\n while d:=e.recv(65536): e.sendall(d)\n",
    "ask": "import socket,sys,time,json\n"
    "t=time.perf_counter(); e=socket.create_connection((sys.argv[1],7000)); c=time.perf_counter()-t\n"
    "e.setsockopt(6,1,1); r=[]\n"
    "for _ in range(25):\n t=time.perf_counter(); e.sendall(bytes(64)); e.recv(64); r.append(time.perf_counter()-t)\n"
    "print(json.dumps([c,min(r)]))\n",
}


@contextlib.contextmanager
def made(shape: LinkShape, **options: Any) -> Iterator[RealLink]:
    """A real link, or a skip with the reason where none can be made."""
    with contextlib.ExitStack() as stack:
        try:
            link = stack.enter_context(real_link(shape, **options))
        except LinkError as error:
            pytest.skip(str(error))
        yield link


def iperf(link: RealLink, *options: str) -> dict[str, Any]:
    """What iperf3 says at its end. Its client over UDP sends one datagram to open, and never again if that or its
    answer is lost (one time in ten at 5 % loss): only then is it started anew, at most eight times (one in 10^8)."""
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed")
    command = ["iperf3", "-c", link.cloud.address, "-J", *options]
    for _ in range(8):
        server = link.cloud.popen(["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE)
        assert server.stdout is not None
        server.stdout.readline(), server.stdout.readline()  # it listens
        done = link.edge.run(command, stdout=subprocess.PIPE, timeout=60)
        server.wait(10)
        result = json.loads(done.stdout)
        if "unable to read from stream socket" not in result.get("error", ""):
            break
    assert "error" not in result, result
    return result["end"]


@pytest.mark.deep
@pytest.mark.parametrize("name", PRESETS)
def test_rate_and_round_trip_are_the_presets(name: str) -> None:
    preset = PRESETS[name]
    shape = LinkShape(uplink_bps=preset.uplink_bps, downlink_bps=preset.downlink_bps, rtt_s=preset.rtt_s)
    least_s = preset.rtt_s + 8 * 116 * (1 / preset.uplink_bps + 1 / preset.downlink_bps)
    with made(shape) as link:
        echo = link.cloud.popen([sys.executable, "-c", SCRIPTS["echo"]], stdout=subprocess.PIPE)
        assert echo.stdout is not None and echo.stdout.readline() == "up\n"
        asked = link.edge.run([sys.executable, "-c", SCRIPTS["ask"], link.cloud.address], stdout=subprocess.PIPE)
        connect_s, trip_s = json.loads(asked.stdout)
        assert least_s <= trip_s <= max(1.1 * least_s, least_s + 0.002)
        assert connect_s >= preset.rtt_s  # which the relay of TCP does not hold back
        for options, rate_bps in (((), preset.uplink_bps), (("-R",), preset.downlink_bps)):
            best = 0.0
            for _ in range(3):
                taken = iperf(link, "-t", "2", "-O", "1", *options)["sum_received"]["bits_per_second"]
                assert taken <= 1.1 * rate_bps
                best = max(best, taken)
                if best >= 0.9 * rate_bps:
                    break
            assert best >= 0.9 * rate_bps


@pytest.mark.deep
def test_loss_is_what_a_receiver_misses() -> None:
    with made(FAST.model_copy(update={"loss": 0.05})) as link:
        # The control connection runs over TCP, which repairs its own losses.
        taken = iperf(link, "-u", "-b", "4M", "-l", "500", "-t", "2")["sum"]
    packets, lost = taken["packets"], taken["lost_packets"]
    assert packets > 500 and abs(lost - 0.05 * packets) <= 5 * (packets * 0.05 * 0.95) ** 0.5 + 1


@pytest.mark.deep
def test_a_cut_link_stalls_and_goes_on() -> None:
    ask = (
        "import socket,sys\ne=socket.create_connection((sys.argv[1],7000))\n"
        "for _ in sys.stdin:\n e.sendall(b'x'); e.recv(1); print('got',flush=True)\n"
    )
    with made(FAST) as link:
        echo = link.cloud.popen([sys.executable, "-c", SCRIPTS["echo"]], stdout=subprocess.PIPE)
        assert echo.stdout is not None and echo.stdout.readline() == "up\n"
        command = [sys.executable, "-uc", ask, link.cloud.address]
        client = link.edge.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdin is not None and client.stdout is not None

        def go() -> None:
            client.stdin.write("\n")
            client.stdin.flush()

        go()
        assert client.stdout.readline() == "got\n"
        link.cut()
        go()
        answers: list[str] = []
        waiting = threading.Thread(target=lambda: answers.append(client.stdout.readline()))
        waiting.start()
        waiting.join(1)
        assert not answers
        link.restore()
        waiting.join(20)
        assert answers == ["got\n"]


@pytest.mark.deep
def test_the_congestion_control_is_named_and_can_be_chosen() -> None:
    name = "/proc/sys/net/ipv4/tcp_congestion_control"
    with made(FAST, congestion="reno") as link:
        assert link.congestion == "reno" and link.made.endswith("kernel TCP, reno")
        for side in (link.edge, link.cloud):
            assert side.run(["cat", name], stdout=subprocess.PIPE).stdout == "reno\n"
    with made(FAST) as link:
        assert link.congestion == link.edge.run(["cat", name], stdout=subprocess.PIPE).stdout.strip()
    with pytest.raises(LinkError, match=r"unknown TCP congestion control 'rino', did you mean 'reno'; known: "):
        real_link(FAST, congestion="rino").__enter__()


def inside(inodes: set[int]) -> set[int]:
    """Every process in network namespaces of these inodes."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "ns" / "net").stat().st_ino in inodes:
                found.add(int(entry.name))
    return found


def awaited(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.deep
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_its_maker_goes(how: signal.Signals) -> None:
    with made(FAST):
        pass
    script = (
        "import os,time\nfrom edgecut.runtime.tunnel import real_link, TunnelShape\n"
        "with real_link(TunnelShape(uplink_bps=1e6,downlink_bps=1e6,rtt_s=0)) as link:\n"
        " a=link.cloud.popen(['sleep','600'])\n"
        " b=link.edge.popen(['sh','-c','sleep 600 & echo up; sleep 600'],stdout=-1)\n"
        " b.stdout.readline()\n"
        " print(*[os.fstat(side.fds[-1]).st_ino for side in (link.edge,link.cloud)],flush=True)\n"
        " time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as maker:
        assert maker.stdout is not None
        both = {int(word) for word in maker.stdout.readline().split()}
        all_in = awaited(lambda: len(inside(both)) == 5)  # the relay, the shell, and three that sleep
        maker.send_signal(how)
        maker.wait(30)
    assert all_in and len(both) == 2
    awaited(lambda: not inside(both))
    assert not inside(both)
    assert not any(name == namespaces._DEVICE for _, name in socket.if_nameindex())


UNPRIVILEGED = [
    *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
    # So that an interpreter in root's home can be started; it gives no rights over networks.
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
]
TRY = (
    "import os,subprocess\nfrom edgecut.errors import LinkError\n"
    "from edgecut.runtime.tunnel import real_link, TunnelShape\n"
    "try:\n with real_link(TunnelShape(uplink_bps=1e8,downlink_bps=1e8,rtt_s=0)) as link:\n"
    "  who=link.edge.run(['id','-u'],stdout=-1).stdout.strip()\n"
    "  up=open('/proc/self/net/dev').read()\n"
    "  there=link.cloud.run(['cat','/proc/net/dev'],stdout=-1).stdout\n"
    "  print('made', who, len(link.edge.fds), 'edgecut0' in there, 'edgecut0' in up)\n"
    "except LinkError as error: print(error)\n"
)


def tried(*before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-P", "-c", TRY], capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    return done.stdout.strip()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")


@pytest.mark.deep
@needs_root
def test_a_plain_user_makes_one_where_the_kernel_lets_it() -> None:
    if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
        pytest.skip("this kernel makes no user namespaces")
    said = tried(*UNPRIVILEGED)
    if Path("/dev/net/tun").stat().st_mode & 0o006 == 0o006:
        assert said == "made 65534 2 True False"
    else:  # udev opens the device to all users, but not every machine has it
        assert said.startswith("no TUN device can be made here (Permission denied); check /dev/net/tun"), said


@pytest.mark.deep
@needs_root
def test_where_none_can_be_made_a_sentence_says_why() -> None:
    forbidden = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    said = tried("unshare", "-Ur", "sh", "-c", forbidden, "-")
    assert said.startswith("a real link needs root, or a kernel that lets a user make namespaces (No space left"), said
    assert "run as root" in said and said.count("\n") == 0
    hidden = 'mount -t tmpfs none /dev/net && exec "$@"'
    said = tried("unshare", "-m", "sh", "-c", hidden, "-")
    assert said.startswith("no TUN device can be made here (No such file or directory); check /dev/net/tun"), said


@pytest.mark.deep
def test_a_command_that_is_not_there_is_said() -> None:
    with made(FAST) as link:
        done = link.edge.run(["no-such-command"], capture_output=True)
    assert (done.returncode, done.stderr) == (127, "no-such-command cannot be started (No such file or directory)\n")
