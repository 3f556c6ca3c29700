"""Counting what really crosses the wire per request, framing included, by a relay that does not hold anything back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..agent.edge_part import PROCESSOR
from .client import CloudClient
from .edge import EdgeSession
from .edge_worker import FLOAT32, SPLIT, UINT8, WHOLE_MODEL, WHOLE_UINT8_MODEL
from .relay import LinkShape, Relay

COUNTED = 20
_FREE = LinkShape(uplink_bps=1e11, downlink_bps=1e11, rtt_s=0.0)
Address = tuple[str, int]


def wire_bytes(
    split: Address,
    whole: Address,
    edge_side: Path,
    input_name: str,
    inputs: np.ndarray[Any, Any],
    pixels: np.ndarray[Any, Any] | None,
) -> dict[str, tuple[float, float]]:
    """Bytes up and down per request and way, on a channel that is already open."""
    counted = {}
    with Relay(*split, _FREE) as relay, EdgeSession(edge_side, _url(relay), backend=PROCESSOR) as session:
        counted[SPLIT] = _count(relay, lambda: session.infer(inputs[:1]))
    with Relay(*whole, _FREE) as relay, CloudClient(_url(relay)) as client:
        ways = {FLOAT32: (WHOLE_MODEL, input_name, inputs[:1])}
        if pixels is not None:
            ways[UINT8] = (WHOLE_UINT8_MODEL, "pixels", pixels[:1])
        for way, (model, name, rows) in ways.items():
            counted[way] = _count(relay, functools.partial(client.infer, model, [(name, rows)]))
    return counted


def _url(relay: Relay) -> str:
    return f"http://127.0.0.1:{relay.port}"


def _count(relay: Relay, request: Callable[[], object]) -> tuple[float, float]:
    for _ in range(3):
        request()
    up, down = relay.uplink_bytes, relay.downlink_bytes
    for _ in range(COUNTED):
        request()
    return (relay.uplink_bytes - up) / COUNTED, (relay.downlink_bytes - down) / COUNTED
