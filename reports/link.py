"""A link as a table for a terminal: the two rates and the round trip, each with its interval where it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from ..partitioner.link import Link, Transfers
from . import units
from .terminal import MISSING, Rows

# What else was timed, beside what the link's own numbers come from.
ALSO = {"connect": "connecting ms", "request": "smallest call ms"}


def link_table(link: Link) -> RenderableType:
    """Rates in Mbit/s, times in milliseconds; how often, with what sizes, and what the radio draws."""
    table = Rows(
        ("", "value", "95 %\ninterval", "times\nmeasured", "sizes\nKB"),
        (
            _row("uplink Mbit/s", link.uplink_bps, link.uplink_interval_bps, 1e-6, _of(link, "uplink")),
            _row("downlink Mbit/s", link.downlink_bps, link.downlink_interval_bps, 1e-6, _of(link, "downlink")),
            _row("round trip ms", link.rtt_s, link.rtt_interval_s, 1e3, _of(link, "ping")),
            *(
                _row(ALSO[one.what], median(one.elapsed_s), None, 1e3, [one])
                for one in link.samples
                if one.what in ALSO and one.elapsed_s
            ),
        ),
    )
    notes = [f"{link.name}: {link.provenance}, {link.source}"]
    if link.measured_at is not None:
        notes.append(f"measured at {link.measured_at}")
    if link.radio_tx_w is not None and link.radio_rx_w is not None:
        notes.append(
            f"radio {link.radio_tx_w:.3g} W sending, {link.radio_rx_w:.3g} W receiving, published: {link.radio_source}"
        )
    else:
        notes.append("radio power unavailable: no radio was named")
    return Group(table, "", *(Text(units.printable(note)) for note in notes))


def _of(link: Link, what: str) -> list[Transfers]:
    return [one for one in link.samples if one.what == what]


def _row(
    name: str, value: float, interval: tuple[float, float] | None, factor: float, taken: Sequence[Transfers]
) -> tuple[str, ...]:
    scale = units.scale_of([value, *(interval or ())], (("", factor),))
    number = sum(len(one.elapsed_s) for one in taken)
    sizes = [one.size_bytes / 1000 for one in taken if one.size_bytes]
    return (
        name,
        scale.text(value),
        scale.interval(*interval) if interval is not None else MISSING,
        units.count(number) if number else MISSING,
        f"{min(sizes):,.1f}{units.TO}{max(sizes):,.1f}" if sizes else MISSING,
    )
