"""`edgecut profile`: measure every cut of a model on a device, or predict it, and write the Profile.

The model and both halves of every cut become a kit; the agent measures it in a process of its own, here or on a device
reached by ssh, with the same timing loop; what it sends back becomes the Profile.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..artefacts import check_output
from ..errors import ArtefactError, DeviceError, unknown
from ..models.load import Model, load_model
from ..models.spec import CutSpec, ModelSpec
from .agents import Address, Agent, LocalAgent, SshAgent, parse_address, read_json
from .assemble import assemble
from .backends import DEVICES, TWIN_BACKENDS, check_backend
from .kit import OLD_OPSET, KitSettings, Progress, write_kit, write_twin_kit
from .meters import METERS
from .profile import PowerModel, Profile
from .result import read_result
from .timed import ALL, joined, refuse_others, timed_cuts, with_cuts

SSH_BACKEND = "onnxruntime-cpu"
NATIVE_RUNTIME = (1, 14)
"""ONNX Runtime from this version on reads the opset that models are exported with here (18)."""
PRECISIONS = ("float32", "float16")


def profile(
    model: str,
    *,
    device: str = "cpu",
    backend: str | None = None,
    precision: str = "float32",
    threads: int | None = None,
    data: str | None = None,
    any_cut: bool = False,
    cuts: str | os.PathLike[str] = ALL,
    memory: bool = False,
    sizes: Mapping[str, int] | None = None,
    input_shapes: Sequence[tuple[int, ...]] = (),
    power: PowerModel | None = None,
    meter: str = "auto",
    energy_seconds: float = 1.0,
    pause_s: float = 0.005,
    max_seconds: float | None = None,
    python: str = "python3",
    ssh_config: str | None = None,
    result: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    add_to: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure `model` on `device` and return the Profile, also written to `output` where given.

    `device` is cpu or cuda for this machine, ssh://[user@]host[:port] for another, or the name of a described device,
    which is predicted instead of measured. `threads` is the size of the runtime's pool, by default the device's
    physical cores. `cuts` says which cuts are timed: `all` after the first layers, `layers` for none, or a plan's file
    for its candidates and its choice; with `add_to` they join an earlier profile, taken in the same way. `memory` also
    measures the resident memory of the whole and every prefix. Every run comes `pause_s` after the last, as requests
    do; 0 measures a tight loop. Measuring ends when the intervals are narrow, or after `max_seconds`, by default 30
    or, for large models, up to 300. `meter` chooses one by name, `auto` the best one there, `none` no metering; where
    there is none, `power` makes energy `modelled` instead of `unavailable`. With `result`, the file that an agent wrote
    on `device` for a kit of this model, nothing is measured here; neither with `calibration`, from whose layers the
    model is predicted. `progress(what, share)` is called with a share from 0 to 1. Raises DeviceError for an unknown or
    unusable device, ModelError for a model that cannot be read, cut or run.
    """
    _check(threads, pause_s, max_seconds, precision, meter, energy_seconds)
    given = result is not None or calibration is not None
    described = not given and not device.startswith("ssh://") and device not in DEVICES
    tell: Progress = progress or (lambda *_: None)
    if described:
        _check_described(device)
    elif backend is not None:
        check_backend(backend, device)
    if memory and (described or calibration is not None):
        raise DeviceError("memory is measured and not predicted; leave --memory out, or profile a device that is there")
    address = parse_address(device) if device.startswith("ssh://") else None
    if output is not None:
        check_output(output, Profile.KIND)
    loaded = load_model(
        model,
        data=data,
        any_cut=any_cut,
        sizes=sizes,
        input_shapes=input_shapes,
        progress=lambda done, total, text: tell(f"training {model}, {text}", done / total),
    )
    timed = timed_cuts(loaded, cuts)
    before = None if add_to is None else Profile.load(add_to)
    if before is not None:
        refuse_others(before, str(add_to), loaded.spec.digest)
    spec = with_cuts(loaded.spec, timed)
    if result is not None:
        taken = read_result(read_json(Path(result)), str(result))
        made = assemble(spec, loaded.graph, device, taken, power=power, cuts=timed)
    elif given or described:
        made = _predicted(spec, timed, device, backend, precision, calibration, power)
    else:
        settings = KitSettings(
            backend=backend or (DEVICES[device] if address is None else SSH_BACKEND),
            threads=threads or (None if before is None else before.threads),
            precision=precision,
            pause_s=pause_s,
            max_seconds=max_seconds,
            meter=meter,
            energy_seconds=energy_seconds,
            memory=memory,
        )
        if before is not None:  # now, before it takes long; what only the measurement tells is checked after it
            known = {name: getattr(settings, name) for name in ("backend", "precision", "threads", "pause_s")}
            refuse_others(before, str(add_to), loaded.spec.digest, device=device, provenance="measured", **known)
        made = _measure(loaded, timed, device, address, settings, power, python, ssh_config, tell)
    if add_to is not None:  # read anew: another run may have added to it meanwhile
        made = joined(Profile.load(add_to), made, str(add_to))
    if output is not None:
        made.save(output)
    return made


def _check(
    threads: int | None,
    pause_s: float,
    max_seconds: float | None,
    precision: str,
    meter: str,
    energy_seconds: float,
) -> None:
    if threads is not None and not 1 <= threads <= 1024:
        raise DeviceError(f"{threads} threads cannot be used; give a number from 1 to 1024")
    if not 0 <= pause_s <= 60:
        raise DeviceError(f"a pause of {pause_s} s cannot be used; give 0 to 60 seconds")
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise DeviceError(f"a time bound of {max_seconds} s leaves no time to measure; give a positive one")
    if not 0 < energy_seconds <= 600:
        raise DeviceError(f"an energy window of {energy_seconds} s cannot be used; give up to 600 seconds")
    if precision not in PRECISIONS:
        raise DeviceError(unknown("precision", precision, PRECISIONS))
    if meter not in ("auto", "none", *METERS):
        raise DeviceError(unknown("meter", meter, ["auto", "none", *METERS]))


def _check_described(device: str) -> None:
    from .description import load_device

    try:
        load_device(device)
    except DeviceError as error:
        raise DeviceError(f"{error}; or give {', '.join(DEVICES)} or ssh://user@host[:port]") from None


def _predicted(
    spec: ModelSpec,
    timed: Sequence[CutSpec],
    device: str,
    runtime: str | None,
    precision: str,
    calibration: str | os.PathLike[str] | None,
    power: PowerModel | None,
) -> Profile:
    """From layers measured on the device where there is a calibration, else from its description."""
    if calibration is not None:
        from .calibrated import calibrated_profile

        return calibrated_profile(spec, calibration, power=power, cuts=timed)
    from .predicted import predict_profile

    return predict_profile(spec, device, runtime=runtime, precision=precision, cuts=timed)


def _measure(
    model: Model,
    timed: Sequence[CutSpec],
    device: str,
    address: Address | None,
    settings: KitSettings,
    power: PowerModel | None,
    python: str,
    ssh_config: str | None,
    tell: Progress,
) -> Profile:
    spec, notes = with_cuts(model.spec, timed), []
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(_agent(address, python, ssh_config))
        folder = Path(stack.enter_context(_scratch()))
        if settings.backend in TWIN_BACKENDS:
            had = write_twin_kit(model, folder, settings, cuts=timed, progress=tell)
            left = [cut for cut in timed if cut not in had]
            if left:
                notes.append(f"{len(left)} of {len(timed)} cuts are not in the torch program and were left out")
            spec = spec.model_copy(update={"cuts": tuple(cut for cut in spec.cuts if cut not in left)})
            timed = had
        else:
            opset = None if address is None else _opset(model, agent, settings.backend, address.text)
            if opset is not None:
                notes.append(f"measured as opset {opset}, which the device's runtime reads")
            write_kit(model, folder, settings, cuts=timed, opset=opset, progress=tell)
        result = read_result(agent.profile(folder, tell), device)
    return assemble(spec, model.graph, device, result, power=power, cuts=timed, notes=tuple(notes))


@contextlib.contextmanager
def _agent(address: Address | None, python: str, ssh_config: str | None) -> Iterator[Agent]:
    if address is None:
        yield LocalAgent()
        return
    with SshAgent(address, python=python, config=ssh_config) as agent:
        yield agent


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    try:
        with tempfile.TemporaryDirectory(prefix="edgecut-kit-") as folder:
            yield folder
    except OSError as error:
        raise ArtefactError(
            f"the kit cannot be written to {tempfile.gettempdir()} ({error.strerror}); free some space there, or set "
            "TMPDIR to a larger disk"
        ) from None


def _opset(model: Model, agent: Agent, backend: str, where: str) -> int | None:
    """The opset to rewrite for, or None where the device reads the model as it is. Raises DeviceError."""
    found = agent.check()["backends"].get(backend, {})
    if not found.get("usable"):
        raise DeviceError(f"{where}: {found.get('reason') or f'its agent knows no backend {backend}'}")
    if backend == "tensorrt":
        version, least = found["versions"].get("tensorrt", "0"), (8, 6)
    else:
        version, least = found["versions"].get("onnxruntime", "0"), NATIVE_RUNTIME
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    opset = next((o.version for o in model.graph.proto.opset_import if o.domain in ("", "ai.onnx")), OLD_OPSET)
    return OLD_OPSET if parts < least and opset > OLD_OPSET else None


def profile_path(model: str, device: str) -> Path:
    """The name `edgecut profile` gives its file when none is asked for."""
    stem = Path(model).stem if model.endswith((".onnx", ".pt2")) else model.replace(":", ".")
    return Path(f"{stem}-{re.sub(r'[^A-Za-z0-9._-]+', '-', device.removeprefix('ssh://'))}.profile.json")
