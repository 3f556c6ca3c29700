"""What averaging the messages of almost equal inputs gives where a bundle's noise is sticky."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import ModelError
from ..models.data import to_input
from .attacks.near_duplicates import MOST_JUDGED, near_duplicates
from .attacks.training import Tell
from .audit_halves import Halves
from .audit_settings import AuditSettings
from .audited import LabelAttack, NearDuplicate
from .observations import Observations, Part

COPIES_HELD = 4
"""Arrays of the inputs' size that are held at once."""


def almost_equal(
    halves: Halves, seen: Observations, labels: tuple[LabelAttack, ...], used: AuditSettings, tell: Tell
) -> tuple[NearDuplicate, ...] | None:
    """For each number of copies that the audit asks for; None where the model does not take float32.

    With attacks on private labels, one like the best on a single message is trained for each number.
    """
    each = 4 * halves.spec.input.elements * COPIES_HELD
    few = _first(seen, max(1, min(seen.test.count, MOST_JUDGED, used.memory_bytes // each)))
    inputs = to_input(few.test.images, halves.spec)
    if inputs.dtype != np.float32 or used.attacks == "none":
        return None
    best = max((one for one in labels if one.copies == 1), key=lambda one: one.accuracy.value, default=None)
    cloud = None
    if best is not None:
        try:
            cloud = halves.torch_cloud()
        except ModelError:  # then no attacker of its shape was the best one either
            cloud = None
    flat = np.ascontiguousarray(inputs.reshape(few.test.count, -1))
    return near_duplicates(few, flat, halves.of_flat, cloud, best, copies=used.copies, effort=used.attacks, tell=tell)


def _first(seen: Observations, count: int) -> Observations:
    test = seen.test
    private = None if test.private is None else test.private[:count]
    part = Part(test.images[:count], test.values[:count], test.labels[:count], private)
    return dataclasses.replace(seen, test=part)
