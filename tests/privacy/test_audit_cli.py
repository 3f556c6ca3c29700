"""`edgecut audit` as a user meets it: exit codes, what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
from edgecut.cli import app
from edgecut.errors import ArtefactError, EdgecutError
from edgecut.noise_kernels.element_noise import ElementNoise
from edgecut.privacy.audited import Audit
from edgecut.runtime.bundle import bundle
from edgecut.runtime.manifest import Manifest
from edgecut.runtime.verify import verify


@pytest.fixture(scope="module")
def made(residual: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle with much Laplace noise, and its data."""
    folder, cut = tmp_path_factory.mktemp("cli"), residual.planned.cut
    tensors = [(tensor.name, tensor.shape) for tensor in cut.tensors]
    n, digest = cut.elements, residual.model.spec.digest
    noise = ElementNoise("laplace", "laplace", np.zeros(n), np.full(n, 2.0), tensors, digest, cut.name)
    (folder / "n.npz").write_bytes(noise.to_bytes())
    model, data = str(residual.model.path), str(residual.data)
    bundle(residual.planned, model=model, noise=folder / "n.npz", data=data, output=folder / "b")
    return folder / "b", residual.data


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgecut", "audit", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-bits", "inf"), "--max-bits is inf, but must be a number of bits"),
        (("--sweep", "p.json", "--model", "m", "-o", "s.json", "--no-record"), "a sweep changes no bundle"),
    ],
)
def test_options_that_cannot_be(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    given = options if "--sweep" in options else ("b", *options)
    refused = run(*given, cwd=tmp_path)
    assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr


def test_exit_codes_files_and_the_recorded_verdict(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = tmp_path / "b", made[1]
    shutil.copytree(made[0], folder)
    before = verify(folder).id
    common = ("b", "--data", data, "--attacks", "none")
    kept = ("--max-bits", "100000", "-o", "a.json", "--page", "a.html", "--no-record")
    monkeypatch.chdir(tmp_path)
    held = CliRunner().invoke(app, ["audit", *map(str, common), *kept])
    assert held.exit_code == 0, held.output
    assert "All limits hold" in held.stdout and "bits in a message" in held.stdout and "missing: attacks" in held.stdout
    found = Audit.load(tmp_path / "a.json")
    assert found.verdict.holds and found.bundle_id == before == verify(folder).id
    assert "<title>" in (tmp_path / "a.html").read_text()
    broken = run(*common, "--max-bits", "0.5", "--max-private-accuracy", "0.5", "--json", cwd=tmp_path)
    assert broken.returncode == 1 and "Traceback" not in broken.stderr
    printed = Audit.from_json(broken.stdout, "stdout")
    assert len(printed.verdict.broken) == 2 and "nothing measured it" in printed.verdict.broken[0]
    assert broken.stderr.count("edgecut: broken: ") == 2
    after = verify(folder)
    assert after.id != before and f"whose id is now {after.id}; it was {before}" in broken.stderr
    assert isinstance(after.manifest, Manifest) and after.manifest.leakage is not None
    assert after.manifest.leakage.broken == printed.verdict.broken
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "there is nothing to audit"),
        (["nowhere"], "there is no bundle folder nowhere"),
        (["b", "--model", "lenet5"], "--model is of a sweep"),
        (["b", "--leakage-out", "l.json"], "--leakage-out is of a sweep"),
        (["--sweep", "p.json", "--model", "m"], "a sweep takes no bundle"),
        (["b", "--sweep", "p.json", "--model", "m", "-o", "o"], "a sweep takes no bundle"),
        (["--sweep", "p.json", "--max-bits", "3"], "--max-bits is held against a bundle's audit"),
        (["--sweep", "p.json", "--model", "m", "-o", "o.json", "--losses", "a"], "--losses takes points of accuracy"),
        (["b", "-o", "/proc/x/a.json"], "cannot be written"),
        (["b", "--page", "/proc/x/a.html"], "cannot be written"),
    ],
)
def test_refusals(options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["audit", *options], standalone_mode=False)
    assert isinstance(done.exception, EdgecutError) and words in str(done.exception), done.exception
    assert "\n" not in str(done.exception) and list(tmp_path.iterdir()) == []


def test_other_artefacts_are_not_replaced(tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    plan.write_text(json.dumps({"kind": "plan", "version": 2}))
    done = CliRunner().invoke(app, ["audit", "b", "-o", str(plan)], standalone_mode=False)
    assert isinstance(done.exception, EdgecutError) and "is a plan file" in str(done.exception)
    plan.write_text(json.dumps({"kind": "audit", "version": 1}))
    done = CliRunner().invoke(app, ["audit", "b", "--page", str(plan)], standalone_mode=False)
    assert isinstance(done.exception, EdgecutError) and "is an audit file" in str(done.exception)


def test_a_page_that_cannot_be_written_loses_nothing_else(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgecut.reports.audit_page as pages

    def full(*_: object) -> None:
        raise ArtefactError("a.html cannot be written (No space left on device)")

    monkeypatch.setattr(pages, "write_audit", full)
    options = ("--data", made[1], "--attacks", "none", "-o", tmp_path / "a.json", "--page", tmp_path / "a.html")
    done = CliRunner().invoke(app, ["audit", *map(str, (made[0], *options, "--no-record"))], standalone_mode=False)
    assert isinstance(done.exception, ArtefactError), done.output
    assert "bits in a message" in done.stdout and Audit.load(tmp_path / "a.json").verdict.holds
