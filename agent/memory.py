"""How much memory a sub-model takes on this device: opened and run once in a process of its own.

A number is bytes: the peak of the process's resident memory (VmHWM, as Linux keeps it) less what it was when the
runtime was loaded and nothing was opened. Weights that the runtime maps from the file count, as they do for the device.
"""

import json
import re
import subprocess
import sys
from typing import Any, Callable, Dict, Optional, Tuple

from .backends import BackendError, Settings, load_backend
from .kit import Kit, feed, read_kit
from .tasks import WHOLE

BACKEND = "onnxruntime-cpu"
"""The only one that is measured: elsewhere weights lie in a GPU's memory, or several sub-models share them."""
PREFIX = "prefix:"
LONGEST_S = 600
CODE = "import sys\nsys.path[:] = {!r}\nfrom {} import child\nchild(*sys.argv[1:])"


def measure_memory(
    kit: Kit, backend: str, settings: Settings, progress: Callable[[str, float], None]
) -> Tuple[Dict[str, int], str]:
    """Bytes by part, of the whole and every prefix, and a note: empty, or why some or all of them are missing."""
    if backend != BACKEND:
        return {}, "memory is measured with {} alone, not with {}".format(BACKEND, backend)
    names = [part.name for part in kit.parts if part.name == WHOLE or part.name.startswith(PREFIX)]
    found, note = {}, ""
    for number, name in enumerate(names):
        progress("measuring memory of " + name, number / len(names))
        said = _apart(kit.folder, name, settings.threads)
        if "bytes" in said:
            found[name] = int(said["bytes"])
        elif not note:
            note = "memory of {} could not be measured ({})".format(name, said["error"])
    return found, note


def _apart(folder: str, name: str, threads: int) -> Dict[str, Any]:
    # A new interpreter and no fork, which would share, and reuse, what is loaded here.
    command = [sys.executable, "-c", CODE.format(sys.path, __name__), folder, name, str(threads)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=LONGEST_S
        )
        lines = done.stdout.decode(errors="replace").splitlines()
        said = json.loads(lines[-1]) if lines else {}
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    if "bytes" in said or "error" in said:
        return dict(said)
    return {"error": "its process ended with {}".format(done.returncode)}


def child(folder: str, name: str, threads: str) -> None:
    """What the process of its own does: one line of JSON with `bytes`, or with `error`."""
    try:
        print(json.dumps({"bytes": _taken(folder, name, int(threads))}))
    except (BackendError, MemoryError) as error:
        print(json.dumps({"error": str(error) or "no memory is left"}))


def _taken(folder: str, name: str, threads: int) -> int:
    kit, backend = read_kit(folder), load_backend(BACKEND)
    part = next(part for part in kit.parts if part.name == name)
    backend.versions()  # loads the runtime
    before = peak_bytes()
    runner = backend.open_runner("{}/{}".format(folder, part.file), feed(part), Settings(threads=threads))
    runner.run()
    after = peak_bytes()
    if before is None or after is None:
        raise BackendError("this system does not say how much memory a process took")
    return after - before


def peak_bytes(status: str = "/proc/self/status") -> Optional[int]:
    """The most resident memory that this process ever had; None where the system does not tell."""
    try:
        with open(status, errors="replace") as file:
            found = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
