"""`infer`: a file of inputs through the edge side in a folder, the noise, and a server."""

import argparse
import io
import os
import tempfile
from collections import Counter
from typing import Any, Callable, Dict

import numpy as np

from . import options
from .inputs import InputError, is_single, read_inputs
from .session import Session, open_parts

BATCH = 64
HELP = "run a file of inputs through the edge side and a server"

Tell = Callable[[str, float], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_folder(parser)
    parser.add_argument("inputs", help="an .npy file: model inputs, or uint8 images")
    parser.add_argument("--output", help="write the logits to this .npy file")
    options.add_connection(parser)
    options.add_device(parser)


def run(chosen: argparse.Namespace, tell: Tell) -> Dict[str, Any]:
    """The last line: classes of the inputs in order, who answered how many batches, and the file written."""
    x = read_inputs(chosen.inputs)
    tell("opening the session", 0.0)
    with open_chosen(chosen) as session:
        description = session.part.description
        batches = x[None] if is_single(x, description) else x
        if batches.ndim == 0 or len(batches) == 0:
            raise InputError("the input of shape {} holds nothing to infer".format(list(x.shape)))
        parts, answered = [], Counter()  # type: Any, Counter[str]
        for i in range(0, len(batches), BATCH):
            answer = session.ask(batches[i : i + BATCH])
            parts.append(answer.logits)
            answered[answer.answered_by] += 1
            tell("inference", min(1.0, (i + BATCH) / len(batches)))
    logits = np.concatenate(parts)
    if chosen.output is not None:
        write_array(chosen.output, logits)
    return {"done": chosen.output, "classes": np.argmax(logits, axis=1).tolist(), "answered_by": dict(answered)}


def open_chosen(chosen: argparse.Namespace) -> Session:
    """The session that the options ask for. Raises BackendError and TransportError."""
    policy = options.policy_of(chosen)
    part, caller = open_parts(
        options.folder_of(chosen.folder),
        chosen.server,
        options.security_of(chosen),
        policy,
        backend=chosen.backend,
        threads=chosen.threads,
        cache=chosen.cache,
        away=chosen.away,
        nonfinite=chosen.nonfinite,
    )
    return Session(part, caller, policy.timeout_s, chosen.away, chosen.nonfinite)


def write_array(path: str, array: Any) -> None:
    """Write an .npy file beside and rename it, so that a reader never sees half of it."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    handle, beside = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getvalue())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.remove(beside)
        raise
