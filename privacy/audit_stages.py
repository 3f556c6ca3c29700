"""What an audit is at, how long each stage took, and what could not be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import EdgecutError

Progress = Callable[[str, float], None]
Found = TypeVar("Found")
STAGES = {"data": 2, "activations": 5, "accuracy": 5, "upper": 10, "lower": 5, "metric": 13, "labels": 35}
STAGES |= {"reconstruction": 20, "near-duplicates": 5, "clustering": 4, "floors": 1}
"""An audit's stages in order, with roughly how much of a hundred each takes."""


class Stages:
    """What an audit is at, how long each stage took, and what could not be done."""

    def __init__(self, progress: Progress | None) -> None:
        self.began_s = time.perf_counter()
        self.missing: list[str] = []
        self.notes: list[str] = []
        self.timings: dict[str, float] = {}
        self._progress = progress or (lambda *_: None)
        self._now, self._since_s = "", self.began_s

    def start(self, name: str) -> None:
        """End the present stage and begin another, which has not been before."""
        now = time.perf_counter()
        if self._now:
            self.timings[self._now] = now - self._since_s
        self._now, self._since_s = name, now
        self.tell(name, 0.0)

    def tell(self, text: str, share: float) -> None:
        """Show what the stage is at and how much of the whole audit is done; `share` is the stage's own."""
        before = 0
        for name, weight in STAGES.items():
            if name == self._now:
                self._progress(text, min(1.0, (before + weight * min(1.0, share)) / sum(STAGES.values())))
                return
            before += weight

    def attempt(self, name: str, what: str, work: Callable[[], Found | None], otherwise: str) -> Found | None:
        """What a stage finds; where it finds nothing, or its input does not allow it, the reason is kept."""
        self.start(name)
        try:
            found = work()
        except EdgecutError as error:
            self.missing.append(f"{what}: {error}")
            return None
        if found is None:
            self.missing.append(f"{what}: {otherwise}")
        return found
