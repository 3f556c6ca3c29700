"""Attacks on the inputs themselves: decoders from what is sent to the image, judged on unseen items.

Structural similarity is to be read beside its floors: the mean image of the right class alone is already similar.
Texts and tables are no images; what a message tells of them is in the bounds and the label attacks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch.nn import functional

from ...models.training import one_thread
from ..audited import Curve, Reconstruction
from ..observations import Array, Floats, Integers, Observations, Part, PartName
from .aware import Cleaner
from .effort import Effort, EffortName, effort_called
from .label import SCALED_BY, judged_rows
from .messages import Messages
from .networks import Decoder, FlatDecoder, Standardised, is_map
from .similarity import pictures, ssim
from .training import Goal, Tell, answers, parameters_of, trained

SHOWN = 16
RESAMPLES = 1000
TARGET_BYTES = 512 << 20
"""Of images to train with: of large ones there are fewer."""


@dataclass(frozen=True)
class Samples:
    """Unseen images for a page, uint8 [items, height, width] or [items, height, width, 3].

    The true ones, what a decoder makes of activations without noise, and what the best attacker makes of one message.

    `attacker` names it; the similarities are of all judged items, not of those shown.
    """

    truth: Array
    from_clean: Array
    from_messages: Array
    attacker: str
    clean_ssim_mean: float
    clean_ssim_p95: float


@dataclass(frozen=True)
class _Made:
    """A trained decoder's images of the judged items, [items, channels, height, width], and how it got there."""

    images: Floats
    curve: Curve
    parameters: int


@one_thread()
def reconstruction_attacks(
    seen: Observations, effort: EffortName = "full", copies: Sequence[int] = (1,), tell: Tell | None = None
) -> tuple[tuple[Reconstruction, ...], Samples | None]:
    """Decoders with and without knowledge of the noise, for each number of messages averaged; none without images.

    On several messages only the one that did better on a single message is tried.
    """
    used = effort_called(effort)
    rows, whole = judged_rows(seen, used), seen.train.images
    truth = pictures(seen.test.images[rows], whole)
    if truth is None:
        return (), None
    seen = dataclasses.replace(seen, train=_fewer(seen.train, TARGET_BYTES // truth[0].nbytes))
    targets = pictures(seen.train.images, whole)
    assert targets is not None
    knowing = [False, True] if Cleaner.useful(seen) else [False]
    more = sorted(set(copies) - {1})
    runs, found = 1 + len(knowing) + len(more), list[tuple[Reconstruction, _Made]]()

    def told(done: int) -> Tell:
        return lambda text, share: None if tell is None else tell(text, (done + share) / runs)

    def attack(knows: bool, count: int) -> tuple[Reconstruction, _Made]:
        began_s = time.perf_counter()
        messages = _messages(seen, knows, count)
        made = _decoded(messages, targets, rows, used, told(len(found)))
        return _result(made, truth, knows, count, is_map(seen.feature_shapes), seen.seed, began_s), made

    for knows in knowing:
        found.append(attack(knows, 1))
    best, made = max(found, key=lambda one: one[0].ssim_p95)
    for count in more:
        found.append(attack(best.knows_noise, count))
    clean = _decoded(_clean(seen), targets, rows, used, told(len(found)))
    alike = ssim(clean.images, truth)
    samples = Samples(
        truth=_bytes(truth),
        from_clean=_bytes(clean.images),
        from_messages=_bytes(made.images),
        attacker=best.attacker + (", which knows the noise" if best.knows_noise else ""),
        clean_ssim_mean=float(alike.mean()),
        clean_ssim_p95=float(np.quantile(alike, 0.95)),
    )
    return tuple(result for result, _ in found), samples


def _fewer(part: Part, most: int) -> Part:
    private = None if part.private is None else part.private[:most]
    return Part(part.images[:most], part.values[:most], part.labels[:most], private)


def _messages(seen: Observations, knows: bool, copies: int) -> Messages:
    cleaner = Cleaner(seen, copies) if knows else None
    return Messages(seen, copies, cleaner, restored=is_map(seen.feature_shapes))


def _clean(seen: Observations) -> Messages:
    """What crosses without any noise."""
    return Noiseless(seen, restored=is_map(seen.feature_shapes))


class Noiseless(Messages):
    """Messages without noise, for what a decoder could do at best."""

    def take(self, name: PartName, rows: Integers, purpose: str, draw: int = 0) -> Floats:
        del purpose, draw
        values = self.seen.carried(name, rows)
        if self.seen.noise.place == "input":
            assert self.seen.edge is not None
            return self.seen.edge(values)
        return self.seen.restored(values) if self.is_restored else values


def _decoded(messages: Messages, targets: Floats, rows: Integers, effort: Effort, tell: Tell) -> _Made:
    seen = messages.seen
    torch.manual_seed(seen.seed)
    few = torch.from_numpy(messages.take("train", np.arange(min(seen.train.count, SCALED_BY)), "scaling"))
    image = targets.shape[1:]
    network = Standardised(
        Decoder(seen.feature_shapes[0], image) if is_map(seen.feature_shapes) else FlatDecoder(few.shape[1], image), few
    )
    error = functional.mse_loss
    how = ("aware" if messages.cleaner else "unaware") if not isinstance(messages, Noiseless) else "without noise"
    name = f"reconstruction, {how}, {messages.copies} at once"
    curve = trained(network, messages, Goal(torch.from_numpy(targets), error, error, "less"), effort, name, tell)
    made = [answers(network, messages.take("test", piece, "judged")).numpy() for piece in messages.pieces(rows)]
    return _Made(np.concatenate(made), curve, parameters_of(network))


def _result(
    made: _Made, truth: Floats, knows: bool, copies: int, maps: bool, seed: int, began_s: float
) -> Reconstruction:
    alike = ssim(made.images, truth)
    low, high = _interval(alike, seed)
    low_p95, high_p95 = (float(np.quantile(alike, rank)) for rank in _ranks(len(alike)))
    return Reconstruction(
        attacker="convolutional decoder" if maps else "perceptron decoder",
        knows_noise=knows,
        copies=copies,
        ssim_mean=float(alike.mean()),
        ssim_p95=float(np.quantile(alike, 0.95)),
        ssim_p95_low=low_p95,
        ssim_p95_high=high_p95,
        ssim_mean_low=low,
        ssim_mean_high=high,
        mse=float(((made.images - truth) ** 2).mean()),
        curve=made.curve,
        parameters=made.parameters,
        seconds=time.perf_counter() - began_s,
    )


def _interval(values: npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, by resampling the items."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _ranks(items: int) -> list[float]:
    """Between which quantiles of so many items the 95th percentile lies with 95 %: how many fall below is binomial."""
    low, high = (float(stats.binom.ppf(share, items, 0.95)) for share in (0.025, 0.975))
    return [low / items, min(1.0, (high + 1) / items)]


def _bytes(images: Floats) -> Array:
    """The first images, to be shown."""
    first = np.rint(255 * images[:SHOWN].clip(0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)
    shown: Array = first[..., 0] if first.shape[3] != 3 else first
    return shown
