"""Which backends, devices, meters and compilers can be used here, and what to do about those that cannot.

Whatever imports a runtime or a driver is tried in a process of its own, with a time limit (`examine`): a crash
("Illegal instruction"), a hang or a page of warnings becomes one line. This module itself imports nothing that could
crash, and `diagnose` never raises for what it finds.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, get_args

from ..agent.backends import BACKENDS
from .diagnosis import Check, Diagnosis, Group
from .examine import PROFILER_BACKENDS, RUNTIMES

Progress = Callable[[str, float], None]
TIMEOUT_S = 60.0
AT_ONCE = 2
PROGRAM = '#include <stdio.h>\n\nint main(void) { return puts("edgecut") < 0; }\n'
ARM_REMEDY = "on a Cortex-A57 or Denver (Jetson TX2, TX1, Nano) set OPENBLAS_CORETYPE=ARMV8, or install numpy 1.19.4"


class _Task(NamedTuple):
    """One thing to try: the group and name of its line, and what makes the lines."""

    group: Group
    name: str
    make: Callable[[], Iterable[Check]]


def diagnose(*, timeout_s: float = TIMEOUT_S, progress: Progress | None = None) -> Diagnosis:
    """Try everything, two at a time, each for at most `timeout_s` seconds. Never raises but for Ctrl-C."""
    tell = progress or (lambda *_: None)
    start = time.monotonic()
    children = Children(timeout_s)
    tasks = _tasks(children)
    found: list[list[Check]] = [[] for _ in tasks]
    done = 0
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        futures = [pool.submit(_safely, task) for task in tasks]
        for index, future in enumerate(futures):
            tell(f"{tasks[index].group}: {tasks[index].name}", done / len(tasks))
            found[index] = future.result()
            done += 1
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop()
    checks = [check for checks in found for check in checks]
    order = get_args(Group)
    checks.sort(key=lambda check: order.index(check.group))
    return Diagnosis(checks=tuple(checks), elapsed_s=time.monotonic() - start)


def _tasks(children: Children) -> list[_Task]:
    def examined(group: Group, name: str, *arguments: str) -> _Task:
        return _Task(group, name, lambda: children.examine(group, name, arguments))

    def tried(group: Group, name: str, make: Callable[..., Check], *arguments: object) -> _Task:
        return _Task(group, name, lambda: [make(*arguments)])

    return [
        examined("devices", "processor", "processor"),
        examined("devices", "gpu", "gpu"),
        tried("devices", "nvidia-smi", _nvidia_smi, children),
        *(examined("runtimes", name, "runtime", name) for name in RUNTIMES),
        *(examined("backends", name, "backend", name) for name in (*BACKENDS, *PROFILER_BACKENDS)),
        examined("meters", "meters", "meters"),
        *(tried("compilers", name, _compiler, children, name) for name in ("cc", "gcc", "clang")),
        tried("compilers", "nvcc", _nvcc, children),
        *(tried("tools", name, _tool, name) for name in ("ssh", "scp")),
        examined("storage", "cache", "storage"),
        _Task("versions", "no known fault", lambda: bad_versions(_installed(), platform.machine())),
    ]


def _safely(task: _Task) -> list[Check]:
    """The task's lines, or one that says how it failed."""
    try:
        return list(task.make())
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [Check(group=task.group, name=task.name, status="unknown", detail=f"could not be tried ({text})")]


class _Ended(NamedTuple):
    """How a program ended: its status, None where it was killed for its time, and what it printed."""

    status: int | None
    output: str
    errors: str


class Children:
    """The programs that are running, so that none of them outlives the examination."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str]) -> _Ended:
        """Run a program for at most `timeout_s` seconds, in a session of its own. Raises OSError."""
        with self._lock:
            if self._stopped:
                raise InterruptedError("the examination was stopped")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            output, errors = process.communicate(timeout=self.timeout_s)
            return _Ended(process.returncode, output, errors)
        except subprocess.TimeoutExpired:
            return _Ended(None, "", "")
        finally:
            with self._lock:
                self._running.discard(process)
            if process.returncode is None:
                _kill(process)
                process.wait()
                for stream in (process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()

    def stop(self) -> None:
        """Kill what still runs, and start nothing any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def examine(self, group: Group, name: str, arguments: Sequence[str]) -> list[Check]:
        """The lines of an examination in a process of its own, or one on how that ended."""
        ended = self.run([sys.executable, "-P", "-m", f"{__package__}.examine", *arguments])
        with contextlib.suppress(ValueError, TypeError):
            return [
                Check(group=group, name=one, status=status, detail=detail, remedy=remedy)
                for one, status, detail, remedy in json.loads(ended.output)
            ]
        return [_without_answer(group, name, ended, self.timeout_s)]


def _kill(process: subprocess.Popen[str]) -> None:
    """End a program and what it started."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _without_answer(group: Group, name: str, ended: _Ended, timeout_s: float) -> Check:
    """The line for a process that crashed, hung or failed before it could answer."""
    if ended.status is None:
        detail = f"hangs: no answer within {timeout_s:g} s"
        remedy = "try again on a quiet machine; if it still hangs, install it again"
    elif ended.status < 0:
        detail = f"crashes with {_signal_name(-ended.status)}"
        remedy = crash_remedy(-ended.status, platform.machine())
    else:
        words = ended.errors.strip().splitlines()
        detail = f"ends with status {ended.status}" + (f" ({words[-1][:300]})" if words else "")
        remedy = "install it again"
    return Check(group=group, name=name, status="unusable", detail=detail, remedy=remedy)


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def crash_remedy(number: int, machine: str) -> str:
    """What is known to help against an import that ends with this signal on this kind of machine."""
    if number == signal.SIGILL and machine == "aarch64":
        return ARM_REMEDY
    if number == signal.SIGILL:
        return "the package is built for a newer processor: install an older release, or build it here"
    if number == signal.SIGKILL:
        return "the system ended it, most likely for its memory: end other programs, then try again"
    return "install it again in a fresh environment; two packages with native code may not go together"


def _nvidia_smi(children: Children) -> Check:
    path = shutil.which("nvidia-smi")
    fields = "name,driver_version,memory.total,power.draw"
    if path is None:
        detail, remedy = "not on PATH", "comes with NVIDIA's driver; a Jetson of JetPack 4 has none and needs none"
        return Check(group="devices", name="nvidia-smi", status="unusable", detail=detail, remedy=remedy)
    ended = children.run([path, f"--query-gpu={fields}", "--format=csv,noheader"])
    lines = [line.strip() for line in ended.output.splitlines() if line.strip()]
    if ended.status == 0 and lines:
        return Check(group="devices", name="nvidia-smi", status="usable", detail="; ".join(lines))
    words = lines or ended.errors.strip().splitlines() or ["it says nothing"]
    detail, remedy = f"fails ({words[-1][:300]})", "reload or reinstall NVIDIA's driver"
    return Check(group="devices", name="nvidia-smi", status="unusable", detail=detail, remedy=remedy)


def _compiler(children: Children, name: str) -> Check:
    """Compile a program of three lines and run it."""

    def unusable(detail: str, remedy: str) -> Check:
        return Check(group="compilers", name=name, status="unusable", detail=detail, remedy=remedy)

    path = shutil.which(name)
    if path is None:
        return unusable("not on PATH", "any one C compiler will do (Debian: apt install gcc); without, NumPy samples")
    with tempfile.TemporaryDirectory(prefix="edgecut-doctor-") as folder:
        source, program = Path(folder, "program.c"), Path(folder, "program")
        source.write_text(PROGRAM)
        compiled = children.run([path, "-O2", "-o", str(program), str(source)])
        if compiled.status != 0:
            words = compiled.errors.strip().splitlines() or ["no reason given"]
            return unusable(f"does not compile ({words[-1][:300]})", "install the C library's headers (libc6-dev)")
        try:
            ran = children.run([str(program)])
        except OSError as error:
            return unusable(
                f"what it makes cannot run in {folder} ({error.strerror})",
                "set TMPDIR to a folder that may run programs",
            )
        if (ran.status, ran.output) != (0, "edgecut\n"):
            return unusable(f"what it makes fails (status {ran.status})", "does it compile for another machine?")
    version = children.run([path, "--version"]).output.splitlines()
    detail = f"{version[0].strip() if version else path}; compiled and ran a program"
    return Check(group="compilers", name=name, status="usable", detail=detail)


def _nvcc(children: Children) -> Check:
    path = shutil.which("nvcc")
    if path is None:
        detail, remedy = (
            "not on PATH",
            "install the CUDA toolkit, or add /usr/local/cuda/bin to PATH, to build for a GPU",
        )
        return Check(group="compilers", name="nvcc", status="unusable", detail=detail, remedy=remedy)
    ended = children.run([path, "--version"])
    release = [line.strip() for line in ended.output.splitlines() if "release" in line]
    if ended.status != 0 or not release:
        detail, remedy = f"{path} tells no version", "install the CUDA toolkit again"
        return Check(group="compilers", name="nvcc", status="unusable", detail=detail, remedy=remedy)
    return Check(group="compilers", name="nvcc", status="usable", detail=release[0])


def _tool(name: str) -> Check:
    path = shutil.which(name)
    if path is None:
        remedy = "needed to measure on a remote device only (Debian: apt install openssh-client)"
        return Check(group="tools", name=name, status="unusable", detail="not on PATH", remedy=remedy)
    return Check(group="tools", name=name, status="usable", detail=path)


def _installed() -> dict[str, str]:
    """Distributions of interest and their versions, from their metadata alone."""
    found = {}
    for name in ("numpy", "torch", "onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def bad_versions(installed: dict[str, str], machine: str) -> list[Check]:
    """A line for every combination of installed versions that others found to fail, or one that there is none."""
    arm, numpy = machine == "aarch64", installed.get("numpy", "")
    faults = []
    if arm and numpy == "1.19.5":
        faults.append(("numpy", "numpy 1.19.5 ends with Illegal instruction on Cortex-A57 and Denver", ARM_REMEDY))
    if arm and installed.get("torch", "").startswith("1.10."):
        remedy = "on a Jetson install NVIDIA's wheel of torch"
        faults.append(("torch", "torch 1.10 from PyPI crashes on a Jetson TX2", remedy))
    if arm and installed.get("onnxruntime-gpu", "").startswith("1.23.") and int(numpy.partition(".")[0] or 0) >= 2:
        faults.append(("onnxruntime-gpu", "JetPack 6's onnxruntime-gpu 1.23 fails with numpy 2", "install 'numpy<2'"))
    if {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        detail = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        faults.append(("onnxruntime", detail, "uninstall both, then install one of them"))
    if not faults:
        detail = ", ".join(f"{name} {version}" for name, version in installed.items()) or "nothing installed"
        return [Check(group="versions", name="no known fault", status="usable", detail=detail)]
    return [
        Check(group="versions", name=name, status="unusable", detail=detail, remedy=remedy)
        for name, detail, remedy in faults
    ]
