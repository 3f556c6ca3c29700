"""An edge device under faults: asks again and again through an EdgeSession, and judges every answer itself.

A process of its own, started in a link's edge namespace as `python asker.py TASK`, TASK being JSON. It prints a line
`ready`, begins when it reads a line, prints how many requests have ended every now and then, holds those from `hold`
on until it reads another line, and prints one line of JSON at last, see `Judge.told`. An answer of the cloud is right
where it is what the cloud partition makes, here, of the very noisy activation that was sent last; an answer made here
where it is what the whole model makes of the input.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgecut.agent import caller
from edgecut.agent.transport import Security, Transport
from edgecut.errors import EdgecutError
from edgecut.models.session import open_session
from edgecut.runtime.edge import EdgeSession, translated

CLOUD, LOCAL, ERROR, WRONG, UNCLEAR = "clewu"
"""How a request ended: right by the cloud, right by this device, a clear error, a wrong answer, anything else."""
EVERY = 10


class Recording(Transport):
    """A transport that remembers what each thread's current request sent, try by try."""

    sent = threading.local()

    def __init__(self, inner: Transport) -> None:
        self.inner, self.server = inner, inner.server

    def infer(self, model: str, tensors: Any, timeout_s: float) -> Any:
        self.sent.tries.append([(name, array.copy()) for name, array in tensors])
        return self.inner.infer(model, tensors, timeout_s)

    def metadata(self, model: str, timeout_s: float) -> Any:
        return self.inner.metadata(model, timeout_s)

    def close(self) -> None:
        self.inner.close()


class Judge:
    """What is right, and how every request ended."""

    def __init__(self, bundle: Path, requests: int, servers: list[str]) -> None:
        (model,) = bundle.glob("cloud/model_repository/*/1/model.onnx")
        self._cloud, self._edge = open_session(str(model)), open_session(str(bundle / "edge" / "edge.onnx"))
        self._servers = servers
        self._lock = threading.Lock()
        self.outcomes = ["?"] * requests
        self.took_s = [0.0] * requests
        self.retries = self.changed = self.ended = 0
        self.sentences: dict[str, int] = {}

    def rest(self, tensors: Any) -> Any:
        return self._cloud.run(None, dict(tensors))[0]

    def whole(self, x: Any) -> Any:
        names = [one.name for one in self._edge.get_outputs()]
        return self.rest(zip(names, self._edge.run(names, {self._edge.get_inputs()[0].name: x}), strict=True))

    def judge(self, index: int, x: Any, answer: Any, tries: Any, took_s: float) -> None:
        """Note how a request ended: `answer` is a session's Answer, or the exception."""
        sentence = ""
        if isinstance(answer, EdgecutError):
            sentence = str(answer)
            clear = "\n" not in sentence and any(server in sentence for server in self._servers)
            outcome = ERROR if clear else UNCLEAR
        elif isinstance(answer, Exception):
            outcome, sentence = UNCLEAR, f"{type(answer).__name__}: {answer}"
        elif answer.answered_by == "cloud":
            right = any(np.allclose(answer.logits, self.rest(sent), rtol=1e-4, atol=1e-5) for sent in tries[-1:])
            outcome = CLOUD if right else WRONG
        else:
            outcome = LOCAL if np.allclose(answer.logits, self.whole(x), rtol=1e-4, atol=1e-5) else WRONG
        same = all(np.array_equal(a[1], b[1]) for sent in tries[1:] for a, b in zip(sent, tries[0], strict=True))
        with self._lock:
            self.outcomes[index], self.took_s[index] = outcome, took_s
            self.retries += max(0, len(tries) - 1)
            self.changed += not same
            self.ended += 1
            if sentence:
                self.sentences[sentence] = self.sentences.get(sentence, 0) + 1
            if self.ended % EVERY == 0:
                print(self.ended, flush=True)

    def told(self) -> str:
        return json.dumps(
            {
                "outcomes": "".join(self.outcomes),
                "took_s": self.took_s,
                "retries": self.retries,
                "changed": self.changed,
                "sentences": self.sentences,
            }
        )


def main() -> None:
    """Ask `requests` times, `threads` at once, one every `period_s` at most."""
    task = json.loads(sys.argv[1])
    opened = caller.open_transport
    caller.open_transport = lambda server, security: Recording(opened(server, security))
    Recording.sent.tries = []
    bundle, servers, count = Path(task["bundle"]), task["servers"], task["requests"]
    judge = Judge(bundle, count, servers)
    generator = np.random.default_rng(task["seed"])
    session = EdgeSession(
        bundle,
        ",".join(servers),
        timeout_s=task["timeout_s"],
        away=task["away"],
        security=Security(allow_plaintext=True),
    )
    shape = (task["batch"], *session.manifest.input.shape)
    inputs = generator.standard_normal((16, *shape)).astype(np.float32)
    print("ready", flush=True)
    sys.stdin.readline()
    numbers, going_on = itertools.count(), threading.Event()
    starts = [time.monotonic()]

    def go_on() -> None:
        sys.stdin.readline()
        starts.append(time.monotonic() - task["hold"] * task["period_s"])
        going_on.set()

    def work() -> None:
        while (index := next(numbers)) < count:
            if index >= task["hold"]:
                going_on.wait()
            time.sleep(max(0.0, starts[-1] + index * task["period_s"] - time.monotonic()))
            x, Recording.sent.tries = inputs[index % len(inputs)], []
            begun = time.monotonic()
            answer: Any
            try:
                with translated():
                    answer = session.ask(x)
            except Exception as error:
                answer = error
            took_s = time.monotonic() - begun
            judge.judge(index, x, answer, Recording.sent.tries, took_s)

    threads = [threading.Thread(target=work) for _ in range(task["threads"])]
    threading.Thread(target=go_on, daemon=True).start()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    session.close()
    print(judge.told(), flush=True)


if __name__ == "__main__":
    main()
