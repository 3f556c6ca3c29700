"""The planner's figures for a request are those of the committed benchmark result, rounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecut.partitioner.serving import SERVING

ROOT = Path(__file__).resolve().parents[2]


def test_figures_are_the_benchmarks() -> None:
    result = json.loads((ROOT / SERVING.source).read_text())
    assert result["command"] == "python benchmarks/request_overhead.py"
    for name in ("fixed_s", "per_byte_s", "request_framing_bytes", "answer_framing_bytes", "session_s"):
        assert getattr(SERVING, name) == pytest.approx(result[name], rel=0.01), name
    assert result["environment"]["processor"]
