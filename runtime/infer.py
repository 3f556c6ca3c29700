"""`edgecut infer`: one file of inputs through a bundle and a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artefacts import check_output, write_bytes
from ..errors import DataError
from .edge import EdgeSession

BATCH = 64
MAX_INPUT_BYTES = 1024**3


def infer(
    bundle: str | os.PathLike[str],
    server: str,
    inputs: npt.NDArray[Any] | str | os.PathLike[str],
    *,
    timeout_s: float = 10.0,
    expect_id: str | None = None,
    output: str | os.PathLike[str] | None = None,
) -> npt.NDArray[np.float32]:
    """Logits float32 [N, classes] for an array, or for the array in an .npy file, also written to `output` as .npy.

    One input without a batch dimension is taken as a batch of one. Raises BundleError, DataError and ServerError.
    """
    if output is not None:
        check_output(output)
    x = inputs if isinstance(inputs, np.ndarray) else _read(Path(inputs))
    with EdgeSession(bundle, server, timeout_s=timeout_s, expect_id=expect_id) as session:
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


def _read(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        raise DataError(f"there is no input file {path}; give an .npy file")
    if path.stat().st_size > MAX_INPUT_BYTES:
        raise DataError(f"{path} is larger than {MAX_INPUT_BYTES} bytes; split it")
    try:
        loaded = np.load(path, allow_pickle=False)
    except Exception as error:  # header, size, zip and read faults are of many types
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is not a readable .npy file of plain numbers ({reason}); write it anew") from None
    if not isinstance(loaded, np.ndarray):
        raise DataError(f"{path} holds several arrays; give an .npy file with one")
    return loaded
