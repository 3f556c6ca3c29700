"""The examples run as a user runs them, and the commands of the README exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from edgecut.cli import app

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.deep
def test_quickstart_writes_every_artefact(tmp_path: Path) -> None:
    script = ROOT / "examples" / "quickstart.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, "--quick"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("speedup against") == 3
    made = {path.name for path in tmp_path.iterdir()}
    assert {"edge.profile.json", "lenet5.plan.json", "lenet5.noise.npz", "bundle", "report.html", "report.json"} <= made


def test_commands_of_the_readme_exist() -> None:
    """Every `edgecut WORD` and `make WORD` that the README and the documentation show is a real one."""
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    commands = set(re.findall(r"^(?:\.venv/bin/)?edgecut (\w+)", blocks, re.MULTILINE))
    assert {"profile", "plan", "learn", "bundle", "verify", "audit", "serve", "infer", "measure", "report"} <= commands
    assert commands <= set(get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE)) <= targets
