"""Any mechanism fitted to a cut: by name, without a plan and without files. `edgecut learn` and sweeps come here.

A mechanism but Shredder's is a module of this folder with one function, `propose(bench, settings) -> Proposal`: it fits
what it has and leaves one number open, the knob. Here the largest knob is searched whose SAMPLED noise costs no more
than is allowed on the hold-out, through the halves that are deployed; then it is tried once on unseen items.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import EdgecutError
from ...models.data import DataSet
from ...models.load import Model
from ...models.spec import CutSpec
from ...models.training import one_thread
from ...noise_kernels.mechanism import MECHANISMS as MECHANISMS
from ...runtime.accuracy import NoiseAccuracy
from ..settings import FitSettings, Settings, fit_settings, shredder_settings
from ..snapshot import WorkFolder
from ..stages import Progress, Stages
from .fitted import Fitted, Knob
from .proposal import Proposal

MODULES = {name: name for name in ("laplace", "cloak", "gaussian", "channel")} | {"none": "no_noise"}
"""The module of each mechanism that is fitted here, imported on first use."""


@one_thread()
def fit(
    model: Model,
    cut: CutSpec,
    data: DataSet,
    mechanism: str,
    settings: FitSettings | Settings | None = None,
    *,
    stages: Stages | None = None,
    progress: Progress | None = None,
    scratch: Path | None = None,
    folder: WorkFolder | None = None,
) -> Fitted:
    """The mechanism's noise at `cut` within `settings.max_accuracy_loss` on the hold-out.

    Large files go to `scratch`, a temporary folder by default; `folder` keeps snapshots of Shredder's descents, which
    alone can be resumed. Raises EdgecutError for an unknown mechanism, for settings that it does not have, and where
    even the smallest knob costs too much.
    """
    using = stages or Stages(progress)
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="edgecut-fit-") as name:
            return fit(model, cut, data, mechanism, settings, stages=using, scratch=Path(name), folder=folder)
    given = settings or (Settings() if mechanism == "shredder" else FitSettings())
    if mechanism == "shredder":
        from ..collect import collect

        return collect(model, cut, data, shredder_settings(given), using, folder, scratch)
    chosen = fit_settings(mechanism, given)
    from ..bench import Bench

    using.start("data")
    bench = Bench(model, cut, data, chosen, using, scratch)
    propose = importlib.import_module(f".{MODULES[mechanism]}", __package__).propose
    proposal: Proposal = propose(bench, chosen)
    bench.release()
    using.start("search")

    kept: dict[float, NoiseAccuracy] = {}

    def tried(knob: float) -> NoiseAccuracy:
        if knob not in kept:
            kept[knob] = bench.tried(proposal.noise(knob))
            lost = kept[knob].loss_points
            using.tell(f"searching, {lost:.2f} points lost at {proposal.name} {knob:.4g}", 0.5)
        return kept[knob]

    knob = _searched(proposal, tried, chosen.max_accuracy_loss)
    held, noise = tried(knob), proposal.noise(knob)
    accuracy, _, _ = bench.on_unseen(noise)
    return Fitted(
        noise=noise,
        accuracy=accuracy,
        hold_out=held,
        deviation=proposal.deviation,
        tries=len(kept),
        knob=None if proposal.start is None else Knob(name=proposal.name, value=knob, meaning=proposal.meaning),
        closed_form_bits=None if proposal.bits is None else proposal.bits(knob),
        learnable=proposal.learnable,
        notes=proposal.notes,
        kept=proposal.kept,
    )


def _searched(proposal: Proposal, tried: Callable[[float], NoiseAccuracy], allowed: float) -> float:
    """The knob. Raises EdgecutError where what was given, or everything, costs too much."""
    if proposal.start is None:
        return 0.0
    if proposal.given:
        lost = tried(proposal.start).loss_points
        if lost > allowed:
            raise EdgecutError(
                f"sampled noise costs {lost:.2f} points on the hold-out at {proposal.name} {proposal.start:g}, more "
                f"than the {allowed:g} allowed; allow more, leave out the {proposal.name} to have the largest "
                "searched, or choose a deeper cut"
            )
        return proposal.start
    return largest(lambda knob: tried(knob).loss_points <= allowed, proposal, allowed)


def largest(good: Callable[[float], bool], proposal: Proposal, allowed: float) -> float:
    """The largest knob that is good, to `proposal.precision`.

    Outward from the proposal's start by growing factors, then bisected in the logarithm.
    """
    assert proposal.start is not None
    low = high = float(np.clip(proposal.start, proposal.least, proposal.most))
    step = proposal.step
    if good(low):
        while low < proposal.most and good(high := min(proposal.most, low * step)):
            low, step = high, step**1.5
        if low >= proposal.most:
            return low
    else:
        while not good(low := max(proposal.least, high / step)):
            if low <= proposal.least:
                raise EdgecutError(
                    f"even the {proposal.name} {low:.3g} ({proposal.meaning}) costs more than the {allowed:g} points "
                    "allowed on the hold-out; allow more (--max-accuracy-loss), give more data, or choose a deeper cut"
                )
            high, step = low, step**1.5
    while high / low > proposal.precision:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
