"""What sticky noise leaves: the same input always gets the same noise, an almost equal one does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from privacy_tasks import Task

from edgecut.models.data import to_input
from edgecut.noise_kernels.mechanism import Noise
from edgecut.privacy.audit import observe
from edgecut.privacy.audit_halves import of_model
from edgecut.privacy.audit_settings import AuditSettings


class _Quiet:
    """In the place of an audit's stages."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def tell(self, text: str, share: float) -> None:
        """Nothing is shown."""


def near_duplicates_of(made: Task, noise: Noise, settings: AuditSettings) -> list[dict[str, Any]]:
    """The squared error of the activation that is left when messages of almost the same image are averaged."""
    from edgecut.privacy.attacks.near_duplicates import near_duplicates

    halves = of_model(made.model, made.cut, noise)
    stages: Any = _Quiet()
    seen = observe(halves, made.data, settings, stages)
    images = to_input(seen.test.images, made.model.spec)
    flat = np.ascontiguousarray(images.reshape(len(images), -1), np.float32)
    return [found.model_dump(mode="json") for found in near_duplicates(seen, flat, halves.of_flat)]
