"""ChaCha20 against RFC 8439's vectors and against OpenSSL's."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.noise_kernels import chacha
from edgecut.noise_kernels.chacha import chacha20_words, keystreams

ZEROS = bytes(32)
ONE_LAST = bytes(31) + b"\x01"
# (key, nonce, counter, block as hex), RFC 8439 appendix A.1 in its order, then the block function's example, 2.3.2
VECTORS = [
    (
        ZEROS,
        bytes(12),
        0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        ZEROS,
        bytes(12),
        1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    (
        ONE_LAST,
        bytes(12),
        1,
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    (
        b"\x00\xff" + bytes(30),
        bytes(12),
        2,
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
    (
        ZEROS,
        bytes(11) + b"\x02",
        0,
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
    (
        bytes(range(32)),
        bytes.fromhex("000000090000004a00000000"),
        1,
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
]


def openssl(key: bytes, nonce: bytes, counter: int, blocks: int) -> bytes:
    cipher = Cipher(algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce), mode=None)
    return cipher.encryptor().update(bytes(64 * blocks))


@pytest.mark.parametrize(("key", "nonce", "counter", "block"), VECTORS)
@pytest.mark.parametrize("int_lanes", [0, 40], ids=["arrays", "integers"])
def test_rfc_8439_vectors(
    key: bytes, nonce: bytes, counter: int, block: str, int_lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chacha, "_INT_LANES", int_lanes)
    words = chacha20_words(key, nonce, counter, 1)
    assert words.dtype == np.uint32 and words.shape == (1, 16)
    assert words.astype("<u4").tobytes().hex() == block


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=12, max_size=12),
    st.integers(0, 2**32 - 200),
    st.one_of(st.integers(1, 12), st.integers(38, 43), st.integers(100, 200)),
)
def test_equals_openssl(key: bytes, nonce: bytes, counter: int, blocks: int) -> None:
    words = chacha20_words(key, nonce, counter, blocks)
    assert words.astype("<u4").tobytes() == openssl(key, nonce, counter, blocks)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12)), min_size=1, max_size=9
    ),
    st.integers(1, 12),
)
def test_many_requests_at_once_are_the_single_ones(seeds: list[tuple[bytes, bytes]], blocks: int) -> None:
    words = keystreams(seeds, blocks)
    assert words.shape == (len(seeds), blocks, 16)
    for row, (key, nonce) in zip(words, seeds, strict=True):
        assert row.astype("<u4").tobytes() == openssl(key, nonce, 0, blocks)


def test_the_last_counter_is_served_and_the_next_refused() -> None:
    last = chacha20_words(ZEROS, bytes(12), 2**32 - 1, 1)
    assert last.astype("<u4").tobytes() == openssl(ZEROS, bytes(12), 2**32 - 1, 1)
    with pytest.raises(ValueError, match="use a new nonce"):
        chacha20_words(ZEROS, bytes(12), 2**32 - 1, 2)


@pytest.mark.parametrize(
    ("key", "nonce", "counter", "blocks"),
    [
        (bytes(31), bytes(12), 0, 1),
        (bytes(16), bytes(12), 0, 1),
        (ZEROS, bytes(8), 0, 1),
        (ZEROS, bytes(12), -1, 1),
        (ZEROS, bytes(12), 2**32, 1),
        (ZEROS, bytes(12), 0, 0),
    ],
)
def test_refuses(key: bytes, nonce: bytes, counter: int, blocks: int) -> None:
    with pytest.raises(ValueError):
        chacha20_words(key, nonce, counter, blocks)
