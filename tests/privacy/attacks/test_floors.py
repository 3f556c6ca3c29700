"""Floors counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.privacy.attacks.floors import floors
from edgecut.privacy.attacks.similarity import ssim
from edgecut.privacy.observations import Part


def test_labels_by_hand(tasks: Any) -> None:
    values = np.zeros((6, 8), np.float32)
    train = Part(np.zeros((6, 4)), values, np.array([0, 0, 0, 1, 1, 1]), np.array([2, 2, 1, 0, 2, 0]))
    test = Part(np.zeros((4, 4)), values[:4], np.array([0, 1, 1, 7]), np.array([2, 0, 2, 2]))
    found = floors(tasks.seen(tasks.silent(), train=train, test=test))
    # The most frequent is 2; label 0 says 2 and label 1 says 0; of label 7 nothing is known, so 2.
    assert found.chance == 0.75 and found.label_only == 0.75
    # A constant answer is as good as it can be on the unseen items, whatever is most frequent among the others.
    other = Part(test.images, test.values, test.labels, np.array([1, 1, 1, 2]))
    found = floors(tasks.seen(tasks.silent(), train=train, test=other))
    assert found.chance == 0.75 and found.label_only == 0.75
    assert found.mean_ssim_mean is None and found.label_ssim_p95 is None
    without = Part(test.images, test.values, test.labels, None)
    assert floors(tasks.seen(tasks.silent(), train=train, test=without)).label_only is None


def test_mean_images(tasks: Any) -> None:
    generator = np.random.default_rng(0)
    pattern = generator.random((2, 12, 12))
    labels = np.array([0, 1] * 20)
    images = (255 * np.clip(pattern[labels] + 0.05 * generator.standard_normal((40, 12, 12)), 0, 1)).astype(np.uint8)
    part = Part(images, np.zeros((40, 8), np.float32), labels, None)
    found = floors(tasks.seen(tasks.silent(), train=part, test=part))
    shown = images[:, None].astype(np.float32) / 255
    by_label = np.stack([shown[labels == label].mean(0) for label in labels])
    expected = ssim(by_label, shown)
    assert found.label_ssim_mean == pytest.approx(expected.mean(), abs=1e-6)
    assert found.label_ssim_p95 == pytest.approx(np.quantile(expected, 0.95), abs=1e-6)
    assert found.mean_ssim_mean is not None and found.mean_ssim_p95 is not None
    assert found.mean_ssim_mean < found.label_ssim_mean - 0.1 and found.mean_ssim_p95 < found.label_ssim_p95
