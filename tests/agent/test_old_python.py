"""What runs on the device keeps to Python 3.6 and imports nothing but the standard library, NumPy and itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("agent", "noise_kernels")
VERMIN = [sys.executable, "-c", "from vermin import main; main()", "-t=3.6-", "--no-tips", "--violations"]


def vermin(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [*VERMIN, "--eval-annotations", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


def test_python_3_6() -> None:
    pytest.importorskip("vermin")
    found = vermin(*(ROOT / folder for folder in FOLDERS))
    assert found.returncode == 0, found.stdout
    assert "Minimum required versions: 3.6" in found.stdout


@pytest.mark.parametrize(
    "code", ["if (n := 3): pass", "def f(x, /): pass", "import dataclasses", "a: tuple[int, float] = ()", "f'{1=}'"]
)
def test_newer_python_would_be_seen(code: str, tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text(code + "\n")
    assert vermin(tmp_path / "new.py").returncode != 0


def imported(path: Path) -> set[str]:
    """First parts of what a file imports; relative imports as `.name`, one dot a level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            names.update("." * node.level + module.split(".")[0] for module in modules)
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports(folder: str) -> None:
    files = sorted((ROOT / folder).glob("*.py"))
    own = {"." + path.stem for path in files}
    above = {"..noise_kernels"} if folder == "agent" else set()
    for path in files:
        others = imported(path) - own - above - {"numpy"} - set(sys.stdlib_module_names)
        assert not others, f"{path.relative_to(ROOT)} imports {others}"
