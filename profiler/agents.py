"""Running the agent: as a process of this machine, or on a device through OpenSSH.

Either way a kit goes in and a result comes back, progress line by line. What was copied to a device is removed there
at the end, also after Ctrl-C; an agent whose connection is gone ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..agent.main import PROTOCOL, RESULT
from ..errors import DeviceError
from .kit import Progress
from .pack import NAME, pack

CONNECT_S = 15
STOP_S = 15.0
MAX_RESULT_BYTES = 512 * 1024 * 1024
LONGEST_FOLDER = 60
"""Of the 104 to 108 characters of a socket's path, 40 are for what ssh and edgecut put behind it."""
SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=15")
OUT_OF_MEMORY = (-signal.SIGKILL, 128 + signal.SIGKILL)


class Agent(Protocol):
    """Something that can run the agent's two commands."""

    def check(self) -> dict[str, Any]:
        """What the device has."""
        ...

    def profile(self, kit: Path, progress: Progress) -> dict[str, Any]:
        """Measure the kit in a folder and return the result."""
        ...


class LocalAgent:
    """The agent as a child process, with torch's backends and Zeus' meters."""

    def __init__(self) -> None:
        self._command = [sys.executable, "-P", "-m", "edgecut.profiler.worker", "--watch-stdin"]

    def check(self) -> dict[str, Any]:
        """What this machine has. Raises DeviceError."""
        return _run([*self._command, "check"], "this machine", lambda *_: None)

    def profile(self, kit: Path, progress: Progress) -> dict[str, Any]:
        """Measure a kit here. Raises DeviceError."""
        _run([*self._command, "profile", str(kit)], "this machine", progress)
        return read_json(kit / RESULT)


@dataclass(frozen=True)
class Address:
    """Where a device is: `user@host`, the port, and how it is spelled."""

    target: str
    port: int | None
    text: str


def parse_address(text: str) -> Address:
    """`ssh://[user@]host[:port]`. Raises DeviceError for anything else."""
    match = re.fullmatch(r"ssh://((?:[\w.-]+@)?(?:[\w.-]+|\[[0-9a-fA-F:.]+\]))(?::(\d{1,5}))?/?", text)
    port = int(match[2]) if match and match[2] else None
    if match is None or match[1].startswith("-") or (port is not None and not 0 < port < 65536):
        raise DeviceError(f"'{text}' is no address of a device; write ssh://user@host or ssh://user@host:port")
    return Address(match[1].replace("[", "").replace("]", ""), port, text)


class SshAgent:
    """The agent on a device, reached with this machine's `ssh` and `scp`; a context manager that clears up there.

    `python` is the device's interpreter, `config` an ssh configuration file in place of the user's own.
    """

    def __init__(self, address: Address, *, python: str = "python3", config: str | None = None) -> None:
        for tool in ("ssh", "scp"):
            if shutil.which(tool) is None:
                raise DeviceError(f"{tool} is not installed here; install OpenSSH's client (openssh-client)")
        self.address, self._python = address, python
        # One connection for everything; a socket's path may not be long, as a temporary folder's may.
        long = len(tempfile.gettempdir()) > LONGEST_FOLDER
        self._local = tempfile.mkdtemp(prefix="edgecut-ssh-", dir="/tmp" if long else None)
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._local}/c", "-o", "ControlPersist=30"]
        self._options = [*SSH_OPTIONS, *shared, *(["-F", config] if config else [])]
        self._port = [] if address.port is None else ["-p", str(address.port)]
        self._folder = ""

    def __enter__(self) -> SshAgent:
        try:
            # Named here and not there, so that it is known, and removed, also where an interrupt comes first.
            self._folder = f"/tmp/edgecut-{secrets.token_hex(4)}"
            try:
                self._ssh(f"mkdir -m 700 {self._folder}")
            except DeviceError:
                self._folder = ""
                raise
            with tempfile.TemporaryDirectory(prefix="edgecut-") as folder:
                self._copy([pack(Path(folder) / NAME)])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(DeviceError, KeyboardInterrupt):
            if self._folder:
                self._ssh(f"rm -rf {self._folder}")
        subprocess.run(
            ["ssh", *self._options, *self._port, "-O", "exit", self.address.target],
            capture_output=True,
            check=False,
        )
        shutil.rmtree(self._local, ignore_errors=True)

    def check(self) -> dict[str, Any]:
        """What the device has. Raises DeviceError where its agent is of another protocol."""
        found = _run(self._agent("check"), self.address.text, lambda *_: None)
        if found.get("protocol") != PROTOCOL:
            raise DeviceError(f"{self.address.text} answers in another protocol; remove its edgecut and try again")
        return found

    def profile(self, kit: Path, progress: Progress) -> dict[str, Any]:
        """Copy a kit, measure it there and bring the result back. Raises DeviceError."""
        progress(f"copying to {self.address.target}", 0.0)
        self._ssh(f"rm -rf {self._folder}/kit && mkdir {self._folder}/kit")
        self._copy(sorted(kit.iterdir()), "kit")
        _run(self._agent("profile", f"{self._folder}/kit"), self.address.text, progress)
        self._scp([f"{self._remote()}:{self._folder}/kit/{RESULT}", str(kit / RESULT)])
        return read_json(kit / RESULT)

    def _agent(self, *arguments: str) -> list[str]:
        line = shlex.join([self._python, f"{self._folder}/{NAME}", "--watch-stdin", *arguments])
        # A shell between tells by its exit code what killed the agent; ssh alone says 255, as of no network.
        return ["ssh", *self._options, *self._port, self.address.target, shlex.join(["sh", "-c", f"{line}; exit $?"])]

    def _remote(self) -> str:
        user, _, host = self.address.target.rpartition("@")
        host = f"[{host}]" if ":" in host else host
        return f"{user}@{host}" if user else host

    def _copy(self, paths: Sequence[Path], folder: str = "") -> None:
        self._scp([*map(str, paths), f"{self._remote()}:{self._folder}/{folder}"])

    def _ssh(self, line: str) -> str:
        return self._do(["ssh", *self._options, *self._port, self.address.target, line])

    def _scp(self, paths: Sequence[str]) -> None:
        port = [] if self.address.port is None else ["-P", str(self.address.port)]
        self._do(["scp", "-q", *self._options, *port, "--", *paths])

    def _do(self, command: list[str]) -> str:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise DeviceError(_why(self.address.text, done.returncode, done.stderr))
        return done.stdout


def _run(command: list[str], where: str, progress: Progress) -> dict[str, Any]:
    """Run the agent, pass its progress on, and return the last thing it says. Raises DeviceError when it fails."""
    last: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        _stopped(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
            )
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            said = _said(line)
            if "progress" in said:
                progress(str(said["progress"]), float(said.get("share", 0.0)))
            elif said:
                last = said
        code = process.wait()
        errors.seek(0)
        if "error" in last:
            raise DeviceError(f"{where}: {last['error']}")
        if code or not last:
            raise DeviceError(_why(where, code, errors.read()))
    return last


def _said(line: str) -> dict[str, Any]:
    """A line of the agent's; empty for what a runtime prints, which is none of ours."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


@contextlib.contextmanager
def _stopped(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End the agent with the block: the end of its input ends it, and after a while a signal does."""
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _why(where: str, code: int, errors: str) -> str:
    """One sentence from an exit code and what was said on standard error."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("Warning: Perm")]
    said = lines[-1][:300] if lines else ""
    if code in OUT_OF_MEMORY:
        return f"{where}: the agent was killed, most likely as memory ran out; close other programs there"
    if code == 255 or "Permission denied" in said or "Host key verification" in said:
        return f"{where} cannot be reached ({said or 'ssh gave no reason'}); try 'ssh' to it by hand, with a key"
    if code == 127 or "not found" in said:
        return f"{where} lacks a program ({said}); it needs Python 3.6 or later with NumPy (choose it with --python)"
    if "No space left" in errors:
        return f"{where}: the disk is full ({said}); free some space there"
    if code < 0:
        return f"{where}: the agent was ended by {signal.Signals(-code).name} before it was done; nothing was written"
    return f"{where}: the agent ended with exit code {code} ({said or 'without a word'}); nothing was written"


def read_json(path: Path) -> dict[str, Any]:
    """A result file, whole. Raises DeviceError where it is missing or half of one."""
    try:
        if os.path.getsize(path) > MAX_RESULT_BYTES:
            raise DeviceError(f"the result {path} has {os.path.getsize(path)} bytes, which cannot be")
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DeviceError(f"the result {path} cannot be read ({error}); measure again") from None
    return values if isinstance(values, dict) else {}
