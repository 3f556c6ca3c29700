"""The edge session: the edge part, and the servers that run the rest of the model.

    infer(x):  [edge partition][add noise][send] ........ wait ........ [answer]
               [draw noise]                      [draw next noise]

The next request's noise is drawn while the current answer is on its way, so that it costs no time unless it takes
longer than the wait; where none is there, as for a batch of another size, it is drawn beside the edge partition. What
leaves this process is the noisy activation and nothing else; a retry sends the very same bytes again (`caller`).

Where the cloud is away (`away`) a request fails, or the rest of the model runs here, on the activation without noise,
which then stays here. A server that refuses, or cannot be trusted, is not away: that is always an error.
"""

import os
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from .backends import BackendError
from .caller import Caller, Policy
from .edge_manifest import Tensor
from .edge_part import EdgePart, Made, files_for
from .edge_side import read_edge_side
from .inputs import check_input
from .oip_wire import DTYPES
from .transport import NOTHING, Security, TransportError

FAIL, LOCAL, CLOUD = "fail", "local", "cloud"
REFUSE, ALLOW = "refuse", "allow"
DEFAULT = Policy()
AWAY = ("unavailable", "cancelled", "deadline", "full")
"""The kinds of TransportError that mean that the cloud is away for now."""
MOST_AHEAD = 64
LEAST_S = 1e-3
AT_ONCE = 16
"""Requests of `submit` that are under way at once; more of them wait."""


class Trace(NamedTuple):
    """Where one request's time went, in seconds: `model_s` and `add_s` lie within `edge_s`, `noise_s` in `wait_s`.

    What `total_s` has beyond edge and wait is the session's own work, and waiting for other threads' edge parts.
    """

    edge_s: float
    add_s: float
    noise_s: float
    wait_s: float
    total_s: float
    model_s: float


class Answer(NamedTuple):
    """`answered_by` is "cloud" or "local"."""

    logits: Any
    trace: Trace
    answered_by: str


class _Sent(NamedTuple):
    """A request whose edge part is done."""

    made: Made
    batch: int
    start: float
    timeout_s: float


class Session:
    """An edge part and a caller, both this session's from now on. Any number of threads; a context manager.

    `away` is "fail" or "local", `nonfinite` "refuse" or "allow": whether NaN and infinite values may go in, out and
    come back. Raises TransportError where the servers serve another model, or are away and `away` is "fail".
    """

    def __init__(
        self, part: EdgePart, caller: Any, timeout_s: float = 10.0, away: str = FAIL, nonfinite: str = REFUSE
    ) -> None:
        self.part, self.caller, self.timeout_s, self.away, self.nonfinite = part, caller, timeout_s, away, nonfinite
        self.trace = Trace(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self.answered_by = ""
        self._process = os.getpid()
        self._closed = False
        self._edge = threading.Lock()
        self._asking = None  # type: Optional[ThreadPoolExecutor]
        self._agreed = False
        self._agreeing = None  # type: Optional[Future[None]]
        # A model that was made for one item at a time is so on both sides.
        self._one_by_one = part.description.target.batch == 1
        try:
            check_policies(away, nonfinite)
            self._agree()
        except TransportError as error:
            if away != LOCAL or error.kind not in AWAY:
                self.close()
                raise
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; requests under way fail."""
        self._closed = True
        if os.getpid() != self._process:
            return  # a forked child has none of the threads, and the connections are its parent's
        self.caller.close()
        if self._asking is not None:
            self._asking.shutdown()
        with self._edge:
            self.part.close()

    def infer(self, x: Any, timeout_s: Optional[float] = None) -> Any:
        """Logits [batch, ...] for inputs [batch, ...], or for uint8 images [batch, H, W(, C)].

        `trace` and `answered_by` then tell of the last request. Raises InputError, BackendError and TransportError.
        """
        return self._noted(self.ask(x, timeout_s)).logits

    def ask(self, x: Any, timeout_s: Optional[float] = None) -> Answer:
        """As `infer`, with where the time went and who answered; for several threads."""
        return self._finish(self._prepare(x, timeout_s))

    def submit(self, x: Any, timeout_s: Optional[float] = None) -> "Future[Any]":
        """As `infer`, in another thread; do not change `x` until it is done."""
        self._check_open()
        with self._edge:
            if self._asking is None:
                self._asking = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="edgecut-ask")
        return _submitted(self._asking, self.infer, x, timeout_s)

    def stream(self, inputs: Iterable[Any], ahead: int = 1, timeout_s: Optional[float] = None) -> Iterator[Any]:
        """Answers to a stream of inputs, in order: while one is on its way, the edge parts of the next are computed.

        At most `ahead` requests are under way when the next edge part begins. An error comes in its input's place and
        ends the stream; closing the generator drops what is under way.
        """
        if not 1 <= ahead <= MOST_AHEAD:
            raise BackendError("{} requests ahead are not possible; give 1 to {}".format(ahead, MOST_AHEAD))
        return self._streamed(iter(inputs), ahead, timeout_s)

    def _streamed(self, inputs: Iterator[Any], ahead: int, timeout_s: Optional[float]) -> Iterator[Any]:
        waiting = deque()  # type: Deque[Future[Answer]]
        sending = ThreadPoolExecutor(ahead + 1, thread_name_prefix="edgecut-send")
        try:
            more = True
            while more or waiting:
                if more:
                    more = self._send_next(inputs, sending, waiting, timeout_s)
                if waiting and (not more or len(waiting) > ahead):
                    yield self._noted(waiting.popleft().result()).logits
        finally:
            for future in waiting:
                future.cancel()
            sending.shutdown(wait=False)

    def _send_next(
        self,
        inputs: Iterator[Any],
        sending: ThreadPoolExecutor,
        waiting: "Deque[Future[Answer]]",
        timeout_s: Optional[float],
    ) -> bool:
        """Compute the next input's edge part and have it sent. False at the end of the inputs, or where this fails."""
        try:
            x = next(inputs)
            waiting.append(_submitted(sending, self._finish, self._prepare(x, timeout_s)))
            return True
        except StopIteration:
            return False
        except Exception as error:  # whatever it is, the answers before it come first
            failed = Future()  # type: Future[Answer]
            failed.set_exception(error)
            waiting.append(failed)
            return False

    def _noted(self, answer: Answer) -> Answer:
        self.trace, self.answered_by = answer.trace, answer.answered_by
        return answer

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the session was closed; open another one")
        if os.getpid() != self._process:
            raise BackendError("the session is another process's; open one after the fork")

    def _prepare(self, x: Any, timeout_s: Optional[float]) -> _Sent:
        start = time.perf_counter()
        inputs = check_input(x, self.part.description, self.nonfinite == ALLOW)
        self._check_open()
        with self._edge:
            self._check_open()
            made = self.part.run(inputs)
        return _Sent(made, len(inputs), start, self.timeout_s if timeout_s is None else timeout_s)

    def _finish(self, request: _Sent) -> Answer:
        """Ask for the answer, while the noise for the next request is drawn."""
        sent = time.perf_counter()
        drawing = self.part.draw(request.batch)
        try:
            logits, answered_by = self._answer(request)
        finally:
            noise_s = 0.0 if drawing is None else drawing.result()
        end = time.perf_counter()
        made = request.made
        trace = Trace(made.edge_s, made.add_s, noise_s, end - sent, end - request.start, made.model_s)
        return Answer(logits, trace, answered_by)

    def _answer(self, request: _Sent) -> Tuple[Any, str]:
        try:
            if not self._agreed:
                start = time.perf_counter()
                self._agree_within(request.timeout_s)
                left_s = request.timeout_s - (time.perf_counter() - start)
                request = request._replace(timeout_s=max(left_s, LEAST_S))
            return self._checked(self._cloud(request), request.batch), CLOUD
        except TransportError as error:
            if self.away != LOCAL or error.kind not in AWAY or self._closed:
                raise
        assert request.made.clean is not None
        with self._edge:
            self._check_open()
            return self._checked(self.part.rest(request.made.clean), request.batch), LOCAL

    def _cloud(self, request: _Sent) -> Any:
        """What the cloud says. Where its model takes one item at a time they go one after the other."""
        model, names, noisy = self.part.description.model_name, self.part.names, request.made.noisy
        name = self.part.description.answer.name
        if not self._one_by_one or request.batch == 1:
            return self.caller.infer(model, list(zip(names, noisy)), request.timeout_s).get(name)
        end, answers = time.perf_counter() + request.timeout_s, []
        for i in range(request.batch):
            left_s = max(end - time.perf_counter(), LEAST_S)
            one = self.caller.infer(model, [(name, array[i : i + 1]) for name, array in zip(names, noisy)], left_s)
            answers.append(self._checked(one.get(name), 1))
        return np.concatenate(answers)

    def _checked(self, logits: Any, batch: int) -> Any:
        answer = self.part.description.answer
        expected = (batch, *answer.shape)
        if logits is None or logits.shape != expected or logits.dtype != np.dtype(answer.dtype):
            raise TransportError(
                "damaged",
                "the cloud's answer is not {} {} called '{}'".format(answer.dtype, list(expected), answer.name),
                retry=False,
            )
        if self.nonfinite == REFUSE and not np.isfinite(logits).all():
            raise TransportError(
                "damaged",
                "the cloud's answer holds NaN or infinite values; check the server and its model",
                retry=False,
            )
        return logits

    def _agree_within(self, timeout_s: float) -> None:
        """As `_agree`, for a cloud that was away when the session was opened; asking may take longer than a request."""
        with self._edge:
            if self._agreeing is None or self._agreeing.done():
                self._agreeing = Future()
                threading.Thread(target=_settle, args=(self._agreeing, self._agree), daemon=True).start()
            agreeing = self._agreeing
        try:
            agreeing.result(timeout_s)
        except TimeoutError:
            raise TransportError("deadline", "no server said within {:g} s what it serves".format(timeout_s)) from None

    def _agree(self) -> None:
        """Raise TransportError unless the servers serve this very model: names, datatypes and shapes."""
        description = self.part.description
        found = self.caller.metadata(description.model_name)
        for what, expected in (("inputs", description.sent), ("outputs", (description.answer,))):
            got = {name: (datatype, tuple(shape)) for name, datatype, shape in found[what]}
            for tensor in expected:
                if not _agrees(tensor, got.get(tensor.name)):
                    raise TransportError(
                        "refused",
                        "{} serves another model as '{}': its {} are {}, {} {} {} was expected; serve this bundle's "
                        "cloud side there".format(
                            ", ".join(self.caller.state()), description.model_name, what, _shown(got),
                            tensor.name, tensor.dtype, list(tensor.shape),
                        ),
                        retry=False,
                    )  # fmt: skip
                self._one_by_one = self._one_by_one or got[tensor.name][1][0] == 1
        self._agreed = True


def open_parts(
    folder: str,
    servers: str,
    security: Security = NOTHING,
    policy: Policy = DEFAULT,
    backend: Optional[str] = None,
    threads: int = 1,
    cache: Optional[str] = None,
    away: str = FAIL,
    nonfinite: str = REFUSE,
    expect_id: Optional[str] = None,
    slowdown: float = 1.0,
) -> Tuple[EdgePart, Caller]:
    """What a Session of the edge side in `folder` is made of; nothing is asked of a server yet.

    Raises BackendError, and TransportError for an address that cannot be used.
    """
    check_policies(away, nonfinite)
    local = away == LOCAL
    caller = Caller(servers, security, policy)
    try:
        side = read_edge_side(folder, files_for(backend, local), expect_id)
        return EdgePart(side, backend, threads, cache, local, nonfinite == ALLOW, slowdown), caller
    except BaseException:
        caller.close()
        raise


def check_policies(away: str, nonfinite: str) -> None:
    """Raise BackendError for words that are none of the policies'."""
    for what, given, known in (("away", away, (FAIL, LOCAL)), ("nonfinite", nonfinite, (ALLOW, REFUSE))):
        if given not in known:
            raise BackendError("unknown policy '{}' of {}; known: {}".format(given, what, ", ".join(known)))


def _submitted(pool: ThreadPoolExecutor, function: "Callable[..., Any]", *arguments: Any) -> "Future[Any]":
    try:
        return pool.submit(function, *arguments)
    except RuntimeError:
        raise BackendError("the session was closed; open another one") from None


def _settle(future: "Future[None]", function: "Callable[[], Any]") -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # raised where it is waited for
        future.set_exception(error)


def _agrees(tensor: Tensor, found: "Optional[Tuple[str, Tuple[int, ...]]]") -> bool:
    if found is None or DTYPES.get(found[0]) != np.dtype(tensor.dtype) or len(found[1]) != len(tensor.shape) + 1:
        return False
    return all(a in (-1, b) for a, b in zip(found[1][1:], tensor.shape))


def _shown(tensors: "Dict[str, Tuple[str, Tuple[int, ...]]]") -> str:
    return ascii(tensors)[:300]
