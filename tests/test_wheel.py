"""The wheel holds every module and data file of the package, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "demo", "*.so")
NOT_PACKAGED = {"tests", "benchmarks", "docs", "examples"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the checkout, so that nothing built earlier gets in."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "edgecut", ignore=LEFT_OUT))


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(tree.parent / "out"), str(tree)], check=True, capture_output=True)
    (made,) = (tree.parent / "out").glob("*.whl")
    return made


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}


def test_every_module_and_nothing_else(tree: Path, wheel: Path) -> None:
    modules = {str(path.relative_to(tree)) for path in tree.rglob("*.py")}
    expected = {"edgecut/" + name for name in modules if name.split("/")[0] not in NOT_PACKAGED | {"build"}}
    assert {name for name in names(wheel) if name.endswith(".py")} == expected
    assert {"edgecut/cli.py", "edgecut/agent/timing.py", "edgecut/reports/html.py"} <= expected


def test_data_files(tree: Path, wheel: Path) -> None:
    templates = {f"edgecut/reports/templates/{path.name}" for path in (tree / "reports" / "templates").iterdir()}
    assert len(templates) >= 1
    profiler = tree / "profiler"
    described = {*profiler.glob("devices/*.toml"), *(p for p in profiler.glob("published/*") if p.is_file())}
    templates |= {f"edgecut/{path.relative_to(tree)}" for path in described}
    wanted = {"edgecut/py.typed", "edgecut/runtime/oip.proto", "edgecut/runtime/oip.binpb", *templates}
    code = {".c", ".cu", ".h"}
    kernels = {f"edgecut/noise_kernels/{p.name}" for p in (tree / "noise_kernels").iterdir() if p.suffix in code}
    assert {name for name in names(wheel) if not name.endswith((".py", ".so"))} == wanted | kernels


def test_the_installed_command_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "edgecut = edgecut.cli:main" in archive.read(entry).decode()
    program = "import edgecut, edgecut.runtime.oip; print(edgecut.__file__)"
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.meta_path[:] = sys.meta_path[:3]; "
    ended = subprocess.run([sys.executable, "-S", "-c", path + LIBRARIES + program], capture_output=True, text=True)
    assert ended.stdout.strip() == str(tmp_path / "edgecut" / "__init__.py"), ended.stderr


LIBRARIES = f"sys.path += {[part for part in sys.path if part.endswith('site-packages')]!r}; "


NATIVE = (
    "from edgecut.noise_kernels import native; print(native.load() and native.load().path); print(native.why_not())"
)


def built_and_asked(tree: Path, folder: Path, **environment: str) -> tuple[Path, list[str]]:
    """A wheel built from a copy of the tree, and what a process says of the noise sampler that has it unpacked."""
    copy = shutil.copytree(tree, folder / "edgecut", ignore=LEFT_OUT)
    variables = {**os.environ, **environment}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(folder / "out"), str(copy)], check=True, capture_output=True, env=variables)
    (made,) = (folder / "out").glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder / "there")
    path = f"import sys; sys.path.insert(0, {str(folder / 'there')!r}); " + LIBRARIES
    variables |= {"PATH": "/nowhere", "EDGECUT_CACHE": str(folder / "cache"), "EDGECUT_NATIVE": "1"}
    ended = subprocess.run([sys.executable, "-S", "-c", path + NATIVE], capture_output=True, text=True, env=variables)
    assert ended.returncode == 0, ended.stderr
    return made, ended.stdout.splitlines()


@pytest.mark.deep
def test_the_wheel_has_the_compiled_noise_sampler_inside(tree: Path, tmp_path: Path) -> None:
    """And it works where there is no compiler."""
    made, (path, why_not) = built_and_asked(tree, tmp_path)
    (library,) = (name for name in names(made) if name.endswith(".so"))
    assert library.startswith("edgecut/noise_kernels/_noise.") and path == str(tmp_path / "there" / library)
    assert why_not == "None"


@pytest.mark.deep
def test_without_a_compiler_the_wheel_does_without(tree: Path, tmp_path: Path) -> None:
    made, (path, why_not) = built_and_asked(tree, tmp_path, CC="/nowhere/cc", PATH="/nowhere")
    assert not [name for name in names(made) if name.endswith(".so")]
    assert "edgecut/noise_kernels/noise.c" in names(made)
    assert path == "None" and "there is no C compiler" in why_not
