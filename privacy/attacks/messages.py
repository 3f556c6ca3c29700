"""What an attacker has before him: one message of each item, or the mean of several, cleaned if he knows the noise."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..observations import Floats, Integers, Observations, PartName
from .aware import Cleaner

CHUNK_BYTES = 64 << 20
"""Of messages that are drawn at once."""


class Messages:
    """Messages of a cut as rows, float32 [rows, width]: `copies` of each item averaged, `cleaner` applied.

    `sticky` noise is the same for all copies of an item, as where it follows from the item itself. `restored` are
    messages as the cloud partition takes them behind the mechanism's map, otherwise as they are sent.
    """

    def __init__(
        self,
        seen: Observations,
        copies: int = 1,
        cleaner: Cleaner | None = None,
        sticky: bool = False,
        restored: bool = False,
    ) -> None:
        self.seen, self.copies, self.cleaner, self.sticky, self.is_restored = seen, copies, cleaner, sticky, restored

    @property
    def width(self) -> int:
        """Values in a row."""
        if self.is_restored:
            return self.seen.restored_width
        if self.seen.noise.place == "input":
            return self.seen.width
        return self.seen.noise.values

    def take(self, name: PartName, rows: Integers, purpose: str, draw: int = 0) -> Floats:
        """Messages of these items. Another `draw` has other noise, in all its copies."""
        total = np.zeros((len(rows), 1), np.float32)
        for copy in range(self.copies):
            number = draw if self.sticky else draw * self.copies + copy
            message = self.message(name, rows, purpose, number)
            total = total + (message if self.cleaner is None else self.cleaner.cleaned(message))
        mean: Floats = total / np.float32(self.copies)
        return self.seen.restored(mean) if self.is_restored else mean

    def message(self, name: PartName, rows: Integers, purpose: str, number: int) -> Floats:
        """One copy of each item, as it is sent."""
        return self.seen.sent(name, rows, purpose, number)

    def pieces(self, rows: Integers, batch: int = 1) -> list[Integers]:
        """The same rows, at most as many at a time as may be drawn at once, in whole batches but for the last."""
        most = max(1, CHUNK_BYTES // (4 * self.width * batch)) * batch
        return [rows[start : start + most] for start in range(0, len(rows), most)]

    def passes(self, rows: Integers, purpose: str, seed: int, batch: int = 1) -> Iterator[tuple[Integers, Floats]]:
        """Training items in a new order and under new noise in every pass, without end, a chunk at a time.

        The next chunk is drawn while the last one is used: drawing takes a core of its own where there is one.
        """
        generator = np.random.default_rng(seed)

        def chunks() -> Iterator[tuple[int, Integers]]:
            number = 0
            while True:
                order = generator.permutation(rows)
                for piece in self.pieces(order, batch):
                    yield number, piece
                number += 1

        def drawn(chunk: tuple[int, Integers]) -> tuple[Integers, Floats]:
            number, items = chunk
            return items, self.take("train", items, purpose, number)

        with ThreadPoolExecutor(max_workers=1) as pool:
            wanted = chunks()
            ahead = pool.submit(drawn, next(wanted))
            while True:
                ready, ahead = ahead.result(), pool.submit(drawn, next(wanted))
                yield ready
