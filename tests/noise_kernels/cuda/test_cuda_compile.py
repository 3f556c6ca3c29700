"""noise.cu compiled for every GPU it is meant for, without one: by NVRTC 12 and, where there is one, by nvcc."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgecut.agent import nvrtc
from edgecut.agent.backends import BackendError
from edgecut.agent.gpu_noise import source

ROOT = Path(__file__).resolve().parents[3]
TARGETS = ["sm_61", "sm_62", "sm_72", "sm_75", "sm_86", "sm_87", "sm_90"]
KERNELS = {"block", "tiles", "values", "gather16", "gather32", "add", "elements", "mixed"}


@pytest.fixture(scope="module")
def cubins() -> Any:
    """The benchmark that makes the table."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("noise_cubins", ROOT / "benchmarks" / "noise_cubins.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def library() -> nvrtc.Nvrtc:
    """An NVRTC that knows a TX2."""
    for found in nvrtc.find():
        if found.target((6, 2)) == "sm_62":
            return found
    pytest.skip("no NVRTC 12 is installed (nvidia-cuda-nvrtc-cu12)")


def check(figures: dict[str, dict[str, int]], registers: int = 65536) -> None:
    assert set(figures) == {f"edgecut_noise_{name}" for name in KERNELS}
    for name, each in figures.items():
        assert each["spilled_bytes"] == each["stack_bytes"] == 0, name
        assert each["shared_bytes"] <= 48 << 10
        # A thread is given registers in eights.
        assert each["threads"] * (-(-each["registers"] // 8) * 8) <= registers


@pytest.mark.deep
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_spills(cubins: Any, library: nvrtc.Nvrtc, target: str) -> None:
    version, figures = cubins.by_nvrtc(target)
    assert version == "NVRTC {}.{}".format(*library.version)
    check(figures, 32768 if target == "sm_62" else 65536)


@pytest.mark.deep
@pytest.mark.parametrize("target", ["sm_75", "sm_90"])
def test_nvcc(cubins: Any, target: str) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    made = cubins.by_nvcc(target)
    assert made is not None
    check(made[1])


@pytest.mark.deep
def test_what_is_compiled_for_which_gpu(library: nvrtc.Nvrtc) -> None:
    """The GPU itself; PTX of the newest that the compiler knows for one it does not know; nothing for one too old."""
    assert library.target((9, 0)) == "sm_90"
    newer = library.target((99, 0))
    assert newer is not None and newer.startswith("compute_")
    assert library.target((2, 0)) is None
    assert library.compile(source(), "sm_62")[0][:4] == b"\x7fELF"
    assert b".target sm_75" in library.compile(source(), "compute_75")[0]
    with pytest.raises(BackendError, match=r"cannot compile the kernel: .*error"):
        library.compile(b"nonsense", "sm_62")


@pytest.mark.deep
def test_code_is_kept(library: nvrtc.Nvrtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    calls: list[str] = []

    def compiled(source: bytes, target: str) -> tuple[bytes, str]:
        calls.append(target)
        return target.encode() + source, ""

    monkeypatch.setattr(library, "compile", compiled)
    monkeypatch.setattr(nvrtc, "find", lambda: iter([library]))

    def get(text: bytes = b"one", capability: tuple[int, int] = (6, 2), where: Path = folder) -> bytes:
        return nvrtc.kernel_code(text, capability, str(where))

    assert [get(), get()] == [b"sm_62one"] * 2 and calls == ["sm_62"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert get(b"two") == b"sm_62two" and get(capability=(7, 5)) == b"sm_75one" and len(calls) == 3
    assert [path.suffix for path in folder.iterdir()] == [".bin"] * 3
    kept = next(path for path in folder.iterdir() if path.read_bytes().endswith(b"sm_75one"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    assert get(capability=(7, 5)) == b"sm_75one" and len(calls) == 4  # the damaged file was not believed
    threads = [threading.Thread(target=get, args=(b"three",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert get(b"three") == b"sm_62three" and not list(folder.glob("*.part"))
    calls.clear()
    os.chmod(folder, 0o777)
    assert [get(), get()] == [b"sm_62one"] * 2 and len(calls) == 2  # others could have put it there
    assert nvrtc.kernel_code(b"one", (6, 2)) == b"sm_62one"


def test_absence_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "find", lambda: iter(()))
    with pytest.raises(BackendError, match=r"for this GPU \(compute capability 6\.2\): no NVRTC is installed here; "):
        nvrtc.kernel_code(b"", (6, 2))


def test_a_compiler_too_new_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer:
        version = (13, 0)

        def target(self, capability: tuple[int, int]) -> None:
            return None

    monkeypatch.setattr(nvrtc, "find", lambda: iter([Newer()]))
    with pytest.raises(BackendError, match=r"NVRTC 13\.0 is too new for it; install"):
        nvrtc.kernel_code(b"", (6, 2))
