"""Noise that is a keyed function of what it is added to: the same values always get the same noise.

Fresh noise can be averaged away by who sees one input many times: k copies leave 1/k of its variance. Here the key and
the nonce of a row are a keyed digest of the row's own bytes, so that sending an input again shows nothing new. It is
the way of synthetic initialisation vectors (SIV, RFC 5297): for who does not have the secret, the seeds of different
rows are as good as independent random ones, and a seed comes again only with the very same row.

What this does not do. Inputs that differ in one bit, as two frames of a film do, get unrelated noise, which averages as
before; so do two devices, or two secrets. Who sees the messages can tell that an input came again. And one seed must
not serve two kinds of noise: of x + s1 u and x + s2 u anybody gets x. Give `context` what tells them apart.
"""

from hashlib import blake2b
from typing import Any, List, NoReturn, Tuple, Union

import numpy as np

from .randomness import NoiseStream

__all__ = ["AnyStream", "StickyStream"]

SECRET_BYTES = 32
_PERSON = b"edgecut sticky 1"  # BLAKE2b's 16 bytes that tell uses of one key apart
_KEY_BYTES, _NONCE_BYTES = 32, 12


class StickyStream:
    """Keys and nonces that follow from a secret and the rows that the noise is added to.

    secret -- 32 bytes from the operating system (`os.urandom`), kept where the noise is kept, for as long as inputs
        may come again. With it, anyone could compute the noise and take it off.
    context -- what the noise is: its digest (`Noise.digest`, in ASCII). Another context gives unrelated noise.

    It changes nothing when it is used, so that threads and forked processes may share it. As a NoiseStream it is
    neither copied nor pickled: the secret stays in the process. Raises ValueError unless the secret has 32 bytes.
    """

    __slots__ = ("_start",)

    def __init__(self, secret: bytes, context: bytes = b"") -> None:
        if not isinstance(secret, bytes) or len(secret) != SECRET_BYTES:
            raise ValueError("sticky noise needs a secret of {} bytes, as os.urandom gives".format(SECRET_BYTES))
        # The context's length first: no context and row can run together into what another pair gives.
        self._start = blake2b(
            len(context).to_bytes(8, "little") + context,
            digest_size=_KEY_BYTES + _NONCE_BYTES,
            key=secret,
            person=_PERSON,
        )

    def runs_for(self, rows: np.ndarray) -> List[Tuple[bytes, bytes]]:
        """For each row of float32 [batch, ...] a key (32 bytes) and a nonce (12 bytes), as runs of one.

        -0.0 counts as 0.0, which it equals: which of the two a runtime gives may depend on how it adds up.
        """
        # Bytes in one order on every machine; adding 0.0 makes 0.0 of -0.0 and leaves the rest.
        same = np.ascontiguousarray(np.add(rows, np.float32(0)), dtype="<f4").reshape(len(rows), -1)
        runs = []
        for row in same:
            digest = self._start.copy()
            digest.update(row.data)
            seed = digest.digest()
            runs.append((seed[:_KEY_BYTES], seed[_KEY_BYTES:]))
        return runs

    def __repr__(self) -> str:
        return "StickyStream()"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a StickyStream is neither copied nor pickled, its secret stays in the process; make a new one")


AnyStream = Union[NoiseStream, StickyStream]
