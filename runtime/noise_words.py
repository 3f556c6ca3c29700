"""What a person is told of a bundle's noise, and of what an audit found to leak."""

from __future__ import annotations

import math

from .contents import Verified
from .manifest import EdgeManifest, Leakage, LeakageLimits, Manifest


def noise_words(found: Verified) -> tuple[str, ...]:
    """A line on the mechanism and one on the audit; none for a cloud side, which knows of neither."""
    if found.edge is None:
        return ()
    lines = [_mechanism(found.edge)]
    if isinstance(found.manifest, Manifest):
        lines.append(_leakage(found.manifest.leakage))
    return tuple(lines)


def _mechanism(edge: EdgeManifest) -> str:
    values = sum(math.prod(tensor.shape) for tensor in edge.cut)
    dtype = "float32" if edge.wire is None else edge.wire.dtype
    plural = "value is" if values == 1 else "values are"
    line = f"mechanism {edge.mechanism}: {values} {dtype} {plural} sent of each input"
    return line + ("; the same input always gets the same noise" if edge.sticky else "")


def _leakage(leakage: Leakage | None) -> str:
    if leakage is None:
        return "leakage: not audited; see edgecut audit"
    figures = [
        f"{what} {value:.{places}f}{unit}"
        for what, value, places, unit in (
            ("at most", leakage.upper_bits, 1, " bits"),
            ("at least", leakage.lower_bits, 1, " bits"),
            ("private labels told right", _percent(leakage.private_accuracy), 1, " %"),
            ("SSIM of reconstructions, 95th percentile", leakage.ssim_p95, 3, ""),
        )
        if value is not None
    ]
    verdict = "no limits were given"
    if not leakage.holds:
        verdict = f"limits broken: {'; '.join(leakage.broken) or 'unsaid'}"
    elif leakage.limits != LeakageLimits():
        verdict = "all limits hold"
    return f"leakage, measured on {leakage.data}: {', '.join(figures) or 'no figure'}; {verdict}"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
