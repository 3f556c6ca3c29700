"""The link between edge and cloud: rates, round trip, and what the radio draws. Presets, or a `*.link.json` file.

Preset rates are averages of the literature: Wi-Fi uplink from Neurosurgeon's 95 ms for 152 KB (ASPLOS 2017), the
others as used by JointDNN and its followers; the round trips are assumed. Radio power is Huang et al., MobiSys 2012
(a phone of 2011): P = alpha * rate + beta, without promotion and tail energy, which depend on the gaps between
requests.
"""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from ..artefacts import Artefact
from ..errors import ArtefactError, LinkError, unknown

RADIO_SOURCE = "Huang et al., MobiSys 2012, a phone of 2011, without promotion and tail"


class Link(Artefact):
    """Rates in bit/s, round trip in seconds, radio power in watts while sending and while receiving."""

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

    def uplink_s(self, size_bytes: float) -> float:
        """Seconds to send, without the round trip."""
        return size_bytes * 8 / self.uplink_bps

    def downlink_s(self, size_bytes: float) -> float:
        """Seconds to receive, without the round trip."""
        return size_bytes * 8 / self.downlink_bps


def _preset(
    name: str, rates_mbps: tuple[float, float], rtt_ms: float, alphas_mw: tuple[float, float], beta_mw: float
) -> Link:
    up, down = rates_mbps
    return Link(
        name=name,
        uplink_bps=up * 1e6,
        downlink_bps=down * 1e6,
        rtt_s=rtt_ms * 1e-3,
        radio_tx_w=(alphas_mw[0] * up + beta_mw) * 1e-3,
        radio_rx_w=(alphas_mw[1] * down + beta_mw) * 1e-3,
        radio_source=RADIO_SOURCE,
        provenance="published",
        source=f"preset {name}: {up:g}/{down:g} Mbit/s from the literature, {rtt_ms:g} ms round trip assumed",
    )


PRESETS: dict[str, Link] = {
    "wifi": _preset("wifi", (12.8, 54.97), 5, (283.17, 137.01), 132.86),
    "lte": _preset("lte", (5.85, 13.76), 50, (438.39, 51.97), 1288.04),
    "3g": _preset("3g", (1.1, 2.03), 100, (868.98, 122.12), 817.88),
}


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
