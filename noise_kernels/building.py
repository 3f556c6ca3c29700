"""Compiling the noise sampler on the machine that runs it: once, into a folder that nobody but the user can write.

What is loaded from there runs with the user's rights. So the folder, those above it and the file must belong to the
user or root, and none may be open to others; the file's name is a digest of what went into it. Two processes that
compile at once each do so in a folder of their own, and the later one's equal file takes the earlier one's place.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from typing import List

__all__ = ["FLAGS", "BuildError", "build", "cache_folder", "private_folder"]

COMPILERS = ("cc", "gcc", "clang")
# Never -ffast-math or contraction: every path through the source must give the same bits.
FLAGS = ["-std=c99", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
_LIBRARY = ["-fPIC", "-shared", "-w"]
_TIMEOUT_S = 300


class BuildError(Exception):
    """The sampler could not be compiled. The message is one sentence that says why."""


def cache_folder() -> str:
    """`$EDGECUT_CACHE`, or edgecut's folder in the user's cache."""
    own = os.environ.get("EDGECUT_CACHE")
    if own:
        return own
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "edgecut")


def build(source: bytes) -> str:
    """The path of the library that `source` compiles to, compiled now if it was not before. Raises BuildError."""
    folder = private_folder(os.path.join(cache_folder(), "native"))
    compilers = [path for path in map(shutil.which, COMPILERS) if path]
    if not compilers:
        raise BuildError("there is no C compiler ({}) on the path".format(", ".join(COMPILERS)))
    problem = ""
    for compiler in compilers:
        try:
            return _build_with(compiler, source, folder)
        except (OSError, subprocess.SubprocessError, BuildError) as error:
            problem = problem or "{} fails ({})".format(compiler, str(error).strip())
    raise BuildError(problem)


def private_folder(folder: str) -> str:
    """The real path of a folder for code, made if need be. Raises BuildError where others could put files into it."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        folder = os.path.realpath(folder)
        open_to_others = _first_open_to_others(folder)
    except OSError as error:
        raise BuildError("the cache folder {} cannot be used ({})".format(folder, error.strerror)) from error
    if open_to_others:
        raise BuildError("others than the user can write to {}".format(open_to_others))
    return folder


def _first_open_to_others(folder: str) -> str:
    """The folder itself, or the nearest one above it, in which another user can replace things; "" if there is none."""
    path, only_own_entries = folder, False
    while True:
        status = os.lstat(path)
        if not _ours(status, only_own_entries):
            return path
        if os.path.dirname(path) == path:
            return ""
        # Above, a sticky folder like /tmp is fine: what is in it can be replaced by its owner alone.
        path, only_own_entries = os.path.dirname(path), True


def _ours(status: os.stat_result, sticky_is_fine: bool = False) -> bool:
    """Whether something belongs to the user or root, and no group or others can write it."""
    closed = not status.st_mode & 0o022 or bool(sticky_is_fine and status.st_mode & stat.S_ISVTX)
    return status.st_uid in (0, os.geteuid()) and closed


def _build_with(compiler: str, source: bytes, folder: str) -> str:
    version = _run([compiler, "--version"], folder)
    sha = hashlib.sha256(source)
    sha.update("\0".join([platform.machine(), version, *FLAGS, *_LIBRARY]).encode("utf-8", "surrogateescape"))
    library = os.path.join(folder, "noise-{}.so".format(sha.hexdigest()[:32]))
    try:
        status = os.lstat(library)
    except OSError:
        _compile(compiler, source, folder, library)
        status = os.lstat(library)
    if not stat.S_ISREG(status.st_mode) or not _ours(status):
        raise BuildError("{} is not the user's own file".format(library))
    return library


def _compile(compiler: str, source: bytes, folder: str, library: str) -> None:
    beside = tempfile.mkdtemp(prefix="build-", dir=folder)
    try:
        with open(os.path.join(beside, "noise.c"), "wb") as file:
            file.write(source)
        _run([compiler, *FLAGS, *_LIBRARY, "-o", "noise.so", "noise.c"], beside)
        made = os.path.join(beside, "noise.so")
        os.chmod(made, 0o600)
        os.rename(made, library)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _run(command: List[str], folder: str) -> str:
    """What a command prints. Raises BuildError with the first line it complains with."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(os.environ, LC_ALL="C"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=_TIMEOUT_S,
    )
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        errors = [line for line in lines if "error" in line]
        raise BuildError((errors or lines)[0][:200])
    return done.stdout.decode("utf-8", "surrogateescape")
