"""What `edgecut doctor` tries in a process of its own, because it may crash, hang or print: `examine WHAT [NAME]`.

The answer is one JSON list of [name, status, detail, remedy], written to what was standard output at the start; all
else that is printed is dropped. Nothing heavy is imported before the examination itself.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from typing import Any

Finding = tuple[str, str, str, str]

RUNTIMES = {
    "numpy": ("numpy", "numpy", "install edgecut again: it needs NumPy"),
    "onnxruntime": ("onnxruntime", "onnxruntime", "pip install 'edgecut[cpu]', or 'edgecut[gpu]' with an NVIDIA GPU"),
    "torch": ("torch", "torch", "pip install 'edgecut[torch]'; needed to learn noise, not to run it"),
    "tensorrt": ("tensorrt", "tensorrt", "pip install 'edgecut[trt]'; on a Jetson it comes with JetPack"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx-cu12", "pip install 'edgecut[rtx]'; for GPUs from Turing on"),
    "zeus": ("zeus", "zeus", "pip install 'edgecut[energy]'"),
}
"""Module and distribution of each runtime, and what to do where it is missing."""

PROFILER_BACKENDS = {"torch-cpu": ".torch_cpu", "torch-cuda": ".torch_cuda"}
"""Backends of this folder, beside those of the agent: modules of the same protocol."""


def runtime(name: str) -> list[Finding]:
    """Import a runtime and ask it for its version and what it can use."""
    module, distribution, remedy = RUNTIMES[name]
    try:
        found = importlib.import_module(module)
        version = getattr(found, "__version__", None) or metadata.version(distribution)
        extra = EXTRAS.get(name, _nothing)(found)
    except ModuleNotFoundError as error:
        if error.name == module.partition(".")[0]:
            return [(name, "unusable", "not installed", remedy)]
        return [(name, "unusable", f"cannot be loaded ({error})", f"install what it misses, or it again: {remedy}")]
    except Exception as error:
        return [(name, "unusable", f"cannot be loaded ({_line(error)})", f"install it again: {remedy}")]
    return [(name, "usable", f"{version}{extra}", "")]


def _nothing(module: Any) -> str:
    return ""


def _onnxruntime(module: Any) -> str:
    return ", " + ", ".join(name.removesuffix("ExecutionProvider") for name in module.get_available_providers())


def _torch(module: Any) -> str:
    if module.version.cuda is None and getattr(module.version, "hip", None) is None:
        return ", built without CUDA"
    if not module.cuda.is_available():
        return f", CUDA {module.version.cuda}, but it sees no GPU"
    names = [module.cuda.get_device_name(index) for index in range(module.cuda.device_count())]
    return f", CUDA {module.version.cuda}, {', '.join(names)}"


EXTRAS = {"onnxruntime": _onnxruntime, "torch": _torch}


def backend(name: str) -> list[Finding]:
    """Ask a backend whether it can be used here."""
    from ..agent.backends import BACKENDS, load_backend

    try:
        if name in BACKENDS:
            module = load_backend(name)
        else:
            module = importlib.import_module(PROFILER_BACKENDS[name], __package__)
        reason = module.usable()
        versions = {} if reason else module.versions()
    except ModuleNotFoundError as error:
        own = (error.name or "").startswith(f"{__package__.partition('.')[0]}.")
        if own:
            return [(name, "unknown", "this edgecut does not have it", "")]
        return [(name, "unusable", f"cannot be loaded ({error})", "see the runtimes above")]
    except Exception as error:
        return [(name, "unusable", f"failed ({_line(error)})", "see the runtimes above")]
    if reason:
        return [(name, "unusable", *_sentence(reason, "see the devices and runtimes above"))]
    return [(name, "usable", ", ".join(f"{what} {version}" for what, version in versions.items()), "")]


def meters() -> list[Finding]:
    """Ask every meter whether it can be read."""
    from .meters import probe

    found = []
    for name, here, text in probe():
        fault = "without it, energy is modelled or unavailable"
        found.append((name, "usable", text, "") if here else (name, "unusable", *_sentence(text, fault)))
    return found


def processor() -> list[Finding]:
    """This machine: the board, where it says which it is, or the processor; memory, system and clocks."""
    from ..agent.environment import read_environment

    here = read_environment({})
    parts = [
        here["processor"],
        f"{here['processors']} usable",
        f"{here['memory_bytes'] / 2**30:.1f} GiB",
        here["system"],
    ]
    parts += [
        f"{what} {here[field]}"
        for what, field in (("power mode", "power_mode"), ("governor", "governor"))
        if here[field]
    ]
    return [("processor", "usable", ", ".join(parts), "")]


def gpu() -> list[Finding]:
    """The GPUs that CUDA's driver sees."""
    from ..agent import cuda
    from ..agent.backends import BackendError

    try:
        number = cuda.Driver().integer("cuDeviceGetCount")
        if not number:
            return [
                ("gpu", "unusable", "NVIDIA's driver sees no GPU", "look at nvidia-smi and at CUDA_VISIBLE_DEVICES")
            ]
        versions = ", ".join(f"{what} {version}" for what, version in cuda.versions().items())
        return [_gpu(cuda.Device(index), versions) for index in range(number)]
    except BackendError as error:
        return [("gpu", "unusable", *_sentence(str(error), "for an NVIDIA GPU, install NVIDIA's driver"))]


def _gpu(device: Any, versions: str) -> Finding:
    major, minor = device.compute_capability
    finding = (
        f"gpu {device.ordinal}",
        "usable",
        f"{device.name}, compute capability {major}.{minor}, {versions}",
        "",
    )
    device.close()
    return finding


def storage() -> list[Finding]:
    """Whether models and engines can be kept, and how much room there is."""
    from ..models.load import cache_folder

    folder = cache_folder()
    remedy = "point EDGECUT_CACHE to a folder that can be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"edgecut")
    except OSError as error:
        return [("cache", "unusable", f"{folder} cannot be written ({error.strerror})", remedy)]
    free = shutil.disk_usage(folder).free
    if free < 1 << 30:
        return [("cache", "unusable", f"{folder} has {free / 2**20:.0f} MiB left", f"make room, or {remedy}")]
    return [("cache", "usable", f"{folder}, {free / 2**30:.1f} GiB free", "")]


def _sentence(text: str, remedy: str) -> tuple[str, str]:
    """A sentence's `why; what to do` as its two parts; `remedy` where it has only the first."""
    detail, _, rest = text.partition("; ")
    return detail, rest or remedy


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


EXAMINATIONS: dict[str, Any] = {
    "runtime": runtime,
    "backend": backend,
    "meters": meters,
    "processor": processor,
    "gpu": gpu,
    "storage": storage,
}


def main(arguments: Sequence[str]) -> None:
    """Examine what the arguments name, and answer."""
    answer = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    what, *names = arguments
    json.dump(EXAMINATIONS[what](*names), answer)
    answer.flush()
    # A runtime may crash or wait when it is taken down; it has answered.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
