"""How much slower is the planned cut than the best one, and how close does a split come to what is possible?

For each network and link a plan is made from profiles taken in the same run; then every candidate cut is run end to end
over a real link (`runtime/tunnel.py`: two network namespaces, the kernel's TCP, rate and delay), beside edge-only and
cloud-only, all in turns. This machine is the cloud and, held back by a stated factor, the edge: an emulated edge. The
plan's link has the preset's rates, which the link's packets are made to carry as payload, and the round trip that was
measured over it, as a probe would. A cut whose bytes alone take longer than a measured split in all cannot be the best,
and is left out by name. The planned cut and the two best others are measured again in turns with more rounds, since the
least of many measurements is partly luck; the regret is of those.

The bound is the edge's and the cloud's model runs as measured in those very requests, a TCP round trip of one byte in
turns with them, and the bits of payload and answer over the rates. Everything else counts as lost.

    python benchmarks/regret.py                                  # all, half an hour on an idle machine of two cores
    python benchmarks/regret.py --quick --only lenet5,resnet18

It needs root. Results are written after each network; a network that is there for the same slow-down is not measured
again unless --again is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machine import RESULTS, write_result
from real_links import keep_windows, ping_server
from regret_page import write as write_page
from regret_prepare import WHOLE, WHOLE_UINT8, Prepared, prepare
from regret_sums import PAPER_NETWORKS, bound, measured, middle, outside, predicted, regret, summary
from regret_worker import PING

from edgecut.models.load import Model, load_model
from edgecut.models.spec import ModelSpec
from edgecut.partitioner.choose import plan
from edgecut.partitioner.link import PRESETS, Link
from edgecut.partitioner.plan import Plan
from edgecut.partitioner.ways import CLOUD_JPEG
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile
from edgecut.runtime.edge_worker import EDGE_ONLY, FLOAT32, UINT8
from edgecut.runtime.relay import LinkShape
from edgecut.runtime.tunnel import RealLink, carrying, real_link

NETWORKS = (*PAPER_NETWORKS, "resnet18", "mobilenet_v2")
SLOWDOWN = 4.0
PAUSE_S = 0.005
MARGIN = 1.5
"""Cuts are prepared whose bytes take up to so many times the planned cut's predicted time."""
CLOSE = 1.25
"""Cuts that took up to so many times the best one's time in the first rounds get more of them."""
FIRST_ROUNDS = 3


class Effort(NamedTuple):
    """Seconds of profiling; pings; rounds, and seconds after which no further one begins, of each step."""

    profile_s: float
    pings: int
    sweep: tuple[int, float]
    baselines: tuple[int, float]
    again: tuple[int, float]


FULL = Effort(60.0, 40, (12, 14.0), (10, 6.0), (30, 16.0))
QUICK = Effort(8.0, 15, (3, 3.0), (4, 3.0), (8, 5.0))


class Process:
    """A child that answers a line with a line."""

    def __init__(self, child: subprocess.Popen[str], name: str) -> None:
        self._child, self._name = child, name

    def read(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"the {self._name} ended early, with status {self._child.wait()}")
        return line

    def ask(self, value: Any) -> Any:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(value) + "\n")
        self._child.stdin.flush()
        return json.loads(self.read())


@contextlib.contextmanager
def started(side: Any, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A script beside this one, in a namespace; it ends when its input closes."""
    command = [sys.executable, "-P", str(Path(__file__).with_name(script)), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    child = side.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        yield child
    finally:
        child.stdin.close()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Run:
    """One network: its profile, what was prepared, and the link and server that stand."""

    def __init__(self, model: Model, profiled: Profile, slowdown: float, effort: Effort) -> None:
        self.model, self.spec, self.profile = model, model.spec, profiled
        self.slowdown, self.effort = slowdown, effort
        self.jpeg_bytes = _jpeg_bytes(model.spec)

    def plan(self, link: Link) -> Plan:
        return plan(self.profile, self.profile, link=link, edge_slowdown=self.slowdown, jpeg_bytes=self.jpeg_bytes)

    def bytes_s(self, link: Link) -> dict[str, float]:
        """Seconds that each profiled cut's bytes take over a link."""
        return {cut.name: link.uplink_s(self.spec.cut(cut.name).size_bytes) for cut in self.profile.cuts}

    def worth_preparing(self, links: dict[str, Link]) -> set[str]:
        """Cuts that one of the links may turn out to be able to carry in time."""
        found: set[str] = set()
        for link in links.values():
            seconds = self.bytes_s(link)
            found |= seconds.keys() - outside(seconds, MARGIN * self.plan(link).chosen.total_s).keys()
        return found

    def over(self, name: str, preset: Link, made: RealLink, server: Process, ready: Prepared, url: str) -> Any:
        """Everything over one link, which stands."""
        made.change(**carrying(_shape(preset)).model_dump())
        with ping_server(made) as ping, started(made.edge, "regret_worker.py") as child:
            worker = Process(child, "edge worker")
            assert child.stdin is not None
            child.stdin.write(json.dumps(self._task(ready, url, ping)) + "\n")
            pings = worker.ask({"ways": [PING], "rounds": self.effort.pings, "seconds": 60})[PING]
            link = preset.model_copy(update={"rtt_s": middle(pings["total_s"])})
            row = self._measure(worker, server, ready, link)
        return {"ping_s": link.rtt_s, **row}

    def _task(self, ready: Prepared, url: str, ping: tuple[str, int]) -> dict[str, Any]:
        return {
            "server": url,
            "ping": ping,
            "slowdown": self.slowdown,
            "pause_s": PAUSE_S,
            "input": self.spec.input.name,
            "inputs": str(ready.inputs),
            "whole": str(ready.whole),
            "sides": {name: str(side) for name, side in ready.sides.items()},
        }

    def _measure(self, worker: Process, server: Process, ready: Prepared, link: Link) -> dict[str, Any]:
        planned = self.plan(link)
        names = [EDGE_ONLY, FLOAT32, *([UINT8] if self.spec.pixels is not None else [])]
        first = _ask(worker, [planned.choice, *names, PING], self.effort.baselines)
        runs = server.ask("times")
        best_s = middle(first[planned.choice]["total_s"])
        seconds = self.bytes_s(link)
        left_out = outside(seconds, best_s)
        taken = self._sweep(worker, [name for name in ready.sides if name not in left_out])
        cuts = {name: {**measured(fields), **predicted(planned.cost(name))} for name, fields in taken.items()}
        order = sorted(cuts, key=lambda name: float(cuts[name]["measured_s"]))
        finalists = [planned.choice, *[name for name in order if name != planned.choice][:2]]
        server.ask("times")
        again = _ask(worker, [*finalists, PING], self.effort.again)
        runs |= {model: taken for model, taken in server.ask("times").items() if model not in (WHOLE, WHOLE_UINT8)}
        bounds = self._bounds(planned, first, again, runs, ready.models)
        totals = {name: fields["total_s"] for name, fields in again.items() if name != PING}
        best = min(min(map(middle, totals.values())), best_s)
        row = {
            "planned": planned.choice,
            **regret(planned.choice, totals),
            "again": {name: middle(blocks) for name, blocks in totals.items()},
            "cuts": cuts,
            "left_out": left_out,
            "not_measured": sorted(seconds.keys() - cuts.keys() - outside(seconds, best).keys()),
            "baselines": {name: {**measured(first[name]), **predicted(planned.cost(name))} for name in names},
        }
        return {**row, **bounds, "speedups": self._speedups(planned, totals, row)}

    def _sweep(self, worker: Process, names: list[str]) -> dict[str, Any]:
        """All cuts in turns, then those close to the best one again."""
        taken = _ask(worker, names, (FIRST_ROUNDS, 0.0))
        times = {name: middle(fields["total_s"]) for name, fields in taken.items()}
        close = [name for name, seconds in times.items() if seconds <= CLOSE * min(times.values())]
        for name, fields in _ask(worker, close, self.effort.sweep).items():
            for field, rounds in fields.items():
                taken[name][field] += rounds
        return taken

    def _bounds(
        self,
        planned: Plan,
        first: dict[str, Any],
        again: dict[str, Any],
        runs: dict[str, list[float]],
        models: dict[str, str],
    ) -> dict[str, Any]:
        """The bound at the planned cut and of the cloud-only baselines, each beside the pings of its own turns."""
        answer_bytes = sum(tensor.size_bytes for tensor in self.spec.outputs)
        ways = {planned.choice: (models[planned.choice], again), FLOAT32: (WHOLE, first), UINT8: (WHOLE_UINT8, first)}
        found = {}
        for name, (model, taken) in ways.items():
            if name in taken:
                edge_s, cloud_s, ping_s = middle(taken[name]["model_s"]), _median(runs[model]), _total(taken[PING])
                payload = planned.cost(name).payload_bytes
                least = bound(edge_s, ping_s, payload, answer_bytes, cloud_s, planned.link.model_dump())
                parts = {"edge_s": edge_s, "ping_s": ping_s, "cloud_s": cloud_s}
                found[name] = {"bound_s": least, "reached": least / _total(taken[name]), "bound_parts": parts}
        return {**found.pop(planned.choice), "bounds": found}

    def _speedups(self, planned: Plan, totals: dict[str, Any], row: dict[str, Any]) -> dict[str, float | None]:
        """Of the planned cut over cloud-only: measured, but modelled for JPEG."""
        split_s = middle(totals[planned.choice])
        found: dict[str, float | None] = {
            name: row["baselines"][name]["measured_s"] / split_s
            for name in (FLOAT32, UINT8)
            if name in row["baselines"]
        }
        jpeg = next((one.total_s for one in planned.baselines if one.name == CLOUD_JPEG), None)
        return {**found, CLOUD_JPEG: None if jpeg is None else jpeg / split_s}


def _ask(worker: Process, ways: list[str], effort: tuple[int, float]) -> dict[str, Any]:
    answer: dict[str, Any] = worker.ask({"ways": ways, "rounds": effort[0], "seconds": effort[1]})
    return answer


def _total(fields: dict[str, Any]) -> float:
    return middle(fields["total_s"])


def _median(values: list[float]) -> float:
    return middle([values])


def _shape(link: Link) -> LinkShape:
    return LinkShape(uplink_bps=link.uplink_bps, downlink_bps=link.downlink_bps, rtt_s=link.rtt_s)


def _jpeg_bytes(spec: ModelSpec) -> int | None:
    """The mean size of an input as JPEG, as benchmarks/reproduction.py found it; None where it has none."""
    path = RESULTS / "reproduction.json"
    sizes = json.loads(path.read_text())["jpeg"].get(spec.name) if path.is_file() else None
    return None if sizes is None else round(sizes["mean_bytes"])


def one_network(name: str, slowdown: float, links: dict[str, Link], effort: Effort) -> dict[str, Any]:
    """Profile, prepare and measure a network over each link."""
    model = load_model(name)
    profiled = profile(name, threads=1, meter="none", pause_s=PAUSE_S, max_seconds=effort.profile_s)
    run = Run(model, profiled, slowdown, effort)
    chosen = run.worth_preparing(links)
    with tempfile.TemporaryDirectory(prefix="regret-") as scratch:
        cuts = [cut for cut in model.spec.cuts if cut.name in chosen]
        ready = prepare(model, cuts, Path(scratch))
        found = {}
        with real_link(carrying(_shape(next(iter(links.values()))))) as made:
            keep_windows(made)
            with started(made.cloud, "regret_server.py", str(ready.repository), made.cloud.address) as child:
                server = Process(child, "server")
                url = server.read().strip()
                for link, preset in links.items():
                    found[link] = run.over(link, preset, made, server, ready, url)
                    found[link]["congestion_control"] = made.congestion
                    print(_line(name, link, found[link]), flush=True)
    return found


def _line(network: str, link: str, row: dict[str, Any]) -> str:
    planned = row["cuts"][row["planned"]]
    return (
        f"{network:16} {link:5} planned {row['planned']}, best {row['best']}, regret {row['regret']:.2%} "
        f"[{row['regret_low']:.2%}, {row['regret_high']:.2%}]; {planned['predicted_s'] * 1e3:.2f} ms predicted, "
        f"{row['again'][row['planned']] * 1e3:.2f} measured, bound {row['bound_s'] * 1e3:.2f}, reached "
        f"{row['reached']:.1%}; {len(row['cuts'])} cuts measured, {len(row['left_out'])} left out"
    )


def main() -> None:
    """Measure what is asked for and write results as they come."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas between")
    parser.add_argument("--links", default="wifi,lte,3g", help="presets, with commas between")
    parser.add_argument("--slowdown", type=float, default=SLOWDOWN, help="how much slower the edge is made")
    parser.add_argument("--quick", action="store_true", help="few rounds, into regret_quick.json: a smoke run")
    parser.add_argument("--again", action="store_true", help="measure also what the result file has")
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("a link of network namespaces and its settings need root; run this as root")
    effort, file = (QUICK, "regret_quick") if given.quick else (FULL, "regret")
    links = {name: PRESETS[name] for name in given.links.split(",")}
    path, networks = RESULTS / f"{file}.json", {}
    if path.is_file() and not given.again:
        before = json.loads(path.read_text())
        networks = before["networks"] if before["slowdown"] == given.slowdown else {}
    for name in given.only.split(","):
        if name in networks and links.keys() <= networks[name].keys():
            print(f"{name} is in {path.name} already; give --again to measure it anew")
            continue
        start = time.monotonic()
        networks[name] = one_network(name, given.slowdown, links, effort)
        print(f"{name}: {time.monotonic() - start:.0f} s")
        write_result(file, _result(networks, given.slowdown, links, effort))
        if not given.quick:
            write_page()


def _result(networks: dict[str, Any], slowdown: float, links: dict[str, Link], effort: Effort) -> dict[str, Any]:
    pings = {link: [found[link]["ping_s"] for found in networks.values() if link in found] for link in links}
    return {
        "slowdown": slowdown,
        "transport": "http",
        "pause_s": PAUSE_S,
        "tcp_slow_start_after_idle": 0,
        "effort": effort._asdict(),
        "links": {
            name: {
                "uplink_bps": link.uplink_bps,
                "downlink_bps": link.downlink_bps,
                "rtt_s": link.rtt_s,
                "ping_s": _median(pings[name]),
            }
            for name, link in links.items()
        },
        "networks": networks,
        "summary": summary(networks),
    }


if __name__ == "__main__":
    main()
