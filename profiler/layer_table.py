"""Layer measurements as a table: one row for each layer that was timed somewhere, and the CSV form of it.

    kind,input_hw,in_channels,out_channels,kernel,stride,latency_ms
    conv,56,64,128,3,2,0.412
    linear,,4096,1000,,,1.93

`input_hw` is the side of a square input, `latency_ms` milliseconds for one inference of batch 1. Cells that do not
apply to a kind stay empty. Padding is taken to keep the size: the output's side is that of the input over the stride,
rounded up.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from ..artefacts import MAX_JSON_BYTES, Record, read_bytes
from ..errors import DataError, unknown
from ..models.work import Operation

TableKind = Literal[
    "conv", "depthwise_conv", "linear", "maxpool", "avgpool", "batchnorm", "elementwise", "movement", "softmax"
]
KINDS: tuple[str, ...] = get_args(TableKind)
COLUMNS = ("kind", "input_hw", "in_channels", "out_channels", "kernel", "stride", "latency_ms")
NEEDED: dict[str, tuple[str, ...]] = {
    "conv": ("input_hw", "in_channels", "out_channels", "kernel"),
    "depthwise_conv": ("input_hw", "in_channels", "kernel"),
    "linear": ("in_channels", "out_channels"),
    "maxpool": ("input_hw", "in_channels", "kernel"),
    "avgpool": ("input_hw", "in_channels", "kernel"),
    "batchnorm": ("input_hw", "in_channels"),
    "elementwise": ("input_hw", "in_channels"),
    "movement": ("input_hw", "in_channels"),
    "softmax": ("in_channels",),
}
"""The cells a kind cannot do without; an empty stride is 1."""
OPERATORS = {
    "conv": "Conv",
    "depthwise_conv": "Conv",
    "linear": "Gemm",
    "maxpool": "MaxPool",
    "avgpool": "AveragePool",
    "batchnorm": "BatchNormalization",
    "elementwise": "Add",
    "movement": "Concat",
    "softmax": "Softmax",
}
MAX_CELL = 10_000_000


class LayerRow(Record):
    """One timed layer. Sizes that do not apply are 1; `latency_s` is seconds for one inference of batch 1."""

    kind: TableKind
    input_hw: int = 1
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    latency_s: float

    def operation(self) -> Operation:
        """The work of this layer as predictors see it."""
        output_hw = -(-self.input_hw // self.stride)
        taken, made = self.in_channels * self.input_hw**2, self.out_channels * output_hw**2
        window = self.kernel**2
        parameters, flops = {
            "conv": ((window * self.in_channels + 1) * self.out_channels, 2 * window * self.in_channels * made),
            "depthwise_conv": ((window + 1) * self.out_channels, 2 * window * made),
            "linear": ((self.in_channels + 1) * self.out_channels, 2 * self.in_channels * made),
            "batchnorm": (2 * self.in_channels, 2 * made),
            "maxpool": (0, window * made),
            "avgpool": (0, window * made),
            "softmax": (0, 3 * made),
            "movement": (0, 0),
        }.get(self.kind, (0, made))
        spatial = self.kind not in ("linear", "softmax")
        windowed = self.kind in ("conv", "depthwise_conv", "maxpool", "avgpool")
        return Operation(
            kind=self.kind,
            operator=OPERATORS[self.kind],
            flops=flops,
            # Both operands of an addition are read.
            input_elements=taken * (2 if self.kind == "elementwise" else 1),
            output_elements=made,
            parameters=parameters,
            input_hw=(self.input_hw, self.input_hw) if spatial else None,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=(self.kernel, self.kernel) if windowed else None,
            stride=(self.stride, self.stride) if windowed else None,
            groups=self.in_channels if self.kind == "depthwise_conv" else 1,
        )


class LayerTable(Record):
    """Timed layers, and what a reader should know about how they were read."""

    rows: tuple[LayerRow, ...]
    notes: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> LayerTable:
        """The rows of one kind, in order."""
        return LayerTable(rows=tuple(row for row in self.rows if row.kind == kind))

    def kinds(self) -> tuple[str, ...]:
        """The kinds that occur, in the usual order."""
        present = {row.kind for row in self.rows}
        return tuple(kind for kind in KINDS if kind in present)

    def to_csv(self) -> str:
        """The CSV text; `from_csv` of it gives the same rows."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            needed = (*NEEDED[row.kind], "stride" if "kernel" in NEEDED[row.kind] else "out_channels")
            sizes = [getattr(row, column) if column in needed else "" for column in COLUMNS[1:-1]]
            writer.writerow([row.kind, *sizes, f"{row.latency_s * 1e3:.9g}"])
        return out.getvalue()


def read_csv(path: str | os.PathLike[str]) -> LayerTable:
    """The table in a CSV file. Raises DataError naming the line and column at fault, ArtefactError without a file."""
    data = read_bytes(path, limit=MAX_JSON_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line} is not UTF-8 text; save the table as CSV in UTF-8") from None
    return parse_csv(text, str(path))


def parse_csv(text: str, where: str) -> LayerTable:
    """The table in the text of a file called `where` in messages. Raises DataError at the first fault."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    header: list[str] | None = None
    rows: list[LayerRow] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if header is None:
                header = _header(stripped, where)
            else:
                rows.append(_row(stripped, header, f"{where} line {reader.line_num}"))
    except csv.Error as error:
        raise DataError(f"{where} line {reader.line_num} is not CSV ({error}); separate cells by commas") from None
    if header is None:
        raise DataError(f"{where} is empty; a table of layers starts with the line {','.join(COLUMNS)}")
    if not rows:
        raise DataError(f"{where} has no row below its header; add one line for each measured layer")
    extra = [name for name in header if name not in COLUMNS and name]
    notes = (f"ignored columns of {where}: {', '.join(extra)}",) if extra else ()
    return LayerTable(rows=tuple(rows), notes=notes)


def _header(cells: Sequence[str], where: str) -> list[str]:
    header = [cell.lower() for cell in cells]
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(
            f"{where} has no column {', '.join(missing)}; its first line must name {','.join(COLUMNS)} in any order"
        )
    twice = [column for column in COLUMNS if header.count(column) > 1]
    if twice:
        raise DataError(f"{where} has the column {twice[0]} twice; remove one")
    return header


def _row(cells: Sequence[str], header: Sequence[str], where: str) -> LayerRow:
    if len(cells) > len(header) and any(cells[len(header) :]):
        raise DataError(f"{where} has {len(cells)} cells, the header {len(header)}; check its commas")
    cell = {name: value for name, value in zip(header, cells, strict=False) if name in COLUMNS}
    kind = cell.get("kind", "").lower()
    if kind not in KINDS:
        raise DataError(f"{where}, column kind: {unknown('kind of layer', kind, KINDS)}")
    sizes: dict[str, int] = {}
    for column in COLUMNS[1:-1]:
        text = cell.get(column, "")
        if text:
            sizes[column] = _size(text, f"{where}, column {column}")
        elif column in NEEDED[kind]:
            raise DataError(f"{where}, column {column} is empty, and a {kind} layer needs it")
    channels = sizes["in_channels"]
    if "out_channels" not in NEEDED[kind] and sizes.get("out_channels", channels) != channels:
        raise DataError(
            f"{where}, column out_channels: a {kind} layer has as many as in_channels, {channels}; leave it empty"
        )
    applies = (*NEEDED[kind], *(("stride",) if "kernel" in NEEDED[kind] else ()))
    used = {column: value for column, value in sizes.items() if column in applies}
    return LayerRow.model_validate(
        {
            "kind": kind,
            "out_channels": channels,
            **used,
            "latency_s": _latency(cell.get("latency_ms", ""), f"{where}, column latency_ms") * 1e-3,
        }
    )


def _size(text: str, where: str) -> int:
    # Programs write whole numbers as 64.0 where a column has empty cells.
    value = _number(text, where, float)
    if not (value == int(value) if math.isfinite(value) else False) or not 1 <= value <= MAX_CELL:
        raise DataError(f"{where}: '{text}' is not a size; give a whole number from 1 to {MAX_CELL}")
    return int(value)


def _latency(text: str, where: str) -> float:
    if not text:
        raise DataError(f"{where} is empty; give milliseconds, or leave the row out")
    value = _number(text, where, float)
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{where}: '{text}' is not a time; give milliseconds above 0, or leave the row out")
    return value


def _number(text: str, where: str, read: Callable[[str], float]) -> float:
    try:
        return read(text)
    except ValueError:
        raise DataError(f"{where}: '{text}' is not a number") from None
