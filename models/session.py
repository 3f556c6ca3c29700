"""How edgecut opens an ONNX Runtime session: one way for profiling, checking, serving and the edge.

What is profiled is thereby what is deployed: same optimisation level, same threads, same provider.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError, ModelError

Arrays = list[npt.NDArray[Any]]
MAX_THREADS = 1024


def open_session(
    model: bytes | str | os.PathLike[str],
    threads: int = 1,
    *,
    profile_prefix: str | None = None,
    optimised_path: str | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    `threads` is the intra-operator pool's size. Raises DeviceError for a size that cannot be, without ONNX Runtime, or
    when another provider than the asked one is in use, ModelError when the model cannot be loaded.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise DeviceError(f"{threads} threads cannot be used; give a number from 1 to {MAX_THREADS}")
    # Its wheels report to their maker (1.31: to events.data.microsoft.com, with a file .ses in the temporary folder).
    # Read when the library is loaded, so it must be set before.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # where something else loaded the library first
    except ModuleNotFoundError:
        raise DeviceError("ONNX Runtime is not installed; install edgecut[cpu] (or edgecut[gpu])") from None
    except ImportError as error:
        raise DeviceError(f"ONNX Runtime cannot be loaded ({error}); install edgecut[cpu] (or edgecut[gpu])") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle pools of many live sessions would spin against each other and double every time measured.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if optimised_path is not None:
        options.optimized_model_filepath = optimised_path
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        where = "the model" if isinstance(source, bytes) else str(Path(source))
        raise ModelError(f"ONNX Runtime cannot load {where}: {str(error).splitlines()[0][:300]}") from None
    if session.get_providers()[0] != "CPUExecutionProvider":
        raise DeviceError(f"ONNX Runtime fell back to {session.get_providers()[0]} where the CPU was asked for")
    return session


def random_feed(session: Any, batch: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Standard normal inputs for every float input of a session; float32 of shape [batch, ...]."""
    generator = np.random.default_rng(seed)
    feed: dict[str, npt.NDArray[Any]] = {}
    for value in session.get_inputs():
        shape = [batch, *[int(size) for size in value.shape[1:]]]
        feed[value.name] = generator.standard_normal(shape).astype(np.float32)
    return feed
