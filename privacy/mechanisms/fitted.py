"""What fitting a mechanism gives: the noise, the one number that decided it, and its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artefacts import Record
from ...noise_kernels.mechanism import Noise
from ...runtime.accuracy import NoiseAccuracy

if TYPE_CHECKING:
    from ..result import PrivateTask


class Knob(Record):
    """The one number of a mechanism that was searched or given, and what a larger one means."""

    name: str
    value: float
    meaning: str


@dataclass(frozen=True)
class Fitted:
    """A mechanism's noise and what was counted on the way.

    `hold_out` judged, `accuracy` is on unseen items; `tries` counts what was tried on the hold-out. `deviation` is the
    standard deviation of the cut's values, or for noise at the input of the input's. `closed_form_bits` is the
    mechanism's own formula for what can be learned from what is sent, None where it has none: modelled, no audit.
    `learnable` is how many numbers were fitted. `kept` says where training activations were kept. `replay`, `private`,
    `sse` and `epochs` are Shredder's alone.
    """

    noise: Noise
    accuracy: NoiseAccuracy
    hold_out: NoiseAccuracy
    deviation: float
    tries: int
    knob: Knob | None = None
    closed_form_bits: float | None = None
    learnable: int = 0
    replay: NoiseAccuracy | None = None
    private: PrivateTask | None = None
    sse: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    epochs: float | None = None
    kept: str = ""
