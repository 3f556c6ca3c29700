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
        return above if upper is None else f"unknown to {above}"
    at_cap = lower["cap_bits"] is not None and lower["high"] >= lower["cap_bits"] - 0.01
    return f"{'all' if at_cap else format(lower['bits'], '.1f')} to {above}"


def best_label(labels: list[dict[str, Any]], knows: bool | None, copies: int) -> dict[str, Any] | None:
    """The best attacker on private labels of those who know the noise, who do not, or of all (None)."""
    fit = [one for one in labels if one["copies"] == copies and knows in (None, one["knows_noise"])]
    return max(fit, key=_share, default=None)


def _share(attack: dict[str, Any]) -> float:
    return float(attack["accuracy"]["correct"] / attack["accuracy"]["total"])


def private_share(labels: list[dict[str, Any]], knows: bool | None, copies: int) -> float | None:
    """Private labels told by `best_label`."""
    best = best_label(labels, knows, copies)
    return None if best is None else _share(best)


def best_decoder(audit: dict[str, Any]) -> dict[str, Any] | None:
    """From one message, by the 95th percentile."""
    single = [found for found in audit["reconstructions"] if found["copies"] == 1]
    return max(single, key=lambda found: float(found["ssim_p95"]), default=None)


def ssim_p95(audit: dict[str, Any]) -> float | None:
    """The best decoder's, from one message."""
    best = best_decoder(audit)
    return None if best is None else float(best["ssim_p95"])


def mark(attack: dict[str, Any] | None) -> str:
    """A star behind the figure of an attacker that had not converged, and could have done better."""
    return "*" if attack is not None and attack.get("converged") is False else ""


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
