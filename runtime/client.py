"""Asking a server of the Open Inference Protocol, ours or anybody's: the agent's caller, with errors of this package.

Every failure becomes a ServerError whose sentence says which server, what happened, and what to do. What is retried,
and within which time, `agent.caller` says.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import numpy as np

from ..agent.caller import USUAL, Caller, Policy
from ..agent.transport import NOTHING, Security, TransportError
from ..errors import ServerError
from ..models.spec import TensorSpec
from .tensors import Array, datatype_of

_Told = dict[str, tuple[str, tuple[int, ...]]]


class CloudClient:
    """The connections to `server`, an address or several with commas between. A context manager; thread-safe.

    `timeout_s` bounds a whole request, all its tries together, and stands instead of the policy's own.
    """

    def __init__(
        self, server: str, timeout_s: float = 10.0, security: Security = NOTHING, policy: Policy = USUAL
    ) -> None:
        self.server, self.timeout_s = server, timeout_s
        if not 0 < timeout_s < math.inf:
            raise ServerError(f"a server cannot answer within {timeout_s:g} s; give a positive number of seconds")
        try:
            self._caller = Caller(server, security, policy._replace(timeout_s=timeout_s))
        except TransportError as error:
            raise ServerError(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; requests under way are cancelled."""
        self._caller.close()

    def check_model(self, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        """Raise ServerError unless the server is there and serves this very model: names, datatypes and shapes."""
        try:
            told = self._caller.metadata(name)
        except TransportError as error:
            raise ServerError(str(error)) from None
        for what, expected in (("input", inputs), ("output", outputs)):
            got: _Told = {tensor: (datatype, tuple(shape)) for tensor, datatype, shape in told[f"{what}s"]}
            for spec in expected:
                if not _agrees(spec, got.get(spec.name)):
                    raise ServerError(
                        f"{self.server} serves another model as '{name}': its {what}s are {got}, {spec.name} "
                        f"{spec.dtype} {list(spec.shape)} was expected; serve this bundle's cloud side there"
                    )

    def infer(self, model: str, tensors: list[tuple[str, Array]]) -> dict[str, Array]:
        """Send a request and wait for its answer, tensors by name. Arrays are [batch, ...]. Raises ServerError."""
        try:
            return self._caller.infer(model, tensors, self.timeout_s)
        except TransportError as error:
            raise ServerError(str(error)) from None


def _agrees(spec: TensorSpec, found: tuple[str, tuple[int, ...]] | None) -> bool:
    if found is None or found[0] != datatype_of(np.dtype(spec.dtype)):
        return False
    shape = found[1][1:]
    return len(shape) == len(spec.shape) and all(a in (-1, b) for a, b in zip(shape, spec.shape, strict=True))
