"""Who is let in, whose turn it is, and who is sent away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.runtime.admission import Admission
from edgecut.runtime.served import Refusal


def refused(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(Refusal) as raised:
        call()
    assert str(raised.value).count("\n") == 0
    return raised.value.code


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_is_full_says_so() -> None:
    gate = Admission(workers=1, queue=2, max_held_bytes=100)
    for _ in range(3):
        gate.enter()
    assert refused(gate.enter) is grpc.StatusCode.RESOURCE_EXHAUSTED
    gate.leave()
    gate.enter()
    gate.leave()
    gate.enter(60)
    assert refused(lambda: gate.reserve(41)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    gate.reserve(40)
    gate.free(100)
    assert gate.held_bytes == 0


def test_turns_go_in_the_order_of_coming() -> None:
    gate = Admission(workers=1, queue=10, max_held_bytes=1)
    gate.start()
    order: list[int] = []

    def wait(number: int) -> None:
        gate.start()
        order.append(number)
        gate.finish()

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        until(lambda seen=number + 1: len(gate._waiting) == seen)  # type: ignore[misc]
    assert order == []
    gate.finish()
    for thread in threads:
        thread.join(20)
    assert order == [0, 1, 2, 3, 4] and gate.running == 0


def test_a_deadline_that_passes_in_the_queue_leaves_it() -> None:
    gate = Admission(workers=1, queue=10, max_held_bytes=1)
    gate.start()
    assert refused(lambda: gate.start(time.monotonic() + 0.01)) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert refused(lambda: gate.start(time.monotonic() - 5)) is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.finish()
    assert gate.running == 0
    gate.start(time.monotonic() + 1e12)  # far beyond what a lock can wait
    gate.finish()


def test_a_closed_gate_lets_those_inside_go_on() -> None:
    gate = Admission(workers=1, queue=1, max_held_bytes=1)
    gate.enter()
    gate.close()
    assert refused(gate.enter) is grpc.StatusCode.UNAVAILABLE and not gate.open
    assert not gate.wait_until_empty(0.01)
    gate.start()
    gate.finish()
    threading.Timer(0.01, gate.leave).start()
    assert gate.wait_until_empty(20)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.lists(st.floats(0, 0.002), min_size=1, max_size=20))
def test_never_more_than_the_workers_run_and_none_is_lost(workers: int, waits_s: list[float]) -> None:
    """Some wait without a deadline, some with one that may pass at the moment of their turn."""
    gate = Admission(workers, queue=100, max_held_bytes=1)
    lock = threading.Lock()
    running, most, done = 0, 0, 0

    def work(wait_s: float) -> None:
        nonlocal running, most, done
        try:
            gate.start(time.monotonic() + wait_s if wait_s > 0.0005 else None)
        except Refusal:
            with lock:
                done += 1
            return
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.0005)
        with lock:
            running -= 1
            done += 1
        gate.finish()

    threads = [threading.Thread(target=work, args=(wait_s,)) for wait_s in waits_s]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == len(waits_s) and most <= workers
    assert gate.running == 0 and not gate._waiting
