"""What a device can do at most, from data sheets and dumps: the figures that predictions start from.

One TOML file a device in profiler/devices/, package data. Every figure carries its source and its provenance:
`published` (read in the source), `measured` (by the source, on the device), `computed` (from other figures here),
`recalled` (from memory, not verified: check it before trusting a result that hangs on it). A mode is a power mode or a
variant of the device; `NAME:MODE` names one, `NAME` alone means the default mode.
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Literal

from pydantic import Field

from ..artefacts import Record
from ..errors import DeviceError, unknown

Precision = Literal["fp32", "tf32", "fp16"]
Processor = Literal["gpu", "cpu"]


class Figure(Record):
    """A number, how it is known, and where from. The field's name carries the unit."""

    value: float = Field(ge=0)
    provenance: Literal["published", "measured", "computed", "recalled"]
    source: str = Field(min_length=1)


class Figures(Record):
    """A device's figures in one mode. FLOP/s count a multiply-add as two; `tensor` ones are dense tensor-core rates.

    `*_layer_overhead_s` is what launching one layer costs in a compiled runtime, `max_w` the power with everything
    busy, `cap_w` a limit the device enforces. `memory_bytes_per_s` is the interface's peak.
    """

    memory_bytes_per_s: Figure
    idle_w: Figure
    max_w: Figure
    cap_w: Figure | None = None
    gpu_cores: Figure | None = None
    gpu_clock_hz: Figure | None = None
    gpu_fp32_flops: Figure | None = None
    gpu_fp16_flops: Figure | None = None
    gpu_fp16_tensor_flops: Figure | None = None
    gpu_tf32_tensor_flops: Figure | None = None
    gpu_layer_overhead_s: Figure | None = None
    cpu_cores: Figure | None = None
    cpu_clock_hz: Figure | None = None
    cpu_fp32_flops: Figure | None = None
    cpu_fp16_flops: Figure | None = None
    cpu_layer_overhead_s: Figure | None = None


class DeviceDescription(Record):
    """One device in one mode."""

    name: str
    mode: str
    title: str
    family: str
    figures: Figures

    @property
    def reference(self) -> str:
        """`NAME:MODE`, what `load_device` takes."""
        return f"{self.name}:{self.mode}"

    def recalled(self) -> tuple[str, ...]:
        """The names of the figures that nobody verified."""
        figures = ((name, getattr(self.figures, name)) for name in Figures.model_fields)
        return tuple(name for name, figure in figures if figure is not None and figure.provenance == "recalled")


class _Mode(Record):
    title: str
    figures: dict[str, Figure] = Field(default_factory=dict)


class _File(Record):
    name: str
    title: str
    family: Literal["jetson", "raspberry-pi", "gpu"]
    aliases: tuple[str, ...] = ()
    default_mode: str
    figures: dict[str, Figure] = Field(default_factory=dict)
    modes: dict[str, _Mode] = Field(min_length=1)


def known_devices() -> dict[str, tuple[str, ...]]:
    """Every device's name and its modes, the default one first."""
    return {
        name: (file.default_mode, *(mode for mode in file.modes if mode != file.default_mode))
        for name, file in _files().items()
    }


def load_device(reference: str | DeviceDescription) -> DeviceDescription:
    """The device `NAME` or `NAME:MODE`, or an alias such as `tx2`. Raises DeviceError naming the known ones."""
    if isinstance(reference, DeviceDescription):
        return reference
    name, _, mode = reference.partition(":")
    files = _files()
    aliases = {alias: file.name for file in files.values() for alias in file.aliases}
    file = files.get(aliases.get(name, name))
    if file is None:
        raise DeviceError(unknown("device description", name, files))
    mode = mode or file.default_mode
    if mode not in file.modes:
        raise DeviceError(unknown(f"mode of {file.name}", mode, file.modes))
    made = file.modes[mode]
    return DeviceDescription(
        name=file.name,
        mode=mode,
        title=f"{file.title}, {made.title}",
        family=file.family,
        figures=Figures.model_validate({**file.figures, **made.figures}),
    )


@functools.cache
def _files() -> dict[str, _File]:
    folder = resources.files(__package__) / "devices"
    texts = {entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml")}
    files = (_File.model_validate(tomllib.loads(texts[name])) for name in sorted(texts))
    return {file.name: file for file in files}
