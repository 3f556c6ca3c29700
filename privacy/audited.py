"""What an audit found: bounds in bits, attacks with their learning curves, and a verdict. A report needs no torch.

Every figure is measured on the machine and the data that the audit names. None means that something does not apply or
was not run, and `missing` says why; it never means 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..artefacts import Artefact, Record
from ..runtime.accuracy import Accuracy, NoiseAccuracy
from ..runtime.manifest import LeakageLimits as LeakageLimits


class Bound(Record):
    """Bits about the input in one message, from above or below; [low, high] is the estimate's 95 % interval.

    `cap_bits` is the most that the method could ever say (a gallery of N inputs: log2 N); at the cap a lower bound
    means that the message tells everything the method can see.
    """

    kind: Literal["upper", "lower"]
    bits: float
    low: float
    high: float
    items: int
    method: str
    cap_bits: float | None = None

    @property
    def at_cap(self) -> bool:
        """Whether the bound ends where the method ends."""
        return self.cap_bits is not None and self.high >= self.cap_bits - 0.01


class Metric(Record):
    """The paper's k-nearest-neighbour figure, in bits that are no amount of information in many dimensions."""

    scaling: str
    k: int
    samples: int
    clean_bits: float
    noisy_bits: float
    null_bits: float
    null_sd: float
    note: str


class Curve(Record):
    """How an attacker learned: the measure on items held out of its training, after so many steps."""

    steps: tuple[int, ...]
    held_out: tuple[float, ...]
    converged: bool


class LabelAttack(Record):
    """A classifier of the private labels, trained on messages under fresh noise, judged on unseen items.

    `copies` are the messages of one input that it may average. `knows_noise` says that it has the mechanism's file.
    """

    attacker: str
    knows_noise: bool
    copies: int
    accuracy: Accuracy
    curve: Curve | None
    parameters: int
    seconds: float = Field(default=0.0, ge=0)


class Reconstruction(Record):
    """A decoder from messages to inputs: structural similarity with the true ones, mean and 95th percentile.

    The figures called low and high are 95 % intervals over the items.
    """

    attacker: str
    knows_noise: bool
    copies: int
    ssim_mean: float
    ssim_p95: float
    ssim_p95_low: float
    ssim_p95_high: float
    ssim_mean_low: float
    ssim_mean_high: float
    mse: float
    curve: Curve | None
    parameters: int
    seconds: float = Field(default=0.0, ge=0)


class Clustering(Record):
    """Whether intercepted messages fall into the collection's distributions: purity of k-means against chance."""

    messages: int
    clusters: int
    purity: float
    chance: float
    purity_of: str


class NearDuplicate(Record):
    """The mean of `copies` messages of one input whose values move a little each time, as in any film.

    They move by up to `amplitude` of their range. `error` is the squared error of the activation, as a share of its
    variance; `accuracy` that of private labels, by an attacker like the one that did best on one message.
    """

    copies: int
    amplitude: float
    error: float
    accuracy: Accuracy | None


class Floors(Record):
    """What anyone can do without the message: `chance` is the most frequent private label, `label_only` is told the
    public label alone; likewise the mean image, and the mean image of each public label."""

    chance: float | None
    label_only: float | None
    mean_ssim_mean: float | None
    mean_ssim_p95: float | None
    label_ssim_mean: float | None
    label_ssim_p95: float | None


class Verdict(Record):
    """Whether all limits hold; `broken` has a sentence for each that does not."""

    holds: bool
    limits: LeakageLimits
    broken: tuple[str, ...]


class Audit(Artefact):
    """A leakage audit of a bundle, or of a mechanism at a cut (`bundle_id` is None then).

    `elements` are the cut's values, `values_sent` those that a message has. `missing` says what was not measured and
    why, `notes` what to know beside the figures that were. `near_duplicates` are of sticky noise alone.
    """

    KIND = "audit"
    VERSION: ClassVar[int] = 1

    bundle_id: str | None
    model_name: str
    model_digest: str
    cut_name: str
    mechanism: str
    place: str
    elements: int
    values_sent: int
    data: str
    private: str | None
    train_items: int
    test_items: int
    seed: int
    accuracy: NoiseAccuracy | None
    upper: Bound | None
    lower: Bound | None
    metrics: tuple[Metric, ...]
    entropy_bits: float | None
    entropy_note: str
    labels: tuple[LabelAttack, ...]
    reconstructions: tuple[Reconstruction, ...]
    clustering: Clustering | None
    near_duplicates: tuple[NearDuplicate, ...] = ()
    floors: Floors
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()
    verdict: Verdict
    seconds: float
    timings: dict[str, float]
    versions: dict[str, str]
    created_at: str

    @property
    def private_accuracy(self) -> Accuracy | None:
        """The best of all attackers on one message."""
        single = [attack.accuracy for attack in self.labels if attack.copies == 1]
        return max(single, key=lambda accuracy: accuracy.value, default=None)

    @property
    def ssim_p95(self) -> float | None:
        """The best of all decoders on one message."""
        return max((found.ssim_p95 for found in self.reconstructions if found.copies == 1), default=None)


class SweepPoint(Record):
    """One mechanism at one cut, fitted to lose so many points on the hold-out, and audited quickly on unseen items.

    `failed` says why there is nothing else where the mechanism could not be fitted.
    """

    mechanism: str
    cut_name: str
    depth: int
    allowed_loss_points: float
    accuracy: NoiseAccuracy | None = None
    elements: int | None = None
    values_sent: int | None = None
    upper: Bound | None = None
    lower: Bound | None = None
    private_accuracy: Accuracy | None = None
    ssim_p95: float | None = None
    fit_s: float | None = None
    audit_s: float | None = None
    missing: tuple[str, ...] = ()
    failed: str | None = None


class LeakageSweep(Artefact):
    """Leakage against accuracy at `cut_name` (the paper's Figure 7), and against depth at `depth_loss_points` (8).

    `key` is the digest of all that the points depend on, by which an interrupted sweep knows its own.
    """

    KIND = "leakage-sweep"
    VERSION: ClassVar[int] = 1

    key: str
    model_name: str
    model_digest: str
    cut_name: str
    data: str
    private: str | None
    mechanisms: tuple[str, ...]
    losses_points: tuple[float, ...]
    cuts: tuple[str, ...]
    depth_loss_points: float
    seed: int
    attacks: str = "quick"
    floors: Floors | None
    points: tuple[SweepPoint, ...]
    seconds: float
    versions: dict[str, str]
    created_at: str

    def leakage(self) -> dict[str, float]:
        """Each cut's least upper bound over the mechanisms at one loss, as `edgecut plan --leakage` reads it."""
        least: dict[str, float] = {}
        for point in self.points:
            if point.upper is not None and point.allowed_loss_points == self.depth_loss_points:
                least[point.cut_name] = min(point.upper.high, least.get(point.cut_name, point.upper.high))
        return {name: max(0.0, bits) for name, bits in least.items()}
