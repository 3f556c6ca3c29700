"""Measuring the link to a running server: its rate each way and its round trip, as a `Link` file.

One channel is opened and kept open, as an EdgeSession keeps its own, and warmed until TCP and HTTP/2 have opened their
windows: the rates are those of the steady state, in payload bytes. The time of a call that carries S bytes is

    time(S) = round trip + serving + 8 S / rate

so the rate is the slope over several sizes (Theil-Sen, with its 95 % interval), and whatever each call costs drops out.
What serialising costs per byte does not: it makes links beyond some 1 Gbit/s look slower. The round trip is the
network's own, the median of HTTP/2 pings (see `ping`); connecting and the smallest call are kept beside it.

Our own server answers `echo`. A third party's is sent a request for a model that does not exist, which it must take
whole before it can say so; the way back cannot be measured there.
"""

from __future__ import annotations

import datetime
import math
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self

from ..agent.caller import CONNECT_S
from ..agent.credentials import Credentials
from ..agent.oip_grpc import SERVICE, GrpcTransport
from ..agent.timing import median, median_interval
from ..agent.transport import NOTHING, Security, TransportError, parse_address
from ..artefacts import check_output
from ..errors import LinkError, ServerError, unknown
from ..partitioner.link import RADIO_SOURCE, RADIOS, Link, Transfers
from . import echo, oip
from .ping import RoundTrips, round_trips

Progress = Callable[[str, float], None]
Direction = Literal["uplink", "downlink"]
SMALLEST_BYTES = 4096
LARGEST_BYTES = 32 * 1024 * 1024
# How long the longest transfer is to take, where the time bound and the largest size allow.
TARGET_S = 0.3
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
CONNECTIONS, REQUESTS = 6, 12
LEAST_TRANSFERS = 5
# What a server says to a model it does not have, once it has read the request.
_TAKEN = {"NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL", "UNKNOWN"}


def probe(
    server: str,
    *,
    repeats: int = 5,
    max_seconds: float = 20.0,
    smallest_bytes: int = SMALLEST_BYTES,
    largest_bytes: int = LARGEST_BYTES,
    radio: str | None = None,
    downlink_bps: float | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    security: Security = NOTHING,
) -> Link:
    """Measure the link to a server (HOST:PORT or grpcs://) within about `max_seconds`, and write it to `output`.

    Args:
        repeats: Rounds of transfers of every size.
        smallest_bytes: Where the search for sizes begins.
        largest_bytes: The largest transfer; a server that takes less is asked for less.
        radio: A preset (wifi, lte, 3g) whose radio's power, at the rates measured, the link carries.
        downlink_bps: The rate towards this device where it cannot be measured, at a third party's server.

    Raises:
        ServerError: the server cannot be reached, goes away meanwhile, or cannot answer with data.
        LinkError: the time is too short or the link too fast to tell, or the radio is unknown.
    """
    _check(repeats, max_seconds, smallest_bytes, largest_bytes, radio, downlink_bps)
    if output is not None:
        check_output(output, Link.KIND)
    tell = progress or (lambda *_: None)
    tell(f"connecting to {server}", 0.0)
    with _Caller(server, max_seconds, security) as caller:
        caller.open()
        if not caller.echoes and downlink_bps is None:
            raise ServerError(
                f"{server} is not edgecut's server, so the rate towards this device cannot be measured; "
                "give it with --downlink-mbps"
            )
        tell("round trips", 0.02)
        trips = caller.round_trips()
        requests = caller.requests()
        directions: tuple[Direction, ...] = ("uplink", "downlink") if caller.echoes else ("uplink",)
        taken = _transfers(caller, directions, median(requests), repeats, (smallest_bytes, largest_bytes), tell)
    link = _link(server, trips, requests, taken, downlink_bps, radio)
    if output is not None:
        link.save(output)
    tell("done", 1.0)
    return link


def _check(
    repeats: int, max_seconds: float, smallest: int, largest: int, radio: str | None, downlink_bps: float | None
) -> None:
    if not 0 < max_seconds < math.inf or repeats < 1 or not 1 <= smallest <= largest:
        raise LinkError(
            f"no probe of {repeats} repeats within {max_seconds:g} s, {smallest} to {largest} bytes; give positive "
            "numbers, the smaller size first"
        )
    if downlink_bps is not None and not 1 <= downlink_bps < math.inf:
        raise LinkError(f"a downlink of {downlink_bps:g} bit/s is none; give the rate in Mbit/s")
    if radio is not None and radio not in RADIOS:
        raise LinkError(unknown("radio", radio, RADIOS))


class _Caller:
    """The channel that is kept open, and the calls that are timed on it. Every failure is a ServerError."""

    def __init__(self, server: str, max_seconds: float, security: Security) -> None:
        self.server = server
        self.echoes = False
        self.start = time.monotonic()
        self.end = self.start + max_seconds
        self._probe = echo.method()
        self._nobody = f"edgecut-probe-{uuid.uuid4().hex}"
        try:
            address = parse_address(server, security)
            if not address.scheme.startswith("grpc"):
                raise ServerError(f"{server} is asked over HTTP, but a probe needs gRPC; give the server's gRPC port")
            self._transport = GrpcTransport(server, address, security)
            self._tls = Credentials(security, address.tls, "h2").context()
        except TransportError as error:
            raise ServerError(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def open(self) -> None:
        """Connect, and find out whether the server knows our call."""
        try:
            self._transport.ask(self._probe.path, b"", min(CONNECT_S, self._patience_s()))
            self.echoes = True
        except TransportError as error:
            if error.kind != "protocol":
                raise ServerError(str(error)) from None

    def left_s(self) -> float:
        return self.end - time.monotonic()

    def share(self) -> float:
        """How much of the time is used."""
        return min(1.0, (time.monotonic() - self.start) / (self.end - self.start))

    def round_trips(self) -> RoundTrips:
        address = self._transport.address
        until, timeout_s = time.monotonic() + self.left_s() / 8, max(1.0, self.left_s() / 4)
        try:
            return round_trips(address.host, address.port, CONNECTIONS, until, timeout_s, self._tls)
        except OSError as error:
            raise ServerError(f"{self.server} cannot be reached ({error.strerror or error}); start it again") from None

    def requests(self) -> list[float]:
        """Seconds of the smallest calls, after the first."""
        until = time.monotonic() + self.left_s() / 8
        took: list[float] = []
        try:
            while len(took) < REQUESTS + 1 and (len(took) < 3 or time.monotonic() < until):
                took.append(self._timed(self._smallest))
        except _TooLarge:
            raise ServerError(f"{self.server} refuses even the smallest call; is it overloaded?") from None
        return took[1:]

    def transfer(self, direction: Direction, size: int) -> float | None:
        """Seconds of one call that carries `size` bytes; None where the server refuses to carry so many."""
        payload = echo.random_bytes(size if direction == "uplink" else 0)
        try:
            if not self.echoes:
                request = oip.message("ModelInferRequest")(model_name=self._nobody, raw_input_contents=[payload])
                request.inputs.add(name="x", datatype="UINT8", shape=[size])
                return self._timed(lambda: self._refused(request))
            call = self._probe.request(payload=payload, answer_bytes=size if direction == "downlink" else 0)
            return self._timed(lambda: self._echoed(call))
        except _TooLarge:
            return None

    def _smallest(self) -> None:
        if self.echoes:
            self._echoed(self._probe.request())
        else:
            self._transport.ask(SERVICE + "ServerLive", b"", self._patience_s())

    def _echoed(self, request: Any) -> None:
        data = self._transport.ask(self._probe.path, request.SerializeToString(), self._patience_s())
        got = len(self._probe.response.FromString(data).payload)
        if got != request.answer_bytes:
            raise ServerError(f"{self.server} sent {got} bytes, {request.answer_bytes} were asked for")

    def _refused(self, request: Any) -> None:
        try:
            self._transport.ask(SERVICE + "ModelInfer", request.SerializeToString(), self._patience_s())
        except TransportError as error:
            if error.code in _TAKEN:
                return
            raise
        raise ServerError(f"{self.server} answers for models it does not have; its link cannot be measured")

    def _timed(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        try:
            call()
        except TransportError as error:
            if error.code == "RESOURCE_EXHAUSTED":
                raise _TooLarge from None
            raise ServerError(str(error)) from None
        return time.perf_counter() - start

    def _patience_s(self) -> float:
        return round(max(1.0, self.left_s()), 1)


class _TooLarge(Exception):
    """The server refuses a message of this size."""


class _Taken(NamedTuple):
    """One timed transfer."""

    direction: Direction
    size_bytes: int
    elapsed_s: float


def _transfers(
    caller: _Caller,
    directions: Sequence[Direction],
    base_s: float,
    repeats: int,
    bounds: tuple[int, int],
    tell: Progress,
) -> list[_Taken]:
    """Rounds of every size in every direction, as many as the time allows."""
    target_s = min(TARGET_S, (caller.end - caller.start) / 60)
    sizes: dict[Direction, list[int]] = {}
    longest: dict[Direction, float] = {}
    for direction in directions:
        tell(f"finding the sizes for the {direction}", caller.share())
        largest, longest[direction] = _largest(caller, direction, base_s, target_s, bounds)
        sizes[direction] = sorted({max(1, int(largest * fraction)) for fraction in FRACTIONS})
    taken: list[_Taken] = []
    for _ in range(repeats):
        for direction in directions:
            tell(f"measuring the {direction}", caller.share())
            # The way was idle while the other one was busy, and TCP starts slowly again: the first does not count.
            for place, size in enumerate([sizes[direction][len(sizes[direction]) // 2], *sizes[direction]]):
                if 1.5 * longest[direction] > caller.left_s():
                    return taken
                elapsed_s = caller.transfer(direction, size)
                if elapsed_s is None:
                    raise ServerError(f"{caller.server} refuses {size} bytes it took before; is it overloaded?")
                if place:
                    taken.append(_Taken(direction, size, elapsed_s))
    return taken


def _largest(
    caller: _Caller, direction: Direction, base_s: float, target_s: float, bounds: tuple[int, int]
) -> tuple[int, float]:
    """The size whose transfer takes `target_s` beyond a small call's time, or the largest allowed; and its seconds."""
    size, limit = bounds
    confirmed = False
    while True:
        elapsed_s = caller.transfer(direction, size)
        if elapsed_s is None:
            limit = size = size // 2
            if not size:
                raise ServerError(f"{caller.server} refuses even the smallest transfer; is it overloaded?")
            continue
        busy_s = max(elapsed_s - base_s, 1e-6)
        slow = busy_s >= target_s or 2 * elapsed_s > caller.left_s()
        if (slow or size >= limit) and confirmed:
            return size, elapsed_s
        # A connection that is still opening its windows looks slow: what a second transfer confirms is believed.
        confirmed = slow or size >= limit
        if not confirmed:
            size = min(limit, int(size * min(8.0, max(2.0, target_s / busy_s))))


class _Rate(NamedTuple):
    """Bits per second with its 95 % interval, None where that has no upper end."""

    bps: float
    interval_bps: tuple[float, float] | None


def _rate(server: str, taken: Sequence[_Taken]) -> _Rate:
    """The slope of time over size, robust against transfers that something held up."""
    from scipy.stats import theilslopes

    if len(taken) < LEAST_TRANSFERS or len({one.size_bytes for one in taken}) < 3:
        raise LinkError(
            f"the probe of {server} had time for {len(taken)} transfers one way, {LEAST_TRANSFERS} are needed; "
            "allow more with --max-seconds"
        )
    slope, _, low, high = theilslopes([one.elapsed_s for one in taken], [8 * one.size_bytes for one in taken])
    if not slope > 0:
        raise LinkError(
            f"the link to {server} is too fast to be measured with {max(one.size_bytes for one in taken)} bytes, or "
            "its time varies too much; probe it again when it is quiet"
        )
    return _Rate(float(1 / slope), (float(1 / high), float(1 / low)) if low > 0 else None)


def _link(
    server: str,
    trips: RoundTrips,
    requests: list[float],
    taken: list[_Taken],
    downlink_bps: float | None,
    radio: str | None,
) -> Link:
    ways: dict[str, list[_Taken]] = {"uplink": [], "downlink": []}
    for one in taken:
        ways[one.direction].append(one)
    up = _rate(server, ways["uplink"])
    # A rate that was given counts only where none could be measured.
    down = _rate(server, ways["downlink"]) if downlink_bps is None or ways["downlink"] else _Rate(downlink_bps, None)
    pings = list(trips.pings_s) or requests
    tx_w, rx_w = RADIOS[radio].power_w(up.bps, down.bps) if radio is not None else (None, None)
    return Link(
        name=f"probe {server}",
        uplink_bps=up.bps,
        downlink_bps=down.bps,
        rtt_s=median(pings),
        radio_tx_w=tx_w,
        radio_rx_w=rx_w,
        radio_source=f"{RADIO_SOURCE}; {radio} at these rates, at most the preset's" if radio is not None else "",
        provenance="measured",
        source=_source(server, trips, requests, ways),
        uplink_interval_bps=up.interval_bps,
        downlink_interval_bps=down.interval_bps,
        rtt_interval_s=median_interval(pings),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        samples=_samples(trips, requests, taken),
    )


def _source(server: str, trips: RoundTrips, requests: list[float], ways: dict[str, list[_Taken]]) -> str:
    """What was measured how, in one sentence."""
    parts = []
    for name, taken in ways.items():
        if taken:
            sizes = [one.size_bytes for one in taken]
            parts.append(f"{name} from {len(taken)} transfers of {min(sizes):,} to {max(sizes):,} bytes")
        else:
            parts.append(f"{name} as given, not measured")
    if trips.pings_s:
        parts.append(f"round trip the median of {len(trips.pings_s)} HTTP/2 pings")
    else:
        parts.append(f"round trip the median of {len(requests)} smallest calls, serving included")
    parts.append(f"connecting took {median(trips.connects_s) * 1e3:.3g} ms")
    parts.append(f"the smallest call {median(requests) * 1e3:.3g} ms")
    return f"edgecut probe {server}, one open channel, steady state: {', '.join(parts)}"


def _samples(trips: RoundTrips, requests: list[float], taken: list[_Taken]) -> tuple[Transfers, ...]:
    groups: dict[tuple[Direction, int], list[float]] = {}
    for one in taken:
        groups.setdefault((one.direction, one.size_bytes), []).append(one.elapsed_s)
    return (
        *([Transfers(what="ping", elapsed_s=trips.pings_s)] if trips.pings_s else []),
        Transfers(what="connect", elapsed_s=trips.connects_s),
        Transfers(what="request", elapsed_s=tuple(requests)),
        *(Transfers(what=way, size_bytes=size, elapsed_s=tuple(took)) for (way, size), took in groups.items()),
    )
