"""Tables of layer measurements: what a CSV file may look like, and what is said of one that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecut.errors import ArtefactError, DataError
from edgecut.profiler.layer_table import COLUMNS, LayerRow, LayerTable, parse_csv, read_csv

HEADER = ",".join(COLUMNS)
GOOD = f"{HEADER}\nconv,56,64,128,3,2,0.5\nlinear,,4096,1000,,,1.25\n"


def test_work_of_each_kind() -> None:
    """Counted by hand for a picture of 5 x 5, stride 2, which gives 3 x 3."""
    conv = LayerRow(kind="conv", input_hw=5, in_channels=2, out_channels=4, kernel=3, stride=2, latency_s=1).operation()
    assert (conv.flops, conv.parameters) == (2 * 9 * 2 * 4 * 9, 9 * 2 * 4 + 4)
    assert (conv.input_elements, conv.output_elements) == (50, 36)
    row = LayerRow(kind="depthwise_conv", input_hw=5, in_channels=2, out_channels=2, kernel=3, stride=2, latency_s=1)
    assert (row.operation().flops, row.operation().parameters, row.operation().groups) == (2 * 9 * 2 * 9, 20, 2)
    linear = LayerRow(kind="linear", in_channels=7, out_channels=3, latency_s=1).operation()
    assert (linear.flops, linear.parameters, linear.output_elements) == (42, 24, 3)
    pool = LayerRow(kind="maxpool", input_hw=5, in_channels=2, out_channels=2, kernel=2, stride=2, latency_s=1)
    assert (pool.operation().flops, pool.operation().parameters) == (4 * 2 * 9, 0)


def test_reads_units_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    path.write_text(GOOD)
    table = read_csv(path)
    assert table.rows[0] == LayerRow(
        kind="conv", input_hw=56, in_channels=64, out_channels=128, kernel=3, stride=2, latency_s=0.0005
    )
    assert table.rows[1] == LayerRow(kind="linear", in_channels=4096, out_channels=1000, latency_s=0.00125)
    assert table.notes == () and table.kinds() == ("conv", "linear")


def test_accepts_what_spreadsheets_write(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, capitals, spaces, another order of columns, 64.0 for 64, more columns."""
    path = tmp_path / "layers.csv"
    text = "\ufeffLatency_ms, Kind,stride,kernel,out_channels,in_channels,input_hw,device\r\n\r\n"
    path.write_text(text + "0.5, Conv ,2.0,3,128.0,64.0,56,phone\r\n,,,,,,,\r\n", encoding="utf-8", newline="")
    table = read_csv(path)
    assert table.rows == parse_csv(GOOD, "good").rows[:1]
    assert "device" in table.notes[0] and "ignored" in table.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (HEADER, "no row"),
        ("kind,input_hw,in_channels,out_channels,kernel,latency_ms\n", "no column stride"),
        (HEADER + ",stride\nconv,1,1,1,1,1,1,1\n", "column stride twice"),
        (GOOD + "conf,56,64,128,3,2,0.5\n", "line 4, column kind: .*did you mean 'conv'"),
        (GOOD + "conv,,64,128,3,2,0.5\n", "line 4, column input_hw is empty"),
        (GOOD + "conv,56,64.5,128,3,2,0.5\n", "line 4, column in_channels: '64.5' is not a size"),
        (GOOD + "conv,56,0,128,3,2,0.5\n", "line 4, column in_channels: '0'"),
        (GOOD + "conv,56,nan,128,3,2,0.5\n", "line 4, column in_channels: 'nan'"),
        (GOOD + "conv,56,x,128,3,2,0.5\n", "line 4, column in_channels: 'x' is not a number"),
        (GOOD + "conv,56,64,128,3,2,0\n", "line 4, column latency_ms: '0' is not a time"),
        (GOOD + "conv,56,64,128,3,2,-1\n", "line 4, column latency_ms: '-1'"),
        (GOOD + "conv,56,64,128,3,2,nan\n", "line 4, column latency_ms: 'nan'"),
        (GOOD + "conv,56,64,128,3,2,inf\n", "line 4, column latency_ms: 'inf'"),
        (GOOD + "conv,56,64,128,3,2,\n", "line 4, column latency_ms is empty"),
        (GOOD + "conv,56,64,128,3,2\n", "line 4, column latency_ms is empty"),
        (GOOD + "\n\nconv,56,64,128,3,2,0.5,9\n", "line 6 has 8 cells"),
        (GOOD + "maxpool,56,64,32,3,2,0.5\n", "line 4, column out_channels"),
        (GOOD + 'conv,"56,64\n', "is not CSV"),
    ],
)
def test_faults_are_named_with_line_and_column(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        parse_csv(text, "t.csv")
    assert re.match("t.csv", str(caught.value)) and "\n" not in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no file"):
        read_csv(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(GOOD.encode() + b"\xff\xfe")
    with pytest.raises(DataError, match="line 4 is not UTF-8"):
        read_csv(tmp_path / "binary.csv")


SIZES = st.integers(1, 4096)
ROWS = st.one_of(
    st.builds(
        LayerRow,
        kind=st.just("conv"),
        input_hw=SIZES,
        in_channels=SIZES,
        out_channels=SIZES,
        kernel=st.integers(1, 11),
        stride=st.integers(1, 4),
        latency_s=st.floats(1e-7, 10),
    ),
    st.builds(LayerRow, kind=st.just("linear"), in_channels=SIZES, out_channels=SIZES, latency_s=st.floats(1e-7, 10)),
    st.builds(
        lambda hw, channels, seconds: LayerRow(
            kind="maxpool",
            input_hw=hw,
            in_channels=channels,
            out_channels=channels,
            kernel=3,
            stride=2,
            latency_s=seconds,
        ),
        SIZES,
        SIZES,
        st.floats(1e-7, 10),
    ),
)


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_csv_round_trip(rows: list[LayerRow]) -> None:
    again = parse_csv(LayerTable(rows=tuple(rows)).to_csv(), "again").rows
    assert [row.model_copy(update={"latency_s": 1.0}) for row in again] == [
        row.model_copy(update={"latency_s": 1.0}) for row in rows
    ]
    for row, other in zip(rows, again, strict=True):
        assert other.latency_s == pytest.approx(row.latency_s, rel=1e-8)
