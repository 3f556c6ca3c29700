"""`edgecut measure`: the split and its baselines, end to end, through real processes and one link.

    edge worker ──▶ relay (rate and delay) ──▶ server of the bundle's cloud side
                                         └───▶ server of the whole model, for the cloud-only baselines

The relay is one of TCP's bytes, or, with `real_link`, one of packets between two network namespaces (`tunnel`), where
opening a connection, slow start and retransmissions take their time too.

All ways ask over HTTP, whose client and server here take less of each request than gRPC's (docs/serving.md), and take
turns in one run, so that drift hits all alike. Without a link preset of its own the plan's link is used. The edge is
this machine's processor held back by a factor, whatever runtime the bundle is for: an emulated edge, which every reader
of the result must say.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..agent import timing
from ..artefacts import check_output, read_bytes
from ..errors import ArtefactError, BundleError, DataError, DeviceError, EdgecutError, ServerError
from ..models.catalogue import CATALOGUE
from ..models.data import as_pixels, load_data, scale_pixels, to_input
from ..models.load import Model, load_model
from ..models.session import MAX_THREADS
from ..models.split import with_uint8_input
from ..partitioner.link import Link, load_link
from ..partitioner.plan import CutCost, Plan
from ..profiler.environment import read_environment
from ..profiler.profile import Energy, Profile, Timing
from . import tunnel as tunnels
from .edge_worker import EDGE_ONLY, FLOAT32, SPLIT, UINT8, WHOLE_MODEL, WHOLE_UINT8_MODEL, Outcome, Taken, Task
from .manifest import CLOUD, EDGE, PROFILE, REPOSITORY, Manifest
from .measurement import Measurement, Variant
from .processes import child, cloud_server, last_words
from .relay import LinkShape, relay_process
from .replan import replanned
from .repository import write_model
from .tensors import datatype_of
from .verify import Verified, verify
from .wire import wire_bytes

INPUTS = 100
PAUSE_S = 0.005
"""Between an answer and the next request, as in a profile."""
Progress = Callable[[str, float], None]


def measure(
    bundle: str | os.PathLike[str],
    *,
    model: str,
    link: Link | str | os.PathLike[str] | None = None,
    edge_slowdown: float | None = None,
    threads: int = 1,
    data: str | None = None,
    max_seconds: float = 30.0,
    timeout_s: float = 30.0,
    real_link: bool = False,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure a bundle against its baselines and return the Measurement, also written to `output` where given.

    `model` is the whole model, which the baselines need and which a bundle never holds. `link` and `edge_slowdown`
    default to the plan's; with other values the prediction beside the measurement is made anew from the bundle's
    profiles. `real_link` needs root, or a kernel that lets a user make namespaces. Raises BundleError, ArtefactError,
    ServerError, LinkError and their relatives.
    """
    tell = progress or (lambda *_: None)
    if not 0 < max_seconds < math.inf:
        raise EdgecutError(f"a time bound of {max_seconds} s leaves no time to measure; give a positive one")
    if not 1 <= threads <= MAX_THREADS:
        raise DeviceError(f"{threads} threads cannot be used; give a number from 1 to {MAX_THREADS}")
    if output is not None:
        check_output(output, Measurement.KIND)
    found = verify(bundle)
    if not isinstance(found.manifest, Manifest):
        raise BundleError(f"{found.folder} is one side of a bundle; measuring needs the whole bundle")
    plan = _plan(found, link, edge_slowdown)
    loaded = load_model(
        model, data=data, any_cut=not plan.cut.aligned, progress=lambda i, n, text: tell(f"training, {text}", i / n)
    )
    if loaded.spec.digest != found.manifest.model_digest:
        raise ArtefactError(f"{found.folder} was made from another model than this {loaded.spec.name}; give that one")
    pixels, inputs = _inputs(loaded, data)
    with tempfile.TemporaryDirectory(prefix="edgecut-") as scratch:
        outcome, bytes_sent, congestion = _run(
            Path(scratch), found, loaded, plan, inputs, pixels, threads, max_seconds, timeout_s, real_link, tell
        )
    measured = _assemble(found, plan, outcome, bytes_sent, congestion)
    if output is not None:
        measured.save(output)
    return measured


def _plan(found: Verified, link: Link | str | os.PathLike[str] | None, slowdown: float | None) -> Plan:
    """The bundle's plan, costed anew where the link or the slow-down is another; the cut stays the bundle's."""
    folder = found.folder / PROFILE
    stored = Plan.load(folder / "plan.json")
    wanted = load_link(link) if link is not None else stored.link
    factor = slowdown if slowdown is not None else stored.edge_slowdown
    if not 1 <= factor < math.inf:
        raise EdgecutError(f"an edge slow-down of {factor} is no slow-down; give a factor of at least 1")
    if wanted == stored.link and factor == stored.edge_slowdown:
        return stored
    sides = [folder / f"{side}.profile.json" for side in ("edge", "cloud")]
    if not all(side.is_file() for side in sides):
        raise BundleError(
            f"{found.folder} holds no profiles, so another link or slow-down cannot be predicted; write the bundle "
            "with --edge-profile and --cloud-profile"
        )
    edge, cloud = (Profile.load(side) for side in sides)
    return replanned(stored, edge, cloud, link=wanted, edge_slowdown=factor)


def _inputs(model: Model, data: str | None) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any]]:
    """Unseen real inputs where data is at hand, else random ones: (pixels uint8 or None, inputs), each [N, ...]."""
    spec = model.spec
    source = data or (CATALOGUE[spec.name].data if spec.name in CATALOGUE else None)
    generator = np.random.default_rng(0)
    if source is not None:
        try:
            items = load_data(source).x_test
            items = items[generator.choice(len(items), min(INPUTS, len(items)), replace=False)]
            if items.dtype == np.uint8 and spec.pixels is not None:
                return as_pixels(items, spec.input.shape), to_input(items, spec)
            return None, to_input(items, spec)
        except DataError:
            if data is not None:
                raise
    shape = (INPUTS, *spec.input.shape)
    if spec.pixels is not None:
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        return pixels, scale_pixels(pixels, spec.pixels)
    if spec.input.dtype != "float32":
        return None, generator.integers(0, spec.input.below or 2, shape).astype(spec.input.dtype)
    return None, generator.standard_normal(shape).astype(np.float32)


def _write_whole(root: Path, model: Model, uint8: bool) -> None:
    """The whole model, and where it can be its uint8 form, as a repository for the cloud-only baselines."""
    answer = [(model.spec.output.name, "TYPE_FP32", model.spec.output.shape)]
    source = model.spec.input
    taken = f"TYPE_{datatype_of(np.dtype(source.dtype))}"
    write_model(root, WHOLE_MODEL, model.read(), [(source.name, taken, source.shape)], answer)
    if uint8:
        form = with_uint8_input(model.graph).SerializeToString()
        write_model(root, WHOLE_UINT8_MODEL, form, [("pixels", "TYPE_UINT8", source.shape)], answer)


def _run(
    scratch: Path,
    found: Verified,
    model: Model,
    plan: Plan,
    inputs: np.ndarray[Any, Any],
    pixels: np.ndarray[Any, Any] | None,
    threads: int,
    max_seconds: float,
    timeout_s: float,
    real_link: bool,
    tell: Progress,
) -> tuple[Outcome, dict[str, tuple[float, float]], str | None]:
    arrays: dict[str, Any] = {"inputs": inputs} if pixels is None else {"inputs": inputs, "pixels": pixels}
    np.savez(scratch / "inputs.npz", **arrays)
    _write_whole(scratch / REPOSITORY, model, pixels is not None)
    whole = scratch / "whole.onnx"
    whole.write_bytes(read_bytes(model.path, limit=2 * 1024**3))
    shape = LinkShape(uplink_bps=plan.link.uplink_bps, downlink_bps=plan.link.downlink_bps, rtt_s=plan.link.rtt_s)
    with ExitStack() as stack:
        tell("starting servers", 0.0)
        tunnel = stack.enter_context(tunnels.real_link(tunnels.carrying(shape))) if real_link else None
        roots = found.folder / CLOUD / REPOSITORY, scratch / REPOSITORY
        with ExitStack() as counting:
            # Bytes are counted over loopback, where a relay of bytes can see them.
            held = stack if tunnel is None else counting
            near = [held.enter_context(cloud_server(one, threads, scheme="http")) for one in roots]
            counted = wire_bytes(near[0], near[1], found.folder / EDGE, model.spec.input.name, inputs, pixels)
        if tunnel is None:
            servers = [("127.0.0.1", port) for port in stack.enter_context(relay_process(near, shape))]
        else:
            servers = [stack.enter_context(cloud_server(one, threads, tunnel.cloud, "http")) for one in roots]
        task = Task(
            edge_side=str(found.folder / EDGE),
            split_server="http://{}:{}".format(*servers[0]),
            whole_server="http://{}:{}".format(*servers[1]),
            whole_model=str(whole),
            inputs=str(scratch / "inputs.npz"),
            slowdown=plan.edge_slowdown,
            threads=threads,
            pause_s=PAUSE_S,
            max_seconds=max_seconds,
            timeout_s=timeout_s,
            plaintext=tunnel is not None,
        )
        inside = None if tunnel is None else tunnel.edge
        worker = stack.enter_context(child(["edgecut.runtime.edge_worker"], "the edge worker", inside))
        return _outcome(worker, task, tell), counted, None if tunnel is None else tunnel.congestion


def _outcome(worker: subprocess.Popen[str], task: Task, tell: Progress) -> Outcome:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(task.model_dump_json() + "\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if not line.startswith('{"share"'):
            outcome = Outcome.model_validate_json(line)
            if outcome.error:
                raise ServerError(outcome.error)
            return outcome
        tell("measuring, all ways in turns", float(json.loads(line)["share"]))
    raise ServerError(f"the edge worker ended early: {last_words(worker)}")


def _assemble(
    found: Verified, plan: Plan, outcome: Outcome, counted: dict[str, tuple[float, float]], congestion: str | None
) -> Measurement:
    environment = read_environment()
    assert isinstance(found.manifest, Manifest)
    return Measurement(
        bundle_id=found.id,
        plan=plan,
        link=plan.link,
        edge_slowdown=plan.edge_slowdown,
        emulated_link=True,
        link_emulation="relay" if congestion is None else "tun",
        congestion_control=congestion,
        pause_s=PAUSE_S,
        environment=environment,
        variants=tuple(_variants(plan, outcome, counted, environment.processors or 1)),
        requests=sum(taken.requests for taken in outcome.taken.values()),
        accuracy=found.manifest.accuracy,
        converged=outcome.converged,
        elapsed_s=outcome.elapsed_s,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _variants(
    plan: Plan, outcome: Outcome, counted: dict[str, tuple[float, float]], processors: int
) -> Iterator[Variant]:
    for name in (SPLIT, EDGE_ONLY, FLOAT32, UINT8):
        taken = outcome.taken.get(name)
        if taken is None:
            continue
        predicted = plan.chosen if name == SPLIT else plan.cost(name)
        samples = timing.Samples([list(block) for block in taken.rounds], taken.cpu_s, taken.wall_s)
        parts = (taken.edge_s, taken.add_s, taken.noise_s, taken.wait_s)
        edge_s, add_s, noise_s, wait_s = (timing.median(part) for part in parts)
        up, down = counted.get(name, (0.0, 0.0))
        yield Variant(
            name=f"split after {plan.choice}" if name == SPLIT else name,
            role=predicted.role,
            latency=Timing.of(samples, processors),
            edge_s=edge_s,
            add_s=add_s,
            noise_s=noise_s,
            wait_s=wait_s,
            uplink_bytes=up,
            downlink_bytes=down,
            energy=_energy(plan, predicted, taken, up, down),
            predicted=predicted,
            wrong_answers=taken.wrong_answers,
        )


def _energy(plan: Plan, predicted: CutCost, taken: Taken, up_bytes: float, down_bytes: float) -> Energy:
    """Joules on the edge from measured times and bytes and the plan's powers: modelled, and None as soon as one is."""
    edge_s, noise_s, wait_s = (timing.median(part) for part in (taken.edge_s, taken.noise_s, taken.wait_s))
    link, power = plan.link, plan.edge.power
    if power is None or predicted.edge_j is None:
        source = "the edge profile has no power figures (--power-idle-w, --power-max-w) and there is no meter here"
        return Energy(energy_j=None, provenance="unavailable", source=source)
    busy = predicted.edge_s + predicted.noise_s
    compute_w = predicted.edge_j / busy if busy else 0.0
    joules = compute_w * (edge_s + noise_s) + power.idle_w * max(0.0, wait_s - noise_s)
    if predicted.role != "edge-only":
        if link.radio_tx_w is None or link.radio_rx_w is None:
            return Energy(energy_j=None, provenance="unavailable", source="the link has no radio power")
        joules += link.radio_tx_w * link.uplink_s(up_bytes) + link.radio_rx_w * link.downlink_s(down_bytes)
    source = f"measured times and bytes x powers: edge {power.source}; radio {link.radio_source}"
    return Energy(energy_j=joules, provenance="modelled", source=source)
