"""Averaging near-duplicates: sticky noise does not help against who can make the edge send them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from edgecut.privacy.attacks.effort import EFFORTS
from edgecut.privacy.attacks.label import attack, kinds_of
from edgecut.privacy.attacks.near_duplicates import near_duplicates


@pytest.mark.parametrize("place", ["cut", "input"])
def test_the_noise_averages_away(place: str, tasks: Any) -> None:
    def edge(flat: np.ndarray) -> np.ndarray:
        return 2 * flat

    noise = tasks.gaussian(1.0, place=place)
    seen = tasks.seen(noise, edge=edge if place == "input" else None)
    inputs = seen.test.values if place == "input" else seen.test.values / 2
    found = near_duplicates(seen, inputs, edge, amplitude=1e-3, copies=(1, 4, 16))
    variance = seen.test.values.var(0).mean()
    for one in found:
        assert one.error == pytest.approx(1 / one.copies / variance, rel=0.05) and one.accuracy is None
    # Images that differ much are no images of the same thing: the error does not fall with the noise's.
    (far,) = near_duplicates(seen, inputs, edge, amplitude=0.5, copies=(64,))
    assert far.error > 2 / 64 / variance


def test_a_mean_of_the_noise_is_no_protection(tasks: Any) -> None:
    seen = tasks.seen(tasks.gaussian(1.0))
    moved = dataclasses.replace(seen, noise=tasks.gaussian(1.0, loc=np.full(8, 30.0)))
    (plain,), (far,) = (
        near_duplicates(one, seen.test.values, lambda flat: flat, amplitude=1e-3, copies=(4,)) for one in (seen, moved)
    )
    assert far.error == pytest.approx(plain.error, rel=0.01)


def test_an_attacker_gains_by_it(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", dataclasses.replace(EFFORTS["quick"], steps=150))
    seen = tasks.seen(tasks.gaussian(2.0))
    best = attack(seen, kinds_of(seen, None)[1], 1, EFFORTS["quick"]).result
    (found,) = near_duplicates(seen, seen.test.values, lambda flat: flat, None, best, 1e-3, (16,), "quick")
    assert found.accuracy is not None and found.accuracy.low > best.accuracy.high + 0.05
