"""The table of a link: what was measured with its interval, what was not as a dash, and the radio with its source."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from edgecut.partitioner.link import PRESETS, Link, Transfers
from edgecut.reports.link import link_table
from edgecut.reports.units import TO

MEASURED = Link(
    name="probe cloud:8001",
    uplink_bps=20.5e6,
    downlink_bps=7e6,
    rtt_s=0.0105,
    provenance="measured",
    source="edgecut probe cloud:8001, one open channel",
    uplink_interval_bps=(20.1e6, 21e6),
    rtt_interval_s=(0.0101, 0.0119),
    measured_at="2026-11-22T10:00:00+00:00",
    samples=(
        Transfers(what="ping", elapsed_s=(0.0104, 0.0105, 0.0106)),
        Transfers(what="connect", elapsed_s=(0.001, 0.003, 0.9)),
        Transfers(what="request", elapsed_s=(0.0125, 0.0127)),
        Transfers(what="uplink", size_bytes=12_000, elapsed_s=(0.01, 0.02)),
        Transfers(what="uplink", size_bytes=3_000_000, elapsed_s=(1.0, 1.1, 1.2)),
    ),
)


def printed(renderable: RenderableType, width: int = 120) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def cells(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).removeprefix(start).split()


@pytest.mark.parametrize("width", [80, 120])
def test_measured_values_stand_with_interval_number_and_sizes(width: int) -> None:
    text = printed(link_table(MEASURED), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert cells(text, "uplink Mbit/s") == ["20.50", f"20.10{TO}21.00", "5", f"12.0{TO}3,000.0"]
    assert cells(text, "downlink Mbit/s") == ["7.000", "-", "-", "-"]
    assert cells(text, "round trip ms") == ["10.50", f"10.10{TO}11.90", "3", "-"]
    assert cells(text, "connecting ms") == ["3.000", "-", "3", "-"]
    assert cells(text, "smallest call ms") == ["12.60", "-", "2", "-"]
    assert "measured at 2026-11-22T10:00:00+00:00" in text
    assert "radio power unavailable" in text and " 0 W" not in text


def test_a_preset_has_no_intervals_but_a_radio() -> None:
    text = printed(link_table(PRESETS["lte"]), 200)
    assert cells(text, "uplink Mbit/s") == ["5.850", "-", "-", "-"]
    assert "lte: published, preset lte: 5.85/13.76 Mbit/s from the literature" in text
    assert "radio 3.85 W sending, 2 W receiving, published: Huang et al." in text
    assert "connecting" not in text and "measured at" not in text


def test_names_are_never_obeyed() -> None:
    text = printed(link_table(MEASURED.model_copy(update={"name": "[red]evil\x1b[31m"})), 200)
    assert "[red]evil\N{REPLACEMENT CHARACTER}[31m: measured" in text
