"""The work folder: held by one process, dropped when it is of something else, and never trusted where damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.errors import ArtefactError
from edgecut.privacy.snapshot import WorkFolder

KEY = {"seed": 1, "settings": {"scale": None}}
PIECE = {"a": np.arange(5), "b": np.array(0.1)}


def test_pieces_come_back_as_they_were(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "new" / "x.npz", KEY)
    assert not folder.resumed and not folder.stale and folder.load("one") is None
    folder.save("one", PIECE)
    found = folder.load("one")
    assert found is not None and found.keys() == PIECE.keys()
    np.testing.assert_array_equal(found["a"], PIECE["a"])
    assert float(found["b"]) == 0.1
    folder.close(finished=False)
    again = WorkFolder(tmp_path / "new" / "x.npz", KEY)
    assert again.resumed and not again.stale and again.load("one") is not None
    again.drop("one")
    assert again.load("one") is None
    again.close(finished=True)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("key", [KEY | {"seed": 2}, {"seed": 1}, KEY | {"settings": {"scale": 1.0}}])
def test_work_of_other_settings_is_replaced(key: dict[str, Any], tmp_path: Path) -> None:
    first = WorkFolder(tmp_path / "x.npz", KEY)
    first.save("one", PIECE)
    first.close(finished=False)
    second = WorkFolder(tmp_path / "x.npz", key)
    assert second.stale and not second.resumed and second.load("one") is None
    second.close(finished=False)
    assert list(tmp_path.iterdir()) == []  # nothing in it was worth keeping


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_piece_is_none(damage: bytes | None, tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "x.npz", KEY)
    folder.save("one", PIECE)
    file = folder.path / "one.npz"
    file.write_bytes(file.read_bytes()[:-30] if damage is None else damage)
    assert folder.load("one") is None
    np.savez(file, a=np.array([object()], dtype=object), allow_pickle=True)
    assert folder.load("one") is None  # no pickle is ever run
    folder.close(finished=True)


HOLD = (
    "import sys; from edgecut.privacy.snapshot import WorkFolder; f = WorkFolder(sys.argv[1], {}); print(1, flush=True)"
)


def test_two_at_once_on_one_output(tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    command = [sys.executable, "-P", "-c", HOLD + "; input()", str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        with pytest.raises(ArtefactError, match=r"another process is learning .*x.npz just now; wait") as raised:
            WorkFolder(output, {})
        assert "\n" not in str(raised.value)
        WorkFolder(tmp_path / "y.npz", {}).close(finished=True)  # another output is free
        other.kill()
        other.wait()
    WorkFolder(output, {}).close(finished=True)  # and so is this one, however its holder ended


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "x.npz.partial").write_text("a file")
    with pytest.raises(ArtefactError, match=r"x\.npz\.partial cannot be written"):
        WorkFolder(tmp_path / "x.npz", KEY)


def test_a_lock_on_a_removed_folder_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock file and locking it, its holder may finish and remove it."""
    import fcntl

    real, calls = fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        if not calls:
            os.unlink(tmp_path / "x.npz.partial" / "lock")
        calls.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = WorkFolder(tmp_path / "x.npz", KEY)
    assert len(calls) == 2 and (folder.path / "lock").exists()
    folder.close(finished=True)
