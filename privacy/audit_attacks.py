"""The part of an audit that attacks: who tries, on what, and what is said where somebody cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import EdgecutError
from ..models.data import DataSet
from .audit_halves import Halves
from .audit_settings import AuditSettings
from .audit_stages import Stages
from .audited import Clustering, Floors, LabelAttack, NearDuplicate, Reconstruction
from .observations import Observations

if TYPE_CHECKING:
    from .attacks.reconstruction import Samples


def attacked(
    halves: Halves, seen: Observations, data: DataSet, used: AuditSettings, stages: Stages
) -> tuple[tuple[LabelAttack, ...], tuple[Reconstruction, ...], Samples | None]:
    """On the private labels and on the images, with the best decoder's samples for a page."""
    if used.attacks == "none":
        stages.missing.append("attacks: they were not asked for (--attacks none)")
        return (), (), None
    from .attacks.label import label_attacks
    from .attacks.reconstruction import reconstruction_attacks

    effort, labels, cloud = used.attacks, None, None
    try:
        cloud = halves.torch_cloud()
    except EdgecutError as error:
        stages.missing.append(f"attackers in the cloud partition's shape: {error}")
    if halves.steps:
        stages.notes.append("attackers see the values before they are rounded to int8, which tell no less")
    if data.private is None:
        stages.missing.append("attacks on private labels: there are none (--private NAME)")
    elif len(np.unique(data.private.train)) < 2:
        stages.missing.append(f"attacks on private labels: all of '{data.private.name}' are the same")
    else:
        labels = stages.attempt(
            "labels",
            "attacks on private labels",
            lambda: label_attacks(seen, cloud, used.copies, effort, stages.tell, halves.sticky),
            "no attacker applies",
        )
    if halves.sticky:
        stages.notes.append(
            "the same input always gets the same noise, so that averaging its messages gains nothing, unlike those of "
            "almost equal inputs"
        )
    copies = (1,) if halves.sticky else used.copies
    made = stages.attempt(
        "reconstruction",
        "reconstruction",
        lambda: _with_pictures(reconstruction_attacks(seen, effort, copies, stages.tell)),
        "the inputs are no images",
    )
    if made is None:
        return labels or (), (), None
    found, samples = made
    stages.notes.append(
        f"from activations without noise a decoder reaches an SSIM of {samples.clean_ssim_mean:.3f} in the mean and "
        f"{samples.clean_ssim_p95:.3f} at the 95th percentile"
    )
    return labels or (), found, samples


def _with_pictures(
    made: tuple[tuple[Reconstruction, ...], Samples | None],
) -> tuple[tuple[Reconstruction, ...], Samples] | None:
    found, samples = made
    return None if samples is None else (found, samples)


def near_duplicates(
    halves: Halves, seen: Observations, labels: tuple[LabelAttack, ...], used: AuditSettings, stages: Stages
) -> tuple[NearDuplicate, ...]:
    """What sticky noise leaves open: messages of almost equal inputs, averaged."""
    if not halves.sticky or used.attacks == "none":
        return ()
    from .audit_sticky import almost_equal

    found = stages.attempt(
        "near-duplicates",
        "messages of almost equal inputs",
        lambda: almost_equal(halves, seen, labels, used, stages.tell),
        "the model's input is no float32, and cannot move a little",
    )
    return found or ()


def collection(seen: Observations, stages: Stages) -> tuple[Clustering | None, Floors]:
    """Whether messages give away their distribution, and what anyone can do without a message."""
    from .attacks.clusters import clustering
    from .attacks.floors import floors

    several = getattr(seen.noise, "distributions", 1) > 1
    found = None
    if several:
        found = stages.attempt("clustering", "clustering of messages", lambda: clustering(seen), "it found no clusters")
    stages.start("floors")
    return found, floors(seen)
