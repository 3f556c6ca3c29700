"""`build`: make an edge folder ready on the device it will run on, so that the first session opens fast.

Engines are built and kept under a fingerprint of the model, the library, the driver and the GPU (`tensorrt_build`), so
that a change of any of them builds anew; one that came with the bundle is taken where it fits. The noise sampler is
compiled where there is a compiler.
"""

import argparse
from typing import Any, Callable, Dict

from ..noise_kernels import native
from . import options
from .edge_part import EdgePart, files_for
from .edge_side import read_edge_side

HELP = "build what an edge folder needs on this device"
ENGINES = {
    "built": "built on this device, and kept",
    "kept": "kept from an earlier build",
    "ready": "ready in the bundle",
}

Tell = Callable[[str, float], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    options.add_folder(parser)
    options.add_device(parser)


def run(chosen: argparse.Namespace, tell: Tell) -> Dict[str, Any]:
    """The last line: what was built, and what runs where. Raises BackendError."""
    folder = options.folder_of(chosen.folder)
    tell("reading the edge side", 0.0)
    side = read_edge_side(folder, files_for(chosen.backend, True))
    tell("building the edge partition", 0.1)
    said = {"done": folder, "target": side.description.target.name}  # type: Dict[str, Any]
    part = EdgePart(side, chosen.backend, chosen.threads, chosen.cache)
    try:
        said["backend"], said["noise_on"] = part.backend, part.noise_on
        said["engine"] = ENGINES.get(getattr(part.runner, "source", ""))
    finally:
        part.close()
    if side.description.fallback is not None:
        tell("building the cloud partition, for when the cloud is away", 0.6)
        EdgePart(side, chosen.backend, chosen.threads, chosen.cache, with_rest=True).close()
    tell("compiling the noise sampler", 0.9)
    compiled = native.load()
    said["noise_sampler"] = native.why_not() if compiled is None else "compiled: {}".format(compiled.path)
    return said
