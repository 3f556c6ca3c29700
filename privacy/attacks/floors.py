"""What anyone can do without a message: figures of attackers are to be read beside these."""

from __future__ import annotations

import numpy as np

from ..audited import Floors
from ..observations import Floats, Integers, Observations
from .similarity import pictures, ssim

MOST_JUDGED, MOST_AVERAGED = 10_000, 20_000


def floors(seen: Observations) -> Floors:
    """Of the unseen items: the most frequent private label, also by public label, and likewise the mean image.

    The first is the best that any constant answer reaches on them. What is most frequent by public label and the means
    are the training part's, judged on the unseen part; a constant answer stands in for it where that is better.
    """
    chance, label_only = _labels(seen)
    rows = np.arange(min(seen.test.count, MOST_JUDGED))
    known = pictures(seen.train.images[:MOST_AVERAGED], seen.train.images)
    unseen = pictures(seen.test.images[rows], seen.train.images)
    if known is None or unseen is None:
        return Floors(
            chance=chance,
            label_only=label_only,
            mean_ssim_mean=None,
            mean_ssim_p95=None,
            label_ssim_mean=None,
            label_ssim_p95=None,
        )
    mean = ssim(np.broadcast_to(known.mean(0), unseen.shape), unseen)
    by_label = ssim(_means_by_label(known, seen.train.labels[:MOST_AVERAGED], seen.test.labels[rows]), unseen)
    return Floors(
        chance=chance,
        label_only=label_only,
        mean_ssim_mean=float(mean.mean()),
        mean_ssim_p95=float(np.quantile(mean, 0.95)),
        label_ssim_mean=float(by_label.mean()),
        label_ssim_p95=float(np.quantile(by_label, 0.95)),
    )


def _labels(seen: Observations) -> tuple[float | None, float | None]:
    known, unseen = seen.train.private, seen.test.private
    if known is None or unseen is None:
        return None, None
    chance = float(np.bincount(unseen).max() / len(unseen))
    guesses = np.full(len(unseen), np.bincount(known).argmax())
    for label in np.unique(seen.train.labels):
        guesses[seen.test.labels == label] = np.bincount(known[seen.train.labels == label]).argmax()
    return chance, max(chance, float((unseen == guesses).mean()))


def _means_by_label(images: Floats, labels: Integers, wanted: Integers) -> Floats:
    made = np.broadcast_to(images.mean(0), (len(wanted), *images.shape[1:])).copy()
    for label in np.intersect1d(labels, wanted):
        made[wanted == label] = images[labels == label].mean(0)
    return made
