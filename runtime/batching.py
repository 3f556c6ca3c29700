"""Stacking requests of one model into one run: more answers a second for a bounded wait.

Requests whose tensors agree in everything but the first size are stacked along it. The first to come waits for others
at most `wait_s`, and then for a worker, while more may still join. What could spoil a batch is refused before it is
stacked; if the stacked run fails all the same, its requests are run one by one, so that only the guilty one is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import grpc
import numpy as np

from .admission import Admission, late
from .served import Refusal, ServedModel
from .tensors import Array


class Batching(NamedTuple):
    """At most `max_requests` rows are stacked (1: none are), the first of them waiting at most `wait_s`."""

    max_requests: int = 1
    wait_s: float = 0.002


class Waiting(Protocol):
    """What a batch needs of a call, and writes down of it."""

    queued_s: float
    run_s: float | None
    stacked: int

    def due(self) -> float | None: ...
    def expired(self) -> bool: ...


class _Member:
    __slots__ = ("answer", "call", "done", "inputs", "rows", "since_s")

    def __init__(self, inputs: Mapping[str, Array], rows: int, call: Waiting) -> None:
        self.inputs, self.rows, self.call = inputs, rows, call
        self.since_s = time.perf_counter()
        self.done = threading.Event()
        self.answer: list[Array] | Refusal | None = None


class _Batch:
    __slots__ = ("full", "members", "rows")

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.rows = 0
        self.full = threading.Event()


class Batcher:
    """The batches of one version of a model."""

    def __init__(
        self,
        model: ServedModel,
        admission: Admission,
        batching: Batching,
        observe: Callable[[str, str, int], None],
    ) -> None:
        self._model, self._admission, self._observe = model, admission, observe
        self._most = min(batching.max_requests, model.max_rows or batching.max_requests)
        self._wait_s = batching.wait_s
        self._open: dict[object, _Batch] = {}
        self._lock = threading.Lock()
        self._splits = True
        """False once the model gave back another number of rows than it got."""

    def infer(self, names: Sequence[str], inputs: Mapping[str, Array], call: Waiting) -> list[Array]:
        """The outputs of checked inputs. Raises Refusal."""
        sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
        rows = sizes.pop() if sizes else 0
        member = _Member(inputs, rows, call)
        if sizes or not 0 < rows < self._most or not self._splits:
            batch = _Batch()
            batch.members.append(member)
            self._work(batch, None, names)
        else:
            key = (tuple(names), tuple((name, inputs[name].dtype, inputs[name].shape[1:]) for name in sorted(inputs)))
            batch, leads = self._join(key, member)
            if leads:
                batch.full.wait(self._wait_s)
                self._work(batch, key, names)
            else:
                member.done.wait()
        if isinstance(member.answer, Refusal):
            raise member.answer
        assert member.answer is not None
        return member.answer

    def _join(self, key: object, member: _Member) -> tuple[_Batch, bool]:
        """The batch that the member is in now, and whether it is the one to run it."""
        with self._lock:
            batch = self._open.get(key)
            if batch is not None and batch.rows + member.rows > self._most:
                batch.full.set()
                batch = None
            leads = batch is None
            if batch is None:
                batch = self._open[key] = _Batch()
            batch.members.append(member)
            batch.rows += member.rows
            if batch.rows >= self._most:
                del self._open[key]
                batch.full.set()
            return batch, leads

    def _work(self, batch: _Batch, key: object, names: Sequence[str]) -> None:
        """Wait for a worker, close the batch, run it; every member has an answer or a refusal in the end."""
        members = batch.members
        try:
            # Alone, its own deadline bounds the wait; others in the batch may have longer.
            self._admission.start(members[0].call.due() if key is None else None)
            try:
                with self._lock:
                    if self._open.get(key) is batch:
                        del self._open[key]
                self._run([member for member in members if not self._dropped(member)], names)
            finally:
                self._admission.finish()
        except Refusal as refusal:
            for member in members:
                member.answer = member.answer or refusal
        finally:
            with self._lock:
                if self._open.get(key) is batch:
                    del self._open[key]
            for member in members:
                if member.answer is None:
                    member.answer = Refusal(
                        grpc.StatusCode.INTERNAL, "this server met a defect of its own while it ran a batch"
                    )
                member.done.set()

    def _dropped(self, member: _Member) -> bool:
        member.call.queued_s = time.perf_counter() - member.since_s
        if member.call.expired():
            member.answer = late()
        return member.answer is not None

    def _run(self, members: list[_Member], names: Sequence[str]) -> None:
        if not members:
            return
        started_s = time.perf_counter()
        if len(members) == 1 or not self._stacked(members, names):
            for member in members:
                member.answer = self._alone(member, names)
        took_s = time.perf_counter() - started_s
        for member in members:
            member.call.run_s = took_s

    def _stacked(self, members: list[_Member], names: Sequence[str]) -> bool:
        """Whether one run answered them all."""
        try:
            together = {name: np.concatenate([member.inputs[name] for member in members]) for name in members[0].inputs}
            values = self._model.run(names, together)
        except (Refusal, MemoryError):
            return False
        rows = sum(member.rows for member in members)
        if any(not value.ndim or len(value) != rows for value in values):
            self._splits = False
            return False
        self._observe(self._model.name, self._model.version, len(members))
        start = 0
        for member in members:
            member.answer = [value[start : start + member.rows] for value in values]
            member.call.stacked = len(members)
            start += member.rows
        return True

    def _alone(self, member: _Member, names: Sequence[str]) -> list[Array] | Refusal:
        self._observe(self._model.name, self._model.version, 1)
        try:
            return self._model.run(names, member.inputs)
        except Refusal as refusal:
            return refusal
