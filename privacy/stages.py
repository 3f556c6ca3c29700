"""What a run is at, how long each stage took, and how long the present one will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

from .result import Timings

Progress = Callable[[str, float], None]
NAMES = ("model", "data", "activations", "private", "learning", "search", "gates", "test")


class Stages:
    """One stage at a time; `tell` shows it with the time that is left, reckoned from its own pace."""

    def __init__(self, progress: Progress | None) -> None:
        self.began_s = time.perf_counter()
        self._progress = progress
        self._taken = dict.fromkeys(NAMES, 0.0)
        self._now: str | None = None
        self._since_s = self.began_s
        self._first: tuple[float, float] | None = None

    def start(self, name: str) -> None:
        """End the present stage and begin another, or go on with it."""
        now = time.perf_counter()
        if self._now is not None:
            self._taken[self._now] += now - self._since_s
        self._now, self._since_s, self._first = name, now, None

    def tell(self, what: str, share: float) -> None:
        """Show `what` with the share of the stage that is done."""
        if self._progress is not None:
            self._progress(what + self._left(share), share)

    def _left(self, share: float) -> str:
        now = time.perf_counter()
        if self._first is None:  # a resumed stage does not begin at 0
            self._first = (now, share)
        since, from_share = self._first
        if share <= from_share or now - since < 1.0:
            return ""
        left_s = (1 - share) * (now - since) / (share - from_share)
        return f", {left_s:.0f} s left" if left_s < 120 else f", {left_s / 60:.0f} min left"

    def timings(self) -> Timings:
        """What each stage took, the present one ended."""
        if self._now is not None:
            self.start(self._now)
        return Timings(**{f"{name}_s": self._taken[name] for name in NAMES})
