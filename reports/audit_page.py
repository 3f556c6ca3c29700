"""The page of an audit: one file that opens from disk, with its figures and the reconstructed images in it.

The images are of the user's own unseen items; they are in this page alone, and in no file that is recorded or deployed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from ..artefacts import write_bytes
from ..privacy.audited import Audit
from . import audit_words, page, units
from .audit_figures import audit_figures
from .audit_pictures import address

Images = npt.NDArray[Any]
MOST_PICTURES = 16


class Pictures(Protocol):
    """Unseen images, uint8 [count, ...], and what decoders made of their messages without noise and of what is sent."""

    @property
    def truth(self) -> Images: ...

    @property
    def from_clean(self) -> Images: ...

    @property
    def from_messages(self) -> Images: ...

    @property
    def attacker(self) -> str: ...


def write_audit(audit: Audit, pictures: Pictures | None, output: str | os.PathLike[str]) -> Path:
    """Write the page to `output`. Raises ArtefactError where that cannot be written."""
    return write_bytes(output, render_audit(audit, pictures).encode())


def render_audit(audit: Audit, pictures: Pictures | None = None) -> str:
    """The page's text."""
    values = {
        "audit": audit,
        "said": audit_words,
        "drawn": audit_figures(audit),
        "pictures": [] if pictures is None else _rows(pictures),
        "decoder": "" if pictures is None else pictures.attacker,
        "tiles": _tiles(audit),
    }
    return page.fill("audit.html.j2", ("guard", "report"), values)


def _rows(pictures: Pictures) -> list[tuple[str, list[str]]]:
    kinds = (
        ("the input", pictures.truth),
        ("without noise", pictures.from_clean),
        ("from what is sent", pictures.from_messages),
    )
    return [(name, [address(image) for image in images[:MOST_PICTURES]]) for name, images in kinds]


def _tiles(audit: Audit) -> list[dict[str, str]]:
    limits, private = audit.verdict.limits, audit.private_accuracy
    upper = None if audit.upper is None else audit.upper.bits
    accuracy = audit.accuracy
    return [
        _tile(
            "Bits in a message, at most",
            None if upper is None else f"{upper:,.2f}",
            audit_words.sandwich(audit.upper, audit.lower),
            _tone(limits.max_bits, None if audit.upper is None else audit.upper.high),
        ),
        _tile(
            f"Private label read{'' if audit.private is None else f': {audit.private}'}",
            None if private is None else f"{100 * private.value:.2f} %",
            "the best attacker on one message"
            + (
                ""
                if audit.floors.label_only is None
                else f"; the public label alone gives {units.percent(audit.floors.label_only)}"
            ),
            _tone(limits.max_private_accuracy, None if private is None else private.high),
        ),
        _tile(
            "Similarity of reconstructions",
            None if audit.ssim_p95 is None else f"{audit.ssim_p95:.3f}",
            "SSIM, 95th percentile, the best decoder on one message",
            _tone(limits.max_ssim, audit.ssim_p95),
        ),
        _tile(
            "Accuracy lost",
            None if accuracy is None else f"{accuracy.loss_points:.2f} points",
            ""
            if accuracy is None
            else f"{units.percent(accuracy.without.value)} without noise, "
            f"{units.percent(accuracy.with_noise.value)} with",
            "",
        ),
    ]


def _tile(label: str, value: str | None, note: str, tone: str) -> dict[str, str]:
    if value is None:
        return {
            "label": label,
            "value": "unavailable",
            "note": "see what is missing",
            "tone": "none",
            "of": "unavailable",
        }
    return {"label": label, "value": value, "note": note, "tone": tone, "of": "measured"}


def _tone(limit: float | None, worst: float | None) -> str:
    return "" if limit is None or worst is None else "good" if worst <= limit else "bad"
