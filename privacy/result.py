"""What `edgecut learn` found: a value with everything but the noise itself and the tensors, which are discarded."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from ..artefacts import Record
from ..noise_kernels.mechanism import Noise
from ..runtime.accuracy import NoiseAccuracy
from .mechanisms.fitted import Knob


class PrivateTask(Record):
    """How well the private labels can still be read by a classifier that was trained without noise and then frozen.

    An attacker who trains on noisy activations does better; these figures say nothing about that one.
    """

    name: str
    classes: int
    most_frequent: float
    accuracy: NoiseAccuracy
    retrained: bool = False


class Timings(Record):
    """Where the time went, in seconds. `search` and `gates` take place on the hold-out, `test` on unseen items.

    `model_s` is loading (or training) the network, `data_s` loading the data and opening the partitions.
    """

    model_s: float
    data_s: float
    activations_s: float
    private_s: float
    learning_s: float
    search_s: float
    gates_s: float
    test_s: float


class Learned(Record):
    """A mechanism's noise, how it was reached, and what it costs.

    `values_sent` are the values that cross for an item; `entropy_bits` is the noise's exact entropy for who has its
    file, None where it has none; `knob` is the one number that was searched or given; `closed_form_bits` is what the
    mechanism's own formula says that can be learned from what is sent, modelled, None where it has none (an audit
    bounds it). What only Shredder's mechanism has (recipe, distributions, replay, private, epochs) is None elsewhere.

    `accuracy` is of sampled noise on unseen data and `hold_out` of sampled noise on the part of the training data that
    judged. A network's own training images are memorised: what is lost on them is not what is lost on unseen ones.
    `replay` is of the learned tensors themselves on unseen data; the paper's recipe has them, and nobody deploys them.
    `scale` is the distributions' b in standard deviations of the activation, `scale_absolute` in the activation's
    unit; only Laplace noise of one scale has them. `sse` has one value for each tensor that a distribution was fitted
    to. `epochs` are items shown over training items, for one distribution. `tries` counts what was tried on the
    hold-out.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    noise: Noise = Field(exclude=True)
    mechanism: str
    place: str
    recipe: str | None
    distributions: int | None
    elements: int
    values_sent: int
    entropy_bits: float | None
    knob: Knob | None
    closed_form_bits: float | None
    accuracy: NoiseAccuracy
    hold_out: NoiseAccuracy
    replay: NoiseAccuracy | None
    private: PrivateTask | None
    scale: float | None
    scale_absolute: float | None
    deviation: float
    tries: int
    sse: tuple[float, ...]
    epochs: float | None
    learnable_parameters: int
    model_parameters: int
    footprint_bytes: int
    elapsed_s: float
    timings: Timings
    kept: str
    notes: tuple[str, ...]
