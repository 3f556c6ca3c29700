"""The edge session with servers that stand for the real ones: what is sent, in which order, and what ends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgecut.agent.backends import BackendError
from edgecut.agent.edge_part import EdgePart, files_for
from edgecut.agent.edge_side import EdgeSide, read_edge_side
from edgecut.agent.inputs import InputError
from edgecut.agent.session import AWAY, Session
from edgecut.agent.transport import TransportError


def inputs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


def read(side: Any, local: bool = True) -> EdgeSide:
    return read_edge_side(str(side.folder), files_for("onnxruntime-cpu", local))


Opening = Callable[..., Session]


@pytest.fixture
def opened(side: Any, caller: Any) -> Iterator[Opening]:
    """Opens sessions, which are closed at the end."""
    sessions = []

    def open_one(away: str = "fail", nonfinite: str = "refuse", **changes: Any) -> Session:
        if changes:
            side.write(**changes)
        part = EdgePart(read(side), with_rest=away == "local", allow_nonfinite=nonfinite == "allow")
        sessions.append(Session(part, caller, 5.0, away, nonfinite))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


@pytest.mark.parametrize("batch", [1, 4])
def test_what_is_sent_and_what_comes_back(opened: Opening, side: Any, caller: Any, batch: int) -> None:
    session, x = opened(), inputs(batch)
    logits = session.infer(x)
    (sent,) = caller.sent
    np.testing.assert_array_equal(logits, side.answer(sent))
    noise = sent - side.activation(x)
    for row in noise:  # in the order of one of its distributions
        assert sum(np.diff(row[order.astype(int)]).min() > -1e-5 for order in side.collection.orders) == 1
    trace = session.trace
    assert 0 < trace.model_s <= trace.edge_s <= trace.total_s and 0 < trace.add_s < trace.edge_s
    assert trace.noise_s > 0 and 0 < trace.wait_s < trace.total_s and session.answered_by == "cloud"


def test_no_noise_twice_in_whatever_thread(opened: Opening, side: Any, caller: Any) -> None:
    """From many threads at once every answer is its own input's, and every row has noise of its own."""
    session = opened()
    xs = [inputs(1 + i % 3, seed=i) for i in range(120)]
    by_row: dict[bytes, np.ndarray] = {}
    inner = session.part.run

    def recording(x: np.ndarray) -> Any:
        made = inner(x)
        by_row.update({row.tobytes(): given for row, given in zip(made.noisy[0], x, strict=True)})
        return made

    session.part.run = recording  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(session.ask, xs))
    rows = [row for array in caller.sent for row in array]
    assert len({row.tobytes() for row in rows}) == len(rows) == sum(map(len, xs))
    for x, answer in zip(xs, answers, strict=True):
        mine = [row for row in rows if any(np.array_equal(by_row[row.tobytes()], each) for each in x)]
        np.testing.assert_allclose(np.sort(answer.logits, 0), np.sort(side.answer(np.stack(mine)), 0), rtol=1e-5)
    zeros = np.zeros((1, 6), np.float32)
    first, again = session.infer(zeros), session.infer(zeros)
    assert not np.array_equal(first, again)


def test_a_static_batch_of_one_is_looped(opened: Opening, side: Any, caller: Any) -> None:
    session, x = opened(target={**side.values["target"], "batch": 1}), inputs(5)
    seen: list[int] = []
    inner = session.part.runner.call
    session.part.runner.call = lambda feed: (seen.append(len(feed["x"])), inner(feed))[1]  # type: ignore[method-assign]
    logits = session.infer(x)
    assert seen == [1] * 5 == [len(sent) for sent in caller.sent]
    np.testing.assert_array_equal(logits, np.concatenate([side.answer(sent) for sent in caller.sent]))


def test_a_server_that_takes_one_item_is_asked_for_one(opened: Opening, side: Any, caller: Any) -> None:
    caller.batch = 1
    logits = opened().infer(inputs(3))
    assert [len(sent) for sent in caller.sent] == [1, 1, 1]
    np.testing.assert_array_equal(logits, np.concatenate([side.answer(sent) for sent in caller.sent]))


def test_noise_is_drawn_while_the_answer_is_awaited(opened: Opening, caller: Any) -> None:
    session = opened()
    protector = session.part.protector
    there: list[bool] = []

    def waiting() -> None:
        deadline = threading.Event()
        for _ in range(1000):
            if protector.drawn(2):
                break
            deadline.wait(0.01)
        there.append(protector.drawn(2))

    caller.fails = waiting
    assert protector.drawn(1) and not protector.drawn(2)
    session.infer(inputs(2))
    assert there == [True] and protector.drawn(2)


WRONG = {
    "text": np.array(["a"]), "float64": inputs(1).astype(np.float64), "shape": inputs(1)[:, :5], "empty": inputs(1)[:0],
    "no batch": inputs(1)[0], "number": np.float32(1.0) * np.ones((), np.float32),
    "NaN": np.full((1, 6), np.nan, np.float32), "infinite": np.full((2, 6), np.inf, np.float32),
}  # fmt: skip


@pytest.mark.parametrize("what", [*WRONG, "overflow"])
def test_wrong_inputs_are_refused_and_nothing_is_sent(opened: Opening, caller: Any, what: str) -> None:
    session = opened()
    with pytest.raises(InputError) as raised:
        session.infer(WRONG.get(what, np.full((1, 6), 3e38, np.float32)))
    assert "\n" not in str(raised.value) and not caller.sent
    assert session.infer(inputs(1)).shape == (1, 3)


def test_nonfinite_values_pass_where_that_is_allowed(opened: Opening, caller: Any) -> None:
    session = opened(nonfinite="allow")
    assert np.isnan(session.infer(np.full((1, 6), np.nan, np.float32))).all() and len(caller.sent) == 1
    with pytest.raises(BackendError, match="unknown policy 'ignore' of nonfinite; known: allow, refuse"):
        opened(nonfinite="ignore")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: np.where(y > y.min(), np.nan, y), "NaN or infinite"),
        (lambda y: y[:, :2], r"is not float32 \[1, 3\] called 'y'"),
        (lambda y: y.astype(np.float64), "is not float32"),
        (lambda y: None, "is not float32"),
    ],
)
def test_a_wrong_answer_is_an_error_whatever_the_policy(opened: Opening, caller: Any, change: Any, words: str) -> None:
    session = opened(away="local")
    caller.change = change
    with pytest.raises(TransportError, match=words) as raised:
        session.infer(inputs(1))
    assert not raised.value.retry and raised.value.kind == "damaged"


@pytest.mark.parametrize("kind", TransportError.KINDS)
def test_where_the_cloud_is_away(opened: Opening, side: Any, caller: Any, kind: str) -> None:
    session, local, x = opened(), opened(away="local"), inputs(3)
    caller.fails = TransportError(kind, "it is so", False)
    with pytest.raises(TransportError, match="it is so"):
        session.infer(x)
    if kind in AWAY:
        sent = len(caller.sent)
        np.testing.assert_allclose(local.infer(x), side.answer(side.activation(x)), rtol=1e-4, atol=1e-4)
        assert local.answered_by == "local"
        assert len(caller.sent) == sent + 1 and not np.allclose(caller.sent[-1], side.activation(x))  # still noisy
    else:  # refused, untrusted or nonsense: to fall back would hide it
        with pytest.raises(TransportError, match="it is so"):
            local.infer(x)
    caller.fails = None
    assert local.infer(x).shape == (3, 3) and local.answered_by == "cloud"


def test_opening_while_the_cloud_is_away(opened: Opening, side: Any, caller: Any) -> None:
    caller.fails = TransportError("unavailable", "nobody there", True)
    with pytest.raises(TransportError, match="nobody there"):
        opened()
    assert caller.closed
    session, x = opened(away="local"), inputs(1)
    np.testing.assert_allclose(session.infer(x), side.answer(side.activation(x)), rtol=1e-4, atol=1e-4)
    assert session.answered_by == "local" and not caller.sent  # to a server that was never asked what it serves
    caller.fails = None
    session.infer(x)
    assert session.answered_by == "cloud" and caller.sent
    asked = caller.metadata_calls
    session.infer(x)
    assert caller.metadata_calls == asked
    caller.fails = TransportError("insecure", "wrong authority", False)
    with pytest.raises(TransportError, match="wrong authority"):
        opened(away="local")


def test_a_cloud_that_hangs_costs_no_more_than_the_deadline(opened: Opening, side: Any, caller: Any) -> None:
    """Though asking what it serves, which nobody answered when the session was opened, takes for ever."""
    caller.fails = TransportError("unavailable", "nobody there", True)
    session, x = opened(away="local"), inputs(1)
    woken, asked = threading.Event(), threading.Event()
    caller.fails = lambda: (asked.set(), woken.wait(60))
    for _ in range(2):
        np.testing.assert_allclose(session.infer(x, 0.1), side.answer(side.activation(x)), rtol=1e-4, atol=1e-4)
        assert session.answered_by == "local" and asked.wait(60) and not woken.is_set()
    assert caller.metadata_calls == 2  # at the opening, and one that is still under way
    woken.set()
    session.infer(x, 60)
    assert session.answered_by == "cloud"


def test_a_server_of_another_model_is_refused(opened: Opening, side: Any) -> None:
    for change in (
        {"cut": [{**side.values["cut"][0], "name": "b"}]},
        {"answer": {**side.values["answer"], "shape": [4]}},
    ):
        side.write(**change)
        with pytest.raises((TransportError, BackendError), match=r"serves another model as 'small'|another cut"):
            opened(away="local")
        side.write(cut=side.values["cut"], answer={**side.values["answer"], "shape": [3]})


def test_without_the_cloud_partition_there_is_no_fallback(side: Any) -> None:
    side.write(fallback=None)
    with pytest.raises(BackendError, match="no cloud partition to run on the device; write the bundle with --with-loc"):
        EdgePart(read(side), with_rest=True)
    EdgePart(read(side)).close()


def test_submitted_requests(opened: Opening, side: Any, caller: Any) -> None:
    session = opened()
    futures = [session.submit(inputs(1, seed=i)) for i in range(20)]
    bad = session.submit(inputs(1)[0])
    assert len({future.result(30).tobytes() for future in futures}) == 20
    with pytest.raises(InputError, match="is needed"):
        bad.result(30)
    session.close()
    with pytest.raises(BackendError, match="the session was closed"):
        session.submit(inputs(1))
    with pytest.raises(BackendError, match="the session was closed"):
        session.infer(inputs(1))


def test_a_stream_gives_answers_in_order(opened: Opening, side: Any, caller: Any) -> None:
    session = opened()
    xs = [inputs(1 + i % 2, seed=i) for i in range(30)]
    order: list[np.ndarray] = []
    inner = session.part.run

    def recording(x: np.ndarray) -> Any:
        made = inner(x)
        order.append(made.noisy[0])
        return made

    session.part.run = recording  # type: ignore[method-assign]
    answers = list(session.stream(iter(xs), ahead=3))
    assert [len(answer) for answer in answers] == [len(x) for x in xs]
    for noisy, answer in zip(order, answers, strict=True):
        np.testing.assert_array_equal(answer, side.answer(noisy))
    assert list(session.stream([])) == []
    for ahead in (0, 65):
        with pytest.raises(BackendError, match="requests ahead"):
            session.stream(xs, ahead=ahead)


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_stream_overlaps_and_is_bounded(opened: Opening, caller: Any, ahead: int) -> None:
    """While the first answer is awaited the next edge parts are computed, and no more than that many."""
    session = opened()
    answered, computed = threading.Event(), threading.Semaphore(0)
    inner = session.part.run
    count = [0]

    def counting(x: np.ndarray) -> Any:
        made = inner(x)
        count[0] += 1
        computed.release()
        return made

    session.part.run = counting  # type: ignore[method-assign]
    caller.fails = lambda: answered.wait(60)
    stream = session.stream(inputs(1, seed=i) for i in range(10))
    if ahead == 2:
        stream = session.stream((inputs(1, seed=i) for i in range(10)), ahead=2)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, stream)
        for _ in range(ahead + 1):
            assert computed.acquire(timeout=60)  # though nothing was answered yet
        assert not computed.acquire(timeout=0.2) and count[0] == ahead + 1
        assert not first.done()
        answered.set()
        assert first.result(60).shape == (1, 3)
    assert len(list(stream)) == 9 and count[0] == 10


def test_errors_of_a_stream_come_in_their_place(opened: Opening, caller: Any) -> None:
    session = opened()

    def source() -> Iterator[np.ndarray]:
        yield from (inputs(1), inputs(2))
        raise ZeroDivisionError("the camera broke")

    for broken, error in ((source(), ZeroDivisionError), (iter([inputs(1), inputs(2), inputs(1)[0]]), InputError)):
        stream = session.stream(broken, ahead=4)
        assert [len(next(stream)), len(next(stream))] == [1, 2]
        with pytest.raises(error):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    stream = session.stream([inputs(1), inputs(1)])
    caller.fails = TransportError("refused", "no", False)
    with pytest.raises(TransportError, match="no"):
        next(stream)
    caller.fails = None
    assert len(session.infer(inputs(1))) == 1


def test_a_stream_that_is_left_alone_lets_go(opened: Opening, caller: Any) -> None:
    session, taken = opened(), [0]

    def source() -> Iterator[np.ndarray]:
        while True:
            taken[0] += 1
            yield inputs(1)

    stream = session.stream(source(), ahead=2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    sent = taken[0]
    assert sent <= 4
    session.close()
    assert taken[0] == sent and len(caller.sent) <= sent
    waiting = [thread.name for thread in threading.enumerate() if thread.name.startswith("edgecut-noise")]
    assert not waiting


def test_closing_ends_it_and_a_failed_open_leaves_nothing(side: Any, caller: Any) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with Session(EdgePart(read(side)), caller) as session:
        session.submit(inputs(1)).result(30)
    session.close()
    assert caller.closed
    caller.fails = TransportError("refused", "no", False)
    with pytest.raises(TransportError):
        Session(EdgePart(read(side)), caller)
    left = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in left if name.startswith("edgecut")]


def test_a_forked_child_is_told(opened: Opening) -> None:
    session = opened()
    session.infer(inputs(1))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            session.infer(inputs(1))
            os.write(writer, b"answered")
        except BackendError as error:
            os.write(writer, str(error).encode())
        finally:
            session.close()
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 1000) == b"the session is another process's; open one after the fork"
    os.close(reader)
    assert session.infer(inputs(1)).shape == (1, 3)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads(side: Any, threads: int) -> None:
    with pytest.raises(BackendError, match="threads cannot be used"):
        EdgePart(read(side), threads=threads)


def test_noise_of_another_kind_or_cut(side: Any) -> None:
    side.write(mechanism="masked")
    with pytest.raises(BackendError, match="mechanism 'masked', this edgecut has shredder, laplace, cloak"):
        EdgePart(read(side))
    side.write(mechanism="cloak")
    with pytest.raises(BackendError, match="another cut or mechanism"):
        EdgePart(read(side))
    side.write(mechanism="shredder", cut=[{**side.values["cut"][0], "shape": [20, 2]}])
    with pytest.raises(BackendError, match="noise of another cut"):
        EdgePart(read(side))
