"""The backends a profile can be taken with: the agent's own, and torch's, which only this side has.

`DEVICES` are this machine's devices and what measures them when the user names no backend.
"""

from __future__ import annotations

from ..agent.backends import BACKENDS as AGENT_BACKENDS
from ..errors import DeviceError, unknown

BACKENDS: dict[str, str] = {
    **AGENT_BACKENDS,
    "torch-cpu": "..profiler.torch_cpu",
    "torch-cuda": "..profiler.torch_cuda",
}
"""Modules, relative to the agent's package."""
DEVICES = {"cpu": "onnxruntime-cpu", "cuda": "onnxruntime-cuda"}
TWIN_BACKENDS = ("torch-cpu", "torch-cuda")
"""These run the torch program a model came from, not the ONNX file."""
GPU_BACKENDS = ("onnxruntime-cuda", "torch-cuda", "tensorrt", "tensorrt-rtx")


def check_backend(name: str, device: str) -> str:
    """`name` if such a backend can measure the device. Raises DeviceError naming the known ones."""
    known = AGENT_BACKENDS if device.startswith("ssh://") else BACKENDS
    if name not in known:
        where = " of the agent that runs on a device" if device.startswith("ssh://") else ""
        raise DeviceError(unknown(f"backend{where}", name, known))
    if device in DEVICES and (name in GPU_BACKENDS) != (device == "cuda"):
        fitting = sorted(b for b in known if (b in GPU_BACKENDS) == (device == "cuda"))
        raise DeviceError(f"the backend {name} does not run on the device {device}; choose one of {', '.join(fitting)}")
    return name
