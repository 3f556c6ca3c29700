"""The edge session of a bundle: `agent/session.py`, which says how it works, for bundles and with edgecut's own errors.

What leaves this process is the noisy activation and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..agent.backends import BackendError
from ..agent.caller import Policy
from ..agent.edge_manifest import SideError
from ..agent.edge_part import hold
from ..agent.inputs import InputError
from ..agent.protect import NoiseError
from ..agent.session import FAIL, REFUSE, Session, Trace, open_parts
from ..agent.transport import NOTHING, Security, TransportError
from ..errors import BundleError, DataError, DeviceError, ServerError
from .manifest import EDGE, EdgeManifest
from .verify import Verified, verify, verify_edge

__all__ = ["EdgeSession", "Trace", "edge_side", "hold", "translated"]

Logits = npt.NDArray[np.float32]


class EdgeSession(Session):
    """A bundle's edge side, connected to a server. A context manager; any number of threads.

    `bundle` is a bundle's folder or its edge side alone; every file is verified first, and only what was verified is
    used. `server` is an address, or several with commas between, protected with `security`; `policy` says how often and
    how long they are tried, by default for `timeout_s` in all. `away` is what happens where no server can be reached:
    "fail", or "local": the rest of the model runs here, where the bundle has it. `nonfinite` "allow" lets NaN and
    infinite values pass. `backend` is by default what the bundle was made for. `slowdown` above 1 holds each
    computation back by that factor, to stand for a slower device. Raises BundleError, DeviceError and ServerError.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        server: str,
        *,
        threads: int = 1,
        timeout_s: float = 10.0,
        slowdown: float = 1.0,
        expect_id: str | None = None,
        security: Security = NOTHING,
        policy: Policy | None = None,
        away: str = FAIL,
        nonfinite: str = REFUSE,
        backend: str | None = None,
    ) -> None:
        side = edge_side(bundle, expect_id)
        assert isinstance(side.manifest, EdgeManifest)
        self.manifest = side.manifest
        chosen = policy or Policy(timeout_s=timeout_s)
        with translated():
            part, caller = open_parts(
                os.fspath(side.folder),
                server,
                security,
                chosen,
                backend=backend,
                threads=threads,
                away=away,
                nonfinite=nonfinite,
                expect_id=side.id,
                slowdown=slowdown,
            )
            super().__init__(part, caller, chosen.timeout_s, away, nonfinite)

    def __enter__(self) -> Self:
        return self

    @property
    def slowdown(self) -> float:
        """How much each computation is held back."""
        return self.part.slowdown

    @slowdown.setter
    def slowdown(self, factor: float) -> None:
        self.part.slowdown = factor

    def infer(self, x: npt.NDArray[Any], timeout_s: float | None = None) -> Logits:
        """Logits float32 [batch, classes] for model inputs [batch, ...], or for uint8 images [batch, H, W(, C)].

        `trace` then holds where the time went, `answered_by` who answered. Raises DataError for a wrong shape or dtype
        and for NaN or infinite values, ServerError when the cloud does not answer.
        """
        with translated():
            logits: Logits = super().infer(x, timeout_s)
            return logits

    async def infer_async(self, x: npt.NDArray[Any], timeout_s: float | None = None) -> Logits:
        """As `infer`, without holding the event loop up."""
        logits: Logits = await asyncio.wrap_future(self.submit(x, timeout_s))
        return logits

    def stream(
        self, inputs: Iterable[npt.NDArray[Any]], ahead: int = 1, timeout_s: float | None = None
    ) -> Iterator[Logits]:
        """Logits of one input after another; the next one's edge part is computed while an answer is on its way."""
        with translated():
            inner = super().stream(inputs, ahead, timeout_s)
        return self._translated_stream(inner)

    def _translated_stream(self, inner: Iterator[Logits]) -> Iterator[Logits]:
        with contextlib.closing(inner) as answers, translated():  # type: ignore[type-var]
            yield from answers


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """The agent's errors as edgecut's own."""
    try:
        yield
    except InputError as error:
        raise DataError(str(error)) from None
    except (SideError, NoiseError) as error:
        raise BundleError(str(error)) from None
    except BackendError as error:
        raise DeviceError(str(error)) from None
    except TransportError as error:
        raise ServerError(str(error)) from None


def edge_side(bundle: str | os.PathLike[str], expect_id: str | None = None) -> Verified:
    """The edge side of a bundle, or the folder itself where it is one, verified. Raises BundleError."""
    found = verify(bundle, expect_id=expect_id)
    if isinstance(found.manifest, EdgeManifest):
        return found
    folder = Path(found.folder) / EDGE
    if not folder.is_dir():
        raise BundleError(f"{found.folder} is a cloud side; give the bundle, or its folder {EDGE}")
    side = verify_edge(folder)
    stated = getattr(found.manifest, "edge_digest", side.id)
    if side.id != stated:
        raise BundleError(f"{folder} is not the side that the bundle names; get the bundle again")
    return side
