"""The options that the agent's commands on an edge folder share, and what they mean."""

import argparse
import os
import sys
from typing import Optional

from .backends import BACKENDS, BackendError
from .caller import Policy
from .session import ALLOW, FAIL, LOCAL, REFUSE
from .transport import Security

DEFAULT = Policy()


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Where the edge side is."""
    parser.add_argument("folder", nargs="?", help="the edge folder; by default the one that this .pyz lies in")


def add_device(parser: argparse.ArgumentParser) -> None:
    """What runs the model."""
    names = ", ".join(sorted(BACKENDS))
    parser.add_argument("--backend", help="another backend than the bundle was made for: {}".format(names))
    parser.add_argument("--threads", type=int, default=1, help="threads of the processor (%(default)s)")
    parser.add_argument("--cache", help="a folder for engines and compiled kernels, by default in the user's cache")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Which servers, what protects the way there, and what happens where they are away."""
    parser.add_argument(
        "--server",
        required=True,
        help="HOST:PORT, grpc://, grpcs://, http:// or https:// and that; several with commas",
    )
    parser.add_argument("--timeout-s", type=float, default=DEFAULT.timeout_s, help="for an answer (%(default)s)")
    parser.add_argument("--attempts", type=int, default=DEFAULT.attempts, help="tries for an answer (%(default)s)")
    parser.add_argument("--ca", help="PEM of the authority that signed the server's certificate")
    parser.add_argument("--cert", help="PEM of this side's certificate, for mutual TLS")
    parser.add_argument("--key", help="PEM of its key")
    parser.add_argument("--token-file", help="a file whose first line is the bearer token")
    parser.add_argument("--plaintext", action="store_true", help="allow plaintext to another machine")
    parser.add_argument("--away", choices=(FAIL, LOCAL), default=FAIL, help="where no server can be reached")
    parser.add_argument("--nonfinite", choices=(REFUSE, ALLOW), default=REFUSE, help="NaN and infinite values")


def folder_of(given: Optional[str]) -> str:
    """The edge folder. Raises BackendError where none was given and this is no .pyz."""
    if given is not None:
        return given
    program = os.path.abspath(sys.argv[0])
    if not program.endswith(".pyz"):
        raise BackendError("no edge folder was given; give a bundle's folder edge")
    return os.path.dirname(program)


def security_of(chosen: argparse.Namespace) -> Security:
    """What protects the connection."""
    return Security(chosen.ca, chosen.cert, chosen.key, chosen.token_file, chosen.plaintext)


def policy_of(chosen: argparse.Namespace) -> Policy:
    """How long and how often a request is tried."""
    return DEFAULT._replace(timeout_s=chosen.timeout_s, attempts=chosen.attempts)
