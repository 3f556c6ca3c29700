"""The cloud's side of benchmarks/regret.py: our server, which also notes what each run of each model took.

`python benchmarks/regret_server.py REPOSITORY HOST` prints the server's lines once it answers; for every line on
standard input it prints the seconds of each model's runs since the last one, as JSON. It ends with its input.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from edgecut.models.session import open_session
from edgecut.runtime.server import CloudServer, Protection

_TAKEN: dict[str, list[float]] = defaultdict(list)


def timed_session(path: bytes | str) -> Any:
    """A session of one thread whose runs are noted under its model's name, the folder above the version's."""
    session = open_session(path)
    run, taken = session.run, _TAKEN[Path(str(path)).parents[1].name]

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        values = run(*arguments)
        taken.append(time.perf_counter() - start)
        return values

    session.run = timed
    return session


def main() -> None:
    """Serve until standard input closes."""
    repository, host = sys.argv[1:]
    plain = Protection(plaintext=True)
    server = CloudServer(repository, host, make_session=timed_session, rest_port=0, protection=plain)
    with server:
        print(server.urls[1], flush=True)
        for _ in sys.stdin:
            print(json.dumps(_TAKEN), flush=True)
            for taken in _TAKEN.values():
                taken.clear()


if __name__ == "__main__":
    main()
