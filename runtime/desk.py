"""Where requests of both protocols come together: admitted, checked, given a worker, run, counted and logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from ..agent.oip_wire import Request
from .admission import Admission, late
from .batching import Batcher, Batching
from .catalogue import Catalogue
from .metrics import Labels, Metrics
from .request_log import RequestLog
from .served import Refusal, ServedModel
from .tensors import Array

Answer = list[tuple[str, Array]]


class Desk:
    """The one place that requests of every protocol and thread pass."""

    def __init__(
        self, catalogue: Catalogue, admission: Admission, metrics: Metrics, log: RequestLog, batching: Batching
    ) -> None:
        self.catalogue, self.admission, self.metrics, self.log = catalogue, admission, metrics, log
        self._batchers = {
            (model.name, model.version): Batcher(model, admission, batching, metrics.observe_batch)
            for model in catalogue
            if batching.max_requests > 1 and model.rows_are_free
        }

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.admission.open

    def receive(self, protocol: str, peer: str, size_bytes: int, reserved: int = 0) -> Call:
        """A request that was read, in a block that ends with its answer made. Raises Refusal on entering too.

        `reserved` of its bytes are counted as held already.
        """
        return Call(self, protocol, peer, size_bytes, reserved)

    def infer(self, call: Call, asked: Request) -> tuple[ServedModel, Answer]:
        """The model that answers, and its outputs in order. Raises Refusal."""
        call.request_id = asked.request_id
        model = self.catalogue.find(asked.model, asked.version)
        call.model, call.version = model.name, model.version
        names = model.check(asked.inputs, asked.outputs)
        batcher = self._batchers.get((model.name, model.version))
        if batcher is not None:
            return model, list(zip(names, batcher.infer(names, asked.inputs, call), strict=True))
        started_s = time.perf_counter()
        waited = not self.admission.start_at_once()
        if waited:
            self.admission.start(call.due())
            call.queued_s = time.perf_counter() - started_s
            started_s += call.queued_s
        try:
            # What came a moment ago need not be looked after, unless it says itself how long it may take.
            if (waited or call.deadline is not None) and call.expired():
                raise late()
            values = model.run(names, asked.inputs)
        finally:
            self.admission.finish()
            call.run_s = time.perf_counter() - started_s
        return model, list(zip(names, values, strict=True))

    def refuse(self, protocol: str, peer: str, code: str) -> None:
        """Count and log what was refused before it was a request: no token, or no HTTP."""
        self.metrics.observe(protocol, "", "", code, 0.0, 0.0, None, 0, 0)
        self.log.write("info", "refused", protocol=protocol, peer=peer, code=code)

    def metrics_text(self, connections: int, version: str) -> str:
        """What /metrics answers."""
        loaded: dict[Labels, float] = {
            (("model", model.name), ("version", model.version)): 1 for model in self.catalogue
        }
        gate = self.admission
        return self.metrics.text(
            {
                "edgecut_build_info": ("The version of edgecut.", {(("version", version),): 1}),
                "edgecut_ready": ("1 while requests are taken, 0 while stopping.", {(): int(self.ready)}),
                "edgecut_model_loaded": ("Models and versions that are served.", loaded),
                "edgecut_requests_in_flight": ("Held at this moment, in work or waiting.", {(): gate.held}),
                "edgecut_requests_running": ("In work at this moment; a batch counts once.", {(): gate.running}),
                "edgecut_queue_length": ("Waiting at this moment.", {(): gate.waiting}),
                "edgecut_queue_limit": ("How many may wait.", {(): gate.queue}),
                "edgecut_workers": ("How many may be in work.", {(): gate.workers}),
                "edgecut_held_bytes": ("Bytes of the requests held at this moment.", {(): gate.held_bytes}),
                "edgecut_rest_connections": ("Connections to the REST port.", {(): connections}),
            }
        )


class Call:
    """One request on its way: what is counted and logged of it."""

    __slots__ = (
        "_desk",
        "_started_s",
        "_uncounted",
        "active",
        "deadline",
        "model",
        "peer",
        "protocol",
        "queued_s",
        "received",
        "remaining",
        "request_id",
        "run_s",
        "sent",
        "stacked",
        "version",
    )

    def __init__(self, desk: Desk, protocol: str, peer: str, received: int, reserved: int) -> None:
        self._desk, self.protocol, self.peer, self.received = desk, protocol, peer, received
        self._uncounted = received - reserved
        self._started_s = time.perf_counter()
        self.active: Callable[[], bool] | None = None
        """Whether the client still waits, where the protocol knows."""
        self.remaining: Callable[[], float | None] | None = None
        """The seconds that the client still waits, where the protocol knows."""
        self.deadline: float | None = None
        """The request's own, of time.monotonic."""
        self.model = self.version = self.request_id = ""
        self.queued_s = 0.0
        self.run_s: float | None = None
        self.sent = 0
        self.stacked = 1

    def expired(self) -> bool:
        """Whether nobody waits for the answer any more."""
        deadline = self.due()
        passed = deadline is not None and time.monotonic() >= deadline
        return passed or (self.active is not None and not self.active())

    def due(self) -> float | None:
        """When nobody waits for the answer any more, of time.monotonic: the earlier of the protocol's and its own."""
        left_s = None if self.remaining is None else self.remaining()
        if left_s is None:
            return self.deadline
        end = time.monotonic() + left_s
        return end if self.deadline is None else min(end, self.deadline)

    def until(self, timeout_s: float | None) -> None:
        """Set the deadline, if it is earlier than the one there is."""
        if timeout_s is not None:
            deadline = time.monotonic() + timeout_s
            self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def __enter__(self) -> Self:
        try:
            self._desk.admission.enter(self._uncounted)
        except Refusal as refusal:
            self._count(refusal.code.name)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._desk.admission.leave(self._uncounted)
        refusal = _refusal(error)
        self._count("OK" if refusal is None else refusal.code.name)
        if refusal is not None and refusal is not error:
            if not isinstance(error, MemoryError):
                self._desk.log.write("error", "a request met a defect", kind=type(error).__name__, at=_place(trace))
            raise refusal from None

    def _count(self, code: str) -> None:
        desk = self._desk
        seconds = time.perf_counter() - self._started_s
        desk.metrics.observe(
            self.protocol,
            self.model,
            self.version,
            code,
            seconds,
            self.queued_s,
            self.run_s,
            self.received,
            self.sent,
        )
        if desk.log.takes("info"):
            desk.log.write(
                "info",
                "request",
                protocol=self.protocol,
                peer=self.peer,
                id=self.request_id or None,
                model=self.model,
                version=self.version,
                code=code,
                seconds=round(seconds, 6),
                queued_s=round(self.queued_s, 6),
                inference_s=None if self.run_s is None else round(self.run_s, 6),
                received_bytes=self.received,
                sent_bytes=self.sent,
                batch=self.stacked if self.stacked > 1 else None,
            )


def _refusal(error: BaseException | None) -> Refusal | None:
    """What a request is answered that ended in `error`."""
    if error is None or isinstance(error, Refusal):
        return error
    if isinstance(error, MemoryError):
        return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "this server ran out of memory; send less at once, or later")
    return Refusal(grpc.StatusCode.INTERNAL, f"this server met a defect of its own ({type(error).__name__})")


def _place(trace: Any) -> str:
    """Where an exception came from: file and line, no message, since a message may quote what was sent."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
