"""Who imports whom (DESIGN section 2), what importing loads, and the names of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgecut
from edgecut.profiler.profile import Profile

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"artefacts", "errors"}
FRONT = {
    "cli",
    "cli_audit",
    "cli_bundle",
    "cli_devices",
    "cli_learn",
    "cli_options",
    "cli_plan",
    "cli_report",
    "cli_retrain",
    "cli_run",
    "cli_serve",
    "demo",
    "terminal",
    "__main__",
}
VALUES = {
    "models.spec",
    "partitioner.link",
    "partitioner.plan",
    "privacy.audited",
    "privacy.result",
    "profiler.diagnosis",
    "profiler.evaluation",
    "profiler.profile",
    "runtime.accuracy",
    "runtime.manifest",
    "runtime.measurement",
}
FOLDERS: dict[str, set[str]] = {
    "noise_kernels": set(),
    "agent": {"noise_kernels"},
    "models": {"agent", *SHARED},
    "profiler": {"models", "agent", "noise_kernels", *SHARED},
    "partitioner": {"models", "noise_kernels", "profiler", *SHARED},
    "runtime": {"models", "agent", "noise_kernels", "profiler", "partitioner", *SHARED},
    "privacy": {"models", "noise_kernels", "partitioner", "runtime", *SHARED},
    "reports": VALUES | SHARED,
}
OTHER = {"tests", "benchmarks", "docs", "examples", "build", "dist", "demo"}
HEAVY = ("torch", "onnxruntime", "onnx", "plotly", "scipy", "grpc")


def sources() -> list[Path]:
    """Every module of the package, relative to its root."""
    tops = [path for path in ROOT.iterdir() if path.name not in OTHER and not path.name.startswith(".")]
    found = [path for top in tops for path in ([top] if top.suffix == ".py" else top.rglob("*.py"))]
    return sorted(path.relative_to(ROOT) for path in found)


def imports(path: Path, text: str) -> set[str]:
    """The package's modules that a module imports, as `folder.module` or `module`."""
    package = path.parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            whole = ROOT.joinpath(*base).is_dir()
            names.update(".".join([*base, alias.name] if whole else base) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edgecut":
            names.add((node.module or "").partition(".")[2] or "edgecut")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if alias.name.split(".")[0] == "edgecut")
    return names


def faults(path: Path, text: str) -> set[str]:
    """What a module imports and may not."""
    if len(path.parts) == 1:
        if path.stem in FRONT | {"__init__"}:
            return set()
        allowed = {"errors"} if path.stem == "artefacts" else set()
        return {name for name in imports(path, text) if name not in allowed}
    folder = path.parts[0]
    allowed = {folder, *FOLDERS.get(folder, set())}
    return {name for name in imports(path, text) if name not in allowed and name.split(".")[0] not in allowed}


@pytest.mark.parametrize("path", sources(), ids=str)
def test_order_of_imports(path: Path) -> None:
    assert not faults(path, (ROOT / path).read_text())


def test_the_order_would_be_seen_broken() -> None:
    for path, text in [
        ("models/new.py", "from ..profiler.profile import Profile"),
        ("models/new.py", "def f():\n    from .. import cli"),
        ("models/new.py", "from ..terminal import say"),
        ("noise_kernels/new.py", "from ..errors import EdgecutError"),
        ("agent/new.py", "from ..artefacts import digest"),
        ("partitioner/new.py", "from ..runtime.measure import measure"),
        ("reports/new.py", "from ..runtime.measure import measure"),
        ("privacy/new.py", "import edgecut.reports.html"),
        ("runtime/new.py", "from edgecut.privacy.learn import learn"),
        ("errors.py", "from .models import spec"),
        ("new.py", "from .artefacts import digest"),
        ("new/module.py", "from ..errors import EdgecutError"),
    ]:
        assert faults(Path(path), text), text
    assert imports(Path("reports/new.py"), "from . import units") == {"reports.units"}
    assert {path.parts[0] for path in sources() if len(path.parts) > 1} == set(FOLDERS)
    assert {path.stem for path in sources() if len(path.parts) == 1} == FRONT | SHARED | {"__init__"}


def loaded(code: str, *arguments: str, cwd: Path | None = None) -> set[str]:
    """Which of the heavy modules a fresh interpreter has loaded after `code`."""
    tail = f"import sys\nprint('\\nloaded', *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    program = f"import atexit\natexit.register(exec, {tail!r}, {{}})\n{code}"
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.split("\nloaded")[1].split())


COMMAND = "from edgecut.cli import main\nmain()"
HELP = """
import sys
from edgecut.cli import main
for arguments in (["--help"], ["profile", "--help"], ["audit", "--help"], ["retrain", "--help"]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
"""


def test_importing_loads_nothing_heavy() -> None:
    assert loaded("import edgecut; dir(edgecut); edgecut.Plan, edgecut.Link, edgecut.plan") == set()
    assert loaded("import edgecut.models.graph") == {"onnx"}  # what is loaded is seen


def test_value_types_load_nothing_heavy() -> None:
    """One after the other in one process, so that the first that does is named."""
    check = f"assert not [name for name in {HEAVY} if name in sys.modules]"
    lines = [f"import edgecut.{module}\n{check}, {module!r}" for module in sorted(VALUES)]
    assert loaded("\n".join(["import sys", *lines])) == set()


def test_reports_load_no_backend() -> None:
    modules = ", ".join(f"edgecut.reports.{path.stem}" for path in sorted((ROOT / "reports").glob("*.py")))
    assert not loaded(f"import {modules}") & {"torch", "onnxruntime", "onnx", "grpc"}


def test_commands_load_only_what_they_need(profiled: Profile, tmp_path: Path) -> None:
    assert loaded(HELP) == set()
    profiled.save(tmp_path / "p.json")
    assert loaded(COMMAND, "plan", "p.json", "p.json", "-o", "plan.json", cwd=tmp_path) == set()
    assert (tmp_path / "plan.json").is_file()


def test_names() -> None:
    assert edgecut.__all__ == sorted(edgecut.__all__) == sorted(edgecut._HOMES)
    for name in edgecut.__all__:
        value = getattr(edgecut, name)
        assert value.__module__ == f"edgecut.{edgecut._HOMES[name]}"
        assert name in dir(edgecut)
    with pytest.raises(AttributeError, match="module 'edgecut' has no attribute 'plam'"):
        _ = edgecut.plam
    checked = ast.parse((ROOT / "__init__.py").read_text())
    typed = next(node for node in checked.body if isinstance(node, ast.If))
    pairs = {a.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert pairs == edgecut._HOMES  # what a type checker is told
