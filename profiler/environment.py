"""This machine and process as a value: what the agent reads of a device, and the versions of the packages here."""

from __future__ import annotations

from importlib import metadata

from ..agent import environment as device
from .profile import Environment

PACKAGES = ("edgecut", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "grpcio")


def read_environment() -> Environment:
    """This machine and process, as far as they tell."""
    return Environment.model_validate(device.read_environment(package_versions()))


def package_versions() -> dict[str, str]:
    """Of the installed packages that matter to a measurement."""
    return {name: version for name in PACKAGES if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
