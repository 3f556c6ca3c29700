"""What a server counts, and the text that Prometheus reads.

Times are seconds, sizes bytes. A request counts once it is answered or refused; what names no model of this server
counts with an empty model, so that no client can make up labels.

Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4)
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

TIMES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)
_PENDING = 256
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Observed = tuple[str, str, str, str, float, float, float | None, int, int]
Labels = tuple[tuple[str, str], ...]


class Family:
    """The numbers of one name, by their labels."""

    def __init__(self, name: str, kind: str, about: str, labels: Sequence[str], bounds: Sequence[float] = ()) -> None:
        self.name, self.kind, self.about, self.labels, self.bounds = name, kind, about, tuple(labels), tuple(bounds)
        self._values: dict[tuple[str, ...], float] = {}
        self._buckets: dict[tuple[str, ...], list[int]] = {}

    def add(self, labels: tuple[str, ...], value: float = 1.0) -> None:
        """Add to a counter, or put a value into a histogram. The caller holds the lock of `Metrics`."""
        self._values[labels] = self._values.get(labels, 0.0) + value
        if self.bounds:
            buckets = self._buckets.get(labels)
            if buckets is None:
                buckets = self._buckets[labels] = [0] * (len(self.bounds) + 1)
            buckets[bisect.bisect_left(self.bounds, value)] += 1

    def lines(self) -> Iterable[str]:
        """The family as text."""
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self._values.items():
            pairs = tuple(zip(self.labels, labels, strict=True))
            if not self.bounds:
                yield _line(self.name, pairs, value)
                continue
            count = 0
            for bound, more in zip((*map(str, self.bounds), "+Inf"), self._buckets[labels], strict=True):
                count += more
                yield _line(f"{self.name}_bucket", (*pairs, ("le", bound)), count)
            yield _line(f"{self.name}_sum", pairs, value)
            yield _line(f"{self.name}_count", pairs, count)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: deque[_Observed] = deque()
        by_model = ("model", "version")
        self.requests = Family(
            "edgecut_requests_total",
            "counter",
            "Inference requests by outcome, a gRPC status code.",
            ("protocol", *by_model, "code"),
        )
        self.seconds = Family(
            "edgecut_request_seconds", "histogram", "From the whole request read to its answer made.", by_model, TIMES_S
        )
        self.queue_seconds = Family(
            "edgecut_queue_seconds", "histogram", "Of that, waiting for a worker or for a batch.", by_model, TIMES_S
        )
        self.run_seconds = Family(
            "edgecut_inference_seconds", "histogram", "Of that, in the model, shared by a batch.", by_model, TIMES_S
        )
        self.received = Family(
            "edgecut_received_bytes_total", "counter", "Of requests, without framing.", ("protocol", *by_model)
        )
        self.sent = Family("edgecut_sent_bytes_total", "counter", "Of answers, as received.", ("protocol", *by_model))
        self.batches = Family(
            "edgecut_batch_requests", "histogram", "Requests that were run at once.", by_model, REQUESTS
        )
        self._started_s = time.time()

    def observe(
        self,
        protocol: str,
        model: str,
        version: str,
        code: str,
        seconds: float,
        queued_s: float,
        run_s: float | None,
        received: int,
        sent: int,
    ) -> None:
        """Count one request. `run_s` is None for one that never came to a model."""
        self._pending.append((protocol, model, version, code, seconds, queued_s, run_s, received, sent))
        if len(self._pending) >= _PENDING:
            with self._lock:
                self._count_pending()

    def _count_pending(self) -> None:
        """Many at once: between two requests the processor forgets, and counting each takes ten times as long."""
        while self._pending:
            protocol, model, version, code, seconds, queued_s, run_s, received, sent = self._pending.popleft()
            of = (model, version)
            self.requests.add((protocol, model, version, code))
            self.received.add((protocol, model, version), received)
            if sent:
                self.sent.add((protocol, model, version), sent)
            if run_s is not None:
                self.seconds.add(of, seconds)
                self.queue_seconds.add(of, queued_s)
                self.run_seconds.add(of, run_s)

    def observe_batch(self, model: str, version: str, requests: int) -> None:
        """Count one run of a model for `requests` requests together."""
        with self._lock:
            self.batches.add((model, version), requests)

    def text(self, gauges: Mapping[str, tuple[str, Mapping[Labels, float]]]) -> str:
        """Everything, with `gauges` (name: (what it is, values by labels)) of this moment, and the process's own."""
        with self._lock:
            self._count_pending()
            lines = [
                line
                for family in (
                    self.requests,
                    self.seconds,
                    self.queue_seconds,
                    self.run_seconds,
                    self.received,
                    self.sent,
                    self.batches,
                )
                for line in family.lines()
            ]
        times = os.times()
        own: dict[str, tuple[str, Mapping[Labels, float]]] = {
            "process_start_time_seconds": ("When the server was made, in seconds since 1970.", {(): self._started_s}),
            "process_cpu_seconds_total": ("Processor time, user and system.", {(): times.user + times.system}),
            "process_resident_memory_bytes": ("Memory in use.", {(): resident_bytes()}),
        }
        for name, (about, values) in {**gauges, **own}.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"]
            lines += [_line(name, labels, value) for labels, value in values.items()]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Memory that this process has in use."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
