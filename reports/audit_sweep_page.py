"""The page of a leakage sweep: what each mechanism leaks at what accuracy, and at which cut; it opens from disk."""

from __future__ import annotations

import os
from pathlib import Path

from ..artefacts import write_bytes
from ..privacy.audited import LeakageSweep
from . import audit_words, page
from .audit_figures import sweep_figures

TITLES = {
    "loss_bits": "Bits in a message against accuracy",
    "loss_private": "Private labels read against accuracy",
    "loss_ssim": "Similarity of reconstructions against accuracy",
    "depth_bits": "Bits in a message against depth",
    "depth_private": "Private labels read against depth",
    "depth_ssim": "Similarity of reconstructions against depth",
}


def write_sweep(made: LeakageSweep, output: str | os.PathLike[str]) -> Path:
    """Write the page to `output`. Raises ArtefactError where that cannot be written."""
    return write_bytes(output, render_sweep(made).encode())


def render_sweep(made: LeakageSweep) -> str:
    """The page's text."""
    drawn = sweep_figures(made)
    values = {
        "made": made,
        "said": audit_words,
        "drawn": drawn,
        "titles": {name: TITLES[name] for name in drawn},
    }
    return page.fill("audit_sweep.html.j2", ("guard", "report"), values)
