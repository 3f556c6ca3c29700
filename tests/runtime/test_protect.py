"""Adding noise: fresh for every request, split over a cut's tensors, and never shared with a forked child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecut.errors import BundleError
from edgecut.noise_kernels.collection import NoiseCollection
from edgecut.privacy.learn import Learned
from edgecut.runtime.protect import Protector, noisy_answer

SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


def collection(shapes: list[tuple[int, ...]], scale: float = 1.0) -> NoiseCollection:
    n = sum(int(np.prod(shape)) for shape in shapes)
    return NoiseCollection(
        loc=[0.0, 5.0],
        scale=[scale, scale],
        orders=np.stack([np.arange(n), np.arange(n)[::-1]]),
        tensors=[(f"t{i}", shape) for i, shape in enumerate(shapes)],
        model_digest="sha256:" + "a" * 64,
        cut="here",
    )


@settings(max_examples=40, deadline=None)
@given(SHAPES.filter(lambda shapes: sum(int(np.prod(s)) for s in shapes) > 1), st.integers(1, 5))
def test_each_tensor_gets_its_share(shapes: list[tuple[int, ...]], batch: int) -> None:
    protector = Protector(collection(shapes, scale=1e-3))
    zeros = [np.zeros((batch, *shape), np.float32) for shape in shapes]
    noisy = protector.add(zeros)
    assert [a.shape for a in noisy] == [a.shape for a in zeros] and all(a.dtype == np.float32 for a in noisy)
    assert not any(a.any() for a in zeros), "the activation itself was changed"
    rows = np.concatenate([a.reshape(batch, -1) for a in noisy], axis=1)
    for row in rows:  # ascending around 0, or descending around 5: the two distributions and their orders
        centred = row if abs(row[0]) < 1 else (row - 5)[::-1]
        assert (np.diff(centred) >= 0).all() and np.abs(centred).max() < 0.1


def test_draws_are_distinct_across_batches_and_sizes() -> None:
    protector = Protector(collection([(40,)]))
    seen = []
    for batch in (1, 2, 1, 1, 5, 3, 3):
        protector.draw_ahead(batch)
        protector.draw_ahead(batch)
        if batch == 5:
            protector.draw_ahead(batch + 1)  # a wrong guess costs nothing but time
        seen += [row.tobytes() for row in protector.add([np.zeros((batch, 40), np.float32)])[0]]
    assert len(seen) == 16 == len(set(seen))


def test_two_protectors_of_one_collection_share_nothing() -> None:
    one, two = Protector(collection([(40,)])), Protector(collection([(40,)]))
    zeros = [np.zeros((1, 40), np.float32)]
    assert not np.array_equal(one.add(zeros)[0], two.add(zeros)[0])


FORK = """
import os, sys
import numpy as np
from edgecut.runtime.protect import Protector
protector = Protector.load(open(sys.argv[1], "rb").read(), "x")
zeros = [np.zeros((2, protector.noise.n), np.float32)]
protector.draw_ahead(2)
first = os.fork()
second = os.fork() if first else 0
os.write(1, b"".join((protector.add(zeros)[0].tobytes().hex() + "\\n").encode() for _ in range(3)))
if first and second:
    os.waitpid(first, 0), os.waitpid(second, 0)
"""


def test_a_forked_child_draws_its_own(learned: tuple[Learned, Path]) -> None:
    command = [sys.executable, "-P", "-c", FORK, str(learned[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.split()
    assert len(lines) == 9 == len(set(lines))
    rows = [half for line in lines for half in (line[: len(line) // 2], line[len(line) // 2 :])]
    assert len(set(rows)) == 18


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04N.", b"\x93NUMPY" + b"\x00" * 100])
def test_what_is_no_collection_is_named(data: bytes) -> None:
    with pytest.raises(BundleError, match="the noise here is no noise file") as raised:
        Protector.load(data, "the noise here")
    assert "\n" not in str(raised.value)


class Fake:
    """As much of a session as noisy_answer uses: twice the sum of what it gets."""

    def __init__(self, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def get_inputs(self) -> list[Fake]:
        return [Fake([], [])]

    def get_outputs(self) -> list[Fake]:
        return [type("Value", (), {"name": name})() for name in self.outputs]

    name = "x"

    def run(self, names: list[str] | None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert sorted(feed) == sorted(self.inputs)
        return [2 * sum(feed.values()) for _ in names or [""]]


def test_no_protector_adds_nothing() -> None:
    x = np.ones((2, 3), np.float32)
    edge, cloud = Fake(["x"], ["a", "b"]), Fake(["a", "b"], ["y"])
    np.testing.assert_array_equal(noisy_answer(edge, cloud, None, x), 8 * x)
    noisy = noisy_answer(edge, cloud, Protector(collection([(3,), (3,)], scale=1e-4)), x)
    assert (noisy != 8 * x).any()
