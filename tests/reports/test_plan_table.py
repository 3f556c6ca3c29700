"""A plan in the terminal: marks, limits, likelihood, candidates and sweeps, at 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console, RenderableType

from edgecut.partitioner.plan import BreakPoint, Plan, Sweep
from edgecut.reports.plan_table import plan_table
from edgecut.reports.plan_words import percent


def printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def planned(case: Any) -> Plan:
    made: Plan = case[0].plan
    return made


def with_rows(plan: Plan, **changes: dict[str, Any]) -> Plan:
    return plan.model_copy(
        update={"cuts": tuple(row.model_copy(update=changes.get(row.name, {})) for row in plan.cuts)}
    )


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("\N{RIGHTWARDS ARROW} ").startswith(f"{name} "))


def test_marks_of_pareto_limits_and_layer_times(planned: Plan) -> None:
    first, second, *_ = (row.name for row in planned.cuts)
    broken = ("12 MB of edge memory, at most 10 MB asked", "no leakage figure")
    plan = with_rows(planned, **{first: {"broken": broken}, second: {"basis": "layers"}})
    plan = plan.model_copy(update={"pareto": (plan.choice,)})
    text = printed(plan_table(plan))
    assert max(map(len, text.splitlines())) <= 80
    assert line_of(text, first).rstrip().endswith("!")
    assert line_of(text, second).rstrip().endswith("~")
    assert line_of(text, plan.choice).rstrip().endswith("*")
    assert f"! after {first}: 12 MB of edge memory, at most 10 MB asked; no leakage figure" in flat(text)
    assert "* no other cut beats it in both latency and energy" in text
    assert "~ modelled from layer times, its halves not timed" in text
    plain = printed(plan_table(planned.model_copy(update={"pareto": ()})))
    assert not any(line.startswith(("!", "~", "*")) for line in plain.splitlines())


def test_many_broken_limits_are_counted(planned: Plan) -> None:
    rows = tuple(
        planned.cuts[0].model_copy(update={"name": f"c{place}", "broken": ("no leakage figure",)}) for place in range(9)
    )
    text = printed(plan_table(planned.model_copy(update={"cuts": (*rows, *planned.cuts)})))
    assert "! 4 more cuts break a limit" in text
    assert text.count("no leakage figure") == 5


def test_likelihood_names_its_spread(planned: Plan) -> None:
    shares = {row.name: {"best_share": 0.93 if row.name == planned.choice else 0.07} for row in planned.cuts}
    likely = with_rows(planned, **shares)
    count = len(planned.cuts)
    assert (
        f"After {planned.choice} it is the best of {count} cuts in 93 % of 4,000 draws under the measured spread, the "
        "link's rates as given."
    ) in flat(printed(plan_table(likely)))
    predicted = likely.model_copy(update={"cloud": likely.cloud.model_copy(update={"provenance": "modelled"})})
    assert "under the measured and predicted spread" in flat(printed(plan_table(predicted)))
    link = likely.link.model_copy(update={"uplink_interval_bps": (1e6, 2e6)})
    assert "the link's rates with theirs" in flat(printed(plan_table(likely.model_copy(update={"link": link}))))
    for known in ({}, {planned.choice: {"best_share": 1.0}}):
        nothing = {row.name: known.get(row.name, {"best_share": None}) for row in planned.cuts}
        assert "it is the best of" not in flat(printed(plan_table(with_rows(planned, **nothing))))


def test_percentages_are_whole_and_never_falsely_certain() -> None:
    assert [percent(part) for part in (0.0, 0.001, 0.5, 0.934, 0.999, 1.0)] == [
        "0 %",
        "less than 1 %",
        "50 %",
        "93 %",
        "more than 99 %",
        "100 %",
    ]


def test_candidates_say_what_to_type(planned: Plan) -> None:
    named = planned.model_copy(update={"candidates": ("{a+b}", "{c}")})
    text = flat(printed(plan_table(named)))
    assert "2 cuts that nothing timed could be cheaper by layer times, the first after {a+b}: run" in text
    assert "'edgecut profile MODEL --cuts PLAN --add-to PROFILE' on both devices, and plan again." in text
    untimed = with_rows(named, **{planned.choice: {"basis": "layers"}})
    assert "No cut was timed on both sides: run 'edgecut profile" in flat(printed(plan_table(untimed)))
    assert "--add-to" not in printed(plan_table(planned.model_copy(update={"candidates": ()})))


def test_sweeps_are_tables_of_stretches(planned: Plan) -> None:
    sweep = Sweep(
        quantity="uplink",
        low=1e6,
        high=1e8,
        first="",
        points=(BreakPoint(at=2.5e6, before="", after="fc1"), BreakPoint(at=4.4e7, before="fc1", after="conv2")),
    )
    changed = planned.model_copy(update={"sweeps": (sweep,), "changes": ("Below 2.5 Mbit/s up no cut keeps.",)})
    text = printed(plan_table(changed))
    tail = [line.split() for line in text.splitlines()[-3:]]
    assert tail == [
        ["no", "cut", "keeps", "to", "the", "limits", "1", "2.5"],
        ["fc1", "2.5", "44"],
        ["conv2", "44", "100"],
    ]
    assert "Below 2.5 Mbit/s up no cut keeps." in text


def test_memory_and_wire_are_told(planned: Plan) -> None:
    plan = with_rows(planned, **{planned.choice: {"edge_memory_bytes": 2_500_000, "memory_provenance": "measured"}})
    text = flat(printed(plan_table(plan.model_copy(update={"wire": "int8"}))))
    depth, layers = plan.chosen.depth, len(plan.model.layers)
    assert f"on the edge: {depth} of {layers} layers, 2.5 MB of memory, measured" in text
    assert "activations cross as int8, one byte a value" in text
