"""Every meter that this machine may have: the agent's own, and through Zeus a processor's RAPL and a GPU's NVML.

The protocol and what a joule means are in agent/meters.py. Zeus (Apache-2.0, extra `energy`) knows the devices, their
permissions and its own daemon; what it cannot read becomes a sentence here and never 0 J.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from ..agent import meters as agent_meters
from ..agent.meters import Meter, MeterError

METERS = {**agent_meters.METERS, "rapl": f"{__package__}.rapl", "nvml": f"{__package__}.nvml"}
"""Names of all meters and the modules they live in."""


def open_meter(name: str, root: str = "/") -> Meter:
    """A meter by name; close it after use. Raises MeterError where it is unknown or cannot be used here."""
    return agent_meters.open_meter(name, root, METERS)


def find_meters(root: str = "/") -> list[Meter]:
    """Every meter that can be used here, opened."""
    return agent_meters.find_meters(root, METERS)


def probe(root: str = "/") -> list[tuple[str, bool, str]]:
    """(name, usable, its source or one sentence why not and what to do) of every meter."""
    return agent_meters.probe(root, METERS)


def zeus(module: str, root: str) -> Any:
    """A module of Zeus, which reads the running machine only. Raises MeterError where it is not installed."""
    if root != "/":
        raise MeterError(f"Zeus reads the running machine, not one under {root}")
    try:
        return importlib.import_module(f"zeus.{module}")
    except ImportError as error:
        raise MeterError(f"Zeus cannot be loaded ({error}): pip install 'edgecut[energy]'") from None


def through() -> str:
    """How Zeus is named in a meter's source."""
    return f"through Zeus {metadata.version('zeus')}"
