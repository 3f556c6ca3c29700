"""How many bits about the input one message gives away, from above and from below, each with its 95 % interval.

Above: I(x; y) <= E[-log2 q(y)] - h(noise) for any density q. Here q is fitted to training items, and the expectation
is taken over unseen items under fresh noise: an unbiased estimate of a bound that holds whatever q is. It is as near
as the fit. Below: InfoNCE with the mechanism's own likelihood p(y | x) as critic, over a gallery of unseen inputs: the
mean of log2(p(y | x_i) / mean_j p(y | x_j)), never more than log2 of the gallery.

Both are about one message and the distribution that the data come from; in many values a figure above is mostly about
what the noise does not hide of the activation, wanted or not. Clean numbers are float32, so noise near float32's
rounding hides what rounding hides, which these bounds do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from ..errors import DataError
from ..noise_kernels.collection import NoiseCollection
from .audited import Bound
from .bound_densities import RANK, Gaussians, Spread, covariance, few_directions
from .bound_noise import DENSE, Channel, Messages
from .likelihood import log_densities
from .observations import Observations

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Tell = Callable[[str, float], None]

FIT_BYTES = 300 << 20
VALIDATION_ITEMS = 1000
CHOICE_ITEMS, CHOICE_DISTRIBUTIONS = 300, 3
JUDGED_VALUES = 25_000_000
JUDGED_MESSAGES = 4000
CENTRES = 2048
PAIR_VALUES = 3_000_000_000
"""Products of messages, candidates and values that a comparison of all with all may take: some seconds."""
CHOLESKY_WORK = 3e10
LEAST_SHARE = 0.01
SHRINKAGES = (0.0, 0.03, 0.1, 0.3, 1.0)
RANKS = (0, 16, 64, RANK)
OWN_RANK = 64
COMMON_SHARES = (0.1, 0.5)
LEAST_ITEMS = 20


@dataclass(frozen=True)
class _Density:
    """A density q for messages: ln q(y), given the distribution of y's noise; above 0 everywhere, or not."""

    words: str
    everywhere: bool
    log: Callable[[Messages], Floats]


def upper_bound(seen: Observations, tell: Tell | None = None) -> Bound | None:
    """Bits about the input in one message, at most; None where the noise leaves a value bare, and nothing bounds it.

    Raises DataError with fewer than 20 items to fit to or to judge on.
    """
    if not math.isfinite(seen.noise.entropy_nats):
        return None
    tell = tell or (lambda *_: None)
    channel = Channel(seen, "upper bound")
    densities, judged = _fit(channel, tell)
    logs = np.stack([density.log(judged) for density in densities])
    shares = _shares(logs)
    # One density that misses no message belongs to the mixture, or a single unseen one could make the bound infinite.
    whole = max((k for k, density in enumerate(densities) if density.everywhere), key=lambda k: float(logs[k].mean()))
    shares[whole] = max(shares[whole], LEAST_SHARE)
    kept = np.flatnonzero(shares >= LEAST_SHARE)
    shares = shares[kept] / shares[kept].sum()
    densities = [densities[k] for k in kept]
    control = _control(channel, judged, logsumexp(logs[kept], axis=0, b=shares[:, None]))
    del judged
    items = min(seen.test.count, max(LEAST_ITEMS, JUDGED_VALUES // channel.n))
    rows = np.sort(np.random.default_rng(seen.seed).permutation(seen.test.count)[:items])
    draws = max(1, min(8, JUDGED_MESSAGES // items, JUDGED_VALUES // (items * channel.n)))
    tell("unseen messages", 0.6)
    drawn = [channel.messages("test", rows, draw) for draw in range(draws)]
    messages = Messages(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
    del drawn
    log_q = logsumexp(np.stack([density.log(messages) for density in densities]), axis=0, b=shares[:, None])
    nats = _excess(channel, messages, log_q) - control * messages.surprise
    bits = nats.reshape(draws, items).mean(0) / math.log(2)
    tell("unseen messages", 1.0)
    words = ", ".join(f"{density.words} ({share:.0%})" for density, share in zip(densities, shares, strict=True))
    where = " at the model's input, which bounds all that follows" if seen.noise.place == "input" else ""
    known = ", the collection and the distribution drawn being known" if isinstance(seen.noise, NoiseCollection) else ""
    method = f"cross-entropy of unseen messages{where}, less the noise's exact entropy{known}; density: {words}"
    return _bound("upper", bits, method, None)


def lower_bound(seen: Observations, gallery: int = 2048, tell: Tell | None = None) -> Bound | None:
    """Bits about the input in one message, at least; None where the message has no likelihood that can be written down.

    That is so for noise at the input, and for mixed noise that leaves values bare. Raises DataError.
    """
    noise = seen.noise
    bare = not math.isfinite(noise.entropy_nats)
    if noise.place == "input" or (bare and getattr(noise, "mixing", None) is not None):
        return None
    tell = tell or (lambda *_: None)
    _enough("unseen", seen.test.count)
    size = min(gallery, seen.test.count)
    rows = np.sort(np.random.default_rng(seen.seed).permutation(seen.test.count)[:size])
    judged = min(size, max(LEAST_ITEMS, PAIR_VALUES // (size * noise.values)))
    picked = np.sort(np.random.default_rng(seen.seed + 1).permutation(size)[:judged])
    carried = seen.carried("test", rows)
    bits = np.empty(judged)
    step = max(1, (1 << 24) // max(size, noise.values))
    for start in range(0, judged, step):
        tell("gallery", start / judged)
        part = picked[start : start + step]
        sent = carried[part] + seen.drawn("test", rows[part], "lower bound", 0)
        logs = log_densities(noise, sent, carried)
        own = logs[np.arange(len(part)), part]
        bits[start : start + step] = (own - logsumexp(logs, axis=1) + math.log(size)) / math.log(2)
    tell("gallery", 1.0)
    method = f"InfoNCE over {size} unseen inputs, the noise's own likelihood as critic"
    return _bound("lower", bits, method, math.log2(size))


def _bound(kind: Any, bits: Floats, method: str, cap: float | None) -> Bound:
    """The mean over items and its normal interval. Information is never below 0, so neither are these."""
    mean, reach = float(bits.mean()), 1.96 * float(bits.std(ddof=1)) / math.sqrt(len(bits))
    most = math.inf if cap is None else cap
    low, middle, high = (min(most, max(0.0, value)) for value in (mean - reach, mean, mean + reach))
    return Bound(kind=kind, bits=middle, low=low, high=high, items=len(bits), method=method, cap_bits=cap)


def _enough(which: str, items: int) -> None:
    if items < LEAST_ITEMS:
        raise DataError(f"{items} {which} items are too few for a bound in bits; give at least {LEAST_ITEMS}")


def _excess(channel: Channel, messages: Messages, log_q: Floats) -> Floats:
    """-ln q(y) - h(noise): its mean is what bounds the information, in nats."""
    made: Floats = -log_q - channel.entropies_nats[messages.distributions]
    return made


def _control(channel: Channel, messages: Messages, log_q: Floats) -> float:
    """How much of the noise's surprise, whose mean is exactly 0, to take off so that the estimate varies least."""
    surprise = messages.surprise - messages.surprise.mean()
    slope = float(surprise @ _excess(channel, messages, log_q)) / max(float(surprise @ surprise), 1e-300)
    return min(1.0, max(0.0, slope))


def _shares(logs: Floats) -> Floats:
    """The mixture of densities (rows of ln q) under which the messages are likeliest, by expectation maximisation."""
    shares: Floats = np.full(len(logs), 1 / len(logs))
    for _ in range(100):
        joint = logs + np.log(np.maximum(shares, 1e-300))[:, None]
        shares = np.exp(joint - logsumexp(joint, axis=0)).mean(1)
    return shares


def _fit(channel: Channel, tell: Tell) -> tuple[list[_Density], Messages]:
    """Densities fitted to one part of the training items, and messages of another part to choose among them by."""
    seen = channel.seen
    _enough("training", seen.train.count)
    _enough("unseen", seen.test.count)
    shuffled = np.random.default_rng(seen.seed).permutation(seen.train.count)
    aside = min(VALIDATION_ITEMS, max(LEAST_ITEMS // 4, seen.train.count // 5))
    rows = np.sort(shuffled[aside:][: FIT_BYTES // (channel.n * np.dtype(channel.dtype).itemsize)])
    tell("training messages", 0.0)
    judged = channel.messages("train", np.sort(shuffled[:aside]), 0)
    values = channel.clean("train", rows)
    densities = []
    work = max(len(judged.values), min(seen.test.count, JUDGED_VALUES // channel.n)) * channel.n
    centres = min(CENTRES, len(rows), PAIR_VALUES // (2 * work))
    if centres >= LEAST_ITEMS:
        chosen = values[np.random.default_rng(seen.seed).permutation(len(rows))[:centres]]
        densities.append(_Density(f"the noise around {centres} training items", False, _around(channel, chosen)))
    tell("densities", 0.1)
    few = _few(judged)
    for number, models in enumerate(_families(channel, values, seen.train.labels[rows])):
        tell("densities", 0.1 + 0.15 * number)
        found = [_Density(model.words, True, _gaussian(channel, model)) for model in models]
        densities.append(max(found, key=lambda density: float(density.log(few).mean())))
    return densities, judged


def _few(messages: Messages) -> Messages:
    """Enough messages to choose a degree of shrinking by; each further distribution costs matrices of its own."""
    rows = np.flatnonzero(messages.distributions < CHOICE_DISTRIBUTIONS)[:CHOICE_ITEMS]
    if not len(rows):
        rows = np.arange(min(len(messages.values), CHOICE_ITEMS))
    return Messages(messages.values[rows], messages.distributions[rows], messages.surprise[rows])


def _families(channel: Channel, values: Array, labels: Integers) -> list[list[Gaussians]]:
    """Kinds of Gaussian densities, each in several degrees of shrinking. Overwrites `values`."""
    mean = values.mean(0, dtype=np.float64)
    names, group = np.unique(labels, return_inverse=True)
    if not 2 <= len(names) <= len(labels) // LEAST_ITEMS:
        names, group = names[:1], np.zeros(len(values), np.int64)
    counts = np.bincount(group)
    shares = counts / counts.sum()
    means = np.stack([values[group == c].mean(0, dtype=np.float64) for c in range(len(names))])
    values -= means.astype(values.dtype)[group]
    within = _shrunk(values, channel)
    whole, certain = mean[None], np.ones(1)
    between = Spread(((means - mean) * np.sqrt(shares)[:, None]).T, np.zeros(channel.n))
    families = [[Gaussians("one Gaussian", certain, whole, (spread.plus(between),)) for spread in within]]
    if len(names) > 1:
        words = "a Gaussian for each class, of one covariance"
        families.append([Gaussians(words, shares, means, (spread,)) for spread in within])
        families += _own(channel, values, group, shares, means, within[1])
    return families


def _shrunk(centred: Array, channel: Channel) -> list[Spread]:
    """Covariances of the items, from as they are to a diagonal."""
    if channel.n <= DENSE:
        dense = Spread.of_dense(covariance(centred))
        assert dense.dense is not None
        diagonal = Spread(dense.factor, np.diag(dense.dense).copy())
        return [dense.mixed(diagonal, share) for share in SHRINKAGES]
    whole = few_directions(centred, RANK, channel.seen.seed)
    cut = [min(rank, whole.factor.shape[1]) for rank in RANKS]
    dropped = [np.einsum("ij,ij->i", whole.factor[:, k:], whole.factor[:, k:], dtype=np.float64) for k in cut]
    return [Spread(whole.factor[:, :k], whole.diagonal + rest) for k, rest in zip(cut, dropped, strict=True)][::-1]


def _own(
    channel: Channel, centred: Array, group: Integers, shares: Floats, means: Floats, common: Spread
) -> list[list[Gaussians]]:
    """A covariance for each class, where that is not too much work."""
    dense = channel.n <= DENSE
    if dense and len(shares) * channel.distributions * channel.n**3 > CHOLESKY_WORK:
        return []
    if dense:
        spreads = tuple(Spread.of_dense(covariance(centred[group == c])) for c in range(len(shares)))
    else:
        parts = (centred[group == c] for c in range(len(shares)))
        spreads = tuple(few_directions(part, min(OWN_RANK, len(part) // 4), channel.seen.seed) for part in parts)
    words = "a Gaussian for each class, of its own covariance"
    return [[Gaussians(words, shares, means, spreads, common, share) for share in COMMON_SHARES]]


def _gaussian(channel: Channel, model: Gaussians) -> Callable[[Messages], Floats]:
    def log(messages: Messages) -> Floats:
        logs = np.empty(len(messages.values))
        for d in np.unique(messages.distributions).tolist():
            rows = np.flatnonzero(messages.distributions == d)
            logs[rows] = model.log_density(messages.values[rows], *channel.moments(d))
        return logs

    return log


def _around(channel: Channel, centres: Array) -> Callable[[Messages], Floats]:
    def log(messages: Messages) -> Floats:
        logs = np.empty(len(messages.values))
        for d in np.unique(messages.distributions).tolist():
            rows = np.flatnonzero(messages.distributions == d)
            for part in np.array_split(rows, math.ceil(len(rows) / 1024)):
                each = channel.log_densities(messages.values[part], centres, d)
                logs[part] = logsumexp(each, axis=1) - math.log(len(centres))
        return logs

    return log
