"""`edgecut_edge.pyz`: the agent and the noise kernels in one file that any Python from 3.6 on runs.

Packed by the standard library's zipapp as package `edgecut`, so that relative imports hold; byte for byte the same each
time, so that its digest says what runs on a device.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import zipapp
from pathlib import Path

from ..artefacts import writing

NAME = "edgecut_edge.pyz"
FOLDERS = ("agent", "noise_kernels")
SUFFIXES = (".py", ".c", ".cu")
"""The device's own compilers build the noise kernels."""
ROOT = Path(__file__).resolve().parents[1]
STAMP = (1980, 1, 1, 0, 0, 0, 0, 1, -1)
"""The earliest time a zip archive can hold. It holds local time, so the seconds differ from zone to zone."""
MAIN = "import sys\n\nfrom edgecut.agent.main import main\n\nsys.exit(main())\n"
PACKAGE = '"""What of edgecut runs on a device."""\n'


def pack(target: Path) -> Path:
    """Write the agent to `target` and return it. Raises ArtefactError where that cannot be written."""
    with tempfile.TemporaryDirectory(prefix="edgecut-") as temporary:
        staged = Path(temporary) / "staged"
        package = staged / "edgecut"
        package.mkdir(parents=True)
        (staged / "__main__.py").write_text(MAIN)
        (package / "__init__.py").write_text(PACKAGE)
        for folder in FOLDERS:
            (package / folder).mkdir()
            for source in sorted(path for path in (ROOT / folder).iterdir() if path.suffix in SUFFIXES):
                shutil.copyfile(source, package / folder / source.name)
        stamp_s = time.mktime(STAMP)
        for path in [*staged.rglob("*"), staged]:
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (stamp_s, stamp_s))
        with writing(target) as beside:
            zipapp.create_archive(staged, beside, interpreter="/usr/bin/env python3")
    return target
