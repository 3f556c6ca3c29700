"""Sentences for unknown names, and one base for all that a user can be told."""

from __future__ import annotations

import inspect

from edgecut import errors
from edgecut.errors import EdgecutError, unknown


def test_unknown_names_the_nearest_and_all() -> None:
    assert (
        unknown("model", "lenet", ["vgg", "lenet5"])
        == "unknown model 'lenet', did you mean 'lenet5'; known: lenet5, vgg"
    )
    assert unknown("link", "zzz", ["wifi"], "; or a file") == "unknown link 'zzz'; known: wifi; or a file"
    assert unknown("cut", "a", iter(())) == "unknown cut 'a'; known: "


def test_all_errors_have_the_base() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]
    assert len(classes) == 8
    assert all(issubclass(value, EdgecutError) and value.__doc__ for value in classes)
