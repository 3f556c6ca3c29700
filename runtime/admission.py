"""How much the server holds at once: requests in work, requests that wait, and their bytes.

A request enters, waits its turn for one of the workers, and leaves. Who comes when the queue or the memory for
requests is full is told so at once: waiting in the network would look like a slow server. Turns go in the order of
coming. A request whose deadline passes before its turn is dropped without being run.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import grpc

from .served import Refusal

# All requests held may have so many times the largest message together, and always so many bytes.
HELD_MESSAGES = 16
LEAST_HELD_BYTES = 256 << 20


class Admission:
    """The gate of one server, for all its protocols and threads."""

    def __init__(self, workers: int, queue: int, max_held_bytes: int) -> None:
        self.workers, self.queue, self.max_held_bytes = workers, queue, max_held_bytes
        self.held = 0
        self.held_bytes = 0
        self.running = 0
        self._waiting: deque[_Ticket] = deque()
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker; where requests are stacked, those that wait for others too."""
        return max(0, self.held - self.running)

    @property
    def open(self) -> bool:
        """Whether new requests are taken."""
        return not self._closed

    def enter(self, size_bytes: int = 0) -> None:
        """Count a request and its bytes as held until `leave`. Raises Refusal where the server is full or stopping."""
        with self._lock:
            if self._closed:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "this server is stopping; ask another one, or retry later")
            if self.held >= self.workers + self.queue:
                raise Refusal(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"this server is full: {self.workers} requests are in work and {self.queue} wait; retry later",
                )
            self._hold(size_bytes)
            self.held += 1

    def leave(self, size_bytes: int = 0) -> None:
        """A request was answered or refused."""
        with self._lock:
            self.held_bytes -= size_bytes
            self.held -= 1
            if not self.held:
                self._empty.notify_all()

    def reserve(self, size_bytes: int) -> None:
        """Count bytes as held until `free`. Raises Refusal where that is too much together with the others'."""
        with self._lock:
            self._hold(size_bytes)

    def _hold(self, size_bytes: int) -> None:
        if self.held_bytes + size_bytes > self.max_held_bytes:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this server is full: it holds {self.held_bytes} bytes of requests, of at most {self.max_held_bytes}; "
                "retry later",
            )
        self.held_bytes += size_bytes

    def free(self, size_bytes: int) -> None:
        """Bytes that were reserved are held no longer."""
        with self._lock:
            self.held_bytes -= size_bytes

    def start_at_once(self) -> bool:
        """Take a worker if one is free."""
        with self._lock:
            if self.running < self.workers:
                self.running += 1
                return True
        return False

    def start(self, deadline: float | None = None) -> None:
        """Wait for a worker, until `deadline` of time.monotonic. Raises Refusal where it passes first."""
        with self._lock:
            if self.running < self.workers:
                self.running += 1
                return
            ticket = _Ticket()
            self._waiting.append(ticket)
        timeout = -1.0 if deadline is None else max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
        if ticket.turn.acquire(timeout=timeout):
            return
        with self._lock:
            if not ticket.turn.acquire(blocking=False):
                self._waiting.remove(ticket)
                raise late()
        self.finish()  # the turn came at the very last moment
        raise late()

    def finish(self) -> None:
        """The worker is free for the next in the queue."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().turn.release()
            else:
                self.running -= 1

    def close(self) -> None:
        """Take no new requests; those that are held go on."""
        with self._lock:
            self._closed = True

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Whether the last held request left within `timeout_s`."""
        with self._lock:
            return self._empty.wait_for(lambda: not self.held, timeout_s)


class _Ticket:
    """A place in the queue; `turn` can be acquired once the worker is handed over."""

    __slots__ = ("turn",)

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()


def late() -> Refusal:
    """What a request is told whose deadline passed before its turn."""
    return Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the request waited; it was not run")
