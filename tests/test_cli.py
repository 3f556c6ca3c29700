"""The command line as a user meets it: one whole run from profile to report, every command a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edgecut.cli import app
from edgecut.models.data import load_data
from edgecut.partitioner.plan import Plan
from edgecut.profiler.profile import Profile
from edgecut.runtime.measurement import Measurement

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMMANDS = [
    "profile",
    "plan",
    "learn",
    "retrain",
    "bundle",
    "verify",
    "audit",
    "serve",
    "infer",
    "measure",
    "report",
    "demo",
]


def run(*arguments: object, cwd: Path, columns: int = 100) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns)}
    command = [sys.executable, "-P", "-m", "edgecut", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def good(*arguments: object, cwd: Path, columns: int = 100) -> str:
    done = run(*arguments, cwd=cwd, columns=columns)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, serving: Any, lenet: Any) -> tuple[Path, dict[str, str]]:
    """The folder of a whole run, and what each command printed."""
    folder = tmp_path_factory.mktemp("walk")
    np.save(folder / "digits.npy", load_data("mnist").x_test[::25])
    powers = ("--power-idle-w", 2, "--power-max-w", 8)
    said = {}
    for name, command in {
        "edge": f"profile lenet5 -o edge.json --threads 1 --max-seconds 1 {' '.join(map(str, powers))}",
        "cloud": "profile lenet5 -o cloud.json --threads 1 --max-seconds 1 --json",
        "plan": "plan edge.json cloud.json --link wifi --edge-slowdown 5 -o p.json",
        "learn": "learn p.json --model lenet5 -o n.npz --distributions 2 --steps 40 --scale 0.5 --max-accuracy-loss 50",
        "bundle": "bundle p.json --model lenet5 --noise n.npz -o b --edge-profile edge.json --cloud-profile cloud.json",
        "verify": "verify b",
        "verify cloud": "verify b/cloud",
        "measure": "measure b --model lenet5 --link lte -o m.json --max-seconds 2 --json",
    }.items():
        done = run(*command.split(), cwd=folder)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        said[name], said[f"{name}, errors"] = done.stdout, done.stderr
    with serving(folder / "b" / "cloud") as (_, address):
        said["infer"] = good("infer", "b", "digits.npy", "--server", address, "-o", "logits.npy", cwd=folder)
        said["infer json"] = good("infer", "b/edge", "digits.npy", "--server", address, "--json", cwd=folder)
    said["report"] = good(
        *["report", "m.json", "--edge-profile", "edge.json", "--cloud-profile", "cloud.json", "-o", "r"], cwd=folder
    )
    return folder, said


def test_the_whole_run_leaves_these_files(walked: tuple[Path, dict[str, str]]) -> None:
    folder = walked[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "b",
        "cloud.json",
        "digits.npy",
        "edge.json",
        "logits.npy",
        "m.json",
        "n.npz",
        "p.json",
        "r",
    ]
    assert sorted(path.name for path in (folder / "r").iterdir()) == ["report.html", "report.json"]
    page = (folder / "r" / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "LTE" in page.upper() and "lenet5" in page
    assert json.loads((folder / "r" / "report.json").read_bytes())


def test_json_is_the_file(walked: tuple[Path, dict[str, str]]) -> None:
    folder, said = walked
    again = good("plan", "edge.json", "cloud.json", "--json", "-o", "again.json", cwd=folder)
    for printed, file, kind in (
        (said["cloud"], "cloud.json", Profile),
        (said["measure"], "m.json", Measurement),
        (again, "again.json", Plan),
    ):
        assert json.loads(printed) == json.loads((folder / file).read_bytes())
        assert kind.from_json(printed, "printed") == kind.load(folder / file)
    (folder / "again.json").unlink()


def test_what_the_commands_say_fits_what_they_wrote(walked: tuple[Path, dict[str, str]]) -> None:
    folder, said = walked
    planned, measured = Plan.load(folder / "p.json"), Measurement.load(folder / "m.json")
    assert planned.choice in said["plan"] and all(row.name in said["plan"] for row in planned.cuts)
    assert "b is intact: 18 files" in said["verify"] and measured.bundle_id in said["verify"]
    assert measured.bundle_id not in said["verify cloud"] and "intact" in said["verify cloud"]
    assert measured.link.name == "lte" and measured.plan.choice == planned.choice
    logits = np.load(folder / "logits.npy")
    classes = [int(line) for line in said["infer"].split()]
    assert classes == logits.argmax(1).tolist() and len(classes) == 40
    again = json.loads(said["infer json"])
    assert np.shape(again["logits"]) == (40, 10) and np.argmax(again["logits"], 1).tolist() == again["classes"]
    truth = load_data("mnist").y_test[::25]
    assert (np.array(classes) == truth).mean() > 0.7 and (np.array(again["classes"]) == truth).mean() > 0.7
    assert not np.array_equal(logits, np.array(again["logits"], np.float32)), "two requests had the same noise"


@pytest.mark.parametrize(
    "columns", [pytest.param(20, marks=pytest.mark.deep), 80, pytest.param(120, marks=pytest.mark.deep)]
)
def test_tables_and_help_fit_any_terminal(columns: int, walked: tuple[Path, dict[str, str]]) -> None:
    folder = walked[0]
    printed = good("plan", "edge.json", "cloud.json", cwd=folder, columns=columns)
    assert printed and (columns < 80 or max(map(len, printed.splitlines())) <= columns)
    for command in ([], *([name] for name in COMMANDS)):
        shown = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [*command, "--help"])
        assert shown.exit_code == 0, shown.output
        text = shown.output
        assert "Usage" in text and (columns < 80 or max(map(len, text.splitlines())) == columns)
    if columns >= 80:
        text = good("--help", cwd=folder, columns=columns)
        assert all(name in text for name in COMMANDS)


def test_no_progress_bar_without_a_terminal(walked: tuple[Path, dict[str, str]]) -> None:
    said = walked[1]
    assert said["measure, errors"] == "wrote m.json\n" and said["learn, errors"] == "wrote n.npz\n"
    assert not any("\x1b" in text for text in said.values())


def test_a_reader_that_goes_away_is_no_fault(walked: tuple[Path, dict[str, str]]) -> None:
    command = [sys.executable, "-P", "-m", "edgecut", "plan", "edge.json", "cloud.json", "--json"]
    with subprocess.Popen(command, cwd=walked[0], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said
