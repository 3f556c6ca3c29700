"""The kit: a folder with a model's parts, that a device needs to measure it, and `kit.json`, which says what to do.

    kit.json        model, settings, and the tasks: name, file, inputs, bytes of weights
    whole.onnx      the graphs, small ...
    prefix-00.onnx  ... since all of them take their weights from
    weights.bin     one file, each tensor on a page of its own

A size that is not what kit.json says is a copy that was cut short. Written by the profiler, read on the device.
"""

import json
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from .backends import BackendError

KIND, VERSION = "kit", 1
FILE = "kit.json"
MAX_BYTES = 64 * 1024 * 1024


class Input(NamedTuple):
    """One input: `shape` with the batch first; whole numbers are drawn below `below`."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    below: Optional[int]


class Part(NamedTuple):
    """A sub-model to be timed, and the bytes of weights it takes into memory."""

    name: str
    file: str
    inputs: Tuple[Input, ...]
    weight_bytes: int


class Kit(NamedTuple):
    """What kit.json says. `noise` has the sizes of noise to be timed, in values."""

    folder: str
    model: str
    digest: str
    parts: Tuple[Part, ...]
    noise: Tuple[int, ...]
    settings: Dict[str, Any]


def read_kit(folder: str) -> Kit:
    """Read and check a kit. Raises BackendError where a file is missing, cut short or no kit at all."""
    path = os.path.join(folder, FILE)
    try:
        with open(path, errors="replace") as file:
            text = file.read(MAX_BYTES)
    except OSError as error:
        raise BackendError("{} cannot be read ({}); write the kit again".format(path, error.strerror)) from None
    try:
        values = json.loads(text)
        if values["kind"] != KIND or values["version"] != VERSION:
            raise BackendError(
                "{} is a {} of version {}, and this agent reads a kit of version {}; write it with the same "
                "edgecut".format(path, values["kind"], values["version"], VERSION)
            )
        kit = Kit(
            folder=folder,
            model=str(values["model"]),
            digest=str(values["digest"]),
            parts=tuple(_part(part) for part in values["parts"]),
            noise=tuple(_positive(size) for size in values["noise"]),
            settings=_settings(values["settings"]),
        )
        sizes = {str(name): int(size) for name, size in values["files"].items()}
        if not kit.parts or not {part.file for part in kit.parts} <= set(sizes):
            raise ValueError("a part without a file")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BackendError("{} is no usable kit ({!r}); write the kit again".format(path, error)) from None
    _check_files(folder, sizes)
    return kit


def _part(values: Dict[str, Any]) -> Part:
    inputs = tuple(_input(given) for given in values["inputs"])
    return Part(str(values["name"]), str(values["file"]), inputs, int(values["weight_bytes"]))


def _input(values: Dict[str, Any]) -> Input:
    below = values["below"]
    return Input(
        name=str(values["name"]),
        dtype=np.dtype(str(values["dtype"])).name,
        shape=tuple(_positive(size) for size in values["shape"]),
        below=None if below is None else _positive(below),
    )


def _positive(value: Any) -> int:
    if int(value) < 1:
        raise ValueError("{} where a positive number is needed".format(value))
    return int(value)


def _settings(values: Dict[str, Any]) -> Dict[str, Any]:
    """What `agent/profile.py` reads, with the right types; a bound that is no number would never end."""
    settings = {name: str(values[name]) for name in ("backend", "precision", "meter")}  # type: Dict[str, Any]
    settings.update({name: _seconds(values[name]) for name in ("pause_s", "relative_width", "floor_s")})
    settings["energy_seconds"] = _seconds(values["energy_seconds"])
    settings["memory"] = bool(values.get("memory", False))  # kits of earlier versions do not say
    settings["max_seconds"] = None if values["max_seconds"] is None else _seconds(values["max_seconds"])
    settings["threads"] = None if values["threads"] is None else _positive(values["threads"])
    return settings


def _seconds(value: Any) -> float:
    if not 0 <= float(value) < float("inf"):
        raise ValueError("{} where a number of at least 0 is needed".format(value))
    return float(value)


def _check_files(folder: str, sizes: Dict[str, int]) -> None:
    for name, size in sizes.items():
        path = os.path.join(folder, name)
        if os.path.basename(name) != name:
            raise BackendError("the kit names a file outside its folder, '{}'; write the kit again".format(name))
        found = os.path.getsize(path) if os.path.isfile(path) else 0
        if found != size:
            raise BackendError(
                "{} has {} bytes where the kit says {}; copy the kit again, whole".format(path, found, size)
            )


def feed(part: Part, seed: int = 0) -> Dict[str, Any]:
    """Random inputs for a sub-model: standard normal values, or whole numbers below the input's bound."""
    generator = np.random.RandomState(seed)
    values = {}
    for given in part.inputs:
        if np.dtype(given.dtype).kind in "iu":
            values[given.name] = generator.randint(0, given.below or 2, given.shape).astype(given.dtype)
        else:
            values[given.name] = generator.standard_normal(given.shape).astype(given.dtype)
    return values


def write_json(path: str, values: Any) -> None:
    """Write beside and rename, so that a reader never sees half of it."""
    beside = path + ".part"
    try:
        with open(beside, "w") as file:
            json.dump(values, file)
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.remove(beside)
        raise
