"""What the mechanisms that were fitted already change in a plan: how many values cross at their cuts.

A mechanism with a map before its noise sends other values than the activation, mostly far fewer. What the map itself
takes to compute, on both sides, is not in a plan. Neither is that sticky noise is drawn within the request, and noise
at the input added before the edge partition, while other noise is drawn as an answer is awaited. `edgecut measure` has
all that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..errors import ArtefactError, unknown
from ..models.spec import CutSpec
from ..noise_kernels.collection import CollectionError
from ..noise_kernels.mechanism import Noise, load_noise
from .plan import PlannedNoise

Given = Noise | PlannedNoise | str | os.PathLike[str]


def planned_noises(given: Sequence[Given], model_digest: str, cuts: Mapping[str, CutSpec]) -> tuple[PlannedNoise, ...]:
    """The mechanisms as a plan reckons with them, at most one for a cut.

    Raises ArtefactError for a file that is none, for one of another model or of no cut of this one, and for two of a
    cut.
    """
    found: dict[str, PlannedNoise] = {}
    for one in given:
        planned = one if isinstance(one, PlannedNoise) else _planned(one, model_digest, cuts)
        if planned.cut in found:
            raise ArtefactError(f"two noise files are given for the cut {planned.cut}; give one for each cut")
        found[planned.cut] = planned
    return tuple(found.values())


def _planned(given: Noise | str | os.PathLike[str], model_digest: str, cuts: Mapping[str, CutSpec]) -> PlannedNoise:
    what = os.fspath(given) if isinstance(given, str | os.PathLike) else "the noise"
    try:
        noise = load_noise(given) if isinstance(given, str | os.PathLike) else given
    except CollectionError as error:
        raise ArtefactError(str(error)) from None
    if noise.model_digest != model_digest:
        raise ArtefactError(f"{what} was learned for another model than the profiles are of; learn it for this one")
    if noise.cut not in cuts:
        raise ArtefactError(f"{what}: {unknown('cut', noise.cut, cuts)}")
    return counted(noise, cuts[noise.cut])


def counted(noise: Noise, cut: CutSpec) -> PlannedNoise:
    """How many values a mechanism adds noise to, and sends, at its cut. Raises ArtefactError for another cut's."""
    if noise.place == "cut" and noise.n != cut.elements:
        raise ArtefactError(
            f"the noise of the cut {noise.cut} is for {noise.n} values, and {cut.elements} cross there; learn it again"
        )
    sent = cut.elements if noise.place == "input" else noise.values
    return PlannedNoise(cut=cut.name, mechanism=noise.mechanism, values=noise.values, sent_values=sent)
