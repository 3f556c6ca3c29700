"""Load on servers for a given time, in a process of its own: `ray_load.py MODEL.onnx SERVERS TOKEN_FILE SECONDS`.

Prints `going` after the first answers, and at the end one line of JSON: requests, wrong answers, failures, the longest.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np
import onnxruntime

from edgecut.agent.caller import Caller, Policy
from edgecut.agent.transport import Security, TransportError

THREADS = 4


def main() -> None:
    path, servers, token_file, seconds = sys.argv[1:]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    security = Security(token_file=token_file, allow_plaintext=True)
    caller = Caller(servers, security, Policy(timeout_s=60.0, attempts=200))
    end = time.monotonic() + float(seconds)
    lock = threading.Lock()
    result = {"requests": 0, "wrong": 0, "failures": [], "longest_s": 0.0}

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        while time.monotonic() < end:
            x = random.standard_normal((int(random.integers(1, 5)), 16)).astype(np.float32)
            started = time.monotonic()
            failure, right = None, False
            try:
                right = np.allclose(caller.infer("net", [("x", x)])["y"], session.run(None, {"x": x})[0], atol=1e-5)
            except TransportError as error:
                failure = f"{error.kind}: {error}"
            with lock:
                result["requests"] += 1
                result["wrong"] += failure is None and not right
                result["failures"] += [failure] if failure else []
                result["longest_s"] = max(result["longest_s"], time.monotonic() - started)
                if result["requests"] == 20:
                    print("going", flush=True)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
