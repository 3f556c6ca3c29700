"""The link between edge and cloud: rates, round trip, and what the radio draws. Presets, or a `*.link.json` file.

Preset rates are averages of the literature: Wi-Fi uplink from Neurosurgeon's 95 ms for 152 KB (ASPLOS 2017), the
others as used by JointDNN and its followers; the round trips are assumed. Radio power is Huang et al., MobiSys 2012
(a phone of 2011): P = alpha * rate + beta, without promotion and tail energy, which depend on the gaps between
requests. A measured link (`edgecut probe`) carries its raw samples and 95 % intervals; a radio's power at its rates
comes from the same model, which is not carried beyond the preset's own rates.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from ..artefacts import Artefact, Record
from ..errors import ArtefactError, LinkError, unknown

RADIO_SOURCE = "Huang et al., MobiSys 2012, a phone of 2011, without promotion and tail"


class Transfers(Record):
    """What a probe timed again and again: seconds each, in the order they were taken.

    `ping` is one round trip between the two ends' transports, `connect` the opening of a connection, `request` the
    smallest remote call; `uplink` and `downlink` are calls that carry `size_bytes` that way.
    """

    what: Literal["ping", "connect", "request", "uplink", "downlink"]
    size_bytes: int = Field(default=0, ge=0)
    elapsed_s: tuple[float, ...]


class Link(Artefact):
    """Rates in bit/s, round trip in seconds, radio power in watts while sending and while receiving.

    Intervals are those of 95 % confidence, low and high; None where nothing was measured, or where the interval has
    no upper end. `measured_at` is the time in UTC (ISO 8601).
    """

    KIND = "link"

    name: str
    uplink_bps: float = Field(ge=1)
    downlink_bps: float = Field(ge=1)
    rtt_s: float = Field(ge=0)
    radio_tx_w: float | None = Field(default=None, ge=0)
    radio_rx_w: float | None = Field(default=None, ge=0)
    radio_source: str = ""
    provenance: Literal["measured", "published"]
    source: str
    uplink_interval_bps: tuple[float, float] | None = None
    downlink_interval_bps: tuple[float, float] | None = None
    rtt_interval_s: tuple[float, float] | None = None
    measured_at: str | None = None
    samples: tuple[Transfers, ...] = ()

    @field_validator("uplink_interval_bps", "downlink_interval_bps", "rtt_interval_s")
    @classmethod
    def _ordered(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        if interval is not None and not 0 <= interval[0] <= interval[1]:
            raise ValueError("an interval is 0 <= low <= high")
        return interval

    def uplink_s(self, size_bytes: float) -> float:
        """Seconds to send, without the round trip."""
        return size_bytes * 8 / self.uplink_bps

    def downlink_s(self, size_bytes: float) -> float:
        """Seconds to receive, without the round trip."""
        return size_bytes * 8 / self.downlink_bps


class Radio(NamedTuple):
    """Power in milliwatts at rates in Mbit/s: alpha * rate + beta, known up to the preset's two rates."""

    uplink_mbps: float
    downlink_mbps: float
    alpha_up_mw: float
    alpha_down_mw: float
    beta_mw: float

    def power_w(self, uplink_bps: float, downlink_bps: float) -> tuple[float, float]:
        """Watts while sending and while receiving; beyond the preset's rates they stay what they are there."""
        up = min(uplink_bps / 1e6, self.uplink_mbps)
        down = min(downlink_bps / 1e6, self.downlink_mbps)
        return (self.alpha_up_mw * up + self.beta_mw) * 1e-3, (self.alpha_down_mw * down + self.beta_mw) * 1e-3


RADIOS: dict[str, Radio] = {
    "wifi": Radio(12.8, 54.97, 283.17, 137.01, 132.86),
    "lte": Radio(5.85, 13.76, 438.39, 51.97, 1288.04),
    "3g": Radio(1.1, 2.03, 868.98, 122.12, 817.88),
}


def _preset(name: str, rtt_ms: float) -> Link:
    radio = RADIOS[name]
    up, down = radio.uplink_mbps, radio.downlink_mbps
    tx_w, rx_w = radio.power_w(up * 1e6, down * 1e6)
    return Link(
        name=name,
        uplink_bps=up * 1e6,
        downlink_bps=down * 1e6,
        rtt_s=rtt_ms * 1e-3,
        radio_tx_w=tx_w,
        radio_rx_w=rx_w,
        radio_source=RADIO_SOURCE,
        provenance="published",
        source=f"preset {name}: {up:g}/{down:g} Mbit/s from the literature, {rtt_ms:g} ms round trip assumed",
    )


PRESETS: dict[str, Link] = {"wifi": _preset("wifi", 5), "lte": _preset("lte", 50), "3g": _preset("3g", 100)}


def load_link(reference: str | os.PathLike[str] | Link) -> Link:
    """A preset by name, or the Link in a file. Raises LinkError naming the presets."""
    if isinstance(reference, Link):
        return reference
    text = os.fspath(reference)
    if text in PRESETS:
        return PRESETS[text]
    if not text.endswith(".json"):
        raise LinkError(unknown("link", text, PRESETS, "; or give the path of a .link.json file"))
    try:
        return Link.load(text)
    except ArtefactError as error:
        raise LinkError(str(error)) from None
