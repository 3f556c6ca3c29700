"""`edgecut infer`: one file of inputs through a bundle and a server."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..agent.caller import Policy
from ..agent.inputs import MAX_FILE_BYTES, read_inputs
from ..agent.session import FAIL, REFUSE
from ..agent.transport import NOTHING, Security
from ..artefacts import check_output, write_bytes
from ..errors import DataError
from .edge import EdgeSession, translated

BATCH = 64
MAX_INPUT_BYTES = MAX_FILE_BYTES


def infer(
    bundle: str | os.PathLike[str],
    server: str,
    inputs: npt.NDArray[Any] | str | os.PathLike[str],
    *,
    timeout_s: float = 10.0,
    expect_id: str | None = None,
    output: str | os.PathLike[str] | None = None,
    security: Security = NOTHING,
    policy: Policy | None = None,
    away: str = FAIL,
    nonfinite: str = REFUSE,
    backend: str | None = None,
) -> npt.NDArray[np.float32]:
    """Logits float32 [N, classes] for an array, or for the array in an .npy file, also written to `output` as .npy.

    One input without a batch dimension is taken as a batch of one. `security`, `policy`, `away`, `nonfinite` and
    `backend` are EdgeSession's. Raises BundleError, DataError and ServerError.
    """
    if output is not None:
        check_output(output)
    x = inputs if isinstance(inputs, np.ndarray) else _read(inputs)
    with EdgeSession(
        bundle,
        server,
        timeout_s=timeout_s,
        expect_id=expect_id,
        security=security,
        policy=policy,
        away=away,
        nonfinite=nonfinite,
        backend=backend,
    ) as session:
        single = x.shape == session.manifest.input.shape or (x.dtype == np.uint8 and x.ndim == 2)
        batch = x[None] if single else x
        if batch.ndim == 0 or len(batch) == 0:
            raise DataError(f"the input of shape {list(x.shape)} holds nothing to infer")
        parts = [session.infer(batch[i : i + BATCH]) for i in range(0, len(batch), BATCH)]
    logits = np.concatenate(parts)
    if output is not None:
        import io

        buffer = io.BytesIO()
        np.save(buffer, logits, allow_pickle=False)
        write_bytes(output, buffer.getvalue())
    return logits


def _read(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    with translated():
        loaded: npt.NDArray[Any] = read_inputs(os.fspath(path), MAX_INPUT_BYTES)
        return loaded
