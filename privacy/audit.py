"""`edgecut audit`: what a message tells of its input, as bounds in bits, as attacks, and as a verdict.

It looks at the two halves as they are deployed. All that attackers train on is the data's training part under fresh
noise, and all that is reported is of the unseen part, which neither the network nor the noise was made with. The
network's answers, the bounds and the attackers share one set of activations, of at most a gigabyte; how many items that
is, is stated. What does not apply or cannot be measured is missing with its reason, and never counts as harmless.
"""

from __future__ import annotations

import datetime
import itertools
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..artefacts import digest, installed_versions
from ..errors import DataError, DeviceError
from ..models.catalogue import CATALOGUE
from ..models.data import DataSet, load_data, to_input
from ..models.load import Model
from ..models.spec import CutSpec
from ..noise_kernels.element_noise import MAPPED
from ..noise_kernels.mechanism import Noise
from ..runtime.manifest import Leakage
from ..runtime.record_leakage import record_leakage
from .audit_attacks import attacked, collection, near_duplicates
from .audit_halves import Halves, of_bundle, of_model
from .audit_items import accuracy_of, observe, unprotected
from .audit_settings import AuditSettings as AuditSettings
from .audit_stages import Progress, Stages
from .audit_verdict import judge
from .audited import Audit, Bound, Metric
from .audited import LeakageLimits as LeakageLimits
from .information import SCALINGS, paper_metric
from .observations import Observations

if TYPE_CHECKING:
    from .attacks.reconstruction import Samples

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Page = Callable[[Audit, "Samples | None"], object]
VERSIONS = ("edgecut", "torch", "numpy", "scipy", "onnxruntime", "onnxruntime-gpu")
METRIC_BYTES = 256 << 20
LEAST_METRIC_SAMPLES = 100


def audit(
    bundle: str | os.PathLike[str],
    *,
    data: str | None = None,
    private: str | None = None,
    settings: AuditSettings | None = None,
    limits: LeakageLimits | None = None,
    progress: Progress | None = None,
    page: Page | None = None,
) -> Audit:
    """Audit a bundle on labelled data, by default its network's own, and hold what is found against the limits.

    `private` names the labels that are to be hidden. `page` is called with the audit and with reconstructed images,
    which are kept nowhere else. The bundle is only read; `record` writes the verdict into it. Raises BundleError,
    DataError, and DeviceError without torch.
    """
    used = settings or AuditSettings()
    used.check()
    _check_torch()
    stages = Stages(progress)
    stages.start("data")
    halves = of_bundle(bundle)
    return _audit(halves, _data(halves, data, private), used, limits or LeakageLimits(), stages, page)


def audit_noise(
    model: Model,
    cut: CutSpec,
    noise: Noise,
    data: DataSet,
    *,
    settings: AuditSettings | None = None,
    limits: LeakageLimits | None = None,
    progress: Progress | None = None,
    page: Page | None = None,
) -> Audit:
    """Audit noise at a model's cut as it would be deployed, without a bundle. Raises ArtefactError for other noise."""
    used = settings or AuditSettings()
    used.check()
    _check_torch()
    stages = Stages(progress)
    stages.start("data")
    return _audit(of_model(model, cut, noise), data, used, limits or LeakageLimits(), stages, page)


def record(found: Audit, bundle: str | os.PathLike[str]) -> str:
    """Write the verdict into the manifest of the bundle that was audited, and return the bundle's new id.

    Raises BundleError where the bundle is another by now: written anew, or given another verdict.
    """
    private, upper, lower = found.private_accuracy, found.upper, found.lower
    return record_leakage(
        bundle,
        Leakage(
            audit_digest=digest(found.to_json().encode()),
            data=found.data,
            private=found.private,
            upper_bits=None if upper is None else upper.bits,
            lower_bits=None if lower is None else lower.bits,
            private_accuracy=None if private is None else private.value,
            ssim_p95=found.ssim_p95,
            limits=found.verdict.limits,
            holds=found.verdict.holds,
            broken=found.verdict.broken,
            audited_at=found.created_at,
        ),
        expect_id=found.bundle_id,
    )


def _audit(
    halves: Halves, data: DataSet, used: AuditSettings, limits: LeakageLimits, stages: Stages, page: Page | None
) -> Audit:
    from ..models.training import one_thread

    stages.start("activations")
    seen = observe(halves, data, used, stages)
    with one_thread():
        accuracy = stages.attempt("accuracy", "accuracy", lambda: accuracy_of(halves, seen, data, used), "")
        if accuracy is not halves.accuracy and MAPPED in halves.names:
            stages.notes.append(
                "the public task without noise is through the mechanism's map, which is part of the bundle's halves"
            )
        upper, lower = _bounds(halves, seen, used, stages)
        metrics = _metrics(halves, seen, used, stages)
        labels, reconstructions, samples = attacked(halves, seen, data, used, stages)
        alike = near_duplicates(halves, seen, labels, used, stages)
        clustering, floors = collection(seen, stages)
    entropy_bits, entropy_note = _entropy(halves.noise)
    stages.start("")
    private = data.private
    found = Audit(
        bundle_id=halves.bundle_id,
        model_name=halves.spec.name,
        model_digest=halves.spec.digest,
        cut_name=halves.cut_name,
        mechanism=getattr(halves.noise, "mechanism", "shredder"),
        place=halves.noise.place,
        elements=_elements(halves),
        values_sent=halves.width if halves.noise.place == "input" else halves.noise.values,
        data=data.name,
        private=None if private is None else private.name,
        train_items=seen.train.count,
        test_items=seen.test.count,
        seed=used.seed,
        accuracy=accuracy,
        upper=upper,
        lower=lower,
        metrics=metrics,
        entropy_bits=entropy_bits,
        entropy_note=entropy_note,
        labels=labels,
        reconstructions=reconstructions,
        clustering=clustering,
        near_duplicates=alike,
        floors=floors,
        missing=tuple(stages.missing),
        notes=tuple(stages.notes),
        verdict=judge(limits, upper, labels, reconstructions, floors),
        seconds=time.perf_counter() - stages.began_s,
        timings=stages.timings,
        versions=installed_versions(VERSIONS),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    if page is not None:
        page(found, samples)
    return found


def _check_torch() -> None:
    try:
        import torch  # noqa: F401 - said here in one sentence, not deep inside
    except ImportError:
        raise DeviceError("attackers are trained with torch; install edgecut[torch]") from None


def _data(halves: Halves, source: str | None, private: str | None) -> DataSet:
    name = halves.spec.name
    named = source or (CATALOGUE[name].data if name in CATALOGUE else None)
    if named is None:
        raise DataError(f"auditing {name} needs labelled data; give --data FILE.npz")
    return load_data(named, private)


def _elements(halves: Halves) -> int:
    """Values of the cut as the model has it; a bundle's edge half gives those that its map makes of them."""
    if halves.noise.place == "input":
        return halves.width
    known = [cut for cut in halves.spec.cuts if cut.name == halves.cut_name]
    return known[0].elements if known else halves.noise.n


def _bounds(
    halves: Halves, seen: Observations, used: AuditSettings, stages: Stages
) -> tuple[Bound | None, Bound | None]:
    from .bounds import lower_bound, upper_bound

    no_noise = "there is no density to reckon with where some values get no noise: they are sent as they are"
    upper = stages.attempt(
        "upper", "bits from above", lambda: upper_bound(seen, tell=stages.tell), f"{no_noise}, and tell everything"
    )
    if halves.steps:  # rounding can only take from what a message tells, so that the bound from above holds
        stages.missing.append("bits from below: no likelihood is known of values rounded to int8")
        return upper, None
    at_input = "no likelihood is known of what the edge partition makes of a noisy input"
    lower = stages.attempt(
        "lower",
        "bits from below",
        lambda: lower_bound(seen, gallery=min(used.gallery, seen.test.count), tell=stages.tell),
        at_input if seen.noise.place == "input" else no_noise,
    )
    return upper, lower


def _metrics(halves: Halves, seen: Observations, used: AuditSettings, stages: Stages) -> tuple[Metric, ...]:
    if not used.metric_samples:
        stages.missing.append("the paper's metric: it was not asked for")
        return ()
    found = stages.attempt("metric", "the paper's metric", lambda: _metric_rows(halves, seen, used, stages), "")
    return () if found is None else found


def _metric_rows(halves: Halves, seen: Observations, used: AuditSettings, stages: Stages) -> tuple[Metric, ...]:
    columns = halves.spec.input.elements + seen.width
    most = max(LEAST_METRIC_SAMPLES, METRIC_BYTES // (8 * columns))
    rows = np.arange(min(used.metric_samples, seen.test.count, most))
    x = to_input(seen.test.images[rows], halves.spec).reshape(len(rows), -1).astype(np.float32)
    clean = unprotected(halves, seen, rows)
    noisy = seen.sent("test", rows, "metric")
    estimates = []
    for number, (scaling, y) in enumerate(itertools.product(SCALINGS, (clean, noisy))):

        def tell(text: str, share: float, done: int = number) -> None:
            stages.tell(f"the paper's metric, {text}", (done + share) / (2 * len(SCALINGS)))

        estimates.append(paper_metric(x, y, scale=scaling, seed=used.seed, shuffles=3, progress=tell))
    found = []
    for before, after in zip(estimates[::2], estimates[1::2], strict=True):
        found.append(
            Metric(
                scaling=after.scaling,
                k=after.k,
                samples=after.samples,
                clean_bits=before.bits,
                noisy_bits=after.bits,
                null_bits=after.null_bits,
                null_sd=after.null_sd,
                note=after.note,
            )
        )
    return tuple(found)


def _entropy(noise: Noise) -> tuple[float | None, str]:
    """The noise's differential entropy, and what it is of."""
    if not math.isfinite(noise.entropy_nats):
        return None, "some values get no noise at all, so that the noise has no density"
    known = "the collection and the distribution drawn" if hasattr(noise, "orders") else "the noise file"
    return noise.entropy_nats / math.log(2), f"exact, in bits, for who knows {known}; {noise.values:,} values"
