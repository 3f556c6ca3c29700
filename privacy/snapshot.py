"""The folder beside the output that an interrupted `learn` leaves and the next one goes on from.

`OUTPUT.partial/` holds `key.json` (what the work is of), finished pieces and snapshots as .npz of plain arrays, and
`lock`, which the operating system lets go of when its process ends, however it ends. Work of other settings is
replaced. The folder is removed when the output is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artefacts import write_bytes, writing
from ..errors import ArtefactError

Arrays = dict[str, npt.NDArray[Any]]
KEY, LOCK = "key.json", "lock"


class WorkFolder:
    """The folder of one run, held by its lock until `close`."""

    def __init__(self, output: str | os.PathLike[str], key: Mapping[str, Any]) -> None:
        """Open or make it. Raises ArtefactError where another process is at work on the same output."""
        self.path = Path(f"{os.fspath(output)}.partial")
        self._lock = _lock(self.path, output)
        text = json.dumps(key, indent=1, sort_keys=True).encode()
        found = self.path / KEY
        self.stale = found.is_file() and found.read_bytes() != text
        self.resumed = found.is_file() and not self.stale and len(list(self.path.iterdir())) > 2
        if self.stale:
            for other in self.path.iterdir():
                if other.name != LOCK:
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
        write_bytes(found, text)

    def save(self, name: str, arrays: Arrays) -> None:
        """Write a piece, whole or not at all."""
        with writing(self.path / f"{name}.npz") as beside, open(beside, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stubs take the names for other parameters

    def load(self, name: str) -> Arrays | None:
        """A piece, or None where there is none or it is damaged: it is then made again."""
        try:
            with np.load(self.path / f"{name}.npz", allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except Exception:  # zip, header and dtype faults are of many types
            return None

    def drop(self, name: str) -> None:
        """Forget a piece."""
        (self.path / f"{name}.npz").unlink(missing_ok=True)

    def close(self, *, finished: bool) -> None:
        """Let go of it, and remove it when finished or when nothing in it is worth going on from."""
        if finished or not any(path.suffix in (".npz", ".f32") for path in self.path.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _lock(folder: Path, output: str | os.PathLike[str]) -> int:
    try:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise ArtefactError(
                    f"another process is learning {os.fspath(output)} just now; wait for it or choose another output"
                ) from None
            # Whoever held it may have finished and removed the folder in between.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(folder / LOCK).st_ino == os.fstat(handle).st_ino:
                    return handle
            os.close(handle)
    except OSError as error:
        raise ArtefactError(
            f"{folder} cannot be written ({error.strerror}); choose another output or remove it"
        ) from None
