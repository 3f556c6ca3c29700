"""What `edgecut retrain` did to a network: accuracies, losses and the spread at the cut, all measured."""

from __future__ import annotations

from ...artefacts import Record
from ...runtime.accuracy import Accuracy


class Epoch(Record):
    """Means over one pass of the training part, and the accuracy after it on the items that are only watched."""

    cross_entropy: float
    privacy_loss: float
    held_out: Accuracy | None


class Spread(Record):
    """How far activations at the cut lie from the mean of their public class, on unseen items.

    `within` is the mean squared distance, in the activation's own unit: it also falls where all activations shrink.
    `share` is that over the mean squared distance from the overall mean, which shrinking does not change.
    """

    within: float
    share: float


class Retrained(Record):
    """A retrained network. Accuracies and spreads are of unseen items, of the files that ONNX Runtime runs.

    `cut` is the one to plan with, `cut_before` where the method was asked to work; they differ where layers were added.
    `changed` counts the trained weights, `added` those of new layers among them, `edge` those before the cut.
    `watched_before` is the accuracy before on the items that the epochs' `held_out` are of.
    `difference` is the largest one between the file's logits under ONNX Runtime and torch's.
    """

    method: str
    model_name: str
    digest_before: str
    digest_after: str
    cut_before: str
    cut: str
    values_before: int
    values_sent: int
    data: str
    private: str | None
    weight: float
    learning_rate: float
    batch: int
    seed: int
    before: Accuracy
    after: Accuracy
    watched_before: Accuracy | None
    spread_before: Spread
    spread_after: Spread
    epochs: tuple[Epoch, ...]
    changed: int
    added: int
    edge: int
    parameters: int
    difference: float
    seconds: float

    @property
    def loss_points(self) -> float:
        """Accuracy lost on unseen items, in percentage points; negative where the training gained some."""
        return 100 * (self.before.value - self.after.value)
