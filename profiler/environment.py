"""This machine and process as a value: what the agent reads of a device, and the versions of the packages here."""

from __future__ import annotations

from ..agent import environment as device
from ..artefacts import installed_versions
from .profile import Environment

PACKAGES = ("edgecut", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "grpcio")


def read_environment() -> Environment:
    """This machine and process, as far as they tell."""
    return Environment.model_validate(device.read_environment(package_versions()))


def package_versions() -> dict[str, str]:
    """Of the installed packages that matter to a measurement."""
    return installed_versions(PACKAGES)
