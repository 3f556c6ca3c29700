"""Recipes and the numbers a user may set."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgecut.errors import EdgecutError
from edgecut.noise_kernels.mechanism import MECHANISMS
from edgecut.privacy.settings import (
    OPTIONS,
    RECIPES,
    FitSettings,
    Settings,
    choose_settings,
    fit_settings,
    settings_for,
)


def test_the_papers_numbers() -> None:
    paper = settings_for("paper")
    assert (paper.alpha, paper.learning_rate, paper.gamma) == (0.01, 0.01, 0.01)  # section 6.1
    assert (paper.equation, paper.decay_steps, paper.hold_out, paper.distributions) == (4, 500, 0.1, 20)
    assert paper.scale is not None and paper.max_sse is None


def test_sampled_is_the_default_and_searches() -> None:
    assert settings_for("sampled") == Settings() == RECIPES["sampled"]
    assert Settings().scale is None and Settings().max_accuracy_loss == 1.5 and Settings().alpha is None


def test_only_what_is_given_is_changed() -> None:
    made = settings_for("paper", steps=7, alpha=None, scale=0.5, equation=3)
    assert made == dataclasses.replace(RECIPES["paper"], steps=7, scale=0.5, equation=3)


def refused(words: str, recipe: str = "sampled", **changes: Any) -> None:
    with pytest.raises(EdgecutError, match=words) as raised:
        settings_for(recipe, **changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["alpha", "equation", "max_sse", "decay_steps"])
def test_what_the_sampled_recipe_does_not_have(name: str) -> None:
    refused(f"the recipe sampled has no {name.replace('_', ' ')}: .* take the recipe paper", **{name: 3})


def test_an_unknown_recipe_names_the_known() -> None:
    refused("unknown recipe 'papr', did you mean 'paper'; known: paper, sampled", recipe="papr")
    with pytest.raises(EdgecutError, match="unknown recipe"):
        Settings(recipe="other").check()
    with pytest.raises(EdgecutError, match=r"the recipe paper needs its alpha; take 0\.01"):
        Settings(recipe="paper", scale=1.0).check()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("distributions", (0,)),
        ("steps", (-1,)),
        ("batch", (0,)),
        ("decay_steps", (0,)),
        ("learning_rate", (0.0, -0.1)),
        ("scale", (float("nan"), float("inf"), 0.0)),
        ("max_accuracy_loss", (-1.0, 0.0)),
        ("max_sse", (0.0, float("nan"))),
        ("alpha", (-1e-9, float("nan"))),
        ("gamma", (-1e-9, float("inf"))),
        ("hold_out", (0.0, 1.0, float("nan"))),
        ("equation", (2, 5)),
        ("seed", (-1, 2**64)),
    ],
)
def test_out_of_range(field: str, values: tuple[float, ...]) -> None:
    for value in values:
        refused(f"{field.replace('_', ' ')} must be .*not ", recipe="paper", **{field: value})


def test_each_mechanism_has_its_own_numbers() -> None:
    assert {"shredder", *OPTIONS} == set(MECHANISMS)
    fields = {field.name for field in dataclasses.fields(FitSettings)}
    values: dict[str, Any] = {
        "scale": 1.0, "steps": 3, "batch": 3, "learning_rate": 0.1, "place": "input", "law": "laplace", "images": 3,
        "basis": "eigen",
    }  # fmt: skip
    assert fields == {*values, "max_accuracy_loss", "hold_out", "seed"}
    for mechanism, options in OPTIONS.items():
        filled = choose_settings(mechanism, seed=4)
        assert isinstance(filled, FitSettings) and filled.seed == 4
        assert {name: getattr(filled, name) for name in values} == dict.fromkeys(values) | options
        for name, value in values.items():
            if name in options:
                assert getattr(choose_settings(mechanism, **{name: value}), name) == value
            else:
                words = f"the mechanism {mechanism} has no {name.replace('_', ' ')} "
                with pytest.raises(EdgecutError, match=words):
                    choose_settings(mechanism, **{name: value})


def test_either_kind_of_settings_serves() -> None:
    assert fit_settings("laplace", Settings(scale=2.0, seed=3)) == FitSettings(scale=2.0, seed=3)
    assert choose_settings("shredder", "paper", steps=7) == settings_for("paper", steps=7)
    with pytest.raises(EdgecutError, match="the mechanism channel has no recipe"):
        choose_settings("channel", "paper")
    for changes, words in (({"images": 0}, "images must be positive"), ({"hold_out": 1.0}, "hold out must be")):
        with pytest.raises(EdgecutError, match=words):
            choose_settings("channel", **changes)
