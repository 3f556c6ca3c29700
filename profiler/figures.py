"""Latencies that others published, and the layer tables of the networks they timed: what predictions are calibrated on.

`published.toml` holds whole networks, `published_layers.csv` single layers, `networks.csv` the networks' operations
(written by benchmarks/published_networks.py). A latency is seconds per batch, not per item. `copies` says whether
moving the input to the device and the answer back is part of it, as the source states it.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal

from ..artefacts import Record
from ..models.work import Operation
from .description import Precision

Copies = Literal["included", "excluded", "not stated"]
PAIRS = ("input_hw", "kernel", "stride")
COLUMNS = (
    *("kind", "operator", "flops", "input_elements", "output_elements", "parameters"),
    *PAIRS,
    *("in_channels", "out_channels", "groups", "rows"),
)

Networks = Mapping[str, Mapping[str, Operation]]


class PublishedSet(Record):
    """Figures taken under the same conditions, in milliseconds per batch, by precision and network.

    `benchmark` tells sets of the same device and runtime apart whose conditions differ; the empty one is what a
    prediction for that device and runtime uses.
    """

    device: str
    runtime: str
    benchmark: str = ""
    batch: int
    copies: Copies
    conditions: str
    source: str
    latency_ms: dict[Precision, dict[str, float]]

    @property
    def group(self) -> tuple[str, str, str]:
        """What shares constants."""
        return self.device, self.runtime, self.benchmark


class Anchor(Record):
    """What a source says of one of a device's constants; `doubt` is a standard deviation of its log."""

    device: str
    runtime: str
    constant: str
    value: float
    doubt: float
    source: str


class PublishedLayer(Record):
    """One layer of one network, in milliseconds per batch, as the runtime's own timer gave it."""

    device: str
    runtime: str
    precision: Precision
    batch: int
    network: str
    layer: str
    latency_ms: float


def folder() -> Traversable:
    """The package's folder of published figures."""
    return resources.files(__package__) / "published"


def published_sets() -> tuple[PublishedSet, ...]:
    """Every set of whole networks, in the file's order."""
    return tuple(PublishedSet.model_validate(entry) for entry in _published()["sets"])


def anchors() -> tuple[Anchor, ...]:
    """Every anchor, in the file's order."""
    return tuple(Anchor.model_validate(entry) for entry in _published()["anchors"])


def published_layers() -> tuple[PublishedLayer, ...]:
    """Every single layer, in the file's order."""
    text = (folder() / "published_layers.csv").read_text("utf-8")
    return tuple(PublishedLayer.model_validate(row, strict=False) for row in csv.DictReader(io.StringIO(text)))


def networks() -> dict[str, dict[str, Operation]]:
    """Every network's operations by name, in execution order."""
    return parse_networks((folder() / "networks.csv").read_text("utf-8"))


def format_networks(tables: Networks) -> str:
    """The text of `networks.csv`. A pair is written `height x width`, and nothing where a feature does not apply."""
    lines = [",".join(("network", "name", *COLUMNS))]
    for network, operations in tables.items():
        for name, operation in operations.items():
            values = (_text(getattr(operation, column)) for column in COLUMNS)
            lines.append(",".join((network, name, *values)))
    return "\n".join(lines) + "\n"


def parse_networks(text: str) -> dict[str, dict[str, Operation]]:
    """The tables in the text of a `networks.csv`."""
    made: dict[str, dict[str, Operation]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        made.setdefault(row["network"], {})[row["name"]] = Operation.model_validate(dict(_values(row)))
    return made


def _published() -> dict[str, list[object]]:
    return tomllib.loads((folder() / "published.toml").read_text("utf-8"))


def _values(row: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    for column in COLUMNS:
        if row[column]:
            yield column, tuple(row[column].split("x")) if column in PAIRS else row[column]


def _text(value: object) -> str:
    if value is None:
        return ""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
