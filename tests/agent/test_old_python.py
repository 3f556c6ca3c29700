"""What runs on the device keeps to Python 3.6 and imports nothing but the standard library, NumPy and itself.

And, inside functions, the device's runtime and gRPC.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("agent", "noise_kernels")
RUNTIMES = {"grpc", "onnxruntime", "pycuda", "tensorrt", "tensorrt_rtx"}
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


def imported(text: str, *, functions: bool = True) -> set[str]:
    """First parts of what a module imports, or of what importing it imports; relative ones as `.name`, a dot each."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            names.update("." * node.level + module.split(".")[0] for module in modules)
    return names


def faults(folder: str, text: str) -> set[str]:
    """What a module imports and may not; a runtime may be imported inside functions."""
    own = {"." + path.stem for path in (ROOT / folder).glob("*.py")}
    above = {"..noise_kernels"} if folder == "agent" else set()
    fine = own | above | {"numpy"} | set(sys.stdlib_module_names)
    runtimes = RUNTIMES if folder == "agent" else set()
    return (imported(text, functions=False) - fine) | (imported(text) - fine - runtimes)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports(folder: str) -> None:
    found = {path.name: faults(folder, path.read_text()) for path in sorted((ROOT / folder).glob("*.py"))}
    assert len(found) > 1
    assert not {name: others for name, others in found.items() if others}


@pytest.mark.parametrize(
    ("text", "folder", "wrong"),
    [
        ("import onnxruntime", "agent", True),
        ("try:\n    import tensorrt\nexcept ImportError:\n    pass", "agent", True),
        ("class A:\n    import pycuda.driver", "agent", True),
        ("def f():\n    import pycuda.driver\n    from tensorrt_rtx import Logger", "agent", False),
        ("class A:\n    def f(self):\n        import onnxruntime", "agent", False),
        ("def f():\n    import onnxruntime", "noise_kernels", True),
        ("def f():\n    import torch", "agent", True),
        ("from ..noise_kernels import sampler", "agent", False),
        ("from ..models import graph", "agent", True),
    ],
)
def test_a_wrong_import_would_be_seen(text: str, folder: str, wrong: bool) -> None:
    assert bool(faults(folder, text)) == wrong
