"""Another client of the same server, whose requests are as large as a message may be: `neighbour.py BUNDLE SERVER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from edgecut.agent.transport import Security
from edgecut.errors import ServerError
from edgecut.runtime.client import CloudClient
from edgecut.runtime.manifest import EdgeManifest
from edgecut.runtime.verify import verify_edge

BYTES = 56 * 1024 * 1024


def main() -> None:
    """Ask until killed, from the first line read on; print what came of each request."""
    manifest = verify_edge(Path(sys.argv[1]) / "edge").manifest
    assert isinstance(manifest, EdgeManifest)
    row = [np.zeros(tensor.shape, tensor.dtype) for tensor in manifest.cut]
    rows = BYTES // sum(one.nbytes for one in row)
    tensors = [(tensor.name, np.zeros((rows, *tensor.shape), tensor.dtype)) for tensor in manifest.cut]
    with CloudClient(sys.argv[2], 10.0, Security(allow_plaintext=True)) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        while True:
            try:
                client.infer(manifest.model_name, tensors)
                print("an answer", flush=True)
            except ServerError as error:
                print(error, flush=True)
            time.sleep(0.05)


if __name__ == "__main__":
    main()
