"""Seconds and joules of one way to run a model, against sums by hand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecut.partitioner.cost import Circumstances, Factors, Part, Way, amounts, cost, total
from edgecut.partitioner.link import Link
from edgecut.partitioner.plan import CutCost, Serving
from edgecut.profiler.profile import PowerModel

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
POWER = PowerModel(idle_w=0.5, max_w=9, source="")


def way(**changes: Any) -> Way:
    given: dict[str, Any] = {
        "name": "conv",
        "role": "split",
        "sends": "float32 475",
        "payload_bytes": 1900,
        "answer_bytes": 150,
        "edge": Part(4.0, 10.0),
        "noise": Part(1.5, 2.0),
        "add": Part(0.125),
        "cloud": Part(0.75),
    }
    return Way(**{**given, **changes})


def priced(link: Link = LINK, power: PowerModel | None = POWER, **changes: Any) -> CutCost:
    return cost(way(**changes), Circumstances.of(link, SERVING, power, 1.0, 1.0))


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
    wait, free = priced().wait_s, priced(noise=Part()).total_s
    assert priced(noise=Part(wait - 0.01)).total_s == pytest.approx(free)
    longer = priced(noise=Part(wait + 2))
    assert longer.total_s == pytest.approx(free + 2)
    assert longer.idle_j == 0.0  # the processor is never idle then


def test_on_the_edge_nothing_crosses() -> None:
    row = priced(role="edge-only", payload_bytes=7, cloud=Part(), noise=Part(), add=Part())
    assert (row.total_s, row.energy_j) == (4.0, 10.0)
    assert (row.uplink_bytes, row.downlink_bytes, row.payload_bytes, row.wait_s) == (0, 0, 0, 0.0)


def test_in_the_cloud_the_edge_only_waits() -> None:
    row = priced(role="cloud-only", edge=Part(), noise=Part(), add=Part())
    assert row.total_s == row.wait_s
    assert row.energy_j == pytest.approx(6.2 + 0.5 * row.wait_s)


@pytest.mark.parametrize(("compute", "noise", "radio", "powers"), list(itertools.product([True, False], repeat=4)))
def test_one_unknown_part_makes_the_sum_unknown(compute: bool, noise: bool, radio: bool, powers: bool) -> None:
    row = priced(
        edge=Part(4.0, 10.0 if compute else None),
        noise=Part(1.5, 2.0 if noise else None),
        link=LINK if radio else LINK.model_copy(update={"radio_rx_w": None}),
        power=POWER if powers else None,
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


@given(
    draws=st.lists(st.tuples(*[st.floats(0.1, 10)] * 9), min_size=1, max_size=6),
    role=st.sampled_from(["split", "edge-only", "cloud-only"]),
)
def test_arrays_cost_what_their_numbers_cost(draws: list[tuple[float, ...]], role: Any) -> None:
    """Slow-down, load and draws as arrays give, place by place, what the same numbers give one at a time."""
    table = np.array(draws).T
    here = Circumstances.of(LINK, SERVING, POWER, 1.0, 1.0)
    many = amounts(
        way(role=role), dataclasses.replace(here, edge_slowdown=table[7], cloud_load=table[8]), Factors(*table[:7])
    )
    for place, drawn in enumerate(draws):
        under = dataclasses.replace(here, edge_slowdown=drawn[7], cloud_load=drawn[8])
        one = amounts(way(role=role), under, Factors(*drawn[:7]))
        for field in dataclasses.fields(one):
            found = np.broadcast_to(getattr(many, field.name), len(draws))[place]
            assert found == pytest.approx(getattr(one, field.name), rel=1e-12), field.name


def test_a_draw_of_one_part_changes_that_part() -> None:
    here = Circumstances.of(LINK, SERVING, POWER, 1.0, 1.0)
    plain = amounts(way(), here)
    for part, name in [("edge", "edge_s"), ("add", "add_s"), ("cloud", "cloud_s"), ("uplink", "uplink_s")]:
        drawn = amounts(way(), here, Factors(**{part: 3.0}))
        assert getattr(drawn, name) == pytest.approx(3 * getattr(plain, name))
        assert drawn.total_s == pytest.approx(plain.total_s + 2 * getattr(plain, name))
