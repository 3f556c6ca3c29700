"""Child processes that never outlive their parent: servers and the edge worker, started, awaited and ended.

A child's standard input is a pipe that closes when this process goes, however it goes; the child ends with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ServerError

if TYPE_CHECKING:
    from .namespaces import Namespace

START_S = 30.0
END_S = 10.0


@contextlib.contextmanager
def child(arguments: Sequence[str], what: str, inside: Namespace | None = None) -> Iterator[subprocess.Popen[str]]:
    """`python -m ARGUMENTS` with piped input and output, in a namespace where given, ended when the block does.

    A group of its own keeps a terminal's Ctrl-C from it: the parent ends it in order.
    """
    command = [sys.executable, "-P", "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command if inside is None else inside.entering(command),
        pass_fds=() if inside is None else inside.fds,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=END_S)
        except (subprocess.TimeoutExpired, ValueError):
            process.kill()
            process.wait()


@contextlib.contextmanager
def cloud_server(
    models_root: Path, threads: int, inside: Namespace | None = None, scheme: Literal["grpc", "http"] = "grpc"
) -> Iterator[tuple[str, int]]:
    """Our server of a model repository in a process of its own; yields (host, port) of gRPC or of REST.

    On loopback, or at the address of a namespace, which nobody outside can reach and which needs no TLS therefore.
    """
    arguments = ["edgecut.runtime.server", os.fspath(models_root), str(threads)]
    if scheme == "http":
        arguments.append("--rest")
    if inside is not None:
        arguments += ["--host", inside.address, "--plaintext"]
    with child(arguments, "the server", inside) as process:
        line = first_line(process, "the server")
        if scheme == "http":
            line = first_line(process, "the server")  # the first one is gRPC's
        host, _, port = line.rpartition(f"{scheme}://")[2].rpartition(":")
        if not port.isdecimal():
            raise ServerError(f"the server started with an unexpected line: {line}")
        yield host, int(port)


def first_line(process: subprocess.Popen[str], what: str) -> str:
    """The next line a child prints. Raises ServerError with its last words where it ends or stays silent."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=lambda stream=process.stdout: answers.put(stream.readline()), daemon=True).start()
    try:
        line = answers.get(timeout=START_S).strip()
    except queue.Empty:
        raise ServerError(f"{what} did not start within {START_S:g} s; is this machine overloaded?") from None
    if not line:
        raise ServerError(f"{what} did not start: {last_words(process)}")
    return line


def last_words(process: subprocess.Popen[str]) -> str:
    """What a child that ended wrote last on standard error."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    if process.poll() is None or process.stderr is None:
        return "it gave no reason"
    lines = process.stderr.read().strip().splitlines()
    return lines[-1] if lines else f"it ended with status {process.returncode}"


def await_ending(ending: queue.SimpleQueue[int]) -> int:
    """What a signal's handler, or `await_end_of_input`, puts into `ending` first; main thread only.

    Looks up every 0.2 s: handlers run in the main thread alone, and a signal that another thread received, or that came
    just before this one blocked, does not wake it.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            return ending.get(timeout=0.2)


def await_end_of_input(ending: queue.SimpleQueue[int]) -> None:
    """In a child: put something into `ending` once standard input closes, because the parent is gone."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    ending.put(0)
