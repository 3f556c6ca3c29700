"""How edgecut opens an ONNX Runtime session outside the profiler: for checking, serving and the edge.

The options are the device agent's, so that what is profiled is what is deployed: same optimisation level, same
threads, same provider.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..agent.backends import BackendError
from ..agent.onnxruntime_cpu import PROVIDER, load_runtime, session_options
from ..errors import DeviceError, ModelError
from .spec import TensorSpec

MAX_THREADS = 1024


def open_session(model: bytes | str | os.PathLike[str], threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    `threads` is the intra-operator pool's size. Raises DeviceError for a size that cannot be, without ONNX Runtime, or
    when another provider than the asked one is in use, ModelError when the model cannot be loaded.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise DeviceError(f"{threads} threads cannot be used; give a number from 1 to {MAX_THREADS}")
    try:
        onnxruntime = load_runtime()
    except BackendError as error:
        raise DeviceError(str(error)) from None
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        session = onnxruntime.InferenceSession(source, session_options(onnxruntime, threads), providers=[PROVIDER])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        where = "the model" if isinstance(source, bytes) else str(Path(source))
        raise ModelError(f"ONNX Runtime cannot load {where}: {str(error).splitlines()[0][:300]}") from None
    if session.get_providers()[0] != PROVIDER:
        raise DeviceError(f"ONNX Runtime fell back to {session.get_providers()[0]} where the CPU was asked for")
    return session


def random_feed(
    session: Any, batch: int, seed: int = 0, inputs: Sequence[TensorSpec] = ()
) -> dict[str, npt.NDArray[Any]]:
    """Random values for every input of a session, of shape [batch, ...].

    Standard normal in the input's own floating type; whole numbers below the bound that `inputs` gives, or 0 and 1.
    """
    generator = np.random.default_rng(seed)
    below = {spec.name: spec.below for spec in inputs}
    feed: dict[str, npt.NDArray[Any]] = {}
    for value in session.get_inputs():
        shape = [batch, *[int(size) for size in value.shape[1:]]]
        feed[value.name] = random_values(generator, shape, DTYPES.get(value.type, "float32"), below.get(value.name))
    return feed


DTYPES = {"tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}


def random_values(generator: np.random.Generator, shape: Sequence[int], dtype: str, below: int | None) -> Any:
    """One array of random values, see `random_feed`."""
    if np.dtype(dtype).kind in "iu":
        return generator.integers(0, below or 2, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
