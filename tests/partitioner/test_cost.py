"""Seconds and joules of one way to run a model, against sums by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from edgecut.partitioner.cost import cost, total
from edgecut.partitioner.link import Link
from edgecut.partitioner.plan import CutCost, Serving
from edgecut.profiler.profile import Energy, PowerModel

LINK = Link(
    name="slow",
    uplink_bps=8000,  # 1000 bytes a second
    downlink_bps=16000,
    rtt_s=0.25,
    radio_tx_w=3.0,
    radio_rx_w=2.0,
    provenance="measured",
    source="a test",
)
SERVING = Serving(fixed_s=0.5, per_byte_s=1e-4, request_framing_bytes=100, answer_framing_bytes=50, source="a test")


def joules(value: float | None) -> Energy:
    return Energy(energy_j=value, provenance="unavailable" if value is None else "modelled", source="")


def priced(**changes: Any) -> CutCost:
    given: dict[str, Any] = {
        "name": "conv",
        "role": "split",
        "sends": "float32 475",
        "payload_bytes": 1900,
        "answer_bytes": 150,
        "edge_s": 4.0,
        "noise_s": 1.5,
        "add_s": 0.125,
        "cloud_s": 0.75,
        "edge_energy": (joules(10.0), joules(2.0)),
        "link": LINK,
        "serving": SERVING,
        "power": PowerModel(idle_w=0.5, max_w=9, source=""),
    }
    return cost(**{**given, **changes})


def test_split_by_hand() -> None:
    """2000 bytes up take 2 s, 200 down 0.1 s; the request costs 0.5 + 2200 * 1e-4."""
    row = priced()
    assert (row.uplink_bytes, row.downlink_bytes, row.payload_bytes) == (2000, 200, 1900)
    assert (row.uplink_s, row.downlink_s) == (2.0, 0.1)
    assert row.request_s == pytest.approx(0.72)
    wait = 0.25 + 2.0 + 0.1 + 0.72 + 0.75
    assert row.wait_s == pytest.approx(wait)
    assert row.link_s == pytest.approx(2.35)
    assert row.total_s == pytest.approx(4.0 + 0.125 + wait)
    assert row.edge_j == 12.0
    assert row.radio_j == pytest.approx(3.0 * 2.0 + 2.0 * 0.1)
    assert row.idle_j == pytest.approx(0.5 * (wait - 1.5))
    assert row.energy_j == pytest.approx(12.0 + 6.2 + 0.5 * (wait - 1.5))


def test_noise_costs_time_only_beyond_the_wait() -> None:
    wait = priced().wait_s
    assert priced(noise_s=wait - 0.01).total_s == pytest.approx(priced(noise_s=0).total_s)
    longer = priced(noise_s=wait + 2)
    assert longer.total_s == pytest.approx(priced(noise_s=0).total_s + 2)
    assert longer.idle_j == 0.0  # the processor is never idle then


def test_on_the_edge_nothing_crosses() -> None:
    row = priced(role="edge-only", payload_bytes=7, cloud_s=0.0, noise_s=0.0, add_s=0.0, edge_energy=(joules(10.0),))
    assert (row.total_s, row.energy_j) == (4.0, 10.0)
    assert (row.uplink_bytes, row.downlink_bytes, row.payload_bytes, row.wait_s) == (0, 0, 0, 0.0)


def test_in_the_cloud_the_edge_only_waits() -> None:
    row = priced(role="cloud-only", edge_s=0.0, noise_s=0.0, add_s=0.0, edge_energy=())
    assert row.total_s == row.wait_s
    assert row.energy_j == pytest.approx(6.2 + 0.5 * row.wait_s)


@pytest.mark.parametrize(("compute", "noise", "radio", "powers"), list(itertools.product([True, False], repeat=4)))
def test_one_unknown_part_makes_the_sum_unknown(compute: bool, noise: bool, radio: bool, powers: bool) -> None:
    row = priced(
        edge_energy=(joules(10.0 if compute else None), joules(2.0 if noise else None)),
        link=LINK if radio else LINK.model_copy(update={"radio_rx_w": None}),
        power=PowerModel(idle_w=0.5, max_w=9, source="") if powers else None,
    )
    assert (row.edge_j is None) == (not (compute and noise))
    assert (row.radio_j is None) == (not radio)
    assert (row.idle_j is None) == (not powers)
    assert (row.energy_j is None) == (not (compute and noise and radio and powers))
    assert row.total_s == priced().total_s


def test_total() -> None:
    assert total([1.0, 2.5]) == 3.5
    assert total([1.0, None]) is None
    assert total([]) == 0
