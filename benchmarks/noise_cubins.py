"""What the noise kernels take of each GPU, as the compilers say: registers a thread, stack and spilled bytes.

Nothing runs: NVRTC 12 (and nvcc, where there is one, for what it still knows) compiles for GPUs that are not there.
Spilled bytes are what a kernel stores for want of registers. Shared memory is for the largest request in one block.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from machine import write_result

from edgecut.agent import nvrtc
from edgecut.agent.gpu_noise import (
    BLOCK_THREADS,
    ELEMENT_THREADS,
    MOST_MIXED,
    RANKS,
    SHARED_BYTES,
    TILE_THREADS,
    shared_floats_bytes,
    source,
)

TARGETS = {
    "sm_61": "Titan Xp, Titan X (Pascal)",
    "sm_62": "Jetson TX2",
    "sm_72": "Jetson Xavier",
    "sm_75": "Turing",
    "sm_86": "Ampere",
    "sm_87": "Jetson Orin",
    "sm_90": "Hopper",
}
KERNEL = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


def table(log: str) -> dict[str, dict[str, int]]:
    """From what ptxas says: every kernel's figures."""
    threads = {"edgecut_noise_block": BLOCK_THREADS, "edgecut_noise_elements": ELEMENT_THREADS}
    shared_bytes = {
        "edgecut_noise_block": SHARED_BYTES + 4 * (RANKS + 1) * (BLOCK_THREADS - 1),
        "edgecut_noise_tiles": SHARED_BYTES,
        "edgecut_noise_values": SHARED_BYTES,
        "edgecut_noise_elements": shared_floats_bytes(ELEMENT_THREADS * RANKS),
        "edgecut_noise_mixed": shared_floats_bytes(MOST_MIXED),
    }
    found = {}
    for name, stack, stores, loads, registers in KERNEL.findall(log):
        found[name] = {
            "registers": int(registers),
            "stack_bytes": int(stack),
            "spilled_bytes": int(stores) + int(loads),
            "threads": threads.get(name, TILE_THREADS),
            "shared_bytes": shared_bytes.get(name, 0),
        }
    return found


def by_nvrtc(target: str) -> tuple[str, dict[str, dict[str, int]]]:
    """(version, figures) with the first NVRTC that knows the target. Raises LookupError where none does."""
    major, minor = int(target[3:-1]), int(target[-1])
    for library in nvrtc.find():
        if library.target((major, minor)) == target:
            log = library.compile(source(), target, [*nvrtc.OPTIONS, "--ptxas-options=-v"])[1]
            return "NVRTC {}.{}".format(*library.version), table(log)
    raise LookupError(f"no NVRTC here compiles for {target}; install edgecut[cuda-build]")


def by_nvcc(target: str) -> tuple[str, dict[str, dict[str, int]]] | None:
    """The same with nvcc; None where it does not know the target, or there is none."""
    if shutil.which("nvcc") is None:
        return None
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release ([\d.]+)", said)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.cu"
        path.write_bytes(source())
        command = ["nvcc", "-cubin", f"-arch={target}", *nvrtc.OPTIONS, "-Xptxas", "-v", "-o", f"{path}bin", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        if "Unsupported gpu architecture" in done.stderr or "not defined for option" in done.stderr:
            return None
        raise RuntimeError(done.stderr[:500])
    return f"nvcc {version.group(1) if version else ''}", table(done.stderr)


def main() -> None:
    """Compile for every target, print and write the figures."""
    rows: list[dict[str, Any]] = []
    for target, gpu in TARGETS.items():
        for made in (by_nvrtc(target), by_nvcc(target)):
            if made is not None:
                rows += [
                    {"target": target, "gpu": gpu, "compiler": made[0], "kernel": k, **v} for k, v in made[1].items()
                ]
    print(f"{'target':7} {'compiler':11} {'kernel':23} registers stack spilled threads shared")
    for row in rows:
        print(
            f"{row['target']:7} {row['compiler']:11} {row['kernel']:23} {row['registers']:9} {row['stack_bytes']:5} "
            f"{row['spilled_bytes']:7} {row['threads']:7} {row['shared_bytes']:6}"
        )
    write_result("noise_cubins", {"kind": "compiled, not run", "kernels": rows})


if __name__ == "__main__":
    main()
