"""`bench`: how long requests of an edge folder take against a server, and where the time goes.

Seconds of wall time, medians over requests for the parts: `model` and `add` within `edge`, `noise` (for the next
request) within `wait`; `own` is what is left, the session's own work. With several clients `own` would have their
waiting for each other in it, and is null.
"""

import argparse
import threading
import time
from collections import Counter
from typing import Any, Callable, Dict, List

import numpy as np

from . import options
from .backends import BackendError
from .edge_manifest import Description
from .infer import open_chosen
from .session import Answer, Session, Trace

HELP = "measure requests against a server"
WARM_UP, MOST_CLIENTS, MOST_SECONDS = 5, 64, 86400
PARTS = ("edge_s", "model_s", "add_s", "noise_s", "wait_s")

Tell = Callable[[str, float], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_folder(parser)
    options.add_connection(parser)
    options.add_device(parser)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (%(default)s)")
    parser.add_argument("--clients", type=int, default=1, help="threads that ask at once (%(default)s)")


def run(chosen: argparse.Namespace, tell: Tell) -> Dict[str, Any]:
    """The last line: the figures. Raises BackendError and TransportError, also of the first request that fails."""
    if not 1 <= chosen.clients <= MOST_CLIENTS or not 0 < chosen.seconds <= MOST_SECONDS:
        raise BackendError("give 1 to {} clients and up to {} seconds".format(MOST_CLIENTS, MOST_SECONDS))
    tell("opening the session", 0.0)
    with open_chosen(chosen) as session:
        x = example(session.part.description)
        for _ in range(WARM_UP):
            session.ask(x)
        start = time.perf_counter()
        answers = _ask(session, x, chosen.clients, chosen.seconds, tell)
        elapsed_s = time.perf_counter() - start
        figures = summary([answer.trace for answer in answers], elapsed_s, chosen.clients)
        figures["answered_by"] = dict(Counter(answer.answered_by for answer in answers))
        figures["backend"], figures["noise_on"] = session.part.backend, session.part.noise_on
    figures.update(done="bench", server=chosen.server)
    return figures


def example(description: Description) -> Any:
    """A batch of one, random and the same each time."""
    wanted, generator = description.input, np.random.RandomState(0)
    shape = (1, *wanted.shape)
    if np.dtype(wanted.dtype).kind in "iu":
        return generator.randint(0, min(wanted.below or 2, 1 << 31), shape).astype(wanted.dtype)
    return generator.standard_normal(shape).astype(wanted.dtype)


def _ask(session: Session, x: Any, clients: int, seconds: float, tell: Tell) -> List[Answer]:
    answers, errors, start = [], [], time.perf_counter()  # type: List[Answer], List[BaseException], float
    stop = threading.Event()

    def one() -> None:
        try:
            while not stop.is_set():
                answers.append(session.ask(x))
        except BaseException as error:  # told by the thread that waits
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=one, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        while not stop.wait(0.2) and time.perf_counter() - start < seconds:
            tell("asking", min(1.0, (time.perf_counter() - start) / seconds))
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers


def summary(traces: List[Trace], elapsed_s: float, clients: int) -> Dict[str, Any]:
    """Figures of the requests that were answered in that time."""
    totals = np.array([trace.total_s for trace in traces])
    median, p95, p99 = np.percentile(totals, [50, 95, 99]).tolist()
    figures = {name: float(np.median([getattr(trace, name) for trace in traces])) for name in PARTS}
    own = [trace.total_s - trace.model_s - trace.add_s - trace.wait_s for trace in traces]
    return {
        "requests": len(traces),
        "clients": clients,
        "elapsed_s": elapsed_s,
        "requests_per_s": len(traces) / elapsed_s,
        "median_s": median,
        "p95_s": p95,
        "p99_s": p99,
        "parts": dict(figures, own_s=float(np.median(own)) if clients == 1 else None),
    }
