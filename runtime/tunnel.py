"""A real link on one machine: two network namespaces, a TUN device in each, and a relay of IP packets between them.

    edge processes ── kernel TCP ── TUN ──▶ relay: loss, queue, rate, delay ──▶ TUN ── kernel TCP ── cloud processes

Both ends are the kernel's own TCP, so that opening a connection, slow start, retransmission and the congestion control
take what they take on a real network; `runtime/relay.py` hides all of those. Rates are of IP packets, headers
included; `carrying` gives them for rates of payload. What is emulated is the medium, and so a result still says that
the link was. It takes Linux, /dev/net/tun, and root or a kernel that lets a user make namespaces.

    with real_link(TunnelShape(uplink_bps=5.85e6, downlink_bps=13.76e6, rtt_s=0.05)) as link:
        server = link.cloud.popen([...])     # reached from the edge as link.cloud.address
        link.edge.run([...])
        link.cut(); link.restore(); link.change(loss=0.05)

The relay runs in a process of its own and ends, with everything in the namespaces, as soon as the caller is gone,
however it went.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field, ValidationError

from ..artefacts import Record, first_fault
from ..errors import LinkError
from .namespaces import Namespace, congestion_control, end_processes_in, make_namespace, own_user_namespace
from .relay import LinkShape, sleep_precisely

EDGE_ADDRESS, CLOUD_ADDRESS, PREFIX = "10.83.0.1", "10.83.0.2", 30
START_S = 30.0
END_S = 10.0
PACKET_BYTES, PACKET_PAYLOAD_BYTES = 1500, 1448
# How far ahead packets are booked, to wake less often than once for each of them.
AHEAD_S = 0.0005
BURST = 64
MAX_PACKET_BYTES = 65536
LEAST_QUEUE_BYTES = 32 * 1500
_SYN, _ACK = 0x02, 0x10


class TunnelShape(LinkShape):
    """A link, and what may go wrong on it.

    `jitter_s` is added to each packet's delay, uniformly from 0 to that, and never reorders; `loss` is the share of
    packets that vanish, in either direction; `queue_s` is how long the longest queue before the link takes to drain.
    """

    jitter_s: float = Field(default=0.0, ge=0)
    loss: float = Field(default=0.0, ge=0, le=1)
    queue_s: float = Field(default=0.2, gt=0)


def carrying(shape: LinkShape) -> LinkShape:
    """The shape whose packets carry TCP's payload at the rates given, as a `Link`'s rates are of payload."""
    more = PACKET_BYTES / PACKET_PAYLOAD_BYTES
    return shape.model_copy(update={"uplink_bps": shape.uplink_bps * more, "downlink_bps": shape.downlink_bps * more})


class Counts(Record):
    """What one direction did so far: packets and bytes delivered, packets lost by chance, by a full queue, by a cut."""

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    overflowed: int = 0
    cut: int = 0


class RealLink:
    """A link that stands: two namespaces and the relay's controls. Made by `real_link`; safe for several threads."""

    def __init__(self, control: socket.socket, shape: TunnelShape, edge: Namespace, cloud: Namespace, cc: str) -> None:
        self.edge, self.cloud = edge, cloud
        self.congestion = cc
        self.shape = shape
        self._control = control
        self._lock = threading.Lock()

    @property
    def made(self) -> str:
        """How this link was made, for a result that was taken over it."""
        return f"network namespaces joined by TUN devices and a relay of packets; kernel TCP, {self.congestion}"

    def cut(self) -> None:
        """Lose everything from now on, and what is under way."""
        self._ask({"cut": True})

    def restore(self) -> None:
        """Carry packets again."""
        self._ask({"cut": False})

    def forget(self) -> None:
        """Lose every packet of the TCP connections there are, and carry those of new ones, as when a NAT forgets."""
        self._ask({"forget": True})

    def change(self, **values: float) -> None:
        """Change fields of the shape: rates, rtt_s, jitter_s, loss, queue_s. Raises LinkError for an unusable one."""
        self.shape = _checked({**self.shape.model_dump(), **values})
        self._ask({"shape": self.shape.model_dump()})

    def counts(self) -> tuple[Counts, Counts]:
        """What the uplink and the downlink did so far."""
        up, down = self._ask({})
        return Counts(**up), Counts(**down)

    def _ask(self, request: dict[str, Any]) -> Any:
        with self._lock:
            try:
                self._control.send(json.dumps(request).encode())
                answer = self._control.recv(4096)
            except OSError as error:
                raise LinkError(f"the link's relay does not answer ({error}); make the link again") from None
        if not answer:
            raise LinkError("the link's relay is gone; make the link again")
        return json.loads(answer)


@contextlib.contextmanager
def real_link(shape: LinkShape, *, congestion: str | None = None, seed: int | None = None) -> Iterator[RealLink]:
    """Make a link and end it, with all processes in it, when the block does.

    `congestion` is a TCP congestion control of this kernel, by default its default; `seed` makes losses and jitter
    repeat. Raises LinkError with the reason where none can be made.
    """
    full = shape if isinstance(shape, TunnelShape) else TunnelShape(**shape.model_dump())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    task = {"shape": full.model_dump(), "congestion": congestion, "seed": seed}
    command = [sys.executable, "-P", "-m", "edgecut.runtime.tunnel", str(theirs.fileno()), json.dumps(task)]
    process = subprocess.Popen(
        command,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    theirs.close()
    sides: list[Namespace] = []
    try:
        said, sides = _await_start(ours, process)
        yield RealLink(ours, full, sides[0], sides[1], said["congestion"])
    finally:
        for side in sides:
            side.close()
        ours.close()
        try:
            process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _await_start(ours: socket.socket, process: subprocess.Popen[str]) -> tuple[dict[str, Any], list[Namespace]]:
    ours.settimeout(START_S)
    try:
        message, fds, _, _ = socket.recv_fds(ours, 4096, 4)
    except TimeoutError:
        raise LinkError(f"the link did not start within {START_S:g} s; is this machine overloaded?") from None
    ours.settimeout(END_S)
    if not message:
        words = process.communicate()[1].strip().splitlines()
        raise LinkError(f"the link did not start: {words[-1] if words else 'it gave no reason'}")
    said = json.loads(message)
    if "error" in said:
        raise LinkError(said["error"])
    edge, cloud, *user = fds
    # Each side owns its descriptors, and a user namespace is entered before what it owns.
    edge_user, cloud_user = user, [os.dup(fd) for fd in user]
    return said, [Namespace(EDGE_ADDRESS, [*edge_user, edge]), Namespace(CLOUD_ADDRESS, [*cloud_user, cloud])]


def _checked(values: dict[str, Any]) -> TunnelShape:
    try:
        return TunnelShape.model_validate(values)
    except ValidationError as error:
        raise LinkError(f"the link is unusable ({first_fault(error)})") from None


class _Way:
    """One direction: packets wait for the link, fly for the delay, and arrive in order."""

    def __init__(self, source: int, sink: int, seed: float | None) -> None:
        self.source, self.sink = source, sink
        # Apart, so that the same packets are lost however the two take turns.
        self._losses, self._delays = random.Random(seed), random.Random(seed)
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._waiting_bytes = 0
        self._flying: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0
        self.rate_bps, self.delay_s, self.jitter_s, self.loss = 1.0, 0.0, 0.0, 0.0
        self.queue_bytes = LEAST_QUEUE_BYTES
        self.packets = self.bytes = self.lost = self.overflowed = self.dropped = 0

    def set(self, rate_bps: float, shape: TunnelShape) -> None:
        """Take a new shape; packets that still wait are sent at the new rate."""
        self.rate_bps, self.delay_s, self.jitter_s = rate_bps, shape.rtt_s / 2, shape.jitter_s
        self.loss = shape.loss
        self.queue_bytes = max(LEAST_QUEUE_BYTES, int(shape.queue_s * rate_bps / 8))

    def take(self, packet: bytes, now: float) -> None:
        if self._losses.random() < self.loss:
            self.lost += 1
        elif self._waiting_bytes + len(packet) > self.queue_bytes:
            self.overflowed += 1
        else:
            self._waiting.append((now, packet))
            self._waiting_bytes += len(packet)

    def drop_all(self) -> None:
        self.dropped += len(self._waiting) + len(self._flying)
        self._waiting.clear()
        self._flying.clear()
        self._waiting_bytes = 0
        self._free_at = 0.0

    def move(self, now: float) -> float | None:
        """Send what the link is free for, hand over what has arrived, and say when to come again."""
        while self._waiting and self._free_at <= now + AHEAD_S:
            came, packet = self._waiting.popleft()
            self._waiting_bytes -= len(packet)
            self._free_at = max(self._free_at, came) + 8 * len(packet) / self.rate_bps
            due = self._free_at + self.delay_s + self.jitter_s * self._delays.random()
            self._flying.append((due, packet))  # whoever is due before the one ahead of it waits for that
        while self._flying and self._flying[0][0] <= now:
            packet = self._flying.popleft()[1]
            try:
                os.write(self.sink, packet)
            except OSError:  # an overrun receiver loses packets, as a real one does
                self.overflowed += 1
                continue
            self.packets += 1
            self.bytes += len(packet)
        times = [self._free_at - AHEAD_S] if self._waiting else []
        if self._flying:
            times.append(self._flying[0][0])
        return min(times) if times else None

    def counts(self) -> dict[str, int]:
        return Counts(
            packets=self.packets, bytes=self.bytes, lost=self.lost, overflowed=self.overflowed, cut=self.dropped
        ).model_dump()


class _PacketRelay:
    """One thread with one `select` over both TUN devices and the control socket."""

    def __init__(self, edge: int, cloud: int, control: socket.socket, shape: TunnelShape, seed: int | None) -> None:
        self._control = control
        self._ways = [
            _Way(edge, cloud, seed),
            _Way(cloud, edge, None if seed is None else seed + 0.5),
        ]
        self._cut = False
        # The connections that are carried, both ends of each; None where all are.
        self._known: set[frozenset[bytes]] | None = None
        self._shape(shape)

    def run(self) -> None:
        """Until the control socket closes."""
        sources = [*(way.source for way in self._ways), self._control.fileno()]
        while True:
            now = time.monotonic()
            times = [due for way in self._ways if (due := way.move(now)) is not None]
            wait_s = max(0.0, min(times) - time.monotonic()) if times else None
            readable, _, _ = select.select(sources, [], [], wait_s)
            for way in self._ways:
                if way.source in readable:
                    self._read(way)
            if self._control.fileno() in readable and not self._obey():
                return

    def _read(self, way: _Way) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(way.source, MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:  # IPv6's own announcements
                continue
            if self._cut or not self._carried(packet):
                way.dropped += 1
            else:
                way.take(packet, time.monotonic())

    def _carried(self, packet: bytes) -> bool:
        """Whether a packet belongs to a connection that was not forgotten."""
        if self._known is None or packet[9] != socket.IPPROTO_TCP:
            return True
        header = 4 * (packet[0] & 15)
        ends = frozenset((packet[12:16] + packet[header : header + 2], packet[16:20] + packet[header + 2 : header + 4]))
        if packet[header + 13] & (_SYN | _ACK) == _SYN:
            self._known.add(ends)
        return ends in self._known

    def _obey(self) -> bool:
        """Act on one message of the caller and answer it. False where the caller is gone."""
        try:
            message = self._control.recv(4096)
            if not message:
                return False
            request = json.loads(message)
            if "shape" in request:
                self._shape(TunnelShape.model_validate(request["shape"]))
            if request.get("forget"):
                self._known = set()
            if "cut" in request:
                self._cut = request["cut"]
            if self._cut or request.get("forget"):
                for way in self._ways:
                    way.drop_all()
            self._control.send(json.dumps([way.counts() for way in self._ways]).encode())
        except OSError:
            return False
        return True

    def _shape(self, shape: TunnelShape) -> None:
        for way, rate_bps in zip(self._ways, (shape.uplink_bps, shape.downlink_bps), strict=True):
            way.set(rate_bps, shape)


def main(arguments: Sequence[str] | None = None) -> int:
    """The relay's process: `python -m edgecut.runtime.tunnel FD TASK`, started by `real_link`."""
    number, text = sys.argv[1:] if arguments is None else arguments
    task = json.loads(text)
    control = socket.socket(fileno=int(number))
    try:
        user = own_user_namespace()
        edge = make_namespace(EDGE_ADDRESS, PREFIX, task["congestion"])
        cloud = make_namespace(CLOUD_ADDRESS, PREFIX, task["congestion"])
    except LinkError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return 2
    fds = [edge.net, cloud.net] if user is None else [edge.net, cloud.net, user]
    socket.send_fds(control, [json.dumps({"congestion": congestion_control()}).encode()], fds)
    sleep_precisely()
    try:
        _PacketRelay(edge.tun, cloud.tun, control, TunnelShape.model_validate(task["shape"]), task["seed"]).run()
    finally:
        end_processes_in([edge.net, cloud.net])
    return 0


if __name__ == "__main__":
    sys.exit(main())
