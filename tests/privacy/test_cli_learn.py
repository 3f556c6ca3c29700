"""The command `learn`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edgecut.cli import app
from edgecut.errors import EdgecutError
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.noise_kernels.mechanism import load_noise
from edgecut.runtime.accuracy import NoiseAccuracy

pytest.importorskip("torch")


@pytest.fixture
def command(residual: Any, tmp_path: Path) -> list[str]:
    stored = dict(np.load(residual.data))
    labels = {f"left_{part}": stored[f"y_{part}"] % 2 for part in ("train", "test")}
    np.savez(tmp_path / "d.npz", **stored, **labels)
    plan = residual.planned.save(tmp_path / "p.json")
    files = ["--data", str(tmp_path / "d.npz"), "-o", str(tmp_path / "n.npz")]
    return ["learn", str(plan), "--model", str(residual.model.path), *files, "--distributions", "2", "--steps", "20"]


def run(command: list[str], *options: str) -> Result:
    return CliRunner().invoke(app, [*command, *options], standalone_mode=False)


def test_json_is_the_report_and_has_everything(command: list[str], tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    done = run(command, "--recipe", "paper", "--private", "left", "--json", "--report", str(report))
    assert done.exception is None, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads(report.read_bytes())
    collection = NoiseCollection.load(tmp_path / "n.npz")
    assert printed["distributions"] == collection.distributions == len(printed["sse"]) == 2
    assert printed["footprint_bytes"] == collection.footprint_bytes and printed["elements"] == collection.n
    assert printed["recipe"] == "paper" and printed["private"]["name"] == "left"
    assert printed["private"]["retrained"] is False and printed["learnable_parameters"] == collection.n
    for name in ("accuracy", "hold_out", "replay"):
        assert NoiseAccuracy.model_validate(printed[name]).with_noise.total > 0
    seconds = [value for name, value in printed["timings"].items()]
    assert len(seconds) == 8 and 0.5 * printed["elapsed_s"] < sum(seconds) <= printed["elapsed_s"]


def test_the_table(command: list[str], tmp_path: Path) -> None:
    done = run(command, "--max-accuracy-loss", "30", "--private", "left")
    assert done.exception is None, done.output
    for words in ("unseen ", "hold-out ", "private ", "not retrained", "recipe sampled", "KB of orders", "search"):
        assert words in " ".join(done.stdout.split()), words
    assert "replayed" not in done.stdout and "[95" not in done.stdout
    assert f"wrote {tmp_path / 'n.npz'}" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gamma", "1"], "--gamma weighs a private task"),
        (["--alpha", "1"], "the recipe sampled has no alpha"),
        (["--recipe", "papr"], "unknown recipe 'papr', did you mean 'paper'"),
        (["--private", "lift"], "unknown private labels 'lift', did you mean 'left'"),
        (["--mechanism", "laplas"], "unknown mechanism 'laplas', did you mean 'laplace'"),
        (["--mechanism", "gaussian"], "the mechanism gaussian has no distributions (shredder has it)"),
        (["--at", "input"], "the mechanism shredder has no place (cloak has it)"),
        (["--hold-out", "1"], "hold out must be a share"),
        (["--recipe", "paper", "--equation", "5"], "equation must be 3 or 4"),
        (["--report", "/proc/x.json"], "/proc/x.json cannot be written"),
    ],
)
def test_refusals(options: list[str], words: str, command: list[str], tmp_path: Path) -> None:
    done = run(command, *options)
    assert isinstance(done.exception, EdgecutError) and words in str(done.exception)
    assert not (tmp_path / "n.npz").exists() and "\n" not in str(done.exception)


def test_another_mechanism(residual: Any, tmp_path: Path) -> None:
    plan = residual.planned.save(tmp_path / "p.json")
    output, report = tmp_path / "n.npz", tmp_path / "r.json"
    command = ["learn", str(plan), "--model", str(residual.model.path), "--data", str(residual.data), "-o", str(output)]
    done = run(command, "--mechanism", "laplace", "--max-accuracy-loss", "20", "--report", str(report))
    assert done.exception is None, done.output
    shown = " ".join(done.stdout.split())
    for words in ("mechanism laplace at the cut, 384 values sent for 384", "standard deviations of the activation"):
        assert words in shown
    noise, told = load_noise(output), json.loads(report.read_bytes())
    assert noise.mechanism == told["mechanism"] == "laplace" and told["recipe"] is None is told["distributions"]
    assert told["scale"] == pytest.approx(told["knob"]["value"], rel=1e-6) and told["values_sent"] == 384
    refused = run([*command, "--mechanism", "none", "--private", "left"])
    assert isinstance(refused.exception, EdgecutError) and "knows no labels to hide" in str(refused.exception)
