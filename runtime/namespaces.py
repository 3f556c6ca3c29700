"""Network namespaces without a name: made, joined by a TUN device each, and entered by processes. Linux only.

A namespace lives as long as a process in it or a file descriptor to it, so nothing is left behind when those go. As
root a network namespace is made as it is; without, inside a user namespace, where the kernel lets a plain user make
one. `python -m edgecut.runtime.namespaces FD[,FD] COMMAND...` enters those and becomes the command: with a user
namespace that takes a process of one thread, which Python's `Popen` cannot promise in a program with several.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import LinkError, unknown

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_TUN, _DEVICE = "/dev/net/tun", "edgecut0"
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
END_S = 5.0


class Namespace:
    """One side of a link: its address there, and the file descriptors of its network and perhaps user namespace."""

    def __init__(self, address: str, fds: Sequence[int]) -> None:
        self.address = address
        self.fds = tuple(fds)
        self._started: list[subprocess.Popen[Any]] = []

    def entering(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in here; its process needs `fds` passed on."""
        numbers = ",".join(map(str, self.fds))
        return [sys.executable, "-P", "-m", "edgecut.runtime.namespaces", numbers, *command]

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """`subprocess.Popen` in here. What still runs when the link ends is ended with it."""
        options = {"text": True, "start_new_session": True, **options}
        process = subprocess.Popen(self.entering(command), pass_fds=self.fds, **options)
        self._started.append(process)
        return process

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` in here."""
        return subprocess.run(self.entering(command), pass_fds=self.fds, **{"text": True, **options})

    def close(self) -> None:
        """End what was started in here."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        for process in self._started:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for fd in self.fds:
            os.close(fd)


class Made(NamedTuple):
    """A namespace as its maker has it: descriptors of its kind and of the TUN device in it."""

    net: int
    tun: int


def own_user_namespace() -> int | None:
    """What this process needs before it may make network namespaces: nothing, or a user namespace, which it enters.

    Returns the user namespace's descriptor where one was needed. Raises LinkError where neither is allowed.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _NEWNET)
        return None
    except PermissionError:
        pass
    except OSError as error:
        raise LinkError(
            f"this kernel makes no network namespaces ({error.strerror}); leave the real link out"
        ) from None
    try:
        _call("unshare", _NEWUSER)
        # The same number inside as outside: processes in there are the user they were.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _call("unshare", _NEWNET)
    except OSError as error:
        raise LinkError(
            f"a real link needs root, or a kernel that lets a user make namespaces ({error.strerror}); run as root, "
            "allow it (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns), or leave the real link out"
        ) from None
    return os.open("/proc/self/ns/user", os.O_RDONLY)


def make_namespace(address: str, prefix: int, congestion: str | None) -> Made:
    """Make a network namespace and move this thread into it: loopback up, and a TUN device with that address.

    `congestion` is the TCP congestion control of connections made there. Raises LinkError.
    """
    try:
        _call("unshare", _NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _up(control, "lo")
            tun = _tun(_DEVICE)
            _set_address(control, _SIOCSIFADDR, socket.inet_aton(address))
            _set_address(control, _SIOCSIFNETMASK, struct.pack(">I", 0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF))
            _up(control, _DEVICE)
    except OSError as error:
        raise LinkError(
            f"no TUN device can be made here ({error.strerror}); check {_TUN} and the kernel's module tun, or leave "
            "the real link out"
        ) from None
    if congestion is not None:
        _set_congestion(congestion)
    return Made(os.open("/proc/self/ns/net", os.O_RDONLY), tun)


def congestion_control() -> str:
    """The TCP congestion control of this process's network namespace."""
    return _CONGESTION.read_text().strip()


def end_processes_in(namespaces: Sequence[int]) -> None:
    """Kill every process whose network namespace is one of these: what the link carried for has nothing left to do."""
    inodes = {os.fstat(fd).st_ino for fd in namespaces}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry.name}/ns/net").st_ino in inodes:
                    os.kill(int(entry.name), signal.SIGKILL)


def _set_congestion(name: str) -> None:
    try:
        _CONGESTION.write_text(name)
    except OSError:
        known = _CONGESTION.with_name("tcp_available_congestion_control").read_text().split()
        if name not in known:
            raise LinkError(unknown("TCP congestion control", name, known)) from None
        raise LinkError(
            f"TCP congestion control '{name}' may not be used in a namespace here; allow it with sysctl "
            "net.ipv4.tcp_allowed_congestion_control"
        ) from None


def _tun(name: str) -> int:
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def _up(control: socket.socket, name: str) -> None:
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _IFF_UP))


def _set_address(control: socket.socket, request: int, address: bytes) -> None:
    fcntl.ioctl(control, request, struct.pack("16sHH4s16x", _DEVICE.encode(), socket.AF_INET, 0, address))


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, name):
        raise OSError(0, "this system is not Linux")
    if getattr(libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def main() -> int:
    """Enter the namespaces of the descriptors given, the user's first, and become the command."""
    fds, *command = sys.argv[1:]
    for fd in map(int, fds.split(",")):
        _call("setns", fd, 0)
        os.close(fd)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be started ({error.strerror})", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
