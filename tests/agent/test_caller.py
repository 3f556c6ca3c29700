"""Retries, deadlines and breakers, on a clock and with servers of the test's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.agent.caller import Caller, Policy
from edgecut.agent.transport import Security, Transport, TransportError, failure

X = np.arange(4, dtype=np.float32)[None]
MODEL = {"inputs": [("x", "FP32", (-1, 4))], "outputs": [("y", "FP32", (-1, 2))]}
OTHER = {"inputs": [("x", "FP32", (-1, 5))], "outputs": [("y", "FP32", (-1, 2))]}


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


class Try(NamedTuple):
    server: str
    start_s: float
    share_s: float
    message: bytes


class Scripted(Transport):
    """Answers after some seconds as the script says: a kind of TransportError, or `ok`; its last word for ever."""

    def __init__(self, server: str, clock: Clock, tries: list[Try], *script: str, took_s: float = 0.01) -> None:
        self.server, self.clock, self.tries, self.script = server, clock, tries, list(script)
        self.took_s = took_s
        self.model: dict[str, Any] = MODEL
        self.closed = False

    def infer(self, model: str, tensors: Sequence[tuple[str, Any]], timeout_s: float) -> dict[str, Any]:
        message = b"".join(name.encode() + array.tobytes() for name, array in tensors)
        self.tries.append(Try(self.server, self.clock(), timeout_s, message))
        said = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        took_s = timeout_s if said == "deadline" else self.took_s
        self.clock.now_s += min(took_s, timeout_s)
        if took_s > timeout_s or said == "deadline":
            raise failure("deadline", self.server, waited_s=timeout_s)
        if said != "ok":
            raise failure(said, self.server, "as scripted")
        return {"y": self.server}

    def metadata(self, model: str, timeout_s: float) -> dict[str, Any]:
        if self.script[0] != "ok":
            raise failure(self.script[0], self.server)
        return self.model

    def close(self) -> None:
        self.closed = True


class Scene:
    """A caller with scripted servers a, b, c."""

    def __init__(self, *scripts: Sequence[str], uniform: Callable[[], float] = lambda: 1.0, **policy: Any) -> None:
        self.clock = Clock()
        self.tries: list[Try] = []
        self.servers = [
            Scripted(name, self.clock, self.tries, *script) for name, script in zip("abc", scripts, strict=False)
        ]
        self.caller = Caller(
            "",
            policy=Policy(**policy),
            transports=self.servers,
            clock=self.clock,
            pause=self.clock.pause,
            uniform=uniform,
        )

    def ask(self, timeout_s: float | None = None) -> str:
        """Who answered, or the kind of error."""
        try:
            return str(self.caller.infer("m", [("x", X)], timeout_s)["y"])
        except TransportError as error:
            return error.kind

    def asked(self) -> str:
        return "".join(one.server for one in self.tries)


def test_an_answer_needs_one_try_and_no_pause() -> None:
    scene = Scene(["ok"])
    assert [scene.ask() for _ in range(3)] == ["a"] * 3
    assert scene.asked() == "aaa" and scene.clock.pauses == []


@pytest.mark.parametrize("kind", ["unavailable", "cancelled", "full"])
def test_what_may_pass_is_tried_again_with_the_identical_message(kind: str) -> None:
    scene = Scene([kind, kind, kind, "ok"])
    assert scene.ask() == "a"
    assert len(scene.tries) == 4 and {one.message for one in scene.tries} == {b"x" + X.tobytes()}
    assert scene.clock.pauses == [0.05, 0.1, 0.2]


@pytest.mark.parametrize("kind", ["refused", "unauthenticated", "insecure", "damaged", "protocol"])
def test_what_will_not_pass_is_not(kind: str) -> None:
    scene = Scene([kind, "ok"], ["ok"])
    assert scene.ask() == kind and scene.asked() == "a"


def test_pauses_are_drawn_from_nothing_to_a_growing_bound() -> None:
    drawn = iter([0.0, 0.5, 0.25, 1.0, 1.0, 1.0])
    scene = Scene(["unavailable"], attempts=7, breaker_failures=99, uniform=lambda: next(drawn))
    assert scene.ask() == "unavailable"
    assert scene.clock.pauses == [0, 0.05, 0.05, 0.4, 0.8, 1.0]
    real = {Caller("localhost:1")._uniform() for _ in range(20)}
    assert len(real) == 20 and 0 <= min(real) < max(real) < 1


def test_the_next_server_is_asked_at_once_and_kept() -> None:
    scene = Scene(["unavailable"], ["ok"], ["ok"])
    assert [scene.ask(), scene.ask()] == ["b", "b"]
    assert scene.asked() == "abb" and scene.clock.pauses == []
    scene.servers[1].script = ["unavailable"]
    assert scene.ask() == "c" and scene.asked() == "abbbc"


def test_every_server_is_tried_and_named() -> None:
    scene = Scene(["unavailable"], ["full"], ["deadline"], attempts=1)
    with pytest.raises(TransportError, match=r"none of 3 servers answered: a cannot .*; b has too .*; c did not"):
        scene.caller.infer("m", [("x", X)])
    assert scene.asked() == "abc" and scene.clock.pauses == []


def test_a_hanging_try_leaves_time_to_ask_again() -> None:
    scene = Scene(["deadline", "deadline", "ok"])
    assert scene.ask(8.0) == "a"
    assert [one.share_s for one in scene.tries] == [4.0, pytest.approx(1.975), pytest.approx(0.9375)]
    scene = Scene(["deadline"], attempts=2)
    with pytest.raises(TransportError, match=r"^a did not answer within 8 s"):
        scene.caller.infer("m", [("x", X)], 8.0)
    assert scene.tries[-1].share_s == pytest.approx(3.95) and scene.clock() == pytest.approx(1008.0)
    scene = Scene(["deadline"], attempts=1)
    assert scene.ask(8.0) == "deadline" and [one.share_s for one in scene.tries] == [8.0]
    scene = Scene(["deadline"])
    assert scene.ask(0.6) == "deadline" and [one.share_s for one in scene.tries] == [0.5, pytest.approx(0.05)]


def test_an_answer_that_takes_half_the_deadline_is_asked_for_once() -> None:
    scene = Scene(["ok"])
    scene.servers[0].took_s = 4.9
    assert scene.ask(10.0) == "a" and len(scene.tries) == 1


def test_a_silent_server_is_left_alone_and_asked_once_later() -> None:
    scene = Scene(["unavailable"], attempts=1, breaker_failures=3, breaker_s=2.0)
    assert [scene.ask() for _ in range(3)] == ["unavailable"] * 3 and scene.caller.state() == {"a": "open"}
    start_s = scene.clock()
    with pytest.raises(TransportError, match=r"not asked again within 2 s after 3 failures in a row: a \(a cannot"):
        scene.caller.infer("m", [("x", X)])
    assert len(scene.tries) == 3 and scene.clock() == start_s, "at once, and without asking"
    scene.clock.now_s += 2.0
    assert scene.ask() == "unavailable" and len(scene.tries) == 4, "the trial fails"
    assert scene.ask() == "unavailable" and len(scene.tries) == 4
    scene.clock.now_s += 2.1
    scene.servers[0].script = ["ok"]
    assert [scene.ask(), scene.ask()] == ["a", "a"] and scene.caller.state() == {"a": "closed"}
    scene.servers[0].script = ["unavailable"]
    assert scene.ask() == "unavailable" and scene.caller.state() == {"a": "closed"}, "the count began again"


@pytest.mark.parametrize(("kind", "state"), [("deadline", "open"), ("full", "closed"), ("refused", "closed")])
def test_what_counts_as_silence(kind: str, state: str) -> None:
    scene = Scene([kind], attempts=1, breaker_failures=2)
    assert [scene.ask(1.0) for _ in range(2)] == [kind] * 2
    assert scene.caller.state() == {"a": state}


def test_a_try_with_hardly_any_time_says_nothing_of_the_server() -> None:
    scene = Scene(["deadline"], attempts=2, breaker_failures=2)
    assert scene.ask(0.6) == "deadline" and len(scene.tries) == 2 and scene.caller.state() == {"a": "closed"}


def test_a_server_left_alone_costs_the_others_nothing() -> None:
    scene = Scene(["unavailable"], ["ok"], attempts=1, breaker_failures=1)
    assert scene.ask() == "b" and scene.caller.state() == {"a": "open", "b": "closed"}
    scene.servers[1].script = ["unavailable", "ok"]
    assert scene.ask() == "unavailable", "b once; a is left alone"
    assert scene.asked() == "abb"


def test_only_one_thread_makes_the_trial() -> None:
    scene = Scene(["unavailable"], attempts=1, breaker_failures=1)
    scene.ask()
    scene.clock.now_s += 3
    entered, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> dict[str, Any]:
        entered.set()
        go.wait(20)
        return {"y": "a"}

    scene.servers[0].infer = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        trial = pool.submit(scene.ask)
        assert entered.wait(10)
        assert scene.ask() == "unavailable"
        go.set()
        assert trial.result(10) == "a"
    assert scene.ask() == "a"


def test_an_interruption_does_not_end_trials_for_ever() -> None:
    scene = Scene(["unavailable"], attempts=1, breaker_failures=1)
    scene.ask()
    scene.clock.now_s += 3
    kept = scene.servers[0].infer

    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    scene.servers[0].infer = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scene.ask()
    scene.servers[0].infer = kept  # type: ignore[method-assign]
    scene.servers[0].script = ["ok"]
    assert scene.ask() == "a"


def test_the_wall_clock_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter([0.0, 1e9, -1e9] * 100)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    clock = Clock()
    transport = Scripted("a", clock, [], "unavailable", "ok")
    caller = Caller(
        "", policy=Policy(timeout_s=5, backoff_s=0.001, breaker_failures=1, breaker_s=0), transports=[transport]
    )
    assert caller.infer("m", [("x", X)]) == {"y": "a"}
    assert next(jumps) == 0.0, "nobody asked for it"


def test_another_model_on_the_second_server_is_noticed_before_anything_is_sent() -> None:
    scene = Scene(["ok"], ["ok"])
    assert scene.caller.metadata("m") == MODEL
    scene.servers[0].script = ["unavailable"]
    scene.servers[1].model = OTHER
    with pytest.raises(TransportError, match="b serves another model as 'm' than a") as raised:
        scene.caller.infer("m", [("x", X)])
    assert (raised.value.kind, raised.value.retry, scene.asked()) == ("refused", False, "a")
    scene.servers[1].model = {side: [(*tensor[:2], (1, tensor[2][1])) for tensor in MODEL[side]] for side in MODEL}
    assert scene.ask() == "b", "a fixed batch is the same model"


def test_metadata_is_asked_for_like_an_answer() -> None:
    scene = Scene(["unavailable", "unavailable"], ["ok"])
    assert scene.caller.metadata("m") == MODEL
    scene = Scene(["unavailable"])
    with pytest.raises(TransportError, match="a cannot be reached"):
        scene.caller.metadata("m")


def test_closing() -> None:
    scene = Scene(["unavailable"], attempts=1000, breaker_failures=10**6, backoff_s=0.0)
    closing = iter(range(100))

    def pause(seconds: float) -> None:
        if next(closing) == 3:
            scene.caller.close()

    scene.caller._pause = pause
    with pytest.raises(TransportError, match="closed on this side") as raised:
        scene.caller.infer("m", [("x", X)])
    assert (raised.value.kind, raised.value.retry) == ("cancelled", False)
    assert len(scene.tries) == 4 and scene.servers[0].closed
    caller = Caller("localhost:9", policy=Policy(backoff_s=60, max_backoff_s=60, timeout_s=100))
    with ThreadPoolExecutor(1) as pool:  # a real pause ends with it
        request = pool.submit(caller.infer, "m", [("x", X)])
        time.sleep(0.2)
        caller.close()
        assert isinstance(request.exception(20), TransportError)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_must_be_one(timeout_s: float) -> None:
    with pytest.raises(TransportError, match="give a positive number of seconds"):
        Caller("localhost:1", policy=Policy(timeout_s=timeout_s))
    with pytest.raises(TransportError, match=r"positive|within 0 s"):
        Scene(["ok"]).caller.infer("m", [("x", X)], timeout_s)


def test_settings_and_addresses() -> None:
    for wrong in ({"attempts": 0}, {"backoff_s": -1.0}, {"breaker_failures": 0}, {"breaker_s": float("nan")}):
        with pytest.raises(TransportError, match="is no policy"):
            Caller("localhost:1", policy=Policy(**wrong))  # type: ignore[arg-type]
    caller = Caller("localhost:1, http://localhost:2,localhost:1")
    assert list(caller.state()) == ["localhost:1", "http://localhost:2"]
    for servers in ("", "localhost:1,", "localhost:1,nowhere"):
        with pytest.raises(TransportError, match="is not an address"):
            Caller(servers)
    with pytest.raises(TransportError, match="another machine"):
        Caller("localhost:1,10.0.0.1:1")
    Caller("10.0.0.1:1", Security(allow_plaintext=True)).close()


KINDS = ["ok", "ok", *TransportError.KINDS]
SCRIPTS = st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    scripts=SCRIPTS,
    timeouts=st.lists(st.floats(0.002, 20), min_size=1, max_size=12),
    took=st.lists(st.floats(0, 5), min_size=3, max_size=3),
    attempts=st.integers(1, 6),
    draws=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    failures=st.integers(1, 4),
)
def test_every_request_ends_in_an_answer_or_an_error_within_its_deadline(
    scripts: list[list[str]],
    timeouts: list[float],
    took: list[float],
    attempts: int,
    draws: list[float],
    failures: int,
) -> None:
    turn = iter(range(10**9))
    scene = Scene(
        *scripts, uniform=lambda: draws[next(turn) % len(draws)], attempts=attempts, breaker_failures=failures
    )
    for server, took_s in zip(scene.servers, took, strict=False):
        server.took_s = took_s
    for timeout_s in timeouts:
        start_s, before = scene.clock(), len(scene.tries)
        result = scene.ask(timeout_s)
        made = scene.tries[before:]
        assert result in "abc" or result in TransportError.KINDS
        assert scene.clock() - start_s <= timeout_s + 1e-6
        assert len(made) <= max(attempts, len(scripts))
        assert all(one.share_s <= start_s + timeout_s - one.start_s + 1e-6 for one in made)
        assert {one.message for one in made} <= {b"x" + X.tobytes()}
        if result in "abc":
            assert made[-1].server == result
        if not made:
            assert set(scene.caller.state().values()) == {"open"}
