"""Which cuts a profile times, and joining cuts that were timed later to an earlier profile.

All cuts after the first layers, none (the whole and its layers are enough to find candidates among all cuts), or those
that a plan names. Nothing is scaled when profiles are joined: how far the whole's time has drifted is noted instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ConfigDict

from ..artefacts import Artefact
from ..errors import ArtefactError, ModelError
from ..models.load import Model
from ..models.spec import CutSpec, ModelSpec
from .profile import Profile

ALL, LAYERS = "all", "layers"
SAME = ("device", "provenance", "backend", "precision", "threads", "pause_s")
"""What two profiles must have in common before their times stand beside each other."""


class _Planned(Artefact):
    """What a plan file says of the cuts to be timed; the rest of it is the partitioner's."""

    model_config = ConfigDict(extra="ignore")
    KIND = "plan"
    VERSION = 2

    model: ModelSpec
    choice: str
    candidates: tuple[str, ...] = ()


def timed_cuts(model: Model, cuts: str | os.PathLike[str]) -> tuple[CutSpec, ...]:
    """`all` that the model lists, none with `layers`, or the candidates and the choice of a plan file.

    Raises ArtefactError for the file, ModelError where the plan is of another model or a cut is none of this one.
    """
    if cuts == ALL:
        return model.spec.cuts
    if cuts == LAYERS:
        return ()
    if isinstance(cuts, str) and not cuts.endswith(".json") and not Path(cuts).exists():
        raise ArtefactError(f"'{cuts}' says no cuts to time; give {ALL}, {LAYERS} or a plan's file")
    planned = _Planned.load(cuts)
    if planned.model.digest != model.spec.digest:
        raise ModelError(
            f"the plan {os.fspath(cuts)} is of another model ({planned.model.name}) than {model.spec.name}; give that "
            "model, or plan this one"
        )
    names = dict.fromkeys(name for name in (*planned.candidates, planned.choice) if name)
    return _shallow_first(model.graph.check_cut(planned.model.cut(name)) for name in names)


def with_cuts(spec: ModelSpec, cuts: Iterable[CutSpec]) -> ModelSpec:
    """The model with these cuts known by name, too."""
    known = set(spec.cuts)
    return spec.model_copy(update={"cuts": _shallow_first((*spec.cuts, *(cut for cut in cuts if cut not in known)))})


def _shallow_first(cuts: Iterable[CutSpec]) -> tuple[CutSpec, ...]:
    return tuple(sorted(cuts, key=lambda cut: cut.depth))


def refuse_others(old: Profile, where: str, digest: str, **found: object) -> None:
    """Raise ArtefactError where `old` is not of this model, or differs in one of `SAME`, as far as given."""
    if old.model.digest != digest:
        raise ArtefactError(f"{where} is a profile of another model ({old.model.name}); add to one of this model")
    for name, value in found.items():
        if getattr(old, name) != value:
            named = name.removesuffix("_s")
            raise ArtefactError(
                f"{where} has the {named} {getattr(old, name)} and this measurement {value}; measure as it was measured"
            )


def joined(old: Profile, new: Profile, where: str) -> Profile:
    """`old` with the cuts of `new`, which replace those of the same name.

    Raises ArtefactError where they do not fit.
    """
    refuse_others(old, where, new.model.digest, **{name: getattr(new, name) for name in SAME})
    if old.environment.processor != new.environment.processor:
        raise ArtefactError(
            f"{where} was measured on {old.environment.processor} and this on {new.environment.processor}; measure "
            "there again"
        )
    spec = with_cuts(old.model, new.model.cuts)
    cuts = {cut.name: cut for cut in (*old.cuts, *new.cuts)}
    ranks = {cut.name: rank for rank, cut in enumerate(spec.cuts)}
    added = tuple(note for note in new.notes if note not in old.notes)
    return old.model_copy(
        update={
            "model": spec,
            "cuts": tuple(sorted(cuts.values(), key=lambda cut: ranks[cut.name])),
            "notes": (*old.notes, *added, _drift(old, new)),
            "converged": old.converged and new.converged,
            "elapsed_s": old.elapsed_s + new.elapsed_s,
            "whole_memory_bytes": old.whole_memory_bytes or new.whole_memory_bytes,
        }
    )


def _drift(old: Profile, new: Profile) -> str:
    before, now = old.whole.median_s, new.whole.median_s
    named = ", ".join(cut.name for cut in new.cuts) or "no cuts"
    return (
        f"timed later, at {new.measured_at}: {named}; the whole took {now * 1e3:.4g} ms then and {before * 1e3:.4g} ms "
        f"at first ({now / before - 1:+.1%})"
    )
