"""Single figures of the privacy table's entries, as docs/privacy.md shows them; what is missing is a dash, never 0."""

from __future__ import annotations

from typing import Any

Entry = dict[str, Any]
"""One of the result's entries: an audit as JSON under "audit" and what came before it, or why it was "refused"."""
NAMES = {
    "none": "none",
    "shredder": "shredder, ordered Laplace",
    "laplace": "laplace, plain",
    "cloak": "cloak at the cut",
    "cloak_input": "cloak at the input",
    "gaussian": "gaussian, full covariance",
    "channel": "channel, Gaussian test channel",
    "scrunch": "scrunch, retrained without noise",
    "dpfe": "dpfe, retrained without noise",
}


def bits(audit: dict[str, Any]) -> str:
    """From below to above."""
    lower, upper = audit["lower"], audit["upper"]
    above = "no bound" if upper is None else f"{upper['bits']:,.1f}"
    if lower is None:
        return above
    at_cap = lower["cap_bits"] is not None and lower["high"] >= lower["cap_bits"] - 0.01
    return f"{'all' if at_cap else format(lower['bits'], '.1f')} to {above}"


def private_share(labels: list[dict[str, Any]], knows: bool | None, copies: int) -> float | None:
    """Private labels told by the best attacker of those who know the noise, who do not, or of all (None)."""
    shares = [
        attack["accuracy"]["correct"] / attack["accuracy"]["total"]
        for attack in labels
        if attack["copies"] == copies and knows in (None, attack["knows_noise"])
    ]
    return max(shares, default=None)


def ssim_p95(audit: dict[str, Any]) -> float | None:
    """The best decoder's, from one message."""
    return max((found["ssim_p95"] for found in audit["reconstructions"] if found["copies"] == 1), default=None)


def estimate(audit: dict[str, Any]) -> dict[str, Any] | None:
    """The paper's metric over standardised values, or what there is of it."""
    metrics: list[dict[str, Any]] = audit["metrics"]
    return next((m for m in metrics if m["scaling"] == "standardised"), None) or next(iter(metrics), None)


def percent(value: float | None) -> str:
    """A share, or a dash."""
    return "-" if value is None else f"{value:.1%}"


def plain(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"
