"""The agent's command line, on a device as `python3 edgecut_edge.pyz`, here as a process of its own.

    check             what this device has, as one line of JSON
    profile FOLDER    measure the kit in FOLDER and write FOLDER/result.json
    build [FOLDER]    build what the edge side in FOLDER needs on this device
    infer [FOLDER] INPUTS.npy --server ADDRESS     run inputs through the edge side, the noise and a server
    bench [FOLDER] --server ADDRESS                how long requests take, and where the time goes

FOLDER is a bundle's folder edge, by default the one that edgecut_edge.pyz lies in.
Standard output carries one JSON object a line: {"progress": what, "share": 0..1} and at the end {"done": path} or
{"error": sentence}. Exit code 2 with an error, 130 when interrupted. With --watch-stdin the end of standard input ends
the agent, so that it does not outlive the connection that started it.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import threading
import time
from typing import Any, Dict, List, Mapping, Optional

from .backends import BACKENDS, BackendError, load_backend
from .environment import available_bytes, read_environment
from .kit import read_kit, write_json
from .meters import METERS, MeterError, probe
from .profile import profile_kit
from .transport import TransportError

RESULT = "result.json"
EDGE_COMMANDS = ("build", "infer", "bench")
"""Modules of this package: `HELP`, `add_arguments(parser)`, `run(chosen, tell)`, which gives the last line."""
PROTOCOL = 1
TELL_S = 0.1


def main(
    arguments: Optional[List[str]] = None,
    backends: Mapping[str, str] = BACKENDS,
    meters: Mapping[str, str] = METERS,
) -> int:
    """Run a command and return the exit code."""
    parser = argparse.ArgumentParser(prog="edgecut_edge.pyz", description=__doc__)
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input ends")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("check", help="what this device has")
    profile = commands.add_parser("profile", help="measure a kit")
    profile.add_argument("folder", help="where kit.json is")
    profile.add_argument("--backend", help="another backend than the kit's: {}".format(", ".join(sorted(backends))))
    modules = {name: importlib.import_module("." + name, __package__) for name in EDGE_COMMANDS}
    for name, module in modules.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.__doc__))
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 2
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if chosen.watch_stdin:
            threading.Thread(target=_end_with_input, daemon=True).start()
        if chosen.command == "check":
            _say(check(backends, meters))
        elif chosen.command in modules:
            _say(modules[chosen.command].run(chosen, _Teller()))
        else:
            _profile(chosen.folder, chosen.backend, backends, meters)
    except (BackendError, MeterError, TransportError) as error:
        _say({"error": str(error)})
        return 2
    except MemoryError:
        _say({"error": "the device ran out of memory; close other programs there, or profile a smaller model"})
        return 2
    except OSError as error:
        # A full disk is told of a write, which has no name.
        where = error.filename or getattr(chosen, "folder", None) or "standard output"
        _say({"error": "{} ({}); check the folder and the free space there".format(where, error.strerror or error)})
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def check(backends: Mapping[str, str], meters: Mapping[str, str]) -> Dict[str, Any]:
    """Backends with versions or the reason why not, meters, environment and free memory."""
    found = {}
    for name in backends:
        try:
            backend = load_backend(name, backends)
            reason = backend.usable()
            found[name] = {"usable": not reason, "reason": reason, "versions": {} if reason else backend.versions()}
        except (BackendError, ImportError) as error:
            found[name] = {"usable": False, "reason": str(error), "versions": {}}
    return {
        "protocol": PROTOCOL,
        "backends": found,
        "meters": [list(line) for line in probe(known=meters)],
        "environment": read_environment({}),
        "available_bytes": available_bytes(),
    }


def _profile(folder: str, backend: Optional[str], backends: Mapping[str, str], meters: Mapping[str, str]) -> None:
    kit = read_kit(folder)
    if backend is not None:
        kit.settings["backend"] = backend
    path = os.path.join(folder, RESULT)
    write_json(path, profile_kit(kit, _Teller(), backends, meters))
    _say({"done": path})


class _Teller:
    """Progress as lines, few enough not to disturb what is measured."""

    def __init__(self) -> None:
        self.last, self.what = 0.0, ""

    def __call__(self, what: str, share: float) -> None:
        now = time.monotonic()
        if what != self.what or now - self.last > TELL_S:
            self.last, self.what = now, what
            _say({"progress": what, "share": round(share, 4)})


def _say(values: Dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise KeyboardInterrupt from None  # nobody listens any more


def _end_with_input() -> None:
    # Not by sys.stdin, whose lock a waiting thread would keep from the interpreter when it ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # A call into a runtime may hold the interrupt back for long.
    time.sleep(10)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
