"""The commands `bundle`, `verify`, `pack` and `unpack`: their options, what they print, and exit code 2 for a fault."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import edgecut.runtime.bundle as bundling
from edgecut.cli import main
from edgecut.partitioner.plan import Plan
from edgecut.privacy.learn import Learned
from edgecut.runtime.verify import verify

pytest.importorskip("onnxruntime")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("verify", folder)`: exit code, standard output, standard error."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(bundling, "DRAWS", 1)

    def called(*arguments: str | os.PathLike[str]) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edgecut", *map(os.fspath, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return called


def test_a_bundle_for_a_device(run: Run, planned: Plan, learned: tuple[Learned, Path], tmp_path: Path) -> None:
    plan = planned.save(tmp_path / "plan.json")
    given = ("bundle", plan, "--model", "lenet5", "--noise", learned[1], "-o", tmp_path / "b")
    code, out, err = run(
        *given, "--target", "jetson-orin", "--precision", "float16", "--with-local-fallback", "--sticky"
    )
    assert code == 0, err
    assert "without noise" in out and verify(tmp_path / "b").id in err
    edge = json.loads((tmp_path / "b" / "edge" / "manifest.json").read_bytes())
    said = "mechanism shredder: 120 float32 values are sent of each input; the same input always gets the same noise"
    assert edge["sticky"] is True and said in " ".join(err.split())
    assert edge["fallback"] == "fallback.onnx" and edge["engines"] == []
    assert edge["target"] == {
        "name": "jetson-orin",
        "runtime": "tensorrt",
        "opset": 17,
        "ir_version": 8,
        "precision": "float16",
        "batch": 1,
    }
    for options, words in (
        (("--target", "orin"), "unknown target 'orin'; known: cpu, cuda, jetson-orin, tensorrt, tx2"),
        (("--precision", "float16"), "the target cpu computes in float32"),
        (("--target", "tensorrt", "--engine-for", "8.6, 8"), "'8' is no compute capability"),
    ):
        code, out, err = run(*given, "--overwrite", *options)
        assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    assert json.loads((tmp_path / "b" / "edge" / "manifest.json").read_bytes()) == edge


def test_pack_verify_unpack(run: Run, bundle_folder: Path, tmp_path: Path) -> None:
    archive, side = tmp_path / "edge.tar.zst", verify(bundle_folder / "edge").id
    code, out, err = run("pack", bundle_folder / "edge", "-o", archive)
    assert (code, out) == (0, "") and side in err and str(archive) in err
    code, out, err = run("verify", archive)
    assert code == 0 and f"{archive} is intact" in out and side in out
    assert out.splitlines()[1:] == ["mechanism shredder: 120 float32 values are sent of each input"]
    code, out, err = run("verify", bundle_folder)
    assert code == 0 and out.splitlines()[2] == "leakage: not audited; see edgecut audit"
    assert len(run("verify", bundle_folder / "cloud")[1].splitlines()) == 1
    code, out, err = run("unpack", archive, "-o", tmp_path / "edge", "--expect-id", side)
    assert (code, out) == (0, "") and side in err
    assert verify(tmp_path / "edge").id == side


def test_faults_end_with_2(run: Run, bundle_folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.zst"
    assert run("pack", bundle_folder, "-o", archive)[0] == 0
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    wrong = "sha256:" + "0" * 64
    for arguments, words in (
        (("pack", tmp_path, "-o", tmp_path / "y"), "has no manifest.json"),
        (("pack", bundle_folder, "-o", tmp_path / "y", "--expect-id", wrong), "was expected"),
        (("verify", archive), "ends too early"),
        (("verify", archive, "--expect-id", wrong), "ends too early"),
        (("unpack", archive, "-o", tmp_path / "y"), "ends too early"),
        (("unpack", tmp_path / "nothing", "-o", tmp_path / "y"), "there is no archive"),
        (("unpack", archive, "-o", archive), "exists already"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and words in err and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.zst"]
