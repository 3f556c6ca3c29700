"""The agent as a process of this machine: with torch's backends and Zeus' meters, which devices do not have.

Run as `python -m edgecut.profiler.worker`; a process of its own, so that what this program has loaded disturbs
nothing, and a model that takes all memory ends it and nothing else.
"""

from __future__ import annotations

import sys

from ..agent.main import main
from .backends import BACKENDS
from .meters import METERS

if __name__ == "__main__":
    sys.exit(main(backends=BACKENDS, meters=METERS))
