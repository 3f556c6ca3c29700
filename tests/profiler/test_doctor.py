"""The doctor outlives what it examines: imports that crash, hang or print, and machines where nothing is in place."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from edgecut.agent.backends import BACKENDS
from edgecut.profiler import doctor, examine
from edgecut.profiler.diagnosis import Check, Diagnosis, Group
from edgecut.profiler.doctor import Children, bad_versions, crash_remedy, diagnose
from edgecut.reports.doctor import doctor_table

CRASH = "import os, signal; os.kill(os.getpid(), signal.{})"
RUBBISH = "import os\nfor _ in range(2000):\n    print('[[\"x\"]]', flush=True)\n    os.write(2, b'warning\\n')\n"
RUBBISH += "__version__ = '9.8'"
FAKES = {
    "SIGILL": (CRASH.format("SIGILL"), "unusable", r"crashes with SIGILL \(Illegal instruction\)"),
    "SIGSEGV": (CRASH.format("SIGSEGV"), "unusable", r"crashes with SIGSEGV \(Segmentation fault\)"),
    "hang": ("import time; time.sleep(600)", "unusable", r"hangs: no answer within 3 s"),
    "rubbish": (RUBBISH, "usable", r"^9\.8$"),
    "end": ("import os; os._exit(3)", "unusable", r"ends with status 3"),
    "exit": ("raise SystemExit(4)", "unusable", r"ends with status 4"),
    "error": ("raise ValueError('two\\nlines')", "unusable", r"cannot be loaded \(ValueError: two lines\)"),
    "lacking": (
        "import nowhere_to_be_found",
        "unusable",
        r"cannot be loaded \(No module named 'nowhere_to_be_found'\)",
    ),
    "library": ("raise ImportError('libx.so: cannot open')", "unusable", r"cannot be loaded \(ImportError: libx\.so"),
    "no version": ("", "unusable", r"not installed"),
}


def fake(folder: Path, module: str, text: str) -> None:
    (folder / f"{module}.py").write_text(text)


@pytest.mark.parametrize("name", FAKES)
def test_an_import_at_fault_becomes_a_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, status, detail = FAKES[name]
    fake(tmp_path, "tensorrt", text)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    children = Children(3.0 if name == "hang" else 60.0)
    (check,) = children.examine("runtimes", "tensorrt", ("runtime", "tensorrt"))
    assert (check.group, check.name, check.status) == ("runtimes", "tensorrt", status)
    assert "\n" not in check.detail
    assert re.search(detail, check.detail)
    assert bool(check.remedy) is (status != "usable")


def test_what_a_hanging_import_started_is_ended_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pid"
    fake(tmp_path, "torch", f"import os\nif os.fork() == 0:\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n")
    with (tmp_path / "torch.py").open("a") as file:
        file.write("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    (check,) = Children(3.0).examine("runtimes", "torch", ("runtime", "torch"))
    assert "hangs" in check.detail
    left = Path("/proc", note.read_text(), "stat")
    end = time.monotonic() + 10
    while left.exists() and left.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "it still runs"
        time.sleep(0.05)


def test_a_missing_runtime_names_its_extra() -> None:
    ((name, status, detail, remedy),) = (
        examine.runtime("tensorrt-rtx")
        if importlib.util.find_spec("tensorrt_rtx") is None
        else [("tensorrt-rtx", "unusable", "not installed", "edgecut[rtx]")]
    )
    assert (name, status, detail) == ("tensorrt-rtx", "unusable", "not installed")
    assert "edgecut[rtx]" in remedy


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    """This machine as it is, but for a torch that is quicker to load."""
    folder = tmp_path_factory.mktemp("fakes")
    fake(folder, "torch", RUBBISH + "\nclass version:\n    cuda = None\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.fspath(folder))
        told: list[float] = []
        found = diagnose(progress=lambda what, share: told.append(share))
    assert told == sorted(told) and 0 <= told[0] <= told[-1] <= 1
    return found


def status(diagnosis: Diagnosis, group: Group, name: str) -> str:
    check = diagnosis.find(group, name)
    assert check is not None, (group, name)
    return check.status


def test_this_machine_is_what_it_is(here: Diagnosis) -> None:
    assert status(here, "devices", "processor") == "usable"
    for module, name in (("numpy", "numpy"), ("onnxruntime", "onnxruntime"), ("zeus", "zeus")):
        expected = "usable" if importlib.util.find_spec(module) else "unusable"
        assert status(here, "runtimes", name) == expected, name
    assert status(here, "backends", "onnxruntime-cpu") == status(here, "runtimes", "onnxruntime")
    torch = here.find("runtimes", "torch")
    assert torch is not None and (torch.status, torch.detail) == ("usable", "9.8, built without CUDA")
    for group, name in (("compilers", "cc"), ("compilers", "clang"), ("compilers", "nvcc"), ("tools", "ssh")):
        assert status(here, group, name) == ("usable" if shutil.which(name) else "unusable"), name
    assert status(here, "storage", "cache") == "usable"


def test_every_backend_and_group_has_its_line(here: Diagnosis) -> None:
    assert {check.group for check in here.checks} == set(get_args(Group))
    names = {check.name for check in here.checks if check.group == "backends"}
    assert names == {*BACKENDS, *examine.PROFILER_BACKENDS}
    assert len({(check.group, check.name) for check in here.checks}) == len(here.checks)
    order = [check.group for check in here.checks]
    assert order == sorted(order, key=get_args(Group).index)
    for check in here.checks:
        assert check.detail, check
        assert check.remedy or check.status != "unusable", check
    assert Diagnosis.model_validate_json(here.model_dump_json()) == here


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_obeys_nobody(width: int) -> None:
    checks = (
        Check(
            group="devices", name="gpu", status="unusable", detail="[red]no\x1b[31m driver " * 9, remedy="install " * 20
        ),
        Check(group="meters", name="rapl", status="usable", detail="RAPL"),
        Check(group="meters", name="new", status="unknown", detail="?"),
    )
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(doctor_table(Diagnosis(checks=checks, elapsed_s=1.0)))
    text = captured.get()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "[red]no" in text and "\x1b" not in text
    assert next(line.split() for line in text.splitlines() if "gpu" in line)[:2] == ["gpu", "no"]
    assert next(line.split() for line in text.splitlines() if "rapl" in line) == ["rapl", "yes", "RAPL"]
    assert "\N{RIGHTWARDS ARROW} install" in text


def test_nothing_in_place_is_told_and_never_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashing runtimes, an empty PATH, no folder to write to: only lines."""
    for module in ("torch", "tensorrt", "zeus", "onnxruntime", "numpy", "onnx", "psutil"):
        fake(tmp_path, module, CRASH.format("SIGILL"))
    for name, value in {"PYTHONPATH": os.fspath(tmp_path), "PATH": "", "HOME": "/proc/nowhere"}.items():
        monkeypatch.setenv(name, value)
    for name in ("EDGECUT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    found = diagnose()
    for name in ("numpy", "onnxruntime", "torch", "tensorrt", "zeus"):
        check = found.find("runtimes", name)
        assert check is not None and "SIGILL" in check.detail, name
    assert status(found, "backends", "onnxruntime-cpu") == "unusable"
    for group, name in (("compilers", "cc"), ("compilers", "nvcc"), ("tools", "ssh"), ("devices", "nvidia-smi")):
        check = found.find(group, name)
        assert check is not None and (check.status, check.detail) == ("unusable", "not on PATH")
    assert {check.group for check in found.checks} == set(get_args(Group))


def test_an_unwritable_cache_says_where_to_point_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECUT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    ((_, state, detail, remedy),) = examine.storage()
    assert state == "unusable" and detail.startswith("/proc/nowhere/edgecut cannot be written (")
    assert "EDGECUT_CACHE" in remedy


def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECUT_CACHE", os.fspath(tmp_path))
    assert examine.storage()[0][1] == "usable"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 << 20))
    assert examine.storage()[0][1:3] == ("unusable", f"{tmp_path} has 5 MiB left")


COMPILERS = {
    "refuses": ("echo 'no stdio.h here' >&2; exit 1", "does not compile (no stdio.h here)"),
    "makes nothing": ("exit 0", "what it makes cannot run in"),
    "makes rubbish": (
        'while [ "$1" != -o ]; do shift; done; printf "#!/bin/sh\\nexit 5" > $2; chmod +x $2',
        "(status 5)",
    ),
}


@pytest.mark.parametrize("name", COMPILERS)
def test_a_compiler_must_make_what_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, detail = COMPILERS[name]
    program = tmp_path / "clang"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    check = doctor._compiler(Children(30.0), "clang")
    assert check.status == "unusable" and detail in check.detail
    assert check.remedy


def test_a_program_that_cannot_be_started_is_unknown_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/proc/nowhere/python")
    found = diagnose()
    for check in found.checks:
        if check.group in ("runtimes", "backends", "meters", "storage"):
            assert check.status == "unknown" and "could not be tried (FileNotFoundError" in check.detail


ARM, INTEL = "aarch64", "x86_64"


@pytest.mark.parametrize(
    ("installed", "machine", "bad"),
    [
        ({"numpy": "1.19.5"}, ARM, ["numpy"]),
        ({"numpy": "1.19.5"}, INTEL, []),
        ({"numpy": "1.19.4"}, ARM, []),
        ({"torch": "1.10.0"}, ARM, ["torch"]),
        ({"torch": "2.10.0"}, ARM, []),
        ({"onnxruntime-gpu": "1.23.0", "numpy": "2.1.0"}, ARM, ["onnxruntime-gpu"]),
        ({"onnxruntime-gpu": "1.23.0", "numpy": "1.26.4"}, ARM, []),
        ({"onnxruntime-gpu": "1.23.0", "onnxruntime": "1.23.0"}, INTEL, ["onnxruntime"]),
        ({}, INTEL, []),
    ],
)
def test_versions_known_to_fail_are_told(installed: dict[str, str], machine: str, bad: list[str]) -> None:
    found = bad_versions(installed, machine)
    assert [check.name for check in found if check.status == "unusable"] == bad
    if not bad:
        assert [check.status for check in found] == ["usable"]


def test_the_remedy_for_a_crash_is_the_known_one() -> None:
    assert "OPENBLAS_CORETYPE=ARMV8" in crash_remedy(signal.SIGILL, ARM)
    assert "newer processor" in crash_remedy(signal.SIGILL, INTEL)
    assert "memory" in crash_remedy(signal.SIGKILL, ARM)
    assert "fresh environment" in crash_remedy(signal.SIGSEGV, ARM)


def test_an_interrupt_ends_every_child(tmp_path: Path) -> None:
    fake(tmp_path, "numpy", f"import os\nopen({str(tmp_path / 'pid')!r}, 'a').write(f'{{os.getpid()}} ')\n")
    with (tmp_path / "numpy.py").open("a") as file:
        file.write("import time; time.sleep(600)")
    code = "from edgecut.profiler.doctor import diagnose; diagnose()"
    environment = {**os.environ, "PYTHONPATH": os.fspath(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 30
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    time.sleep(0.2)
    for pid in (tmp_path / "pid").read_text().split():
        assert not Path("/proc", pid).exists()


def test_importing_the_doctor_loads_nothing_that_could_crash() -> None:
    heavy = ("numpy", "onnx", "onnxruntime", "torch", "scipy", "grpc", "psutil", "zeus", "tensorrt")
    for module in ("edgecut.profiler.doctor", "edgecut.profiler.diagnosis", "edgecut.profiler.examine"):
        code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == "[]"
