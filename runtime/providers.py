"""Sessions for serving, on the processor or on an NVIDIA GPU, and never silently on the other one."""

from __future__ import annotations

from typing import Any

from ..agent import onnxruntime_cuda
from ..agent.backends import BackendError, Settings
from ..errors import DeviceError, unknown
from ..models.session import open_session, random_feed
from .served import MakeSession

PROVIDERS = ("cpu", "cuda")


def session_maker(provider: str, threads: int) -> MakeSession:
    """What makes a session of a model file. Raises DeviceError for an unknown provider or one that cannot be used."""
    if provider not in PROVIDERS:
        raise DeviceError(unknown("provider", provider, PROVIDERS))
    if provider == "cpu":
        return lambda model: open_session(model, threads)
    reason = onnxruntime_cuda.usable()
    if reason:
        raise DeviceError(f"cannot serve on the GPU: {reason}")
    return lambda model: _cuda_session(model, threads)


def _cuda_session(model: bytes | str, threads: int) -> Any:
    """A session no number of which is computed on the processor. Raises DeviceError where it would be."""
    try:
        feed = random_feed(open_session(model, threads), 1)
    except (TypeError, ValueError):  # a size beside the first is open; only a model that needs no trial run will do
        feed = {}
    try:
        return onnxruntime_cuda.serving_session(model, feed, Settings(threads=threads))
    except BackendError as error:
        raise DeviceError(str(error)) from None
    except Exception as error:  # of the trial run, where the model's nodes have to be told apart
        what = "the model" if isinstance(model, bytes) else model
        raise DeviceError(f"cannot tell whether {what} runs on the GPU alone ({type(error).__name__})") from None
