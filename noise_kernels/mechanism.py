"""Any mechanism's noise: the one type that bundles, sessions, learning and audits take, and reading its file.

    mechanism      its name: shredder, laplace, cloak, gaussian, channel or none
    tensors, n     the tensors it was fitted to, and their elements together
    carriers, values  the tensors that the noise is added to, and their values together
    place, map     where it is added (cut or input), and the linear map before it, if any
    entropy_nats   the noise's exact differential entropy for who has the file
    cut, model_digest, digest, footprint_bytes, to_bytes()

Drawing and adding are `sampler`'s, alike for all.
"""

import os
from typing import Union

from .collection import MAX_BYTES, CollectionError, NoiseCollection
from .element_noise import FORMAT as ELEMENT_FORMAT
from .element_noise import MECHANISMS as ELEMENT_MECHANISMS
from .element_noise import ElementNoise

__all__ = ["MECHANISMS", "Noise", "load_noise", "read_noise"]

Noise = Union[NoiseCollection, ElementNoise]
MECHANISMS = ("shredder", *ELEMENT_MECHANISMS)


def read_noise(data: bytes, where: str) -> Noise:
    """The noise whose file is `data`; `where` names it in messages. Raises CollectionError, and runs nothing of it."""
    # The header is stored as it is, so that the format can be told before anything is parsed.
    if '"format":"{}"'.format(ELEMENT_FORMAT).encode() in data[: 1 << 20]:
        return ElementNoise.from_bytes(data, where)
    return NoiseCollection.from_bytes(data, where)


def load_noise(path: "Union[str, os.PathLike[str]]") -> Noise:
    """The noise in the file at `path`. Raises CollectionError."""
    where = os.fspath(path)
    try:
        if not os.path.isfile(where):
            raise CollectionError("{} is not a file; give the path of a noise file".format(where))
        with open(where, "rb") as file:
            data = file.read(2 * MAX_BYTES)
    except OSError as error:
        raise CollectionError("{} cannot be read ({}); check the path".format(where, error.strerror)) from error
    return read_noise(data, where)
