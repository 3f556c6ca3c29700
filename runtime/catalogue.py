"""All models and versions that one server has loaded, found by name, and what the protocol says of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import grpc

from ..errors import BundleError
from .repository import read_repository
from .served import MakeSession, Refusal, ServedModel

EXTENSIONS = ("binary_tensor_data",)
"""Beyond the protocol's core, in the words of its authors; REST only."""


class Catalogue:
    """The models by name, each with its versions in rising order."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, ServedModel]] = {}

    def load(self, roots: Iterable[str | os.PathLike[str]], make_session: MakeSession, *, finite: bool) -> None:
        """Load every model below `roots`, model repositories as `repository` reads them.

        Raises BundleError where one is unreadable or two have a model of one name, ModelError for an unusable model.
        """
        homes: dict[str, str] = {}
        for root in roots:
            for stored in read_repository(root):
                if stored.name in homes:
                    raise BundleError(
                        f"model '{stored.name}' is in {homes[stored.name]} and in {os.fspath(root)}; a server has one "
                        "model of a name, so serve one of them elsewhere"
                    )
                homes[stored.name] = os.fspath(root)
                # The highest version last, so that it is the one a request without a version finds.
                self.models[stored.name] = {
                    str(version): ServedModel(stored, version, make_session, finite=finite)
                    for version in stored.versions
                }

    def find(self, name: str, version: str = "") -> ServedModel:
        """A version of a model, the highest where none is asked for. Raises Refusal."""
        versions = self.models.get(name)
        if versions is None:
            sentence = f"no model '{name[:100]}' here; there is {sorted(self.models)}"
            raise Refusal(grpc.StatusCode.NOT_FOUND, sentence)
        model = versions.get(version or next(reversed(versions)))
        if model is None:
            sentence = f"model '{name}' has no version '{version[:100]}'; there is {list(versions)}"
            raise Refusal(grpc.StatusCode.NOT_FOUND, sentence)
        return model

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self.models.values():
            yield from versions.values()
