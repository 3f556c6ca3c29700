"""The fitted constants of devices under runtimes: profiler/published/constants.json.

Written by benchmarks/calibrate_published.py from the figures in profiler/published/. Constants are free of units, in
proportion to what the device's description says, so that they carry over to its other modes and to other devices.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

from pydantic import Field

from ..artefacts import Record
from ..errors import DeviceError, unknown
from .description import DeviceDescription, Precision
from .figures import folder

Basis = Literal["calibrated", "extrapolated", "other devices"]
DOUBTS = {"mode": math.log(1.15), "precision": math.log(1.25), "batch": math.log(1.25), "runtime": math.log(1.3)}
"""Half-widths added in quadrature on the log scale for what nobody timed. Set by hand: no source tells them."""


class Constants(Record):
    """What a runtime makes of a device.

    `winograd`, `spatial`, `pointwise`, `depthwise`: shares of the single-precision peak that large operations reach.
    The four are 3x3 convolutions of stride 1 and one group (above 1 where Winograd's algorithm saves multiplications),
    convolutions with other windows, 1x1 convolutions and matrix products, depthwise convolutions. `bandwidth`: share of
    the memory's peak, `stream`: the same for linear layers, mostly weights. `fill`: outputs per lane that halve the
    efficiency. `overhead`: multiples of the device's seconds per layer. `host`: the same, once per inference.
    `copy_share`: copies run at this share of the memory's peak. `gain`, `depthwise_gain`: exponents of the peaks' ratio
    at lower precision.
    """

    winograd: float = Field(gt=0)
    spatial: float = Field(gt=0)
    pointwise: float = Field(gt=0)
    depthwise: float = Field(gt=0)
    bandwidth: float = Field(gt=0, le=1)
    stream: float = Field(gt=0, le=1)
    fill: float = Field(ge=0)
    overhead: float = Field(gt=0)
    host: float = Field(gt=0)
    copy_share: float = Field(gt=0)
    gain: float = Field(ge=0, le=1)
    depthwise_gain: float = Field(ge=0, le=1)


class Calibrated(Record):
    """Constants of one device and mode under one runtime; `half_width` is half the 90 % interval on the log scale."""

    device: str
    runtime: str
    benchmark: str
    constants: Constants
    half_width: float = Field(gt=0)
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    figures: int
    sources: tuple[str, ...]


class RuntimeConstants(Record):
    """Constants of a runtime on devices without figures; `half_width` from leaving out one device at a time."""

    runtime: str
    constants: Constants
    half_width: float = Field(gt=0)
    devices: tuple[str, ...]


class Chosen(Record):
    """The constants that a prediction uses, and why these."""

    constants: Constants
    half_width: float
    basis: Basis
    source: str


class Calibration(Record):
    """All fitted constants."""

    devices: tuple[Calibrated, ...]
    runtimes: tuple[RuntimeConstants, ...]

    def choose(
        self, device: DeviceDescription, runtime: str, precision: Precision, batch: int, like: str | None = None
    ) -> Chosen:
        """The device's own constants, in this mode or else in another one, or else the runtime's.

        Those of the runtime `like` are taken where it is given. What differs from what was timed widens the interval.
        Raises DeviceError for a runtime without constants.
        """
        name = like or runtime
        changed = {"runtime": f"under {name}"} if like else {}
        own = [each for each in self.devices if each.runtime == name and not each.benchmark]
        same_mode = [each for each in own if each.device == device.reference]
        for entry in same_mode or [each for each in own if each.device.partition(":")[0] == device.name]:
            changed |= {"mode": f"on {entry.device}"} if not same_mode else {}
            changed |= {"precision": f"in {', '.join(entry.precisions)}"} if precision not in entry.precisions else {}
            changed |= {"batch": f"at batch {', '.join(map(str, entry.batches))}"} if batch not in entry.batches else {}
            text = f"constants fitted to {entry.figures} published latencies ({'; '.join(entry.sources)})"
            return _chosen(entry, "extrapolated" if changed else "calibrated", text, changed)
        for family in self.runtimes:
            if family.runtime == name:
                text = f"no published latency of this device was used, but constants of {', '.join(family.devices)}"
                return _chosen(family, "other devices", text, changed)
        raise DeviceError(unknown("calibrated runtime", name, [family.runtime for family in self.runtimes]))


def _chosen(entry: Calibrated | RuntimeConstants, basis: Basis, source: str, changed: dict[str, str]) -> Chosen:
    return Chosen(
        constants=entry.constants,
        half_width=math.hypot(entry.half_width, *(DOUBTS[what] for what in changed)),
        basis=basis,
        source=f"{source}, timed {' '.join(changed.values())}" if changed else source,
    )


@functools.cache
def load_calibration() -> Calibration:
    """The constants that come with edgecut."""
    return Calibration.model_validate_json((folder() / "constants.json").read_text("utf-8"))
