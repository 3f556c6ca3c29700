"""NVIDIA's Triton server, without the rest of its container: the binary that PyPI's nvidia-pytriton brings.

Its wheel (55 MB, 144 MB unpacked) has the server and the Python backend, and no other backend. It is fetched once into
`.cache`, checked against its digest and unpacked; none of its Python code runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

VERSION = "0.7.0"
DIGEST = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
CACHE = Path(__file__).resolve().parents[1] / ".cache"
START_S = 60.0


class Triton(NamedTuple):
    """A running server: HOST:PORT of gRPC and of REST, and its process."""

    grpc: str
    http: str
    process: subprocess.Popen[bytes]


def missing() -> str:
    """Why the server cannot run on this machine, as a reason to skip; empty where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "nvidia-pytriton has a server for x86-64 Linux only"
    if not (_python_library() / str(sysconfig.get_config_var("INSTSONAME"))).is_file():
        return "this Python has no shared library, which Triton's Python backend loads"
    return ""


def package() -> Path:
    """The folder that the wheel is unpacked in."""
    folder = CACHE / f"nvidia-pytriton-{VERSION}"
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=CACHE, prefix=".nvidia-pytriton-"))
        try:
            _install(beside)
            if not folder.is_dir():  # another process may have been faster
                beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _install(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    done = subprocess.run(
        [*command, f"nvidia-pytriton=={VERSION}"], capture_output=True, text=True, timeout=240, cwd=folder
    )
    if done.returncode:
        raise RuntimeError(f"pip could not fetch nvidia-pytriton {VERSION}: {done.stderr[-500:]}")
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == DIGEST
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    server = folder / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    for program in (server / "bin" / "tritonserver", stub):
        program.chmod(0o755)
    # The backend looks for the stub of its Python version beside itself.
    backend = server / "backends" / "python"
    (backend / stub.name).symlink_to(os.path.relpath(stub, backend))


@contextlib.contextmanager
def triton(repository: Path, config_name: str) -> Iterator[Triton]:
    """The server of a repository on loopback, with each model's configuration `config_name`; ended with the block."""
    folder = package()
    server = folder / "pytriton" / "tritonserver"
    grpc_port, http_port = _free_ports()
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--model-config-name={config_name}",
        f"--backend-directory={server / 'backends'}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc")),
        f"--grpc-port={grpc_port}",
        f"--http-port={http_port}",
        "--allow-metrics=false",
    ]
    libraries = [str(folder / "nvidia_pytriton.libs"), str(_python_library())]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        # The stub takes the packages of the python3 that it finds first.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            _await_ready(f"http://127.0.0.1:{http_port}/v2/health/ready", process, log)
            yield Triton(f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}", process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_ready(url: str, process: subprocess.Popen[bytes], log: object) -> None:
    end = time.monotonic() + START_S
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None or time.monotonic() > end:
            log.seek(0)  # type: ignore[attr-defined]
            lines = [line for line in log.read().decode().splitlines() if line.startswith("E")]  # type: ignore[attr-defined]
            raise RuntimeError(f"Triton is not ready: {lines[-3:]}")
        time.sleep(0.1)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


def _python_library() -> Path:
    return Path(sysconfig.get_config_var("LIBDIR") or "/nowhere")
