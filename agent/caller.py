"""Asking one server or several within one deadline: retries, pauses, and leaving alone whoever does not answer.

    try the preferred server --unavailable--> the next one at once --...--> pause --> the first again

Every retry sends the identical message. Fresh noise would hand out a second noisy copy of the same activation, and the
mean of several is closer to the clean one; the same copy twice tells nobody anything new.

The whole request has one deadline. Each try may take half of what is left of it, 0.5 s at least, and the last try all:
so a connection that hangs leaves time to ask again, and an answer that takes up to half the deadline is never asked
for twice. With `attempts` 1 and a single server its only try gets the whole time. Pauses grow twofold and are drawn
evenly from nothing to that bound, so that many devices do not come back at the same moment.

A server that stayed silent `breaker_failures` times in a row is left alone for `breaker_s` (the breaker is open), then
asked once; its answer closes the breaker again. Time is the monotonic clock's: setting the wall clock changes nothing.
"""

import math
import random
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

from .transport import (
    NOTHING,
    Metadata,
    Security,
    Tensors,
    Transport,
    TransportError,
    failure,
    open_transport,
)

LEAST_TRY_S = 0.5
CONNECT_S = 10.0
"""What asking for a model's metadata may take at least, since that comes with connecting."""
# Below this no answer can come, and a try would only look like a failure of the server.
_NO_TIME_S = 1e-3
_SILENT = frozenset(("unavailable", "cancelled", "deadline"))

Answer = TypeVar("Answer")
_Ask = Callable[["_Server", float], Answer]


class Policy(NamedTuple):
    """How hard to try. `timeout_s` is for a whole request, all tries together."""

    timeout_s: float = 10.0
    attempts: int = 4
    """Tries of one request; every server is tried once in any case."""
    backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    breaker_failures: int = 5
    breaker_s: float = 2.0


USUAL = Policy()


class _Server:
    """A transport, and what is known of its server."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.failures = 0
        self.opened_s = None  # type: Optional[float]
        self.on_trial = False
        self.last = ""
        self.agreed = set()  # type: Any


class Caller:
    """Thread-safe. Raises TransportError for addresses, files and settings that cannot be used."""

    def __init__(
        self,
        servers: str,
        security: Security = NOTHING,
        policy: Policy = USUAL,
        transports: Optional[Sequence[Transport]] = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Optional[Callable[[float], Any]] = None,
        uniform: Callable[[], float] = random.SystemRandom().random,
    ) -> None:
        _check(policy)
        self.servers, self.policy = servers, policy
        self._closing = threading.Event()
        self._clock, self._pause, self._uniform = clock, pause or self._closing.wait, uniform
        self._lock = threading.Lock()
        self._preferred = 0
        self._models = {}  # type: Any
        if transports is None:
            transports = _open(servers, security)
        self._servers = [_Server(transport) for transport in transports]

    def infer(self, model: str, tensors: Tensors, timeout_s: Optional[float] = None) -> Dict[str, Any]:
        """The answer's tensors by name. Raises TransportError, within the deadline."""
        whole_s = self.policy.timeout_s if timeout_s is None else timeout_s
        if whole_s <= 0:
            raise failure("deadline", self.servers, waited_s=0.0)
        _check(self.policy._replace(timeout_s=whole_s))

        def ask(server: _Server, share_s: float) -> Dict[str, Any]:
            if model in self._models and model not in server.agreed:
                start = self._clock()
                self._agree(model, server, share_s)
                share_s = max(_NO_TIME_S, share_s - (self._clock() - start))
            return server.transport.infer(model, tensors, share_s)

        return self._asked(ask, whole_s)

    def metadata(self, model: str) -> Metadata:
        """What the first server to answer says of a model; from then on no other one may say otherwise."""

        def ask(server: _Server, share_s: float) -> Metadata:
            return self._agree(model, server, share_s)

        return self._asked(ask, max(self.policy.timeout_s, CONNECT_S))

    def state(self) -> Dict[str, str]:
        """`closed` or `open` for each server's breaker."""
        with self._lock:
            return {one.transport.server: "closed" if one.opened_s is None else "open" for one in self._servers}

    def close(self) -> None:
        """Close the connections. Requests under way end with an error."""
        self._closing.set()
        for server in self._servers:
            server.transport.close()

    def _asked(self, ask: "_Ask[Answer]", whole_s: float) -> Answer:
        end = self._clock() + whole_s
        most = max(self.policy.attempts, len(self._servers))
        errors = {}  # type: Dict[str, TransportError]
        tries = pauses = 0
        while True:
            before = tries
            for index in self._order():
                server, left_s = self._servers[index], end - self._clock()
                if self._closing.is_set():
                    raise TransportError("cancelled", "the connection was closed on this side", False)
                if tries == most or left_s < _NO_TIME_S:
                    raise self._summed_up(errors, whole_s)
                admitted, trial = self._admit(server)
                if not admitted:
                    continue
                tries += 1
                share_s = left_s if tries == most else min(left_s, max(LEAST_TRY_S, left_s / 2))
                try:
                    answer = self._tried(ask, server, share_s, trial, share_s >= min(LEAST_TRY_S, whole_s / 2))
                except TransportError as error:
                    if not error.retry:
                        raise
                    errors[server.transport.server] = error
                else:
                    self._preferred = index
                    return answer
            if tries in (before, most):
                raise self._summed_up(errors, whole_s)
            pause_s = self._uniform() * min(self.policy.max_backoff_s, self.policy.backoff_s * 2.0 ** min(pauses, 60))
            if end - self._clock() - pause_s < _NO_TIME_S:
                raise self._summed_up(errors, whole_s)
            self._pause(pause_s)
            pauses += 1

    def _order(self) -> List[int]:
        """The server that answered last, then the others."""
        first = self._preferred
        return [(first + i) % len(self._servers) for i in range(len(self._servers))]

    def _tried(self, ask: "_Ask[Answer]", server: _Server, share_s: float, trial: bool, fair: bool) -> Answer:
        """One try, and what it says of the server; one that had hardly any time says nothing."""
        silent = None  # type: Optional[bool]
        said = ""
        try:
            answer = ask(server, share_s)
            silent = False
            return answer
        except TransportError as error:
            silent = error.kind in _SILENT if fair or error.kind != "deadline" else None
            said = str(error)
            raise
        finally:
            with self._lock:
                if trial:
                    server.on_trial = False
                if silent:
                    server.failures += 1
                    server.last = said
                    if trial or (server.opened_s is None and server.failures >= self.policy.breaker_failures):
                        server.opened_s = self._clock()
                elif silent is not None:
                    server.failures, server.opened_s = 0, None

    def _admit(self, server: _Server) -> Tuple[bool, bool]:
        """Whether a server may be asked, and whether that is the trial on which its breaker depends."""
        with self._lock:
            if server.opened_s is None:
                return True, False
            if server.on_trial or self._clock() < server.opened_s + self.policy.breaker_s:
                return False, False
            server.on_trial = True
            return True, True

    def _agree(self, model: str, server: _Server, share_s: float) -> Metadata:
        """A server's word on a model, which must be the first server's: another model's answer would look right."""
        told = server.transport.metadata(model, share_s)
        with self._lock:
            expected, first = self._models.setdefault(model, (told, server.transport.server))
        if not all(_alike(told[side], expected[side]) for side in ("inputs", "outputs")):
            raise TransportError(
                "refused",
                "{} serves another model as '{}' than {}; serve the same on both".format(
                    server.transport.server, model, first
                ),
                False,
            )
        server.agreed.add(model)
        return told

    def _summed_up(self, errors: Dict[str, TransportError], whole_s: float) -> TransportError:
        """One error for all the tries."""
        if not errors:
            alone = ["{} ({})".format(one.transport.server, one.last) for one in self._servers if one.last]
            return TransportError(
                "unavailable",
                "not asked again within {:g} s after {} failures in a row: {}".format(
                    self.policy.breaker_s, self.policy.breaker_failures, "; ".join(alone)
                ),
            )
        last = list(errors.values())[-1]
        if len(self._servers) > 1:
            words = "; ".join(map(str, errors.values()))
            return TransportError(
                last.kind, "none of {} servers answered: {}".format(len(self._servers), words), True, last.code
            )
        if last.kind == "deadline":
            server = self._servers[0]
            return failure("deadline", server.transport.server, waited_s=whole_s, met=last.met, code=last.code)
        return last


def _open(servers: str, security: Security) -> List[Transport]:
    opened = []  # type: List[Transport]
    try:
        for server in dict.fromkeys(one.strip() for one in servers.split(",")):
            opened.append(open_transport(server, security))
    except TransportError:
        for transport in opened:
            transport.close()
        raise
    return opened


def _check(policy: Policy) -> None:
    if not 0 < policy.timeout_s < math.inf:
        raise TransportError(
            "refused",
            "a server cannot answer within {:g} s; give a positive number of seconds".format(policy.timeout_s),
        )
    numbers = (policy.backoff_s, policy.max_backoff_s, policy.breaker_s)
    if policy.attempts < 1 or policy.breaker_failures < 1 or not all(0 <= number < math.inf for number in numbers):
        raise TransportError("refused", "{} is no policy; give at least 1 attempt and no negative time".format(policy))


def _alike(one: Any, other: Any) -> bool:
    """Whether two servers mean the same tensors, in any order; -1 is any size."""
    names = {name: (datatype, tuple(shape)) for name, datatype, shape in other}
    return len(one) == len(names) and all(
        name in names
        and datatype == names[name][0]
        and len(shape) == len(names[name][1])
        and all(a == b or -1 in (a, b) for a, b in zip(shape, names[name][1]))
        for name, datatype, shape in one
    )
