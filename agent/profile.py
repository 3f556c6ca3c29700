"""Measuring a kit on this device: times, layer times and energy, written to one result file.

    idle power   |  group 1: open, warm up, rounds of all tasks in turns  |  group 2 ...  |  layer times  |  energy

Times come from `timing.measure`. Energy is a window of seconds for each task, its runs back to back, by this device's
own meter (`meters`), or nothing. What was measured is on disk only when all of it is done.
"""

import functools
import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from .backends import BACKENDS, BackendError, Settings, load_backend
from .environment import available_bytes, physical_cores, read_environment
from .kit import Kit, feed
from .memory import measure_memory
from .meters import METERS, Idle, Meter, MeterError, find_meters, idle_power, open_meter, per_run
from .tasks import WHOLE, close_all, group, noise_tasks, open_parts
from .timing import Samples, Task, measure

Progress = Callable[[str, float], None]
FORMAT = 1
IDLE_SECONDS = 3.0


def profile_kit(
    kit: Kit,
    progress: Progress,
    backends: Mapping[str, str] = BACKENDS,
    meters: Mapping[str, str] = METERS,
) -> Dict[str, Any]:
    """Measure a kit and return the result as plain values. Raises BackendError, one sentence."""
    chosen = kit.settings
    name = str(chosen["backend"])
    backend = load_backend(name, backends)
    reason = backend.usable()
    if reason:
        raise BackendError(reason)
    settings = Settings(
        threads=int(chosen["threads"] or physical_cores()),
        precision=str(chosen["precision"]),
        cache=os.path.join(kit.folder, "engines"),  # the whole model is opened twice, once for its layers
        pause_s=float(chosen["pause_s"]),
    )
    environment = read_environment(backend.versions())
    meter, why_not = _meter(str(chosen["meter"]), name, meters)
    progress("measuring idle power", 0.0)
    idle = idle_power(meter, IDLE_SECONDS) if meter is not None else Idle(None, 0.0, why_not)
    times, energies, converged, groups, elapsed_s = _in_groups(kit, backend, settings, meter, idle, progress)
    nodes, layer_note = _layers(kit, backend, settings, progress)
    if meter is not None:
        meter.close()
    result = {
        "format": FORMAT,
        "model_digest": kit.digest,
        "backend": name,
        "threads": settings.threads,
        "precision": settings.precision,
        "pause_s": chosen["pause_s"],
        "environment": environment,
        "tasks": {task: {"rounds": s.rounds, "cpu_s": s.cpu_s, "wall_s": s.wall_s} for task, s in times.items()},
        "nodes": nodes,
        "layer_note": layer_note,
        "meter": {
            "name": meter.name if meter is not None else None,
            "source": meter.source if meter is not None else why_not,
            "idle_w": idle.power_w,
            "idle_window_s": idle.window_s,
            "note": idle.note,
        },
        "energy": energies,
        "converged": converged,
        "groups": groups,
        "elapsed_s": elapsed_s,
    }  # type: Dict[str, Any]
    if chosen["memory"]:
        result["memory_bytes"], result["memory_note"] = measure_memory(kit, name, settings, progress)
    return result


def _meter(wanted: str, backend: str, meters: Mapping[str, str]) -> Tuple[Optional[Meter], str]:
    """The meter asked for, or the best one here that sees where the backend runs; else why there is none."""
    if wanted == "none":
        return None, "no meter was asked for"
    used = "processor" if backend.endswith("-cpu") else "gpu"
    found = find_meters(known=meters) if wanted == "auto" else [open_meter(wanted, known=meters)]
    # A whole board before a chip.
    fitting = sorted((meter for meter in found if used in meter.covers), key=lambda meter: -len(meter.covers))
    for meter in found:
        if meter not in fitting[:1]:
            meter.close()
    if not fitting and wanted != "auto":
        raise MeterError(
            "the meter {} does not see the {}, where {} runs; choose another".format(wanted, used, backend)
        )
    return (fitting[0], "") if fitting else (None, "no meter of the {} that can be read here".format(used))


def _in_groups(
    kit: Kit, backend: Any, settings: Settings, meter: Optional[Meter], idle: Idle, progress: Progress
) -> Tuple[Dict[str, Samples], Dict[str, Any], bool, int, float]:
    start = time.perf_counter()
    groups = group(kit.parts, available_bytes())
    limit = kit.settings["max_seconds"]
    times, energies, converged = {}, {}, True  # type: Dict[str, Samples], Dict[str, Any], bool
    for number, parts in enumerate(groups):
        what = "measuring, cuts in turns"
        if len(groups) > 1:
            what += ", group {} of {}".format(number + 1, len(groups))
        runners = open_parts(kit, parts, backend, settings, lambda part: progress("opening " + part, 0.0))
        try:
            tasks = {name: runner.run for name, runner in runners.items()}  # type: Dict[str, Task]
            if number == 0:
                tasks.update(_noise(kit))
            result = measure(
                tasks,
                max_seconds=None if limit is None else limit / len(groups),
                relative_width=kit.settings["relative_width"],
                floor_s=kit.settings["floor_s"],
                pause_s=kit.settings["pause_s"],
                progress=functools.partial(progress, what),
            )
            converged = converged and result.converged
            for name, samples in result.samples.items():
                times[name] = _joined(times.get(name), samples)
            if meter is not None:
                energies.update(_energy(tasks, set(energies), meter, idle, kit, progress))
        finally:
            close_all(runners)
    return times, energies, converged, len(groups), time.perf_counter() - start


def _joined(before: Optional[Samples], now: Samples) -> Samples:
    if before is None:
        return now
    return Samples(before.rounds + now.rounds, before.cpu_s + now.cpu_s, before.wall_s + now.wall_s)


def _noise(kit: Kit) -> Dict[str, Task]:
    tasks = {}  # type: Dict[str, Task]
    for elements in kit.noise:
        tasks["noise:{}".format(elements)], tasks["add:{}".format(elements)] = noise_tasks(elements)
    return tasks


def _energy(
    tasks: Dict[str, Task], known: Any, meter: Meter, idle: Idle, kit: Kit, progress: Progress
) -> Dict[str, Any]:
    """Joules per run of the sub-models, and of making noise where the meter sees it; adding is too short to matter."""
    found = {}
    unseen = ("add:",) if "processor" in meter.covers else ("add:", "noise:")
    wanted = [name for name in tasks if name not in known and not name.startswith(unseen)]
    for number, name in enumerate(wanted):
        progress("measuring energy of " + name, number / len(wanted))
        spent = per_run(meter, tasks[name], float(kit.settings["energy_seconds"]), idle.power_w)
        found[name] = spent._asdict()
    return found


def _layers(kit: Kit, backend: Any, settings: Settings, progress: Progress) -> Tuple[List[Any], str]:
    """(node, seconds) of the whole model by the backend's own profiler; none with the reason where it has none."""
    if not hasattr(backend, "layer_times"):
        return [], "the {} backend has no layer profiler of its own".format(kit.settings["backend"])
    progress("layer times", 0.0)
    part = next((part for part in kit.parts if part.name == WHOLE), None)
    if part is None:
        return [], "the kit lacks the whole model"
    try:
        return list(backend.layer_times("{}/{}".format(kit.folder, part.file), feed(part), settings)), ""
    except BackendError as error:
        return [], str(error)
