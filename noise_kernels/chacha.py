"""ChaCha20 (RFC 8439), many blocks at once: where every random bit of the noise comes from.

A block is 16 words of 32 bits. All blocks of a call, and all requests of a batch, go through the 20 rounds together,
and the four columns (then the four diagonals) of all of them are one operand. There are two ways to do that, with the
same result: up to `_INT_LANES` blocks the operand is one Python integer, whose operations cost far less to start than
NumPy's (9 blocks, LeNet's cut: a third of the time); beyond, it is a NumPy array.
"""

from typing import List, Sequence, Tuple

import numpy as np

__all__ = ["chacha20_words", "keystreams"]

KEY_BYTES = 32
NONCE_BYTES = 12
_CONSTANTS = np.frombuffer(b"expand 32-byte k", dtype="<u4").astype(np.uint32)

# Above this many blocks the array rounds are the faster ones (measured on x86-64, where they are equal at 35 to 50).
_INT_LANES = 40

_Rotation = Tuple[np.ndarray, np.ndarray]
# 0-d arrays: a Python or NumPy scalar would be converted anew in each of the 320 rotations.
_ROTATIONS: List[_Rotation] = [
    (np.array(bits, dtype=np.uint32), np.array(32 - bits, dtype=np.uint32)) for bits in (16, 12, 8, 7)
]


def chacha20_words(key: bytes, nonce: bytes, counter: int, blocks: int) -> np.ndarray:
    """The output words of `blocks` consecutive blocks, the first with block counter `counter` (RFC 8439, section 2.3).

    Returns uint32 [blocks, 16], one row a block: the keystream's bytes read as little-endian words.
    Raises ValueError for a key that is not 32 bytes, a nonce that is not 12, or a counter that would pass 2^32.
    """
    words: np.ndarray = keystreams([(key, nonce)], blocks, counter)[0]
    return words


def keystreams(seeds: Sequence[Tuple[bytes, bytes]], blocks: int, counter: int = 0) -> np.ndarray:
    """As `chacha20_words`, for several (key, nonce) at once: uint32 [len(seeds), blocks, 16]."""
    if blocks < 1:
        raise ValueError(f"ChaCha20 is asked for {blocks} blocks; ask for at least 1")
    if counter < 0 or counter + blocks > 1 << 32:
        raise ValueError(f"{blocks} blocks from counter {counter} leave ChaCha20's range 0..2^32-1; use a new nonce")
    state = _initial(seeds, blocks, counter)
    rounds = _rounds_int if state.shape[1] <= _INT_LANES else _rounds_array
    words = np.empty((state.shape[1], 16), dtype=np.uint32)
    np.add(rounds(state), state, out=words.T)
    return words.reshape(len(seeds), blocks, 16)


def _initial(seeds: Sequence[Tuple[bytes, bytes]], blocks: int, counter: int) -> np.ndarray:
    """The state before the rounds, uint32 [16, len(seeds) * blocks]: constants, key, counter, nonce (section 2.3)."""
    state = np.empty((16, len(seeds), blocks), dtype=np.uint32)
    state[:4] = _CONSTANTS[:, None, None]
    state[12] = np.arange(counter, counter + blocks, dtype=np.uint64)
    for column, (key, nonce) in enumerate(seeds):
        if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError(f"ChaCha20 got a key of {len(key)} and a nonce of {len(nonce)} bytes; give it 32 and 12")
        state[4:12, column] = np.frombuffer(key, dtype="<u4")[:, None]
        state[13:, column] = np.frombuffer(nonce, dtype="<u4")[:, None]
    return state.reshape(16, len(seeds) * blocks)


def _rounds_array(state: np.ndarray) -> np.ndarray:
    """The 20 rounds on uint32 [16, lanes], by NumPy.

    Rows b, c and d have spare rows beside their four. Copying one or two rows across makes the diagonals' rotated order
    a plain slice, so that nothing is ever moved as a whole.
    """
    lanes = state.shape[1]
    a, spare = state[:4].copy(), np.empty((4, lanes), dtype=np.uint32)
    b, c, d = (np.empty((rows, lanes), dtype=np.uint32) for rows in (5, 6, 5))
    b[:4], c[:4], d[1:] = state[4:8], state[8:12], state[12:]
    columns = (b[:4], c[:4], d[1:])
    diagonals = (b[1:], c[2:], d[:4])
    # (where a rotated view needs the row, where the row is), for b, c, d
    overlaps = ((b[4:], b[:1]), (c[4:], c[:2]), (d[:1], d[4:]))
    for _ in range(10):
        _quarter_rounds(a, columns[0], columns[1], columns[2], spare)
        for there, here in overlaps:
            there[...] = here
        _quarter_rounds(a, diagonals[0], diagonals[1], diagonals[2], spare)
        for there, here in overlaps:
            here[...] = there
    return np.concatenate((a, *columns))


def _quarter_rounds(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, spare: np.ndarray) -> None:
    """Four quarter rounds (section 2.1) of every lane, in place."""
    operands = ((a, b, d), (c, d, b)) * 2
    for (x, y, z), (left, right) in zip(operands, _ROTATIONS):
        np.add(x, y, x)
        np.bitwise_xor(z, x, z)
        np.left_shift(z, left, spare)
        np.right_shift(z, right, z)
        np.bitwise_or(z, spare, z)


def _rounds_int(state: np.ndarray) -> np.ndarray:
    """The 20 rounds on uint32 [16, lanes], by Python integers: four rows of the state are one, of 4 * lanes slots.

    A slot has 64 bits, its word in the low 32. The high half takes the carry of a sum and what a shift moves out of
    the word or in from the next slot; `mask` clears it.
    """
    lanes = state.shape[1]
    mask = int.from_bytes(np.full(4 * lanes, 0xFFFFFFFF, dtype="<u8").tobytes(), "little")
    row1, row2, row3 = 64 * lanes, 128 * lanes, 192 * lanes
    wide = state.astype("<u8")
    a, b, c, d = (int.from_bytes(wide[i : i + 4].tobytes(), "little") for i in (0, 4, 8, 12))
    for _ in range(10):
        a, b, c, d = _quarter_rounds_int(a, b, c, d, mask)
        # Diagonals: place j takes row j + 1 of b, j + 2 of c, j + 3 of d.
        b = (b >> row1 | b << row3) & mask
        c = (c >> row2 | c << row2) & mask
        d = (d >> row3 | d << row1) & mask
        a, b, c, d = _quarter_rounds_int(a, b, c, d, mask)
        b = (b >> row3 | b << row1) & mask
        c = (c >> row2 | c << row2) & mask
        d = (d >> row1 | d << row3) & mask
    data = b"".join(x.to_bytes(32 * lanes, "little") for x in (a, b, c, d))
    return np.frombuffer(data, dtype="<u8").astype(np.uint32).reshape(16, lanes)


def _quarter_rounds_int(a: int, b: int, c: int, d: int, mask: int) -> Tuple[int, int, int, int]:
    """Four quarter rounds (section 2.1) of every slot."""
    a = (a + b) & mask
    d ^= a
    d = (d << 16 | d >> 16) & mask
    c = (c + d) & mask
    b ^= c
    b = (b << 12 | b >> 20) & mask
    a = (a + b) & mask
    d ^= a
    d = (d << 8 | d >> 24) & mask
    c = (c + d) & mask
    b ^= c
    b = (b << 7 | b >> 25) & mask
    return a, b, c, d
